"""Builds a wheel as a package index would: an sdist, then a wheel from nothing but the sdist."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import workspace

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

MAKE_SDIST = "import sys, scikit_build_core.build as b; print(b.build_sdist(sys.argv[1]))"


def pyproject(package: workspace.Package) -> dict:
    return tomllib.loads((package.folder / "pyproject.toml").read_text())


def build_from_sdist(source: Path, folder: Path, **environment: str) -> Path:
    """The path of the wheel; `environment` may set GPU and NATIVE_WERROR."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", MAKE_SDIST, folder],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    return build_wheel(unpacked, folder, **environment)


def build_wheel(source: Path, out: Path, **environment: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "-w", out, source]
    if "CMAKE_CUDA_ARCHITECTURES" in environment:
        architectures = environment["CMAKE_CUDA_ARCHITECTURES"]
        command.append(f"-Ccmake.define.CMAKE_CUDA_ARCHITECTURES={architectures}")
    tools = Path(sys.executable).parent
    path = f"{tools}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(part) for part in command],
        env=os.environ | {"GPU": "OFF", "NATIVE_WERROR": "ON", "PATH": path} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel
