"""The commands of docs/seven-billion.md, run as they stand there on a small model and two ranks."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tp_parallel import ParallelContext, __main__
from tp_parallel.models import safetensors
from tp_parallel.models.huggingface import config_from_huggingface, shapes, table
from tp_parallel.training import checkpoint
from tp_parallel.training.tokens import write_tokens

PAGE = Path(__file__).parents[1] / "docs" / "seven-billion.md"
HF = {"model_type": "llama", "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
      "max_position_embeddings": 32, "rms_norm_eps": 1e-6}  # fmt: skip
# what makes the page's model large, and what stands for it here
SMALL = {"--nproc-per-node": "2", "--world": "2", "--tp": "2", "--pp": "1", "--seq": "16",
         "--batch": "4", "--steps": "3", "--save-every": "2", "--eval-every": "3",
         "--device-gib": "1", "--dtype": "float32"}  # fmt: skip


def commands():
    """The shell commands of the page, their sizes made small."""
    for line in re.findall(r"^```bash\n(.+?)\n```$", PAGE.read_text(), re.M):
        words = line.split()
        for flag, value in SMALL.items():
            if flag in words:
                words[words.index(flag) + 1] = value
        yield words


@pytest.fixture
def folder(tmp_path):
    config = config_from_huggingface(HF)
    generator = torch.Generator().manual_seed(0)
    wanted = shapes(config)
    state = {
        name: torch.randn(shape, generator=generator) * 0.05
        for entry in table(config)
        for name, shape in zip(entry.theirs, wanted[entry.ours], strict=True)
    }
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps(HF))
    (tmp_path / "hf" / "tokenizer.json").write_text("{}")
    names = [(name, tuple(value.shape)) for name, value in state.items()]
    file = tmp_path / "hf" / "model.safetensors"
    safetensors.write_file(file, names, torch.float32, state.__getitem__)
    write_tokens(tmp_path / "corpus", [f"Document number {i}.\n".encode() for i in range(80)])
    return tmp_path


def run(command, folder):
    """Runs a command in `folder`, torchrun in a process of its own; returns what it printed."""
    program, *words = command
    if program == "tp-parallel":
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert __main__.main(words) == 0
        return said.getvalue()
    words = [sys.executable, "-m", "torch.distributed.run", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_page_does_what_it_says(folder, monkeypatch):
    monkeypatch.chdir(folder)
    plan, _, train, _ = [run(command, folder) for command in commands()]
    assert "tp 2 x pp 1 x dp 1: 2 ranks" in plan
    assert "step      2/3  loss" in train
    last = checkpoint.latest(folder / "run" / "trained")
    assert last.name == "step_00000003"
    files = safetensors.TensorFiles(folder / "trained-hf")
    before = safetensors.TensorFiles(folder / "hf")
    assert files.shapes == before.shapes
    for name, (rows, *_) in files.shapes.items():
        assert not torch.equal(files.read(name, (0, rows)), before.read(name, (0, rows))), name
    assert (folder / "trained-hf" / "tokenizer.json").is_file()
    assert json.loads((folder / "trained-hf" / "config.json").read_text())["hidden_size"] == 32


def test_a_run_begins_with_the_loaded_weights_and_goes_on_from_its_own(folder):
    from tp_parallel.training import convert, pretrain

    convert.import_folder(folder / "hf", folder / "weights")
    options = {"load": str(folder / "weights"), "data": str(folder / "corpus.bin"), "seq": 16,
               "batch": 4, "steps": 2, "eval_every": 0, "held_out": 0.0, "lr": 0.0,
               "save": str(folder / "run")}  # fmt: skip
    pretrain.pretrain(pretrain.Settings(**options), context=ParallelContext(device="cpu"))
    back = convert.export_folder(folder / "run", folder / "back")
    files, before = safetensors.TensorFiles(back), safetensors.TensorFiles(folder / "hf")
    for name, (rows, *_) in before.shapes.items():  # a learning rate of 0 changes nothing
        assert torch.equal(files.read(name, (0, rows)), before.read(name, (0, rows))), name
    report = pretrain.pretrain(
        pretrain.Settings(**options | {"steps": 3}), context=ParallelContext(device="cpu")
    )
    assert report.first_step == 2
