"""Frames that stay on an NVIDIA GPU, by torchcodec or PyNvVideoCodec where they are installed.

Never run on a GPU by us: tested with stand-ins for the order of things alone. So the first frame of
every reading is held to that of the ffmpeg program, and what does not fit goes through the pipe.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..ffmpeg import FfmpegError
from .index import Index

# Mean difference in levels of 255 up to which two conversions of one picture are the same: chroma
# is brought to full size and rounded in other ways on a GPU.
NEAR = 2.0
# A decoder, by the number of a frame: (H, W, 3) uint8 on the device
Get = Callable[[int], Any]


def device_of_frames(device: str) -> str | None:
    """ "cuda:1" of what `read_frames` was given as `device`, None where it names no place for
    frames. Raises FfmpegError, code "no-cuda", where torch has no such device.
    """
    if device != "cuda" and not device.startswith("cuda:"):
        return None
    number = device.partition(":")[2] or "0"
    if not number.isdecimal():
        raise ValueError(f"read_frames: device must be 'cuda' or 'cuda:N', got {device!r}")
    count = _cuda_devices()
    if int(number) >= count:
        raise FfmpegError(
            f"read_frames: device={device!r} needs a CUDA device that torch sees, and there are "
            f"{count}: install torch for CUDA and the NVIDIA driver, or take device=''",
            "no-cuda",
        )
    return f"cuda:{number}"


def _cuda_devices() -> int:
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _torchcodec(file: Path, device: str) -> tuple[Get, int]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(file), device=device, dimension_order="NHWC", seek_mode="exact")
    return lambda number: decoder.get_frame_at(number).data, len(decoder)


def _pynvvideocodec(file: Path, device: str) -> tuple[Get, int]:
    import PyNvVideoCodec as nvc
    import torch

    decoder = nvc.SimpleDecoder(
        str(file), gpu_id=int(device.partition(":")[2] or 0), use_device_memory=True,
        output_color_type=nvc.OutputColorType.RGB,
    )  # fmt: skip
    # the decoder takes its memory again: each frame is copied on the device
    return lambda number: torch.from_dlpack(decoder[number]).clone(), len(decoder)


ENGINES = {"torchcodec": _torchcodec, "pynvvideocodec": _pynvvideocodec}


def choose(
    file: Path, device: str, index: Index, first: np.ndarray, notes: list[str]
) -> tuple[str, Get] | None:
    """The first engine that opens the file and gives the `first` frame of the ffmpeg program, and
    as many frames as the index has; the reasons against the others go into `notes`.
    """
    for name, opened in ENGINES.items():
        try:
            get, count = opened(file, device)
            if count != len(index.pts):
                notes.append(f"{name}: {count} frames, not {len(index.pts)}")
                continue
            got = get(0).cpu().numpy()
        except ImportError:
            continue
        except Exception as error:  # a library of others: whatever it raises is a reason
            notes.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error)}")
            continue
        if got.shape != first.shape or np.abs(got.astype(np.int16) - first).mean() > NEAR:
            notes.append(f"{name}: its first frame is not that of the ffmpeg program")
            continue
        return name, get
    return None


def frames_on_gpu(get: Get, index: Index, start: Fraction, count: int | None) -> Iterator[Any]:
    """The tensors from `start` seconds after the first frame on, with the attributes of a `Frame`.
    Raises ValueError for a start beyond the end.
    """
    origin = index.pts[0]
    begin = bisect_left(index.pts, origin + start)
    if begin == len(index.pts):
        raise ValueError(
            f"read_frames: start must be within the video, whose last frame begins at "
            f"{float(index.pts[-1] - origin):g} seconds, got {float(start):g}"
        )
    end = len(index.pts) if count is None else min(begin + count, len(index.pts))
    for number in range(begin, end):
        tensor = get(number)
        tensor.pts, tensor.index = index.pts[number], number - begin
        tensor.time = float(index.pts[number] - origin)
        tensor.key, tensor.interlaced = number in index.keys, False
        yield tensor
