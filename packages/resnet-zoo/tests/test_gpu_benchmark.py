"""The GPU benchmark's ways to run the network agree; on the CPU, small and without compiling."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_imagenet.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_imagenet", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_ways_to_infer_agree(script):
    model, x = script.network("resnet18", "cpu"), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        calls = script.inference(model, x, torch.bfloat16, compiled=False)
        expected = model(x)
        for call in calls.values():
            assert (call().float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_the_ways_to_train_agree_and_learn(script):
    model, x = script.network("resnet18", "cpu"), torch.randn(8, 3, 64, 64)
    calls = script.training(model, x, torch.bfloat16, compiled=False)
    losses = {name: [call().item() for _ in range(4)] for name, call in calls.items()}
    assert losses["ours"][0] == pytest.approx(losses["eager"][0], rel=0.05)
    assert all(row[-1] < row[0] for row in losses.values())


def test_rows_without_a_compiler_have_names_of_their_own(script, monkeypatch):
    """They come first, and stay where the compiler has no time left."""
    asked = []

    def ways(model, x, dtype, compiled):
        asked.append((tuple(x.shape), compiled))
        return dict.fromkeys(["ours", "eager", *["torch.compile"] * compiled], lambda: x)

    monkeypatch.setattr(sys, "argv", ["bench", "--quick"])
    monkeypatch.setattr(script, "INFERENCE", [(torch.bfloat16, 1)])
    monkeypatch.setattr(script, "TRAINING", [(torch.bfloat16, 2)])
    for name in ("inference", "training"):
        monkeypatch.setattr(script, name, ways)
    bench = script.Bench("tiny", "the way named")
    for compiled in (False, True):
        script.every_case(bench, None, compiled, "cpu", 8)
    assert asked == [((n, 3, 8, 8), compiled) for compiled in (False, True) for n in (1, 2)]
    first, second = "inference, resnet50, bfloat16, batch 1", "training step, resnet50, bfloat16"
    assert [row.case for row in bench.rows] == [
        f"{first}, eager",
        f"{second}, batch 2, eager",
        f"{first}, compiled, eager",
        f"{first}, compiled, torch.compile",
        f"{second}, batch 2, compiled, eager",
        f"{second}, batch 2, compiled, torch.compile",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(script, capsys):
    assert script.main() == 3
    assert "no CUDA device" in capsys.readouterr().out
