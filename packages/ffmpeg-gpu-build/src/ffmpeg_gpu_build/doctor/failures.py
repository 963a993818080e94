"""What FFmpeg's messages mean: recognise a failure in its log and say the cure.

The messages come from libavcodec/nvenc.c, libavutil/hwcontext_*.c and nv-codec-headers' loader;
they need `-loglevel verbose`, and the exit code tells nothing (three causes share 187).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """One known failure. `status` is the verdict that it makes of a path: absent or broken."""

    code: str
    status: str
    pattern: str
    sentence: str
    cure: str


@dataclass(frozen=True)
class Diagnosis:
    """A failure found in a log, with the names from the log filled in."""

    code: str
    status: str
    sentence: str
    cure: str
    line: str


# In order: the first that matches is the cause, later lines are its consequences.
FAILURES = (
    Failure(
        "missing-library",
        "broken",
        r"error while loading shared libraries: (?P<a>[^:]+)",
        "the program needs {a}, which the loader does not find",
        "install the package that has it, or repair the RUNPATH (`ffmpeg-gpu-build verify` "
        "shows it)",
    ),
    Failure(
        "no-driver",
        "absent",
        r"Cannot load (libcuda\.so\.1|nvcuda\.dll)",
        "no NVIDIA driver: {0} is not on this machine",
        "install the NVIDIA driver; in a container run with --gpus all",
    ),
    Failure(
        "no-video-capability",
        "broken",
        r"Cannot load (?P<a>libnvidia-encode\.so\.1|libnvcuvid\.so\.1)",
        "libcuda is here but {a} is not",
        "in a container add video to NVIDIA_DRIVER_CAPABILITIES (compute,utility,video); on a host "
        "install the driver's encode and decode libraries",
    ),
    Failure(
        "driver-too-old",
        "broken",
        r"Driver does not support the required nvenc API version\. Required: (?P<a>\S+) Found: "
        r"(?P<b>\S+)",
        "the driver speaks NVENC API {b}, this FFmpeg was built for {a}",
        "update the driver, or build against older headers (`ffmpeg-gpu-build build` takes 12.1: "
        "driver 530.41.03)",
    ),
    Failure(
        "driver-lacks-symbol",
        "broken",
        r"Cannot load (?P<a>(cu|cuvid|NvEncode|nvEnc)[A-Z]\w+)",
        "the driver library has no {a}: older than the headers, or no real driver",
        "update the driver; look for a stub libcuda.so.1 (CUDA's lib64/stubs) on LD_LIBRARY_PATH",
    ),
    Failure(
        "driver-mismatch",
        "broken",
        r"cuInit\(0\) failed -> (?P<a>CUDA_ERROR_(SYSTEM_DRIVER_MISMATCH"
        r"|COMPAT_NOT_SUPPORTED_ON_DEVICE))",
        "the driver's library and its kernel module are of different versions ({a})",
        "reboot, or reload the nvidia kernel modules; in a container match the host's driver",
    ),
    Failure(
        "no-gpu",
        "absent",
        r"cuInit\(0\) failed -> (?P<a>CUDA_ERROR_NO_DEVICE)|No CUDA capable devices found"
        r"|cuDeviceGet\([^\n]*failed -> (CUDA_ERROR_INVALID_DEVICE)",
        "the driver is here but shows no GPU",
        "look at CUDA_VISIBLE_DEVICES and nvidia-smi; in a container run with --gpus all",
    ),
    Failure(
        "cuda-init-failed",
        "broken",
        r"cuInit\(0\) failed -> (?P<a>\w+)",
        "the driver refuses to start: {a}",
        "look at nvidia-smi and dmesg; load nvidia-uvm (nvidia-modprobe -u)",
    ),
    Failure(
        "gpu-has-no-encoder",
        "absent",
        r"OpenEncodeSessionEx failed: unsupported device \(2\)",
        "this GPU has no video encoder",
        "A100, H100, H200 and B200 have none: encode on the CPU, or use an L4, L40 or GeForce",
    ),
    Failure(
        "too-many-encodes",
        "broken",
        r"OpenEncodeSessionEx failed: out of memory \(10\)",
        "the GPU opens no further encode session",
        "GeForce drivers limit them (8, earlier 5 or 3): run fewer at once, or free GPU memory",
    ),
    Failure(
        "encode-session-refused",
        "broken",
        r"OpenEncodeSessionEx failed: (?P<a>[^\n]+)",
        "NVENC refuses a session: {a}",
        "update the driver; the number in brackets is NVENCSTATUS",
    ),
    Failure(
        "gpu-too-old",
        "absent",
        r"does not support NVENC|Pre-Kepler|Minimum required compute capability",
        "the GPU's compute capability is below what NVENC needs",
        "encode on the CPU or on a newer GPU",
    ),
    Failure(
        "ptx-too-new",
        "broken",
        r"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        "the CUDA filters were compiled to a PTX newer than the driver reads",
        'update the driver, or build the filters with clang (cuda = "llvm": PTX 5.0)',
    ),
    Failure(
        "ptx-wrong-gpu",
        "broken",
        r"CUDA_ERROR_(INVALID_PTX|NO_BINARY_FOR_GPU)",
        "the CUDA filters were compiled for a newer GPU than this one",
        'build the filters for a lower architecture (cuda = "llvm": sm_50)',
    ),
    Failure(
        "gpu-out-of-memory",
        "broken",
        r"CUDA_ERROR_OUT_OF_MEMORY",
        "the GPU's memory is full",
        "run fewer at once; nvidia-smi shows who holds it",
    ),
    Failure(
        "nvenc-feature-missing",
        "absent",
        r"(?P<a>(10 bit|Lossless|B frames|RC_LOOKAHEAD|YUV444P|4:2:2|Temporal AQ"
        r"|Weighted)[^\n]*"
        r"not supported)|Provided device doesn't support required NVENC features",
        "the GPU's encoder cannot do what was asked: {a}",
        "H.264 in 10 bits and AV1 are not on every GPU: choose another codec or 8 bits",
    ),
    Failure(
        "no-vulkan-video",
        "absent",
        r"VK_KHR_video_\w+|[Dd]evice does not (support|have)[^\n]*video|lacks [^\n]*queue",
        "the Vulkan driver has no video queue",
        "use a driver with Vulkan Video (NVIDIA 550 or newer, recent Mesa)",
    ),
    Failure(
        "gpu-cannot-decode",
        "absent",
        r"Hardware is lacking required capabilities|Codec (?P<a>\w+) is not supported"
        r"|No support for codec \S+ profile|doesn't support hardware accelerated AV1 decoding"
        r"|Video (?P<b>width|height) \d+ not within range",
        "the GPU's decoder does not take this stream",
        "decode on the CPU; AV1 needs Ampere (GeForce 30) or newer, not A100 or Hopper",
    ),
    Failure(
        "fell-back-to-cpu",
        "broken",
        r"Impossible to convert between the formats supported by the filter"
        r"|Failed setup for format (cuda|vaapi|vulkan|qsv)",
        "the decoder fell back to the CPU",
        "this codec, depth or size is not decoded by this device; `verify` says which are",
    ),
    Failure(
        "no-vulkan",
        "absent",
        r"Unable to open the libvulkan library|VK_ERROR_INCOMPATIBLE_DRIVER|No Vulkan device"
        r"|Unable to find device|Requested device [^\n]* not found!|No devices found: VK_",
        "no Vulkan driver on this machine",
        "install the GPU's Vulkan driver and libvulkan1; vulkaninfo must list a device",
    ),
    Failure(
        "vulkan-call-failed",
        "broken",
        r"(?P<a>(Failed|Unable) to [^\n:]*: VK_ERROR_\w+)",
        "a call of the Vulkan driver failed: {a}",
        "update the Vulkan driver; the GPU's memory may be full",
    ),
    Failure(
        "no-opencl",
        "absent",
        r"No matching (platforms|devices) found|Failed to get (number of )?OpenCL platform"
        r"|No OpenCL platforms? found|clGetPlatformIDs",
        "no OpenCL platform on this machine",
        "install an ICD: the GPU's, or pocl-opencl-icd for the CPU; clinfo must list a device",
    ),
    Failure(
        "no-vaapi",
        "absent",
        r"Cannot open (a VA display|DRM render node)|No VA display found"
        r"|Failed to initialise VAAPI",
        "no VAAPI device on this machine",
        "/dev/dri/renderD128 must exist and be readable; vainfo must list profiles",
    ),
    Failure(
        "no-quick-sync",
        "absent",
        r"Error (initializing|creating) an? (internal )?MFX session|MFXInit failed",
        "no Quick Sync device on this machine",
        "needs an Intel GPU and its oneVPL runtime",
    ),
    Failure(
        "npp-retired",
        "absent",
        r"(No such filter: '|[Uu]nknown filter ')(?P<a>\w+_npp)'",
        "{a} is not in this FFmpeg: it needs libnpp, which FFmpeg 9 removed",
        "write scale_cuda for scale_npp, transpose_cuda for transpose_npp",
    ),
    Failure(
        "not-built-in",
        "absent",
        r"Unknown (encoder|decoder) '(?P<a>[^']+)'|No such filter: '(?P<b>[^']+)'"
        r"|Unrecognized hwaccel: (?P<c>\S+?)\.?$|Invalid hwaccel|[Uu]nknown filter '(?P<d>[^']+)'",
        "this FFmpeg was built without it",
        "build one that has it: `ffmpeg-gpu-build build`",
    ),
    Failure(
        "disk-full",
        "broken",
        r"No space left on device",
        "the disk is full",
        "free space or write elsewhere; the unfinished file was removed",
    ),
    Failure(
        "no-permission",
        "broken",
        r"Permission denied",
        "a file or device may not be opened",
        "look at its owner and mode; for /dev/dri join the groups video and render",
    ),
    Failure(
        "bad-input",
        "broken",
        r"moov atom not found|Invalid data found when processing input"
        r"|could not find codec parameters",
        "the input is damaged or of an unknown format",
        "try `ffmpeg-gpu-build probe` on it; a recording that was cut off has no index",
    ),
    Failure(
        "no-such-file",
        "broken",
        r"No such file or directory",
        "a file is not there",
        "look at the name",
    ),
)


def find(known: Sequence[Failure], log: str) -> Diagnosis | None:
    """The first of `known` whose pattern is in the log, with its line; None if there is none."""
    for failure in known:
        match = re.search(failure.pattern, log, re.M)
        if match:
            named = {k: v for k, v in match.groupdict().items() if v}
            plain = next((g for g in match.groups() if g), match[0])
            names = {"a": next(iter(named.values()), match[0]), "b": plain} | named
            start, end = log.rfind("\n", 0, match.start()) + 1, log.find("\n", match.end())
            line = log[start : end if end >= 0 else None].strip()
            sentence = failure.sentence.format(plain, **names)
            return Diagnosis(failure.code, failure.status, sentence, failure.cure, line)
    return None


def diagnose(log: str) -> Diagnosis | None:
    """The first known failure in an FFmpeg log of `-loglevel verbose`, or None."""
    return find(FAILURES, log)


def last_lines(log: str, count: int = 6) -> str:
    """The last lines of a log that say something: no progress, no summary; where the log has levels
    its errors, else its warnings.
    """
    kept = [
        line.rstrip()
        for line in log.replace("\r", "\n").splitlines()
        if line.strip()
        and not re.match(
            r"(\[\w+\]\s*)?(frame=|size=|video:|\s*Total:|\s+\S.*: .*packets"
            r"|.*\] Statistics: \d|\[\w+\]\s*$)",
            line,
        )
    ]
    for level in ("[fatal]", "[error]", "[warning]"):
        loud = [line for line in kept if level in line]
        if loud:
            return "\n".join(loud[-count:])
    return "\n".join(kept[-count:])
