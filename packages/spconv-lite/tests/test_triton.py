"""Triton's kernels without a GPU: interpreted beside the CPU's, and compiled ahead of time; with a
GPU, run on it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ON_GPU = torch.cuda.is_available()
HERE = Path(__file__).resolve().parent
TOOLS = HERE.parents[2] / "tests" / "cuda_sim"  # not part of an sdist

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed: pip install triton", allow_module_level=True)
pytestmark = pytest.mark.gpu if ON_GPU else []

if ON_GPU:
    sys.path.insert(0, str(HERE / "triton_checks"))
    from checks import *  # noqa: F403


def run(command, **variables):
    """A process of its own: TRITON_INTERPRET decides when Triton is imported for the first time."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | variables
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(ON_GPU, reason="the same tests run on the GPU")
def test_the_kernels_equal_the_cpus_in_tritons_interpreter(pytestconfig):
    full = ["--full"] if pytestconfig.getoption("--full", False) else []
    command = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        HERE / "triton_checks" / "checks.py",
        *full,
    ]
    assert " passed" in run(command, TRITON_INTERPRET="1")


@pytest.mark.skipif(ON_GPU, reason="a GPU's driver is not a stand-in")
def test_torch_compile_and_export_see_the_kernels():
    checks = HERE / "triton_checks" / "graphs.py"
    assert " passed" in run(["-m", "pytest", "-q", "-p", "no:cacheprovider", checks])


SPECIALISATIONS = HERE / "triton_checks" / "specialisations.py"
needs_guard = pytest.mark.skipif(not TOOLS.is_dir(), reason="tests/cuda_sim is not in this tree")


@needs_guard
def test_the_machine_code_for_sm_90_has_tensor_cores_and_no_local_memory():
    """HGMMA in bf16, at most 168 registers and 100 KB: kernels/triton on a Hopper device."""
    run([SPECIALISATIONS, "--arch", "90", "--only", "bf16 64"])


@pytest.mark.slow
@needs_guard
def test_the_machine_code_for_all_architectures_is_within_its_budget():
    run([SPECIALISATIONS])


def test_the_budget_itself_keeps_the_bars():
    budget = json.loads((HERE / "triton_checks" / "budget.json").read_text())
    for name, usage in budget["sm_90"].items():
        if name.split()[0] in ("forward", "input_gradient", "weight_gradient"):
            # float32 without tf32 is what tensor cores do not have
            assert ("HGMMA" in usage["instructions"]) == ("fp32" not in name), name
    for arch, kernels in budget.items():
        for name, usage in kernels.items():
            # three blocks of 128 threads a multiprocessor; without tensor cores one of 256 may do
            assert usage["registers"] <= (176 if " fp32 " in name else 168), (arch, name)
            assert usage["shared"] <= 100 * 1024, (arch, name)
            assert usage["local"] == 0, (arch, name)
            if arch in ("sm_80", "sm_120"):
                assert "HGMMA" not in usage["instructions"]
