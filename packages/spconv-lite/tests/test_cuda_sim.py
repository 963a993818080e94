"""The CUDA kernels without a GPU: simulated under sanitizers, and compiled within their budget.

The simulator and the compile guard are in tests/cuda_sim of the repository; an sdist has neither.
"""

import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1]
TOOLS = PACKAGE.parents[1] / "tests" / "cuda_sim"
PROGRAMS = sorted((PACKAGE / "tests" / "sim").glob("*.cpp"))
EMULATED = PACKAGE / "tests" / "sim" / "emulated"  # CUDA's headers for tensor cores
SOURCES = sorted((PACKAGE / "csrc" / "cuda").glob("*.cu"))
# A seed has the same interleavings under both; ThreadSanitizer takes ten times as long.
SEEDS = {"asan": 3, "tsan": 1}

if not TOOLS.is_dir():
    pytest.skip("tests/cuda_sim is not part of this tree", allow_module_level=True)
sys.path.insert(0, str(TOOLS))
import nvcc_guard  # noqa: E402
import simulate  # noqa: E402

needs_simulator = pytest.mark.skipif(simulate.missing() is not None, reason=str(simulate.missing()))
needs_nvcc = pytest.mark.skipif(nvcc_guard.missing() is not None, reason=str(nvcc_guard.missing()))


def run_all(program: Path, flavour: str, seeds: int) -> None:
    executable = simulate.build(program, flavour, [PACKAGE / "csrc", EMULATED])
    names = simulate.cases(executable)
    assert names
    for name in names:
        outcome = simulate.run(executable, name, seeds=seeds, timeout=600)
        assert outcome.code == simulate.CLEAN, f"{name}:\n{outcome.output}"


RUNS = [
    pytest.param(
        program,
        flavour,
        id=f"{program.stem}-{flavour}",
        # the longest to build and to run
        marks=[pytest.mark.slow] if (program.stem, flavour) == ("conv", "tsan") else [],
    )
    for program in PROGRAMS
    for flavour in SEEDS
]


@needs_simulator
@pytest.mark.parametrize(("program", "flavour"), RUNS)
def test_the_simulated_kernels_equal_brute_force(program, flavour):
    run_all(program, flavour, SEEDS[flavour])


@pytest.mark.slow
@needs_simulator
@pytest.mark.parametrize("flavour", SEEDS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_the_simulated_kernels_equal_brute_force_for_many_seeds(program, flavour):
    run_all(program, flavour, 10 * SEEDS[flavour])


def check_budget(name: str) -> str:
    cuda = PACKAGE / "csrc" / "cuda"
    report = nvcc_guard.check(
        cuda / "budget" / f"{name}.json", [cuda / f"{name}.cu"], include_dirs=[PACKAGE / "csrc"]
    )
    return " ".join(report["sm_90"])


@needs_nvcc
def test_nvcc_compiles_the_rulebook_clean_and_within_its_budget():
    kernels = check_budget("rulebook")
    assert "prepare_subm_grid" in kernels
    assert "get_subm_indice_pairs" in kernels


@pytest.mark.slow
@needs_nvcc
def test_nvcc_compiles_the_convolution_clean_and_within_its_budget():
    assert "implicit_gemm" in check_budget("conv")


@pytest.mark.slow
@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_75", "sm_120"])
def test_nvcc_compiles_every_file_clean_for_the_oldest_and_the_newest_device(architecture):
    for source in SOURCES:
        assert nvcc_guard.compile_kernels(source, architecture, [PACKAGE / "csrc"])
