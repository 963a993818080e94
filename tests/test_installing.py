"""The ways to install a native package, and the sentences that end the ways that cannot work."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import workspace
from shipping.wheels import build_wheel
from support import QUICK

ROOT = workspace.ROOT
NATIVE = [package for package in workspace.packages() if package.native]
CMAKE = Path(sys.executable).parent / "cmake"
KERNELS = [package for package in NATIVE if list((package.folder / "csrc").rglob("*.cu"))]


def cuda_bytes(package) -> int:
    return sum(path.stat().st_size for path in (package.folder / "csrc").rglob("*.cu*"))


# A build with CUDA takes minutes: by default that of least code. Every package's own tests compile
# its kernels.
LEAST, *OTHER_KERNELS = sorted(KERNELS, key=cuda_bytes)
CUDA_BUILDS = [LEAST, *(pytest.param(p, marks=pytest.mark.slow) for p in OTHER_KERNELS)]


def interpreter(minor: int) -> str | None:
    """A Python 3.`minor` that answers: on the PATH, or among pyenv's versions."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python3.{minor}"), *sorted(pyenv.glob(f"3.{minor}.*/bin/python3"))]
    for path in filter(None, found):
        asked = [path, "-c", "import sys, venv; print(sys.version_info[1])"]
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.stdout.strip() == str(minor):
            return str(path)
    return None


