"""The GPU benchmarks run through on a small shape on the CPU: a GPU finds no broken script."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = {"vocab_size": 64, "hidden": 16, "layers": 2, "heads": 2, "max_positions": 8,
        "tie_embeddings": False, "dtype": "bfloat16"}  # fmt: skip


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER.parents[2] / "tools"), *sys.path])
    monkeypatch.setattr(sys, "argv", ["bench", "--quick"])
    from measure import Bench

    return Bench("tiny", "torch")


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_loss_benchmark(bench):
    load("gpu_loss").measure(bench, "cpu", tokens=32, vocabulary=64, features=16)
    has_triton = importlib.util.find_spec("triton") is not None
    calls = ["native kernels", "the library's loss", *["Triton's kernels"] * has_triton]
    assert [row.case for row in bench.rows] == [
        *(f"{dtype}: {call}, beside torch" for dtype in ("bfloat16", "float32") for call in calls),
        "linear + cross entropy, bfloat16, beside torch",
    ]
    assert bench.facts["float32: largest difference from float64"] < 1e-5


def test_the_step_benchmark(bench):
    load("gpu_step").measure(bench, "cpu", TINY, 2, compiled=False, peak=1.0)
    assert [row.case for row in bench.rows] == ["step", "step with the chunked loss"]
    assert bench.facts["step, ours: MFU"] >= 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["gpu_loss", "gpu_step"])
def test_without_a_gpu_they_say_so(bench, capsys, name):
    assert load(name).main() == 3
    assert "no CUDA device answers" in capsys.readouterr().out
