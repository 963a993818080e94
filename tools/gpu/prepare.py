"""What travels to a borrowed machine: device programs, Python packages, perhaps an ffmpeg."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from workspace import ROOT

SIMULATOR = ROOT / "tests" / "cuda_sim"
# What decides pixels is compiled without contraction, and compared with the package's CPU core.
FLAGS = {"nanite-cull": ["-fmad=false"]}
CORES = {"nanite-cull": "libnanite_cull_core.a"}
PYTHON = "3.12"  # of the machine
PYTHON_PACKAGES = ("nanobind",)  # its version decides what is built; the others are there
# As they are here, since an index has no wheels of them: nanite-cull opens the library in it, for
# whatever Python that was built.
LIBRARIES = ("meshoptimizer",)
MOST_BYTES = 40 * 2**20  # of the 64 MiB that tree and carried files have together


def programs() -> list[tuple[Path, list[Path]]]:
    """Every program of simulated kernels with the folders that it includes from."""
    found = [(SIMULATOR / "demo.cpp", [])]
    for source in sorted(ROOT.glob("packages/*/tests/sim/*.cpp")):
        found.append((source, [source.parents[2] / "csrc", source.parent]))
    return found


def build_program(source: Path, includes: list[Path], architecture: str, folder: Path) -> Path:
    """One program as a device binary, beside the same sources that the simulator runs.

    Raises subprocess.CalledProcessError with nvcc's words in its `stdout`.
    """
    package = source.parents[2].name if "packages" in source.parts else "cuda_sim"
    target = folder / f"{package}-{source.stem}-sm_{architecture}"
    paths = [SIMULATOR, ROOT / "cmake" / "include", *includes]
    command = ["nvcc", "-std=c++17", "-O2", "-lineinfo", f"-arch=sm_{architecture}"]
    command += ["-cudart", "static", "-Xptxas", "-suppress-stack-size-warning"]
    command += [*FLAGS.get(package, ()), *(f"-I{path}" for path in paths)]
    command += ["-x", "cu", str(source), "-o", str(target)]
    if core := CORES.get(package):  # as built here; libgomp may be missing there
        archive = source.parents[2] / "build" / "editable" / core
        command += ["-Xlinker", str(archive), "-Xlinker", "-l:libgomp.a", "-ldl", "-lpthread"]
    subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return target


def prepare(carry: Path, architecture: str, ffmpeg: Path | None) -> int:
    """Fills `carry` anew; 1 if a program did not compile, a package cannot be had or the folder
    is too large to travel."""
    shutil.rmtree(carry, ignore_errors=True)
    (carry / "programs").mkdir(parents=True)
    failed = 0
    for source, includes in programs():
        try:
            built = build_program(source, includes, architecture, carry / "programs")
            print(f"built {built.name}, {built.stat().st_size / 2**20:.1f} MiB", flush=True)
        except subprocess.CalledProcessError as error:
            failed = 1
            print(f"{source} does not compile for a device:\n{error.stdout.decode()}")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
    pip += ["--only-binary", ":all:", "--python-version", PYTHON, "--target", str(carry / "python")]
    if subprocess.run([*pip, *PYTHON_PACKAGES]).returncode:
        failed = 1
        print(f"not all of {', '.join(PYTHON_PACKAGES)} can be had")
    for name in LIBRARIES:
        (folder,) = importlib.util.find_spec(name).submodule_search_locations
        shutil.copytree(folder, carry / "python" / name, dirs_exist_ok=True)
    if ffmpeg is not None:
        shutil.copy2(ffmpeg, carry / "ffmpeg")
    size = sum(path.stat().st_size for path in carry.rglob("*") if path.is_file())
    print(f"{carry.relative_to(ROOT)}: {size / 2**20:.1f} MiB; let it travel with the tree")
    if size > MOST_BYTES:
        print(f"more than {MOST_BYTES / 2**20:.0f} MiB: leave something out")
        return 1
    return failed