SPCONV = workspace.Package("spconv-lite")
# two neighbours on a line and one apart, kernel 3: three rows of themselves and one pair both ways
CORE_BESIDE_NUMPY = """
import importlib.util, importlib.machinery, pathlib, numpy as np
folder = importlib.util.find_spec("spconv_lite").submodule_search_locations[0]
(module,) = pathlib.Path(folder).glob("_C.*so")
loader = importlib.machinery.ExtensionFileLoader("_C", str(module))
core = importlib.util.module_from_spec(importlib.util.spec_from_loader("_C", loader))
loader.exec_module(core)
sites = np.array([[0, 1], [0, 2], [0, 9]], dtype=np.int32)
line, ones = [1, 1, 1, 10], [1, 1, 1, 1]
geometry = (line, line, [1, 1, 1, 3], ones, [0, 0, 0, 1], ones)
book = core.build_rulebook(sites, sites, 1, 1, *geometry, 0, 2)
print(book.out_rows, book.pairs)
"""
OTHERS = [minor for minor in (10, 11, 12, 13) if minor != sys.version_info[1]]


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def configure(source: Path, build: Path, *arguments: str, **environment: str) -> str:
    """What `cmake` says; the configuration must fail."""
    done = subprocess.run(
        [CMAKE, "-S", source, "-B", build, "-G", "Ninja", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0, done.stdout
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("package", NATIVE, ids=lambda p: p.name)
def test_without_a_cxx_compiler_the_sentence_names_the_cure(package, tmp_path):
    said = configure(package.folder, tmp_path, CXX="/nonexistent/c++")
    assert "No C++ compiler was found. Install one with C++17" in said
    assert "apt install g++" in said


@pytest.mark.parametrize("package", NATIVE, ids=lambda p: p.name)
def test_windows_is_refused_by_name(package, tmp_path):
    said = configure(package.folder, tmp_path, "-DCMAKE_SYSTEM_NAME=Windows")
    assert f"{package.import_name} does not build on Windows" in said
    assert "Use WSL 2" in said


def test_a_compiler_without_openmp_gets_std_threads_and_the_same_results(tmp_path):
    without = [
        "-DCMAKE_DISABLE_FIND_PACKAGE_OpenMP=ON",
        "-DGPU=OFF",
        "-DNATIVE_PYTHON=OFF",
        f"-D{QUICK}",
    ]
    build, prefix, consumer = (tmp_path / name for name in ("build", "prefix", "consumer"))
    said = run(CMAKE, "-S", SPCONV.folder, "-B", build, "-G", "Ninja", f"-D{QUICK}", *without)
    assert "parallel loops run on std::thread" in said
    run(CMAKE, "--build", build)
    run(CMAKE, "--install", build, "--prefix", prefix)
    assert {path.name for path in prefix.iterdir()} == {"include", "lib"}
    run(CMAKE, "-S", ROOT / "tests" / "cpp_consumer", "-B", consumer, "-G", "Ninja",
        f"-DCMAKE_PREFIX_PATH={prefix}")  # fmt: skip
    run(CMAKE, "--build", consumer)
    assert run(consumer / "consumer") == "64 pairs\n"
    assert "gomp" not in run("ldd", consumer / "consumer")


def test_gpu_on_without_nvcc_says_what_to_do(tmp_path):
    said = configure(NATIVE[0].folder, tmp_path, "-DGPU=ON", "-DNATIVE_NVCC=OFF")
    assert "GPU=ON, but no CUDA compiler was found" in said
    assert "or build for the CPU with GPU=OFF" in said


def test_gpu_on_with_an_old_cuda_names_both_versions(tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 11.2, V11.2.152'\n")
    nvcc.chmod(0o755)
    said = configure(NATIVE[0].folder, tmp_path / "build", "-DGPU=ON", CUDACXX=str(nvcc))
    assert f"GPU=ON, but {nvcc} is CUDA 11.2, and 12.4 or newer is needed" in said


@pytest.mark.parametrize("package", NATIVE, ids=lambda p: p.name)
def test_a_rebuild_with_nothing_to_do_takes_less_than_a_second(package):
    build = package.editable_build
    command = [CMAKE, "--build", build]
    subprocess.run(command, check=True, capture_output=True)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds.append(time.perf_counter() - started)
        assert "no work to do" in done.stdout
    assert min(seconds) < 1.0


def test_pip_install_of_a_folder_works_with_build_isolation(fresh):
    before = fresh.freeze()
    try:
        fresh.pip(f"--config-settings=cmake.define.{QUICK}", ROOT / "packages" / "tp-parallel")
        assert fresh.run("-c", "import tp_parallel").returncode == 0
    finally:
        fresh.remove(fresh.freeze() - before)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
@pytest.mark.parametrize("package", CUDA_BUILDS, ids=lambda p: p.name)
def test_a_cuda_build_imports_without_a_driver_and_says_why_cuda_is_off(package, fresh, tmp_path):
    settings = ("CMAKE_CUDA_ARCHITECTURES=90", QUICK)
    wheel = build_wheel(package.folder, tmp_path, *settings, GPU="ON")
    before = fresh.freeze()
    try:
        fresh.pip(wheel)
        info = fresh.run("-m", package.import_name)
        assert info.returncode == 0, info.stderr
        assert "90" in info.stdout
        assert "no CUDA device answers" in info.stdout
    finally:
        fresh.remove(fresh.freeze() - before)


@pytest.fixture(scope="module")
def spconv_wheel(tmp_path_factory):
    """The wheel that an interpreter makes, or made by one whose stable ABI it shares: 3.12's."""
    made: dict[str, Path] = {}

    def wheel(python: Path, minor: int) -> Path:
        tag = "cp312-abi3" if minor >= 12 else f"cp3{minor}-cp3{minor}"
        if tag not in made:
            folder = tmp_path_factory.mktemp("wheel")
            command = [python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, SPCONV.folder]
            command.append(f"--config-settings=cmake.define.{QUICK}")
            subprocess.run(
                command, check=True, env=os.environ | {"GPU": "OFF"}, capture_output=True
            )
            (made[tag],) = folder.glob(f"*-{tag}-*.whl")
        return made[tag]

    return wheel


@pytest.mark.parametrize("minor", OTHERS)
def test_the_native_module_works_under_other_interpreters_beside_numpy(
    minor, spconv_wheel, tmp_path
):
    python = interpreter(minor)
    if python is None:
        pytest.skip(f"no Python 3.{minor} on this machine")
    subprocess.run([python, "-m", "venv", tmp_path / "env"], check=True)
    inside = tmp_path / "env" / "bin" / "python"
    subprocess.run([inside, "-m", "pip", "install", "-qU", "pip", "numpy"], check=True)
    built = spconv_wheel(inside, minor)
    subprocess.run([inside, "-m", "pip", "install", "-q", "--no-deps", built], check=True)
    done = subprocess.run([inside, "-c", CORE_BESIDE_NUMPY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "5"], done.stdout


@pytest.mark.slow
def test_the_pins_agree_with_what_torch_asks_for_on_the_public_index():
    """Without the settings of this machine's pip, by which it may find a torch of other demands."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "-q"]
    command += ["--only-binary=:all:", "-c", ROOT / "tools" / "constraints.txt", "torch", "triton"]
    bare = {key: value for key, value in os.environ.items() if key != "PIP_FIND_LINKS"}
    done = subprocess.run(
        command, env=bare | {"PIP_CONFIG_FILE": os.devnull}, capture_output=True, text=True
    )
    if done.returncode and "ResolutionImpossible" not in done.stderr:
        pytest.skip(f"pip did not reach an index: {done.stderr.splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
