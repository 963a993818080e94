"""Stand-ins for what the recipe of the built FFmpeg needs: compilers, headers and libraries.

Those in tests/standins.py serve the six packages; these are links to this machine's
libraries, to the headers that `ffmpeg-gpu-build` unpacks where the system's are too old, and to its
programs. pkg-config sees the prefix and nothing of the system, so that a package which the recipe
forgot is missed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import standins
from shipping.rattler_child import call, index
from shipping.subdirs import SUBDIR
from standins import StandIn

# conda-forge's packages and their run exports (feedstocks, August 2026)
EXPORTS = {
    "zlib": "libzlib >=1.2.13,<2.0a0",
    "x264": "x264 >=1!164.3095,<1!165",
    "ocl-icd": "ocl-icd >=2.3.1,<3.0a0",
}
ACTIVATE = """\
export AR={ar} NM={nm} RANLIB={ranlib} STRIP={strip}
export CCACHE_DIR={cache}
"""
PKG_CONFIG = """\
#!/bin/sh
export PKG_CONFIG_LIBDIR="$PREFIX/lib/pkgconfig:$PREFIX/share/pkgconfig"
exec {program} "$@"
"""


def write(folder: Path, headers: Path, clang: str, glslang: str, cache: Path) -> None:
    """Add the stand-ins to the channel in `folder` and index it again.

    `headers` is the folder that `ffmpeg_gpu_build.headers.provide` filled; `cache` is ccache's.
    """
    for package in [*_compilers(cache), *_programs(clang, glslang), *_libraries(headers)]:
        package.write(folder / SUBDIR)
    call(index, folder=str(folder))


def _program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        raise RuntimeError(f"the stand-ins need {name} on PATH")
    return found


def _compilers(cache: Path) -> list[StandIn]:
    tools = {name: _program(name) for name in ("ar", "nm", "ranlib", "strip")}
    # a name that is found in the build prefix, as conda-forge's are
    compiler = StandIn(f"gcc_{SUBDIR}", "15.2", exports={"strong": ["libgcc >=15"]})
    compiler.texts["bin/standin-cc"] = (
        f'#!/bin/sh\nexec {shutil.which("ccache") or ""} {_program("gcc")} "$@"\n'
    )
    activate = standins.ACTIVATE_CXX.format(cc="standin-cc", cxx="g++")
    compiler.texts["etc/conda/activate.d/gcc.sh"] = activate + ACTIVATE.format(**tools, cache=cache)
    return [compiler]


def _programs(clang: str, glslang: str) -> list[StandIn]:
    pkg_config = StandIn("pkg-config", "0.29.2")
    pkg_config.texts["bin/pkg-config"] = PKG_CONFIG.format(program=_program("pkg-config"))
    cuda = StandIn("clangxx", "19.1.7", links={"bin/clang": _program(clang)})
    shaders = StandIn("glslang", "15.1.0", links={"bin/glslang": glslang})
    names = ("make", "nasm", "patchelf")
    rest = [StandIn(name, "1.0", links={f"bin/{name}": _program(name)}) for name in names]
    return [pkg_config, cuda, shaders, *rest]


def _libraries(headers: Path) -> list[StandIn]:
    opencl, loader = {"include/CL": "/usr/include/CL"}, _shared("libvulkan.so.1")
    vulkan, nvidia, spirv = (
        headers / name / "usr" if (headers / name).is_dir() else Path("/usr")
        for name in ("libvulkan-dev", "libffmpeg-nvenc-dev", "spirv-headers")
    )
    nv = StandIn("ffnvcodec-headers", _modversion("ffnvcodec", nvidia))
    nv.links["include/ffnvcodec"] = str(nvidia / "include/ffnvcodec")
    nv.texts["lib/pkgconfig/ffnvcodec.pc"] = _pkgconfig("ffnvcodec", nvidia)
    return [
        _library("zlib", "zlib", "libz", ["zlib.h", "zconf.h"]),
        StandIn("libzlib", "1.3.1", links={"lib/libz.so.1": _shared("libz.so.1")}),
        _library("x264", "x264", "libx264", ["x264.h", "x264_config.h"], "1!164.3095"),
        _library("ocl-icd", "OpenCL", "libOpenCL", [], "2.3.3"),
        StandIn("opencl-headers", "2024.10.24", links=opencl),
        StandIn("libvulkan-loader", "1.4.0", links={"lib/libvulkan.so.1": loader}),
        StandIn(
            "libvulkan-headers", "1.4.0",
            links={f"include/{d}": str(vulkan / "include" / d) for d in ("vulkan", "vk_video")},
        ),
        StandIn("spirv-headers", "1.4", links={"include/spirv": str(spirv / "include/spirv")}),
        nv,
    ]  # fmt: skip


def _library(
    name: str, module: str, library: str, headers: list[str], version: str = "1.3.1"
) -> StandIn:
    """One of this machine's libraries with its headers and a .pc file that moves along."""
    package = StandIn(name, version, exports={"weak": [EXPORTS[name]]})
    development = Path(_shared(f"{library}.so"))
    package.links[f"lib/{library}.so"] = str(development)
    for file in development.parent.glob(f"{library}.so.*"):
        package.links[f"lib/{file.name}"] = str(file)
    for header in headers:
        package.links[f"include/{header}"] = str(_header(header))
    package.texts[f"lib/pkgconfig/{module}.pc"] = _pkgconfig(module)
    return package


def _shared(name: str) -> str:
    """The full path of a library, as gcc finds it."""
    done = subprocess.run(
        [_program("gcc"), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    found = Path(done.stdout.strip())
    if not found.is_absolute():
        raise RuntimeError(f"the stand-ins need the library {name}")
    return str(found.parent.resolve() / found.name)


def _header(name: str) -> Path:
    for folder in (Path("/usr/include"), *Path("/usr/include").glob("*-linux-gnu")):
        if (folder / name).exists():
            return folder / name
    raise RuntimeError(f"the stand-ins need the header {name}")


def _pc_file(module: str, below: Path) -> Path:
    (found, *_) = [*below.rglob(f"pkgconfig/{module}.pc")] or [None]
    if found is None:
        raise RuntimeError(f"the stand-ins need {module}.pc")
    return found


def _pkgconfig(module: str, below: Path = Path("/usr")) -> str:
    text = _pc_file(module, below).read_text()
    text = re.sub(r"^prefix\s*=.*$", "prefix=${pcfiledir}/../..", text, flags=re.M)
    text = re.sub(r"^(libdir|sharedlibdir)\s*=.*$", r"\1=${prefix}/lib", text, flags=re.M)
    return re.sub(r"^includedir\s*=.*$", "includedir=${prefix}/include", text, flags=re.M)


def _modversion(module: str, below: Path) -> str:
    return re.search(r"^Version:\s*(\S+)", _pc_file(module, below).read_text(), re.M)[1]
