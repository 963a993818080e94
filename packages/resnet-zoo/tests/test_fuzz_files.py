"""Damaged weights, cards, checkpoints and pictures: each is read, or refused with a WeightsError, a
ValueError or an OSError that names the file.

python tests/test_fuzz_files.py --seconds 600 --seed 1 --reader pth
"""

import argparse
import copy
import faulthandler
import io
import itertools
import json
import pickle
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from resnet_zoo import WeightsError, load_model, read_state_dict, resnet18, resolve
from resnet_zoo.pictures.images import open_image
from resnet_zoo.training.data import open_source
from resnet_zoo.training.recipe import Recipe
from resnet_zoo.training.state import (
    Average,
    Position,
    load_checkpoint,
    make_optimizer,
    save_checkpoint,
)
from resnet_zoo.weights.cache import recorded_hash
from resnet_zoo.weights.download import Partial

MEMORY = 2 << 30  # bytes more than the process has when it begins
SECONDS = 10  # of the processor for one example; one that waits may do so 60 times as long
TINY = {"stem": "small", "planes": 8, "num_classes": 3}
STATE = {
    "module.layer1.0.conv1.weight": torch.arange(12.0).reshape(3, 4),
    "module.bn1.num_batches_tracked": torch.tensor(3),
    "module.fc.weight": torch.ones(2, 3, dtype=torch.float16),
}
TIMM = {
    "architecture": "resnet18", "num_classes": 3, "label_names": ["a", "b", "c"],
    "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.9, "crop_mode": "border",
                       "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
}  # fmt: skip
TRANSFORMERS = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"],
                "id2label": {"0": "a", "1": "b"}}  # fmt: skip
PREPROCESSOR = {
    "size": {"shortest_edge": 64}, "crop_pct": 0.9, "resample": 3, "do_resize": True,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255,
}  # fmt: skip
Files = dict[str, bytes]

