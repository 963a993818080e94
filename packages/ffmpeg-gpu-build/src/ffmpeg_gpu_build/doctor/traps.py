"""Traps of building FFmpeg with GPU parts: how a log shows them, and the way out.

Each was met and reproduced. Some end configure or make with an error; the worst end nothing and
leave a part out, which is why `build` asserts every requested part after configure.
"""

from __future__ import annotations

from .failures import Diagnosis, Failure, find

TRAPS = (
    Failure(
        "nvcc-architecture",
        "broken",
        r"nvcc fatal\s*: (Value '|Unsupported gpu architecture '?)(?P<a>\w+)'?",
        "this nvcc no longer compiles for {a}",
        "pass the lowest architecture that it takes (the build asks nvcc itself), or take clang: "
        "--cuda llvm",
    ),
    Failure(
        "nvcc-check-failed",
        "broken",
        r"ERROR: failed checking for nvcc",
        "configure's test of nvcc failed, mostly over an architecture that this CUDA dropped",
        "releases up to 7.1 try sm_30 and sm_60 alone: take --cuda llvm, or a newer release",
    ),
    Failure(
        "glslc-too-old",
        "broken",
        r"glslc: error: invalid value '(?P<a>vulkan1\.\d)'",
        "glslc does not know {a}: configure drops every Vulkan filter and exits 0",
        "--glslc=<glslang 15 or newer>; the build unpacks one",
    ),
    Failure(
        "glslang-too-old",
        "broken",
        r"GL_EXT_spec_constant_composites|'(?P<a>GL_EXT_\w+)' : extension not supported",
        "glslang passes configure's test and fails in make",
        "glslang 15 or newer; the build unpacks one",
    ),
    Failure(
        "vulkan-headers-too-old",
        "broken",
        r"ERROR: vulkan (requested but not found|>= (?P<a>\S+) not found)"
        r"|vulkan requested, but not all",
        "the Vulkan headers are older than FFmpeg wants",
        "libvulkan-dev 1.3.277 or newer (1.4.317 for AV1 encode); the build unpacks them",
    ),
    Failure(
        "spirv-headers-too-old",
        "broken",
        r"unknown type name .SpvFPEncoding",
        "the SPIR-V headers are older than libswscale's Vulkan code",
        "spirv-headers 1.6.1+1.4.309 or newer, or none at all",
    ),
    Failure(
        "npp-retired",
        "broken",
        r"libnpp has been removed|libnpp support is deprecated, version 13",
        "libnpp is gone: FFmpeg 9 ignores it, FFmpeg 8 refuses CUDA 13's",
        "scale_cuda for scale_npp, transpose_cuda for transpose_npp",
    ),
    Failure(
        "licence-gate",
        "broken",
        r"(?P<a>\w+) is (gpl|version3|nonfree"
        r"|incompatible with the gpl) and --enable-(?P<b>\w+) is not",
        "{a} needs --enable-{b}: it changes the licence of the whole build",
        "name the component in the profile; the plan sets the licence by itself",
    ),
    Failure(
        "no-such-package",
        "broken",
        r"E: Unable to locate package (?P<a>\S+)"
        r"|E: Package '(?P<b>[^']+)' has no installation candidate",
        "{a} is not in the sources of this machine (libfdk-aac-dev is in non-free)",
        "packages are resolved one by one, so the rest are installed; enable its section or "
        "drop the "
        "component (--without)",
    ),
    Failure(
        "no-clang",
        "broken",
        r"ERROR: cuda_llvm requested,? but not (all|found)",
        "clang, which compiles the CUDA filters, is missing or makes no PTX",
        "install clang 11 or newer, or take --cuda nvcc; ffbuild/config.log has its words",
    ),
    Failure(
        "headers-too-old",
        "broken",
        r"ERROR: (?P<a>ffnvcodec|nvenc|cuda\w*) requested,? but not (all|found)"
        r"|ffnvcodec requested but not found",
        "the NVIDIA headers are missing or older than this release takes",
        "nv-codec-headers 12.1.14.0 (libffmpeg-nvenc-dev); the build unpacks them",
    ),
    Failure(
        "fate-loader",
        "broken",
        r"fate-[\w.+-]+\] (Error|Fehler) 127",
        "tests end with 127: the loader does not find the libraries of the build",
        "LD_LIBRARY_PATH must name all seven lib folders; `ffmpeg-gpu-build fate` sets it",
    ),
    Failure(
        "no-assembler",
        "broken",
        r"nasm/yasm not found or too old|nasm(: command|:)? not found",
        "no nasm: FFmpeg would be several times slower",
        "install nasm 2.13 or newer",
    ),
    Failure(
        "no-compiler",
        "broken",
        r"gcc is unable to create an executable file|C compiler test failed",
        "the C compiler makes no program",
        "install gcc and libc6-dev; look into ffbuild/config.log",
    ),
    Failure(
        "dependency-not-found",
        "broken",
        r"ERROR: (?P<a>[\w.+-]+)( >= \S+)? not found( using pkg-config)?",
        "{a} is not found, or too old",
        "install its -dev package (the plan names it), or set PKG_CONFIG_PATH",
    ),
    Failure(
        "disk-full",
        "broken",
        r"No space left on device",
        "the disk is full",
        "free space (the small profile needs about 500 MB while it is built); the build goes "
        "on where it was",
    ),
    Failure(
        "killed",
        "broken",
        r"Killed signal terminated program|(gcc|cc1|clang)[^\n]*: (fatal error: )?Killed"
        r"|virtual memory exhausted",
        "a compiler was killed, mostly for want of memory",
        "fewer jobs: --jobs 1",
    ),
)


def recognise(log: str) -> Diagnosis | None:
    """The first known trap in the output of apt, configure, make or fate; None if there is none."""
    return find(TRAPS, log)
