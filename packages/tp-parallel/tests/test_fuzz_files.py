"""Damaged checkpoints, tokens, safetensors and configs: each is read, or refused with a
CheckpointError, a ValueError or an OSError that names the file or the field.

    python tests/test_fuzz_files.py --seconds 600 --seed 1 --reader checkpoint

Mostly the manifest of a damaged checkpoint is true to it, as whoever forges one would write it.
"""

import argparse
import copy
import dataclasses
import faulthandler
import hashlib
import itertools
import json
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tp_parallel import AdamW, CheckpointError, GPTConfig, ParallelContext, checkpoint
from tp_parallel.models.gpt import GPTModel
from tp_parallel.models.huggingface import config_from_huggingface
from tp_parallel.training.convert import export_folder, import_folder
from tp_parallel.training.generate import load_model
from tp_parallel.training.tokens import TokenData, write_tokens

MEMORY = 2 << 30  # bytes more than the process has when it begins
SECONDS = 10  # of the processor for one example; one that waits may do so 60 times as long
CONFIG = GPTConfig(
    vocab_size=11, hidden=8, layers=1, heads=2, max_positions=4, position="rotary", norm="rmsnorm",
    activation="swiglu", bias=False, tie_embeddings=False,
)  # fmt: skip
Files = dict[str, bytes]