NUMBERS = [0, 1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
VALUES: list[Any] = [None, True, -1, 0, 1, 3, 0.5, 2**31, 2**63, 10**30, 1e308, float("nan"),
                     float("inf"), "", "\0", "\ud800", "x", "1e9", [], {}, [0], [[]], {"x": 1},
                     [-1, 2**40], ["x"] * 3, [1e30] * 3, "F64", "resnet50"]  # fmt: skip


def saved(value: Any, legacy: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def legacy_tar() -> bytes:
    """STATE as torch.save wrote it until 2017."""
    storages, tensors, main, out = (io.BytesIO() for _ in range(4))
    kinds = {torch.float32: "Float", torch.int64: "Long", torch.float16: "Half"}
    pickle.dump(len(STATE), storages, protocol=2)
    pickle.dump(len(STATE), tensors, protocol=2)
    for number, tensor in enumerate(STATE.values()):
        kind = kinds[tensor.dtype]
        pickle.dump((number, "cpu", getattr(torch, f"{kind}Storage")), storages, protocol=2)
        storages.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
        pickle.dump((number, number, getattr(torch, f"{kind}Tensor")), tensors, protocol=2)
        numbers = [*tensor.shape, *tensor.stride(), 0]
        tensors.write(struct.pack(f"<{1 + len(numbers)}q", tensor.ndim, *numbers))
    pickle.dump([], storages, protocol=2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return thing[1] if isinstance(thing, tuple) and len(thing) == 2 else None

    named = OrderedDict((key, ("tensor", str(number))) for number, key in enumerate(STATE))
    Pickler(main, protocol=2).dump(named)
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, stream in (("storages", storages), ("tensors", tensors), ("pickle", main)):
            info = tarfile.TarInfo(name)
            info.size = len(stream.getvalue())
            stream.seek(0)
            tar.addfile(info, stream)
    return out.getvalue()


def picture(form: str, mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    colours = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    Image.fromarray(colours).convert(mode).save(out, form, **options)
    return out.getvalue()


def exif() -> Any:
    tags = Image.Exif()
    tags[0x0112] = 6
    return tags


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
            data[at : at + width] = number.to_bytes(width, ("little", "big")[rng.integers(2)])
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4 and rng.random() < 0.2:
            del data[at:]
        if not data:
            break
    return bytes(data)


def damaged_zip(rng: np.random.Generator, whole: bytes) -> bytes:
    """A damaged archive; mostly one of its members, in a sound archive."""
    if rng.random() < 0.3:
        return damaged(rng, whole)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        pickles = [name for name in names if name.endswith(".pkl")]
        hurt = pickles[0] if pickles and rng.random() < 0.7 else names[rng.integers(len(names))]
        for name in names:
            data = old.read(name)
            new.writestr(name, damaged(rng, data) if name == hurt and data else data)
    return out.getvalue()


def damaged_tar(rng: np.random.Generator, whole: bytes) -> bytes:
    """A damaged archive; mostly one of its members, in a sound archive."""
    if rng.random() < 0.3:
        return damaged(rng, whole)
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(whole)) as old, tarfile.open(None, "w", out) as new:
        members = old.getmembers()
        hurt = rng.integers(len(members))
        for number, member in enumerate(members):
            data = old.extractfile(member).read()
            data = damaged(rng, data) if number == hurt else data
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return out.getvalue()


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value below a value of JSON."""
    below = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in below:
        found += [(value, key), *(places(inner) if isinstance(inner, (dict, list)) else ())]
    return found


def changed(rng: np.random.Generator, value: Any) -> bytes:
    """JSON with values taken out, put in the place of others, or made odd; or damaged text."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        there = places(value) if isinstance(value, (dict, list)) else []
        if not there:
            break
        container, key = there[rng.integers(len(there))]
        kind = rng.integers(4)
        if kind == 0:
            del container[key]
        elif kind == 1:
            other, name = there[rng.integers(len(there))]
            container[key] = copy.deepcopy(other[name])
        else:
            container[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    text = json.dumps(value).encode()
    kind = rng.integers(20)
    if kind == 0:
        return b'{"a":' * 20000 + text
    return damaged(rng, text) if kind < 4 else text


def with_header(rng: np.random.Generator, whole: bytes) -> bytes:
    """A safetensors file, its table of contents changed."""
    if rng.random() < 0.3:
        return damaged(rng, whole)
    (length,) = struct.unpack_from("<Q", whole)
    head = json.loads(whole[8 : 8 + length])
    told = head.get("__metadata__", {}).get("resnet_zoo")
    if told and rng.random() < 0.7:
        head["__metadata__"]["resnet_zoo"] = changed(rng, json.loads(told)).decode("latin-1")
        text = json.dumps(head).encode()
    else:
        text = changed(rng, head)
    return struct.pack("<Q", len(text)) + text + whole[8 + length :]


def card(rng: np.random.Generator) -> Files:
    files = {"w.safetensors": WEIGHTS["safetensors"][0]}
    if rng.random() < 0.5:
        return {**files, "config.json": changed(rng, TIMM)}
    pair = {"config.json": TRANSFORMERS, "preprocessor_config.json": PREPROCESSOR}
    hurt = list(pair)[rng.integers(2)]
    return files | {
        name: changed(rng, value) if name == hurt else json.dumps(value).encode()
        for name, value in pair.items()
    }


@cache
def arrays(form: str) -> bytes:
    images, labels = np.zeros((4, 6, 6), np.uint8), np.arange(4)
    if form == "safetensors":
        tensors = {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
        return safetensors.torch.save(tensors, {"categories": json.dumps(["a", "b", "c", "d"])})
    out = io.BytesIO()
    np.savez_compressed(out, images=images, labels=labels, categories=list("abcd"))
    return out.getvalue()


@cache
def tiny_model() -> bytes:
    model = resnet18(**TINY)
    told = {"model": "resnet18", "model_args": TINY, "categories": ["a", "b", "c"],
            "transforms": {"crop_size": 32, "resize_size": [36, 36]}}  # fmt: skip
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    return safetensors.torch.save(state, {"format": "pt", "resnet_zoo": json.dumps(told)})


@cache
def run_of() -> tuple[Any, ...]:
    """What a checkpoint is read into."""
    recipe = Recipe.preset("small", epochs=2)
    model = resnet18(**TINY)
    optimizer = make_optimizer(model, recipe)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return model, Average(model, 0.9), optimizer, scaler, recipe, {"pictures": 4}


@cache
def checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "c", *run_of(), Position(1, 2, 3.0))
        return (Path(folder) / "c").read_bytes()


def read_notes(path: Path) -> None:
    recorded_hash(path)
    assert isinstance(Partial(path).note(), dict)


def read_card(path: Path) -> None:
    source = resolve(path.parent)
    names, transforms = source.categories(), source.transforms()
    assert names is None or all(isinstance(name, str) for name in names)
    assert transforms.mean


def read_model(path: Path) -> None:
    load_model(path).source.transforms()


WEIGHTS = {
    "safetensors": [safetensors.torch.save(STATE)],
    "pth": [saved({"state_dict": STATE, "epoch": 3, "args": SimpleNamespace(lr=1.0)}),
            saved({"model": STATE, "best": np.float64(3), "rng": np.arange(3)})],
    "legacy": [saved(STATE, legacy=True)],
    "tar": [legacy_tar()],
}  # fmt: skip
PICTURES = [
    ("p.png", picture("PNG")), ("p.png", picture("PNG", "P")), ("p.gif", picture("GIF", "P")),
    ("p.jpg", picture("JPEG", exif=exif())), ("p.tif", picture("TIFF", compression="tiff_lzw")),
    ("p.webp", picture("WEBP")), ("p.bmp", picture("BMP")), ("p.ppm", picture("PPM")),
    ("p.tif", picture("TIFF", "I;16")), ("p.png", picture("PNG", "I;16")),
]  # fmt: skip
READERS: dict[str, tuple[Any, Any]] = {
    "safetensors": (lambda rng: {"w.safetensors": with_header(rng, WEIGHTS["safetensors"][0])},
                    read_state_dict),
    "pth": (lambda rng: {"w.pth": damaged_zip(rng, WEIGHTS["pth"][rng.integers(2)])},
            read_state_dict),
    "legacy": (lambda rng: {"w.pth": damaged(rng, WEIGHTS["legacy"][0])}, read_state_dict),
    "tar": (lambda rng: {"w.tar": damaged_tar(rng, WEIGHTS["tar"][0])}, read_state_dict),
    "card": (card, read_card),
    "model": (lambda rng: {"w.safetensors": with_header(rng, tiny_model())}, read_model),
    "checkpoint": (lambda rng: {"last.ckpt": damaged_zip(rng, checkpoint())},
                   lambda path: load_checkpoint(path, *run_of())),
    "pictures": (lambda rng: {(p := PICTURES[rng.integers(len(PICTURES))])[0]: damaged(rng, p[1])},
                 open_image),
    "arrays": (lambda rng: {"a.npz": damaged_zip(rng, arrays("npz"))} if rng.random() < 0.5
               else {"a.safetensors": with_header(rng, arrays("safetensors"))}, open_source),
    "notes": (lambda rng: {"w": b"", "w.sha256": damaged(rng, b"a" * 64 + b"  w\n"),
                           "w.json": changed(rng, {"url": "x", "etag": "y"})}, read_notes),
}  # fmt: skip


def one(reader: str, rng: np.random.Generator, folder: Path) -> bool:
    """Whether an example is read all the same. Raises what must not be raised."""
    make, read = READERS[reader]
    files = make(rng)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    refusal = None
    try:
        read(folder / next(iter(files)))
    except (WeightsError, ValueError, OSError) as error:
        refusal = str(error)
    assert {path.name for path in folder.iterdir()} == set(files)
    for name in files:
        (folder / name).unlink()
    assert refusal is None or any(name in refusal for name in files), refusal
    return refusal is None


def fuzz(readers: list[str], seconds: float, most: int, seed: int, first: int) -> tuple[int, int]:
    """(examples tried, those read all the same), from number `first` on. Raises what `one` does;
    ends the process where one takes more than SECONDS."""
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


def refused(read: Any, path: Path, content: bytes, *said: str) -> None:
    path.write_bytes(content)
    with pytest.raises((WeightsError, ValueError), match=path.name) as caught:
        read(path)
    assert all(part in str(caught.value) for part in said), caught.value


def test_numbers_repeated_by_strides_of_0_are_refused_before_a_copy(tmp_path):
    wide = torch.ones(1).expand(1 << 40)
    refused(read_state_dict, tmp_path / "w.pth", saved({"fc.weight": wide}), "'fc.weight'")
    whole = legacy_tar()
    strides = struct.pack("<5q", 3, 4, 4, 1, 0)
    assert strides in whole
    wide = whole.replace(strides, struct.pack("<5q", 1 << 40, 1, 0, 0, 0))
    refused(read_state_dict, tmp_path / "w.tar", wide, "storage")


@pytest.mark.parametrize("arguments", [{**TINY, "planes": 1 << 14}, {"planes": "x"}, [], {"x": 1}])
def test_no_memory_is_taken_for_a_network_larger_than_its_file(tmp_path, arguments):
    told = json.dumps({"model": "resnet18", "model_args": arguments})
    whole = safetensors.torch.save(STATE, {"resnet_zoo": told})
    refused(load_model, tmp_path / "w.safetensors", whole, "model_args")


@pytest.mark.parametrize(
    "transforms",
    [
        {"crop_size": 1 << 20},
        {"mean": [1.0]},
        {"crop_size": 8, "mean": "x"},
        {"x": 1},
        {"crop_size": 1e400},
        3,
    ],
)
def test_a_preprocessing_that_there_is_not_is_refused(tmp_path, transforms):
    told = json.dumps({"model": "resnet18", "transforms": transforms})
    whole = safetensors.torch.save(STATE, {"resnet_zoo": told})
    refused(lambda path: resolve(path).describe(), tmp_path / "w.safetensors", whole)


@pytest.mark.parametrize("name", [["resnet18"], {}, 3, None])
def test_a_model_that_is_no_name_is_refused(tmp_path, name):
    whole = safetensors.torch.save(STATE, {"resnet_zoo": json.dumps({"model": name})})
    refused(load_model, tmp_path / "w.safetensors", whole, "which model")


def test_an_architecture_beside_weights_that_is_no_name_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": ["resnet18"]}')
    told = json.dumps({"model": "resnet18"})
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.torch.save(STATE, {"resnet_zoo": told}))
    with pytest.raises(WeightsError, match=r"config\.json.*architecture must be a name"):
        resolve(path).describe()


@pytest.mark.parametrize("lost", ["recipe", "position", "model", "average"])
def test_a_checkpoint_that_lacks_a_part_is_refused(tmp_path, lost):
    state = torch.load(io.BytesIO(checkpoint()), weights_only=True)
    del state[lost]
    refused(lambda path: load_checkpoint(path, *run_of()), tmp_path / "last.ckpt", saved(state))


def test_json_nested_without_end_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(WEIGHTS["safetensors"][0])
    (tmp_path / "config.json").write_text('{"a":' * 20000)
    with pytest.warns(UserWarning, match=r"config\.json is not JSON"):
        assert not resolve(tmp_path).describe()


def run(seconds: float, most: int, seed: int, first: int = 0) -> tuple[int, int]:
    """`fuzz` in a process of its own: what ends that one is a failure here."""
    command = [sys.executable, __file__, "--seconds", seconds, "--most", most, "--seed", seed]
    command += ["--first", first]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tried, read = map(int, done.stdout.split())
    return tried, read


def test_damaged_files_are_refused_by_name_or_read():
    tried, read = run(600, 300, 0)
    assert tried == 300
    assert 0 < read < 300


@pytest.mark.slow
def test_thousands_of_damaged_files():
    tried, _ = run(10**9, 5000, 1)
    assert tried == 5000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=READERS, nargs="+", default=list(READERS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--most", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    print(*fuzz(given.reader, given.seconds, given.most, given.seed, given.first))
