"""Carry along what a machine may lack: the system's libraries that the build loads, into its lib/.

Not the C library and its parts, which belong to the kernel's side of a system, and not a driver's
own. Each comes with the licence and the version of the package that it is from.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import proc
from . import binary
from .make import BuildError
from .source import sha256_of

# Parts of glibc, which must be those of the machine, and libraries of drivers.
STAYS = re.compile(
    r"ld-linux\S*|linux-vdso\S*|lib(c|m|pthread|dl|rt|resolv|util|anl|nsl|BrokenLocale|mvec)\.so\S*"
    r"|lib(cuda|nvcuvid|nvidia\S*|GLX_nvidia\S*|drm_\w+|amdocl\S*)\.so\S*"
)
# Opened at run time, by the libraries beside them: component -> names
OPENED = {"vulkan": ("libvulkan.so.1",)}
LICENCES = Path("share/ffmpeg-gpu-build/licences")


@dataclass(frozen=True)
class Carried:
    """A library that goes along: its name for the loader, its file, and the package it is from."""

    name: str
    file: Path
    package: str
    version: str


def loaded(program: Path) -> dict[str, Path]:
    """Every library that the loader takes for a program or library: name -> file. Raises
    BuildError, code "missing-library", for one that it does not find.
    """
    done = proc.run(["ldd", program])
    text = done.out.decode("utf-8", "replace")
    absent = re.findall(r"^\s*(\S+) => not found", text, re.M)
    if absent:
        raise BuildError(f"bundle: {program.name} needs {', '.join(absent)}", "missing-library")
    return {n: Path(f) for n, f in re.findall(r"^\s*(\S+) => (/.*?) \(0x", text, re.M)}


def _system_library(name: str) -> Path | None:
    """A library of the system by the loader's cache."""
    text = proc.run(["/sbin/ldconfig", "-p"]).out.decode("utf-8", "replace")
    found = re.search(rf"^\s*{re.escape(name)} \([^)]*x86-64[^)]*\) => (\S+)", text, re.M)
    found = found or re.search(rf"^\s*{re.escape(name)} \([^)]*\) => (\S+)", text, re.M)
    return Path(found[1]) if found else None


def package_of(file: Path) -> tuple[str, str]:
    """(package, version) that a file of the system is from; ("", "") where nobody knows."""
    asks = (
        ("dpkg-query", ["dpkg-query", "-S"], r"^([^:,\s]+)"),
        ("rpm", ["rpm", "-q", "--qf", "%{NAME}", "-f"], r"^(\S+)$"),
        ("pacman", ["pacman", "-Qqo"], r"^(\S+)$"),
    )
    for program, command, pattern in asks:
        if not shutil.which(program):
            continue
        # /lib may be a link to /usr/lib, and the database knows one of the two
        for name in dict.fromkeys([file, file.resolve(), Path(str(file).removeprefix("/usr"))]):
            done = proc.run([*command, name])
            found = re.search(pattern, done.out.decode("utf-8", "replace"), re.M)
            if done.ok and found:
                return found[1], _version(program, found[1])
    return "", ""


def _version(program: str, package: str) -> str:
    ask = {
        "dpkg-query": ["dpkg-query", "-W", "-f", "${Version}\\n"],
        "rpm": ["rpm", "-q", "--qf", "%{VERSION}-%{RELEASE}\\n"],
        "pacman": ["pacman", "-Q"],
    }[program]
    lines = proc.run([*ask, package]).out.decode("utf-8", "replace").split()
    return lines[-1] if lines else ""


def wanted(staged: Path, components: Iterable[str]) -> list[Carried]:
    """What a staged install loads from the system, and what it opens where that is here."""
    found: dict[str, Path] = {}
    for program in sorted((staged / "bin").iterdir()):
        found |= loaded(program)
    for component in components:
        for name in OPENED.get(component, ()):
            file = _system_library(name)
            if file:
                found |= {name: file, **loaded(file)}
    inside = staged.resolve()
    carried = []
    for name, file in sorted(found.items()):
        if not STAYS.fullmatch(name) and inside not in file.resolve().parents:
            carried.append(Carried(name, file, *package_of(file)))
    return carried


def carry(staged: Path, components: Iterable[str]) -> list[dict[str, Any]]:
    """Copy them into lib/, where they find one another, with their licences; what was carried, for
    the manifest. Raises BuildError.
    """
    rows = []
    for library in wanted(staged, components):
        target = staged / "lib" / library.name
        shutil.copyfile(library.file, target)
        target.chmod(0o755)
        done = proc.run(["patchelf", "--set-rpath", "$ORIGIN", target])
        section = binary.dynamic(target)
        if not done.ok or section is None or section.runpath != ("$ORIGIN",):
            raise BuildError(f"bundle: {library.name} took no RUNPATH: {done.err.strip()}")
        rows.append(
            {
                "file": f"lib/{library.name}",
                "package": library.package,
                "version": library.version,
                "licence": _licence(library.package, staged),
                "sha256": sha256_of(target),
            }
        )
    return rows


def _licence(package: str, staged: Path) -> str:
    """Copy a package's licence; where it lies in the install, "" if the system has none."""
    folders = (Path("/usr/share/doc") / package, Path("/usr/share/licenses") / package)
    for folder in folders if package else ():
        for file in sorted(p for p in folder.glob("*") if p.is_file()):
            if re.match(r"copyright$|COPYING|LICEN[CS]E", file.name):
                (staged / LICENCES).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, staged / LICENCES / f"{package}.{file.name}.txt")
                return str(LICENCES / f"{package}.{file.name}.txt")
    return ""


def system_needs(staged: Path) -> dict[str, Any]:
    """What a finished install asks of a machine: names of libraries, and the lowest glibc."""
    files = [p for p in (staged / "lib").glob("*.so*") if not p.is_symlink()]
    files += [p for p in (staged / "bin").iterdir() if p.is_file()]
    there = {p.name for p in (staged / "lib").glob("*.so*")}
    names, versions = set(), set()
    for file in files:
        section = binary.dynamic(file)
        names |= set(section.needed if section else ())
        versions |= set(re.findall(rb"\0GLIBC_(2\.\d+)(?=[\0.])", file.read_bytes()))
    numbers = [int(version.split(b".")[1]) for version in versions]
    return {
        "libraries": sorted(names - there),
        "glibc": f"2.{max(numbers)}" if numbers else "",
    }
