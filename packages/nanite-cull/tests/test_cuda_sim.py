"""The CUDA kernels without a GPU: simulated beside the CPU, compiled within a budget.

The simulator and the compile guard are in tests/cuda_sim of the repository; an sdist has neither.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanite_cull import _C

PACKAGE = Path(__file__).resolve().parents[1]
TOOLS = PACKAGE.parents[1] / "tests" / "cuda_sim"
SIM, CSRC = PACKAGE / "tests" / "sim", PACKAGE / "csrc"
TIES = "equal_depths_are_decided_by_instance_cluster_and_triangle"
PAGES = "streamed_pages_draw_and_wish_as_on_the_host"
SEEDED = {
    ("traversal", "relaxed_publish"): "tsan",
    ("traversal", "missing_commit"): "tsan",
    ("traversal", "lost_pending"): "plain",
    ("traversal", "no_overflow_exit"): "plain",
    ("traversal", "stale_commits"): "plain",
    ("unsorted", TIES): "plain",
    ("first_come", TIES): "plain",
    ("unheld_copies", PAGES): "plain",
    ("staging_used_too_early", PAGES): "plain",
}
KERNELS = {
    "cull/cull.cu": {
        "cull_instances", "enter_instances", "begin_instances", "cull_nodes", "cull_clusters",
        "place_clusters", "begin_traversal", "traverse", "begin_post_pass", "list_added",
    },
    "raster/raster.cu": {
        "draw_small", "set_up_large", "draw_pieces", "rename_pixels", "split_pixels",
    },
    "raster/two_pass.cu": {"halve_depths"},
    "resolve/planes.cu": {
        "cover_pixels", "distance_pixels", "unproject_pixels", "list_visible",
    },
    "resolve/resolve.cu": {
        "project_instances", "resolve_pixels", "count_bins", "scan_bins", "scatter_pixels",
        "resolve_albedos",
    },
    "resolve/shade.cu": {
        "measure_pixels", "double_sums", "take_sums", "light_pixels", "shade_pixels",
    },
}  # fmt: skip

if not TOOLS.is_dir():
    pytest.skip("tests/cuda_sim is not part of this tree", allow_module_level=True)
sys.path.insert(0, str(TOOLS))
import nvcc_guard  # noqa: E402
import simulate  # noqa: E402

needs_simulator = pytest.mark.skipif(simulate.missing() is not None, reason=str(simulate.missing()))
needs_nvcc = pytest.mark.skipif(nvcc_guard.missing() is not None, reason=str(nvcc_guard.missing()))


def _cpu_core() -> list[str]:
    """Linker options for the CPU core, which pictures and clusters are compared with."""
    for folder in (Path(_C.__file__).parent / "lib", PACKAGE / "build" / "editable"):
        if (archive := folder / "libnanite_cull_core.a").exists():
            return [str(archive), "-lgomp", "-ldl", "-lpthread"]
    pytest.skip("needs the C++ library of the package")


def _build(program: Path, flavour: str) -> Path:
    link = [] if program.stem == "traversal" else _cpu_core()
    return simulate.build(program, flavour, [CSRC, SIM], link=link)


def _run_all(program: str, flavour: str, seeds: int) -> None:
    executable = _build(SIM / f"{program}.cpp", flavour)
    names = simulate.cases(executable)
    assert names
    for name in names:
        outcome = simulate.run(executable, name, seeds=seeds, timeout=600)
        assert outcome.code == simulate.CLEAN, f"{name}:\n{outcome.output}"


@needs_simulator
def test_workers_at_one_queue_lose_and_repeat_nothing():
    _run_all("traversal", "tsan", 2)


@pytest.mark.slow
@needs_simulator
@pytest.mark.parametrize("flavour", ["asan", "tsan"])
@pytest.mark.parametrize(
    "program", ["cull", "raster", "resolve", "shade", "device_frame", "traversal"]
)
def test_simulated_kernels_give_what_the_cpu_gives(program, flavour):
    _run_all(program, flavour, {"asan": 6, "tsan": 2}[flavour])


@pytest.mark.slow
@needs_simulator
def test_frames_of_a_simulated_device_are_those_of_the_cpu_by_every_call_of_python():
    """Renderer(device="cuda") itself: a native module whose kernels run in the simulator."""
    pytest.importorskip("nanobind")
    sys.path.insert(0, str(SIM / "extension"))
    import build

    folder = build.build(_cpu_core())
    command = [sys.executable, str(SIM / "extension" / "frames.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "all equal\n", done.stdout + done.stderr


@pytest.mark.slow
@needs_simulator
@pytest.mark.parametrize(("program", "case"), SEEDED)
def test_a_seeded_mistake_is_found(program, case):
    flavour = SEEDED[program, case]
    outcome = simulate.run(_build(SIM / "seeded" / f"{program}.cpp", flavour), case, seeds=10)
    if flavour == "tsan":
        assert outcome.code == simulate.SANITIZER_REPORT
        assert "data race" in outcome.output
    else:
        assert outcome.code in (simulate.SIMULATOR_ERROR, simulate.WRONG_RESULT), outcome.output


@pytest.mark.slow
@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_stay_within_their_budget_and_have_no_local_memory(name, architecture):
    source = CSRC / name
    budget = CSRC / "budget" / f"{source.stem}.json"
    report = nvcc_guard.check(budget, [source], [architecture], [CSRC], ("-fmad=false",))
    for kernels in report.values():
        assert {re.search(r"(\w+)(<.*>)?\(", k).group(1) for k in kernels} == KERNELS[name]
        assert all(usage.stack == usage.spill == 0 for usage in kernels.values())


@pytest.mark.slow
@needs_nvcc
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_have_neither_doubles_nor_contraction(name):
    text = nvcc_guard.ptx(CSRC / name, "sm_90", [CSRC], flags=("-fmad=false",))
    assert not re.search(r"\.f64\b", text)
    # those of the correctly rounded division and square root are their own
    assert not re.search(r"^\s+(fma|mad)\.rn\.f32", text, re.MULTILINE)


@pytest.mark.slow
@needs_nvcc
def test_nvcc_compiles_what_the_budget_leaves_out(tmp_path):
    """The sort is CUB's, the rest has no kernels."""
    for source in (
        "scene/device_pages.cu", "scene/device_scene.cu", "cull/sort.cu", "resolve/device_frame.cu"
    ):  # fmt: skip
        command = [nvcc_guard.nvcc(), "-std=c++17", "-fmad=false", "-arch=sm_90", "-c"]
        command += ["-Werror=all-warnings", f"-I{CSRC}", f"-I{PACKAGE.parents[1]}/cmake/include"]
        done = subprocess.run(
            [*command, str(CSRC / source), "-o", str(tmp_path / "unit.o")],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@needs_simulator
def test_numbers_of_double_precision_by_integers_are_those_of_the_machine(tmp_path):
    program = tmp_path / "wide"
    command = [simulate.compiler(), "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}"]
    command += [str(PACKAGE / "tests" / "wide.cpp"), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "0\n"
