"""The loss by Triton without a GPU: interpreted beside the CPU's, and compiled ahead of time; with
a GPU, run on it."""

import importlib.util
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


@pytest.mark.slow
@pytest.mark.skipif(not TOOLS.is_dir(), reason="tests/cuda_sim is not part of this tree")
@pytest.mark.parametrize("architecture", [80, 90, 120])
def test_the_machine_code_reads_16_bytes_at_once_and_keeps_to_registers(architecture):
    program = f"""
import sys
sys.path.insert(0, {str(TOOLS)!r})
from triton_guard import Kernel, compile_kernel
from tp_parallel.loss import triton_kernels as k
common = {{"columns": "i32", "start": "i32", "valid": "i32", "ignore_index": "i32"}}
block = {{"BLOCK": k.BLOCK}}
for name in ("bf16", "fp32"):
    logits = {{"logits": f"*{{name}}", "target": "*i64"}}
    statistics = Kernel(name, k.row_statistics, logits | {{"out": "*fp32"}} | common,
                        block | {{"WITH_SUM": False}}, ("columns",), k.WARPS)
    floats = dict.fromkeys(("smoothing", "sum_weight", "z_loss"), "fp32")
    vectors = {{"lse": "*fp32", "grad": "*fp32", "out": f"*{{name}}"}}
    between = {{"columns": "i32", "grad_stride": "i32"}}  # in the order of the kernel's arguments
    gradient = Kernel(name, k.row_gradient, logits | vectors | between | common | floats, block,
                      ("columns",), k.WARPS)
    for kernel in (statistics, gradient):
        usage = compile_kernel(kernel, {architecture})
        assert usage.local == 0 and usage.registers <= 128, usage
        assert usage.wide_loads > 0, usage
"""
    run(["-c", program])
