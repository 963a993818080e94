"""Headers and compilers that are newer than the system's, unpacked into a private folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .. import proc
from .apt import AptError, PrivateApt
from .description import NVIDIA_HEADERS, Plan, nvenc_floor, version_key
from .toolchain import c_compiles, find_glslang, has_module, module_version

# glslang of a newer suite runs by its own loader and libraries
GLSLANG_LIBRARIES = ("libc6", "libstdc++6", "libgcc-s1", "spirv-tools")


@dataclass(frozen=True)
class Unpacked:
    """What was unpacked: the environment that makes it seen, glslang, and the versions."""

    env: dict[str, str]
    glslang: str | None
    versions: dict[str, str]


def system_will_do(package: str, lowest: str) -> bool:
    """True if the system has what this package would be unpacked for.

    NVIDIA headers of a later series raise NVENC's driver floor, so those are not taken; the .pc
    file of the SPIR-V headers says 1.5.5 in every version, so their content is looked at.
    """
    if package == NVIDIA_HEADERS:
        major, minor = (int(n) for n in lowest.split(".")[:2])
        newer = f"ffnvcodec < {major}.{minor + 1}"
        return has_module(f"ffnvcodec >= {lowest}") and has_module(newer)
    if package == "libvulkan-dev":
        return has_module(f"vulkan >= {lowest}")
    if package == "spirv-headers":
        return c_compiles("#include <spirv/unified1/spirv.h>\nSpvFPEncoding known;\n")
    return package == "glslang-tools" and find_glslang() is not None


def repoint(folder: Path) -> int:
    """Point the .pc files below a folder at that folder; the number of files changed."""
    changed = 0
    for file in folder.rglob("*.pc"):
        text = file.read_text()
        new = re.sub(r"^prefix\s*=.*$", f"prefix={folder}/usr", text, count=1, flags=re.M)
        new = re.sub(r"^(includedir|libdir)=/usr", r"\1=${prefix}", new, flags=re.M)
        if new != text:
            file.write_text(new)
            changed += 1
    return changed


def environment(folder: Path) -> dict[str, str]:
    """The environment under which pkg-config finds what lies in the folder first."""
    paths = sorted({str(file.parent) for file in folder.rglob("*.pc")})
    old = os.environ.get("PKG_CONFIG_PATH")
    return {"PKG_CONFIG_PATH": ":".join([*paths, *([old] if old else [])])} if paths else {}


def _runnable_glslang(apt: PrivateApt, folder: Path) -> str:
    """The glslang below the folder, by its own loader where the system's libraries are too old."""
    program = next(
        p for p in (folder / "usr/bin/glslang", folder / "usr/bin/glslangValidator") if p.exists()
    )
    if find_glslang(program) == str(program):
        return str(program)
    for package in GLSLANG_LIBRARIES:
        apt.unpack(package, "0", folder)
    loader = next(folder.rglob("ld-linux-*.so.*"), None)
    if loader is None:
        raise AptError("glslang: the loader of its libc6 was not found")
    libraries = sorted({str(p.parent) for p in folder.rglob("*.so*") if p.is_file()})
    wrapper = folder / "glslang"
    wrapper.write_text(
        f"#!/bin/sh\nexec '{loader}' --library-path '{':'.join(libraries)}' '{program}' \"$@\"\n"
    )
    wrapper.chmod(0o755)
    if find_glslang(wrapper) != str(wrapper):
        done = proc.run([wrapper, "--version"])
        raise AptError(f"glslang: the unpacked one does not run: {done.err.strip()[-300:]}")
    return str(wrapper)


def floor_raised(plan: Plan, env: dict[str, str]) -> str | None:
    """Why the NVIDIA headers that pkg-config finds would raise the plan's driver floor, or None."""
    wanted, found = plan.unpack.get(NVIDIA_HEADERS), module_version("ffnvcodec", env)
    if not wanted or not found or version_key(found)[:2] <= version_key(wanted)[:2]:
        return None  # lower headers ask for an older driver: nothing is raised
    return (
        f"headers: the NVIDIA headers found are {found}: NVENC would need driver "
        f"{nvenc_floor(found) or 'unknown'} in place of {nvenc_floor(wanted)}; give headers "
        f"{wanted} through PKG_CONFIG_PATH"
    )


def _require_debians_series(lowest: str) -> None:
    """Raise AptError for NVIDIA headers that no Debian archive has, with the way to them."""
    series = version_key(lowest)[:2]
    if series == (12, 1):
        return
    raise AptError(
        f"headers: NVIDIA's headers {lowest} are in no Debian archive. Fetch and install them: git "
        f"clone -b n{lowest} https://github.com/FFmpeg/nv-codec-headers; make -C nv-codec-headers "
        "install PREFIX=$PWD/nv; then build with PKG_CONFIG_PATH=$PWD/nv/lib/pkgconfig"
    )


def provide(plan: Plan, folder: Path) -> Unpacked:
    """Unpack what the plan wants newer than the system has it. Raises AptError.

    Each package into a folder of its own; one that is there already is not fetched again.
    """
    versions: dict[str, str] = {}
    apt: PrivateApt | None = None
    for package, lowest in plan.unpack.items():
        if system_will_do(package, lowest):
            versions[package] = "the system's"
            continue
        target, stamp = folder / package, folder / f"{package}.version"
        if not stamp.exists():
            if package == NVIDIA_HEADERS:
                _require_debians_series(lowest)
            apt = apt or PrivateApt(folder / "apt")
            version = apt.unpack(package, lowest, target)
            repoint(target)
            if package == "glslang-tools":
                _runnable_glslang(apt, target)
            stamp.write_text(version)
        versions[package] = stamp.read_text()
    env: dict[str, str] = {}
    includes = []
    for package, version in versions.items():
        if package == "glslang-tools" or version == "the system's":
            continue
        own = environment(folder / package)
        if own:
            parts = [own["PKG_CONFIG_PATH"], env.get("PKG_CONFIG_PATH", "")]
            env["PKG_CONFIG_PATH"] = ":".join(p for p in parts if p)
        include = folder / package / "usr/include"
        if include.is_dir():
            includes.append(str(include))
    if includes:
        old = os.environ.get("C_INCLUDE_PATH")
        env["C_INCLUDE_PATH"] = ":".join([*includes, *([old] if old else [])])
    glslang = find_glslang()
    if glslang is None and "glslang-tools" in versions:
        below = folder / "glslang-tools"
        wrapped = below / "glslang"
        glslang = str(wrapped if wrapped.exists() else below / "usr/bin/glslang")
    return Unpacked(env, glslang, versions)
