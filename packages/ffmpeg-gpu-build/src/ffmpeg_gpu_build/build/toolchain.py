"""What a build needs of the machine: found, asked for its version, or named as missing."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import proc
from .description import Plan, version_key

# Highest first: any of them compiles the CUDA filters.
CLANGS = ("clang", *(f"clang-{n}" for n in range(22, 10, -1)))
# sm_50 (Maxwell) is the oldest GPU that a driver of the NVENC floor (530) serves. A CUDA toolkit on
# the machine must not decide the PTX version: clang 19 would take 8.5 from it.
CLANG_FLAGS = ("--cuda-gpu-arch=sm_50", "--cuda-path=/nonexistent")
HIGHEST_PTX, HIGHEST_TARGET = (5, 0), (50,)
GLSLANGS = ("glslang", "glslangValidator")
LOWEST_GLSLANG = (15,)
# Lowest first: nvcc 13 begins at 75, nvcc 12 at 50, nvcc 11 at 35.
NVCC_ARCHITECTURES = (30, 35, 50, 52, 60, 70, 75, 80, 90, 100)


@dataclass(frozen=True)
class Missing:
    """Something that the build needs and the machine lacks, with the component that wants it."""

    what: str
    component: str
    packages: tuple[str, ...]


# Program that installs packages -> the description's key of their names, and the command
MANAGERS = {
    "apt-get": ("apt", "apt-get install"),
    "dnf": ("rpm", "dnf install"),
    "pacman": ("pacman", "pacman -S"),
}


def manager() -> tuple[str, str]:
    """The key of this system's package names and its command; Debian's where none is known."""
    found = next((m for m in MANAGERS if shutil.which(m)), "apt-get")
    return MANAGERS[found]


def find_clang() -> str | None:
    """A clang that makes PTX for sm_50 without a CUDA toolkit, or None."""
    for name in CLANGS:
        if shutil.which(name) and _compiles(
            [name, *CLANG_FLAGS, "-S", "-nocudalib", "-nocudainc", "--cuda-device-only"]
        ):
            return name
    return None


def _compiles(command: list[str]) -> bool:
    with tempfile.TemporaryDirectory(prefix="ffmpeg-gpu-build-") as folder:
        source = Path(folder, "empty.cu")
        source.write_text('extern "C" __attribute__((global)) void f(void) {}\n')
        done = proc.run([*command, str(source), "-o", str(Path(folder, "empty.ptx"))], timeout=60)
    return done.ok


def nvcc_flags(nvcc: str = "nvcc") -> str | None:
    """FFmpeg's --nvccflags for the lowest architecture that this nvcc still compiles for.

    Newer nvcc drop old architectures, and FFmpeg's configure knows only a few of them; so each is
    tried on an empty file. None if there is no working nvcc.
    """
    if not shutil.which(nvcc):
        return None
    for number in NVCC_ARCHITECTURES:
        flags = ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        if _compiles([nvcc, "-ptx", "-Wno-deprecated-gpu-targets", *flags]):
            return f"-gencode arch=compute_{number},code=sm_{number} -O2"
    return None


def glslang_version(program: str) -> tuple[int, ...] | None:
    """The version of a glslang, or None if it does not run or is glslc."""
    try:
        done = proc.run([program, "--version"], timeout=30)
    except OSError:
        return None
    match = re.search(r"Glslang Version: \d*:?(\d+\.\d+)", done.out.decode("utf-8", "replace"))
    return version_key(match[1]) if done.ok and match else None


def find_glslang(extra: Path | None = None) -> str | None:
    """A glslang that compiles all of FFmpeg's shaders (15 or newer): `extra` first, then PATH."""
    for name in ([str(extra)] if extra else []) + [shutil.which(n) or "" for n in GLSLANGS]:
        version = glslang_version(name) if name else None
        if version and version >= LOWEST_GLSLANG:
            return name
    return None


def has_module(condition: str, env: Mapping[str, str] | None = None) -> bool:
    """True if pkg-config knows a module, or "module >= version"."""
    if not shutil.which("pkg-config"):
        return False
    return proc.run(["pkg-config", "--exists", condition], env=env, timeout=30).ok


def module_version(module: str, env: Mapping[str, str] | None = None) -> str | None:
    """The version that pkg-config gives for a module, or None."""
    if not shutil.which("pkg-config"):
        return None
    done = proc.run(["pkg-config", "--modversion", module], env=env, timeout=30)
    return done.out.decode().strip() if done.ok else None


def c_compiles(source: str, env: Mapping[str, str] | None = None) -> bool:
    """True if gcc takes a piece of C: a header is there, a type is known."""
    if not shutil.which("gcc"):
        return False
    command = ["gcc", "-fsyntax-only", "-x", "c", "-"]
    return proc.run(command, stdin=source.encode(), env=env, timeout=30).ok


def missing(plan: Plan, env: Mapping[str, str] | None = None) -> list[Missing]:
    """What the plan needs and this machine lacks; unpacked headers count through `env`'s paths."""
    from .description import components

    found: list[Missing] = []
    kind = manager()[0]
    for component in plan.components:
        entry = components()[component]
        packages = tuple(getattr(plan, kind).get(component, ()))
        for condition in entry.get("needs", []):
            if not has_module(condition, env):
                wanted = (tuple(entry.get("unpack", {})) if kind == "apt" else ()) or packages
                found.append(Missing(condition, component, wanted))
        for header in entry.get("headers", {}).values():
            if not c_compiles(f"#include <{header}>\n", env):
                found.append(Missing(f"header {header}", component, packages))
        tools = [*entry.get("tools", []), *entry.get(plan.cuda, {}).get("tools", [])]
        for tool in tools:
            if tool == "clang":
                there = find_clang() is not None
            elif tool in ("glslang", "nvcc"):
                there = (
                    tool != "nvcc" or nvcc_flags() is not None
                )  # glslang: looked for after unpack
            else:
                there = shutil.which(tool) is not None
            if not there:
                found.append(Missing(f"program {tool}", component, packages))
    return found
