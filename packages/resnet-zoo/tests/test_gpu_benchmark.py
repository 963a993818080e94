"""The GPU benchmark's ways to run the network agree; on the CPU, small and without compiling."""

import importlib.util
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(script, capsys):
    assert script.main() == 3
    assert "no CUDA device" in capsys.readouterr().out
