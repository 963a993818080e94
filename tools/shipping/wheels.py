"""Source distributions, and wheels built as a package index would: from nothing but the sdist."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from shipping import address

MAKE_SDIST = "import sys, scikit_build_core.build as b; print(b.build_sdist(sys.argv[1]))"


def build_sdist(source: Path, out: Path) -> Path:
    """The sdist of the package in `source`, in the folder `out`. Raises RuntimeError."""
    out.mkdir(parents=True, exist_ok=True)
    before = set(out.glob("*.tar.gz"))
    _run([sys.executable, "-c", MAKE_SDIST, out], cwd=source)
    name = source.resolve().name.replace("-", "_")
    found = set(out.glob("*.tar.gz")) - before or set(out.glob(f"{name}-*.tar.gz"))
    (sdist,) = found
    if repository := address.settings()[0]:
        _with_absolute_links(sdist, source.resolve().name, repository)
    return sdist


def _with_absolute_links(sdist: Path, package: str, repository: str) -> None:
    """README and PKG-INFO as an index shows them: a link into the checkout leads nowhere there."""
    stem = sdist.name.removesuffix(".tar.gz")
    version = stem.rpartition("-")[2]
    aside = sdist.with_suffix(".part")
    with tarfile.open(sdist) as old, tarfile.open(aside, "w:gz") as new:
        for member in old:
            data = old.extractfile(member).read() if member.isfile() else b""
            if member.name in (f"{stem}/README.md", f"{stem}/PKG-INFO"):
                text = address.absolute_links(data.decode(), package, version, repository)
                data = text.encode()
                member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    aside.replace(sdist)


def build_wheel(source: Path, out: Path, *settings: str, **environment: str) -> Path:
    """The wheel of the package in `source`; `environment` may set GPU and NATIVE_WERROR.

    `settings` are CMake's, such as `CMAKE_CUDA_ARCHITECTURES=90`.
    """
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "-w", str(out), str(source)]
    command += [f"--config-settings=cmake.define.{setting}" for setting in settings]
    before = set(out.glob("*.whl"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    _run(command, env=os.environ | {"GPU": "OFF", "PATH": path} | environment)
    (wheel,) = set(out.glob("*.whl")) - before
    return wheel


def build_from_sdist(
    source: Path, out: Path, scratch: Path, *settings: str, **environment: str
) -> tuple[Path, Path]:
    """The sdist and the wheel made from it alone, both in `out`; `scratch` is a new folder."""
    sdist = build_sdist(source, out)
    scratch.mkdir(parents=True)
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # 3.11.4
        archive.extractall(scratch)
    unpacked = scratch / sdist.name.removesuffix(".tar.gz")
    return sdist, build_wheel(unpacked, out, *settings, **environment)


def _run(command: list, **options) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
