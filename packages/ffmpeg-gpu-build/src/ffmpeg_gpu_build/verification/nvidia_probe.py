"""Asks the NVIDIA driver what it can do. Runs as a program of its own, so that a driver that
crashes or hangs takes nothing with it, and prints one JSON object. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

# cudaVideoCodec numbers of nvcuvid
CODECS = {"mpeg2": 1, "mpeg4": 2, "h264": 4, "mjpeg": 5, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11}
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class DecodeCaps(ctypes.Structure):
    """CUVIDDECODECAPS: three values in, what the decoder can out."""

    _fields_ = (
        ("codec", ctypes.c_int),
        ("chroma", ctypes.c_int),
        ("depth_minus_8", ctypes.c_uint),
        ("reserved_1", ctypes.c_uint * 3),
        ("supported", ctypes.c_ubyte),
        ("engines", ctypes.c_ubyte),
        ("formats", ctypes.c_ushort),
        ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint),
        ("max_macroblocks", ctypes.c_uint),
        ("min_width", ctypes.c_ushort),
        ("min_height", ctypes.c_ushort),
        ("reserved_2", ctypes.c_uint * 16),
    )


def _load(name: str, answer: dict[str, Any]) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        answer[name] = str(error)
        return None
    answer[name] = True
    return library


def _decoders(cuvid: ctypes.CDLL) -> dict[str, dict[str, int]]:
    found = {}
    for codec, number in CODECS.items():
        for depth in (8, 10):
            caps = DecodeCaps(codec=number, chroma=1, depth_minus_8=depth - 8)
            if cuvid.cuvidGetDecoderCaps(ctypes.byref(caps)) == 0 and caps.supported:
                found[f"{codec}-{depth}"] = {
                    "engines": caps.engines,
                    "max_width": caps.max_width,
                    "max_height": caps.max_height,
                }
    return found


def ask() -> dict[str, Any]:
    """Everything the driver answers; keys are missing where a step before them failed."""
    answer: dict[str, Any] = {}
    cuda = _load("libcuda.so.1", answer)
    cuvid = _load("libnvcuvid.so.1", answer)
    nvenc = _load("libnvidia-encode.so.1", answer)
    if nvenc is not None:
        version = ctypes.c_uint32()
        if nvenc.NvEncodeAPIGetMaxSupportedVersion(ctypes.byref(version)) == 0:
            answer["nvenc_api"] = f"{version.value >> 4}.{version.value & 15}"
    if cuda is None:
        return answer
    answer["cuInit"] = cuda.cuInit(0)
    number = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(number)) == 0:
        answer["cuda_version"] = f"{number.value // 1000}.{number.value % 1000 // 10}"
    if answer["cuInit"] != 0 or cuda.cuDeviceGetCount(ctypes.byref(number)) != 0:
        return answer
    answer["devices"] = []
    for index in range(number.value):
        name = ctypes.create_string_buffer(256)
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetName(name, 256, device)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        entry: dict[str, Any] = {
            "name": name.value.decode("utf-8", "replace"),
            "compute": [major.value, minor.value],
        }
        context = ctypes.c_void_p()
        if cuvid is not None and cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device) == 0:
            entry["decoders"] = _decoders(cuvid)
            cuda.cuCtxDestroy_v2(context)
        answer["devices"].append(entry)
    return answer


if __name__ == "__main__":
    print(json.dumps(ask()))
