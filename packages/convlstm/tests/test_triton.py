"""The gates by Triton without a GPU: interpreted beside the CPU's, and compiled ahead of time; with
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
def test_the_machine_code_has_no_local_memory_and_keeps_to_registers(architecture):
    program = f"""
import sys
sys.path.insert(0, {str(TOOLS)!r})
from triton_guard import Kernel, compile_kernel
from convlstm.sequence import triton_gates as k
sizes = dict.fromkeys(("states", "pixels_per_sequence"), "i32")
codes = {{"ACTIVATION": 1, "RECURRENT": 2, "BLOCK": k.BLOCK, "CHANNELS": 40}}
for name in ("fp32", "bf16"):
    forward = dict.fromkeys(("pre", "pre2", "bias", "peephole"), f"*{{name}}") | {{"valid": "*u8"}}
    forward |= {{"h_before": f"*{{name}}", "c_before": "*fp32"}}
    forward |= {{"gates": f"*{{name}}", "c": "*fp32", "h": f"*{{name}}"}}
    given = dict.fromkeys(("PRE2", "BIAS", "PEEPHOLE", "VALID", "GATES"), True)
    backward = {{"gates": f"*{{name}}", "c_before": "*fp32", "c": "*fp32"}}
    backward |= dict.fromkeys(("dh", "dh2", "peephole"), f"*{{name}}") | {{"valid": "*u8"}}
    backward |= {{"dc": "*fp32", "d_pre": f"*{{name}}"}}
    taken = dict.fromkeys(("DH", "DH2", "PEEPHOLE", "VALID"), True)
    for kernel in (
        Kernel(name, k.forward_step, forward | sizes, codes | given, ("states",)),
        Kernel(name, k.backward_step, backward | sizes, codes | taken, ("states",)),
    ):
        usage = compile_kernel(kernel, {architecture})
        wide = 9 if name == "fp32" else 1  # four elements a thread: of bfloat16 8 bytes
        assert usage.wide_loads >= wide, usage
        assert usage.local == 0 and usage.registers <= 128, usage
"""
    run(["-c", program])