NUMBERS = [0, 1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
VALUES: list[Any] = [None, True, -1, 0, 1, 3, 0.5, 2**31, 2**63, 10**30, 1e308, float("nan"),
                     float("inf"), "", "\0", "\ud800", "x", "1e9", [], {}, [0], [[]], {"x": 1},
                     [-1, 2**40], ["x"] * 3, "F64", "llama", "../x", "yarn"]  # fmt: skip
HF = [
    {"model_type": "llama", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2,
     "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16,
     "rms_norm_eps": 1e-5, "num_key_value_heads": 1, "hidden_act": "silu",
     "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                      "high_freq_factor": 4.0, "original_max_position_embeddings": 8}},
    {"model_type": "gpt2", "vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2,
     "n_positions": 16, "layer_norm_epsilon": 1e-5, "n_inner": None},
    {"model_type": "gemma3_text", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2,
     "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16,
     "rms_norm_eps": 1e-5, "num_key_value_heads": 1, "head_dim": 4, "sliding_window": 4,
     "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 4},
    {"model_type": "gpt_neox", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2,
     "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16,
     "layer_norm_eps": 1e-5, "rotary_pct": 0.5, "rope_parameters": {
         "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}},
]  # fmt: skip


def damaged(rng: np.random.Generator, whole: bytes) -> bytes:
    """Some bytes changed, cut out, doubled; numbers that no writer writes."""
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 6))):
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
        kind = rng.integers(6)
        if kind == 0:
            data[at : at + length] = rng.bytes(length)
        elif kind == 1:
            width = 2 ** int(rng.integers(4))
            number = NUMBERS[rng.integers(len(NUMBERS))] % 256**width
            data[at : at + width] = number.to_bytes(width, "little")
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4 and rng.random() < 0.2:
            del data[at:]
        if not data:
            break
    return bytes(data)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value below a value of JSON."""
    below = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in below:
        found += [(value, key), *(places(inner) if isinstance(inner, (dict, list)) else ())]
    return found


def changed(rng: np.random.Generator, value: Any) -> Any:
    """A value of JSON with some taken out, put in the place of others, or made odd."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        there = places(value) if isinstance(value, (dict, list)) else []
        if not there:
            break
        container, key = there[rng.integers(len(there))]
        kind = rng.integers(5)
        if kind == 0:
            del container[key]
        elif kind == 1:
            other, name = there[rng.integers(len(there))]
            container[key] = copy.deepcopy(other[name])
        elif kind == 2 and type(container[key]) is int:
            container[key] += int(rng.integers(-2, 3))
        else:
            container[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return value


def text_of(rng: np.random.Generator, value: Any) -> bytes:
    """JSON, at times damaged or nested without end."""
    text, kind = json.dumps(value).encode(), rng.integers(20)
    if kind == 0:
        return b'{"a":' * 20000 + text
    return damaged(rng, text) if kind < 3 else text


@cache
def context() -> ParallelContext:
    return ParallelContext(device="cpu")


@cache
def models() -> tuple[GPTModel, AdamW]:
    model = GPTModel(CONFIG, context=context())
    return model, AdamW([model], context(), lr=1e-2)


@cache
def saved() -> Files:
    """A checkpoint, by the names of its files."""
    with tempfile.TemporaryDirectory() as folder:
        model, optimizer = models()
        path = checkpoint.save(folder, 1, [model], optimizer, context=context())
        return {file.name: file.read_bytes() for file in path.iterdir()}


@cache
def huggingface() -> Files:
    """The same model as a folder of Hugging Face."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "step_00000001").mkdir()
        for name, data in saved().items():
            (root / "step_00000001" / name).write_bytes(data)
        out = export_folder(root, root / "hf")
        return {file.name: file.read_bytes() for file in out.iterdir()}


@cache
def indexed() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(Path(folder) / "t", [[1, 2, 3], [], [4] * 40, list(range(20))], np.uint16)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def a_checkpoint(rng: np.random.Generator) -> Files:
    files = dict(saved())
    manifest = json.loads(files["manifest.json"])
    if rng.random() < 0.4:
        return files | {"manifest.json": text_of(rng, changed(rng, manifest))}
    name = [".metadata", "__0_0.distcp"][int(rng.random() < 0.3)]
    files[name] = damaged(rng, files[name])
    if rng.random() < 0.9:
        digest = hashlib.sha256(files[name]).hexdigest()
        manifest["files"][name] = {"size": len(files[name]), "sha256": digest}
    return files | {"manifest.json": json.dumps(manifest).encode()}


def a_folder(rng: np.random.Generator) -> Files:
    files = dict(huggingface())
    name = next(name for name in files if name.endswith(".safetensors"))
    whole, length = files[name], int.from_bytes(files[name][:8], "little")
    kind = rng.integers(4)
    if kind == 0:
        files[name] = damaged(rng, whole)
    elif kind == 1:
        files["config.json"] = text_of(rng, changed(rng, json.loads(files["config.json"])))
    else:
        head = text_of(rng, changed(rng, json.loads(whole[8 : 8 + length])))
        files[name] = len(head).to_bytes(8, "little") + head + whole[8 + length :]
    return files


def some_tokens(rng: np.random.Generator) -> Files:
    files = dict(indexed())
    if rng.random() < 0.3:
        values = np.arange(50, dtype="<u2")
        head = repr({"descr": "<u2", "fortran_order": False, "shape": (50,)}).encode().ljust(117)
        whole = b"\x93NUMPY\x01\x00\x76\x00" + head + b"\n" + values.tobytes()
        return {"t.npy": damaged(rng, whole)}
    name = ["t.idx", "t.bin"][int(rng.random() < 0.2)]
    return files | {name: damaged(rng, files[name])}


def read_checkpoint(folder: Path, rng: np.random.Generator) -> None:
    kind = rng.integers(3)
    with tempfile.TemporaryDirectory() as out:
        if kind == 0:
            checkpoint.load(folder, [models()[0]], models()[1], context=context())
        elif kind == 1:
            load_model(folder, context())
        else:
            export_folder(folder, Path(out) / "hf")


def read_folder(folder: Path, rng: np.random.Generator) -> None:
    with tempfile.TemporaryDirectory() as out:
        import_folder(folder, out)


def read_tokens(folder: Path, rng: np.random.Generator) -> None:
    npy = folder / "t.npy"
    data = TokenData(
        npy if npy.is_file() else folder / "t", 4, held_out=0, documents=True, end=None
    )
    batch = data.samples(0, 3)
    assert bool((batch.positions >= 0).all())


def read_config(folder: Path, rng: np.random.Generator) -> None:
    config_from_huggingface(json.loads((folder / "config.json").read_text()))


READERS: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "checkpoint": (a_checkpoint, read_checkpoint, ("run",)),
    "folder": (a_folder, read_folder, ("run", "config_from_huggingface", "GPTConfig", "convert: ",
                                       "RotaryScaling", "import_huggingface")),
    "tokens": (some_tokens, read_tokens, ("run",)),
    "config": (lambda rng: {"config.json": json.dumps(changed(rng, HF[rng.integers(4)])).encode()},
               read_config, ("config_from_huggingface", "GPTConfig", "RotaryScaling")),
}  # fmt: skip


def one(reader: str, rng: np.random.Generator, folder: Path) -> bool:
    """Whether an example is read all the same. Raises what must not be raised."""
    make, read, named = READERS[reader]
    files = make(rng)
    folder = folder / "run"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    refusal = None
    try:
        read(folder, rng)
    except (CheckpointError, ValueError, OSError) as error:
        refusal = str(error)
    assert {path.name for path in folder.iterdir()} == set(files)
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    shutil.rmtree(folder)
    assert refusal is None or any(name in refusal for name in named), refusal
    return refusal is None


def fuzz(readers: list[str], seconds: float, most: int, seed: int, first: int) -> tuple[int, int]:
    """(examples tried, those read all the same), from number `first` on. Raises what `one` does;
    ends the process where one takes more than SECONDS."""
    huggingface()
    status = Path("/proc/self/statm").read_text().split()
    limit = int(status[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    faulthandler.register(signal.SIGPROF, chain=True)  # says where, then ends the process
    end, read = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in itertools.count(first):
            if number == first + most or time.monotonic() > end:
                break
            print(f"\rseed {seed}, example {number} ", end="", file=sys.stderr, flush=True)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            faulthandler.dump_traceback_later(60 * SECONDS, exit=True)
            reader = readers[number % len(readers)]
            read += one(reader, np.random.default_rng([seed, number]), Path(folder))
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    return number - first, read


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.mkdir, (self.marker,)


def forged(folder: Path, name: str, data: bytes) -> Path:
    """A checkpoint with another file, and a manifest that is true to it."""
    folder.mkdir()
    files = saved() | {name: data}
    manifest = json.loads(files["manifest.json"])
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for each, content in (files | {"manifest.json": json.dumps(manifest).encode()}).items():
        (folder / each).write_bytes(content)
    return folder


@pytest.mark.parametrize("read", [0, 1, 2])
def test_a_table_of_contents_that_carries_code_is_refused_and_the_code_does_not_run(tmp_path, read):
    path = forged(tmp_path / "run", ".metadata", pickle.dumps(Attack(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match=r"\.metadata is no table of contents"):
        [
            lambda: checkpoint.load(path, [models()[0]], context=context()),
            lambda: load_model(path, context()),
            lambda: export_folder(path, tmp_path / "hf"),
        ][read]()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd"])
def test_a_table_of_contents_names_no_file_outside_the_folder(tmp_path, place):
    table = pickle.loads(saved()[".metadata"])
    for found in table.storage_data.values():
        found.relative_path = place
    path = forged(tmp_path / "run", ".metadata", pickle.dumps(table))
    with pytest.raises(CheckpointError, match="no file of the folder"):
        load_model(path, context())


def test_a_tensor_of_which_a_part_is_missing_is_refused(tmp_path):
    table = pickle.loads(saved()[".metadata"])
    table.state_dict_metadata["model/head.weight"].chunks.clear()
    path = forged(tmp_path / "run", ".metadata", pickle.dumps(table))
    with pytest.raises(CheckpointError, match=r"boxes of 'model/head\.weight' do not fill it"):
        load_model(path, context())


def test_boxes_that_lie_over_each_other_do_not_fill_a_tensor(tmp_path):
    """Their sizes add up, and what lies beside them would stay as memory was."""
    table = pickle.loads(saved()[".metadata"])
    chunks = table.state_dict_metadata["model/head.weight"].chunks
    (whole,) = chunks
    half = torch.Size([whole.sizes[0] // 2, *whole.sizes[1:]])
    chunks[:] = [dataclasses.replace(whole, sizes=half) for _ in range(2)]
    path = forged(tmp_path / "run", ".metadata", pickle.dumps(table))
    with pytest.raises(CheckpointError, match=r"boxes of 'model/head\.weight' do not fill it"):
        load_model(path, context())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("vocab_size", 10**12, "numbers at least"), ("layers", 10**9, "numbers at least"),
     ("hidden", "x", "damaged model config"), ("odd", 1, "damaged model config")],
)  # fmt: skip
def test_no_memory_is_taken_for_a_model_larger_than_its_checkpoint(tmp_path, name, value, said):
    path = forged(tmp_path / "run", ".metadata", saved()[".metadata"])
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"][name] = value
    (path / "manifest.json").write_text(json.dumps(manifest))
    for read in (lambda: load_model(path, context()), lambda: export_folder(path, tmp_path / "hf")):
        with pytest.raises(CheckpointError, match=f"run has .*{said}" if name == "x" else said):
            read()


OUTSIDE = {"format": 1, "step": 1, "extra": {}, "files": {"../x": {"size": 1, "sha256": ""}}}


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"format": 1}', '{"a":' * 20000, json.dumps(OUTSIDE)], ids=range(5)
)
def test_a_damaged_manifest_is_refused_by_name(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        checkpoint.read_manifest(tmp_path)


@pytest.mark.parametrize(
    "entry", [3, {}, {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
              {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]},
              {"dtype": ["F32"], "shape": "x", "data_offsets": [0, 8]}],
)  # fmt: skip
def test_a_damaged_table_of_safetensors_is_refused_by_name(tmp_path, entry):
    for name, data in huggingface().items():
        (tmp_path / name).write_bytes(data)
    head = json.dumps({"a": entry}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(64))
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        import_folder(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "field", [{"num_hidden_layers": 10**12}, {"rope_scaling": 3}, {"hidden_size": "x"},
              {"model_type": []}, {"hidden_act": {"x": 1}}, {"num_attention_heads": 0}],
)  # fmt: skip
def test_a_field_of_another_kind_is_refused(field):
    with pytest.raises(ValueError, match=r"config_from_huggingface|GPTConfig"):
        config_from_huggingface({**HF[0], **field})


def test_documents_that_do_not_begin_at_the_first_token_are_read_from_it(tmp_path):
    for name, data in indexed().items():
        (tmp_path / name).write_bytes(data)
    index = bytearray(indexed()["t.idx"])
    index[-5 * 8 :] = np.array([1, 2, 3, 4, 4], "<i8").tobytes()
    (tmp_path / "t.idx").write_bytes(index)
    batch = TokenData(tmp_path / "t", 4, held_out=0, documents=True).samples(0, 8)
    assert bool((batch.positions >= 0).all())


def run(seconds: float, most: int, seed: int, first: int = 0) -> tuple[int, int]:
    """`fuzz` in a process of its own: what ends that one is a failure here."""
    command = [sys.executable, __file__, "--seconds", seconds, "--most", most, "--seed", seed]
    command += ["--first", first]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tried, read = map(int, done.stdout.split())
    return tried, read


def test_damaged_files_are_refused_by_name_or_read():
    tried, read = run(600, 200, 0)
    assert tried == 200
    assert 0 < read < 200


@pytest.mark.slow
def test_thousands_of_damaged_files():
    tried, _ = run(10**9, 3000, 1)
    assert tried == 3000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=READERS, nargs="+", default=list(READERS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--most", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(*fuzz(given.reader, given.seconds, given.most, given.seed, given.first))
