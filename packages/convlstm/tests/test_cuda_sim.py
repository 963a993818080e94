"""The CUDA gate kernels without a GPU: simulated under sanitizers, compiled within a budget.

The simulator and the compile guard are in tests/cuda_sim of the repository; an sdist has neither.
"""

import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1]
TOOLS = PACKAGE.parents[1] / "tests" / "cuda_sim"
PROGRAM = PACKAGE / "tests" / "sim" / "gates.cpp"
CUDA = PACKAGE / "csrc" / "cuda"
# A seed has the same interleavings under both; ThreadSanitizer takes ten times as long.
SEEDS = {"asan": 3, "tsan": 1}

if not TOOLS.is_dir():
    pytest.skip("tests/cuda_sim is not part of this tree", allow_module_level=True)
sys.path.insert(0, str(TOOLS))
import nvcc_guard  # noqa: E402
import simulate  # noqa: E402

needs_simulator = pytest.mark.skipif(simulate.missing() is not None, reason=str(simulate.missing()))
needs_nvcc = pytest.mark.skipif(nvcc_guard.missing() is not None, reason=str(nvcc_guard.missing()))


@needs_simulator
@pytest.mark.parametrize("flavour", SEEDS)
def test_the_simulated_kernels_equal_the_definition_in_double(flavour):
    executable = simulate.build(PROGRAM, flavour, [PACKAGE / "csrc"])
    names = simulate.cases(executable)
    assert names
    for name in names:
        outcome = simulate.run(executable, name, seeds=SEEDS[flavour], timeout=600)
        assert outcome.code == simulate.CLEAN, f"{name}:\n{outcome.output}"


@pytest.mark.slow
@needs_nvcc
def test_nvcc_compiles_the_gates_clean_and_within_their_budget():
    report = nvcc_guard.check(
        CUDA / "budget" / "gates.json", [CUDA / "gates.cu"], include_dirs=[PACKAGE / "csrc"]
    )
    assert sum("forward_kernel" in name for name in report["sm_90"]) == 12
    assert sum("backward_kernel" in name for name in report["sm_90"]) == 12


@pytest.mark.slow
@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_75", "sm_120"])
def test_nvcc_compiles_the_gates_clean_for_the_oldest_and_the_newest_device(architecture):
    assert nvcc_guard.compile_kernels(CUDA / "gates.cu", architecture, [PACKAGE / "csrc"])
