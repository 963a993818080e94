"""Frames out of a video and into one, as numpy arrays or torch tensors, through pipes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ffmpeg import Ffmpeg, FfmpegError, file_argument
from ..proc import stop
from ..verification.verdict import PROVEN
from .pipeline import (
    KINDS,
    NAMES_IN_PATHS,
    HardwareError,
    choose_encoder,
    proof,
    quality_arguments,
    require_decoder,
    turned_verdict,
)
from .probing import PROTOCOLS, Video, probe, require_whole
from .session import failure, supervise, written_aside
from .transcoding import muxer_of

if TYPE_CHECKING:
    import torch

# our name -> FFmpeg's pixel format, numpy type, channels
PIXELS = {
    "rgb": ("rgb24", np.dtype(np.uint8), 3),
    "gray": ("gray", np.dtype(np.uint8), 1),
    "rgb16": ("rgb48le", np.dtype("<u2"), 3),
}


def _decoding(program: Ffmpeg, video: Video, hw: str, device: str) -> tuple[list[str], str]:
    """Arguments before -i and the filters that bring frames down, for hw as in `read_frames`."""
    if hw not in ("cpu", "auto", *KINDS):
        raise ValueError(
            f"read_frames: hw must be cpu, auto or one of {', '.join(KINDS)}, got {hw!r}"
        )
    for kind in KINDS if hw == "auto" else [hw] if hw != "cpu" else []:
        path = f"decode.{NAMES_IN_PATHS.get(video.codec, video.codec)}_{KINDS[kind].decoder}"
        verdict = turned_verdict(path) if video.turned else proof(program, path, device)
        if verdict.status == PROVEN:
            name = f"{kind}=d" + (f":{device}" if device else "")
            layout = "p010le" if video.depth > 8 else "nv12"
            opening = ["-init_hw_device", name, "-hwaccel", kind, "-hwaccel_device", "d"]
            return [*opening, "-hwaccel_output_format", kind], f"hwdownload,format={layout},"
        if hw != "auto":
            raise HardwareError("decode", kind, verdict)
    require_decoder(program, video)
    return [], ""


def read_frames(
    src: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    pixels: str = "rgb",
    fps: float | None = None,
    start: float = 0.0,
    count: int | None = None,
    hw: str = "cpu",
    device: str = "",
    torch: bool = False,
    ffmpeg: str | os.PathLike[str] | Ffmpeg | None = None,
) -> Iterator[np.ndarray | torch.Tensor]:
    """Yield the frames of a video one by one: (H, W, 3) or, gray, (H, W).

    pixels   "rgb" uint8, "gray" uint8, "rgb16" uint16
    size     (width, height), else the video's, turned upright; fps: resampled in time
    start, count   seconds from the beginning, frames at most
    hw       "cpu", "auto" (on a GPU if that is proven here), or "cuda", "vaapi", "vulkan"
    torch    tensors on the CPU instead of arrays; each owns its memory and may be written to

    Leaving the loop early ends ffmpeg. Raises FileNotFoundError, ValueError for an argument,
    FfmpegError if the file is damaged: frames before the damage have been yielded by then.
    """
    if pixels not in PIXELS:
        raise ValueError(f"read_frames: pixels must be one of {', '.join(PIXELS)}, got {pixels!r}")
    if count is not None and count < 1:
        raise ValueError(f"read_frames: count must be at least 1, got {count}")
    if size is not None and not (len(size) == 2 and all(int(n) == n and n > 0 for n in size)):
        raise ValueError(f"read_frames: size must be (width, height), both above 0, got {size}")
    if fps is not None and not fps > 0:
        raise ValueError(f"read_frames: fps must be above 0, got {fps}")
    if not start >= 0:
        raise ValueError(f"read_frames: start must be at least 0, got {start}")
    program = Ffmpeg.at(ffmpeg)
    media = probe(src, ffmpeg=program)
    if media.video is None:
        raise FfmpegError(f"read_frames: {os.fspath(src)!r} has no video stream", "bad-input")
    width, height = (int(n) for n in size or media.video.size)
    before, down = _decoding(program, media.video, hw, device)
    layout, dtype, channels = PIXELS[pixels]
    rate = f"fps={fps}," if fps else ""
    command = [
        os.fspath(program.path), "-hide_banner", "-nostdin", "-nostats", "-loglevel", "verbose",
        *before, *(["-ss", str(start)] if start else []), *PROTOCOLS, "-i", file_argument(src),
        "-map", f"0:{media.video.index}", "-vf", f"{down}{rate}scale={width}:{height}",
        *(["-frames:v", str(count)] if count else []),
        *program.every_frame, "-f", "rawvideo", "-pix_fmt", layout, "pipe:1",
    ]  # fmt: skip
    shape = (height, width, channels) if channels > 1 else (height, width)
    return _frames(program, command, shape, dtype, torch)


def _frames(
    program: Ffmpeg, command: list[str], shape: tuple[int, ...], dtype: np.dtype[Any], torch: bool
) -> Iterator[Any]:
    one = int(np.prod(shape)) * dtype.itemsize
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **program.env},
            start_new_session=True,
        )
        assert process.stdout is not None
        _widen(process.stdout)
        try:
            while True:
                memory = bytearray(one)
                got = _fill(process.stdout, memory)
                if got < one:
                    break
                frame = np.frombuffer(memory, dtype).reshape(shape)
                yield _tensor(frame) if torch else frame
            process.wait()
            if process.returncode != 0 or got:
                log.seek(0)
                raise failure(log.read().decode("utf-8", "replace"), process.returncode)
        finally:
            stop(process, patience=0)  # blocked on the pipe, it would not hear SIGTERM
            process.stdout.close()


def _widen(stream: Any) -> None:
    """A pipe of 1 MiB in place of 64 KiB, where the system has that: fewer turns."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)


def _fill(stream: Any, memory: bytearray) -> int:
    view, got = memoryview(memory), 0
    while got < len(memory):
        read = stream.readinto(view[got:])
        if not read:
            break
        got += read
    return got


def _tensor(frame: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(frame)


def _array(frame: Any, index: int) -> np.ndarray:
    """A frame of any library as a contiguous uint8 array, or an error that says what it is."""
    if hasattr(frame, "detach"):  # a torch tensor, wherever it is; numpy has not all its types
        uint8 = str(frame.dtype) == "torch.uint8"
        array = frame.detach().cpu().numpy() if uint8 else frame
    else:
        array = np.asarray(frame)
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise TypeError(
            f"write_frames: frame {index} must be uint8, got {array.dtype}; for 0..1 floats pass "
            "(frame * 255).round().astype('uint8')"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        cure = "; move channels last" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
        raise ValueError(
            f"write_frames: frame {index} must be (H, W, 3) or (H, W), got {array.shape}{cure}"
        )
    return np.ascontiguousarray(array)


def _same(frames: Iterator[Any], first: np.ndarray) -> Iterator[bytes]:
    yield first.data.cast("B")
    for index, frame in enumerate(frames, 1):
        array = _array(frame, index)
        if array.shape != first.shape:
            raise ValueError(
                f"write_frames: frame {index} is {array.shape}, the first was {first.shape}"
            )
        yield array.data.cast("B")


def write_frames(
    dst: str | os.PathLike[str],
    frames: Iterable[Any],
    *,
    fps: float | Fraction = 25,
    codec: str = "h264",
    quality: int = 18,
    hw: str = "cpu",
    device: str = "",
    ffmpeg: str | os.PathLike[str] | Ffmpeg | None = None,
    overwrite: bool = False,
) -> int:
    """Encode frames, (H, W, 3) RGB or (H, W) gray uint8 arrays or tensors, into a file; their
    number.

    hw is "cpu", "auto" (a GPU's encoder if it is proven here) or "cuda". Odd sides lose their last
    row or column, which 4:2:0 cannot hold. Colours are stored as BT.709. The file appears only when
    whole. Raises ValueError for no frames or frames of different shape, TypeError for another
    dtype, FileExistsError, HardwareError, FfmpegError.
    """
    program = Ffmpeg.at(ffmpeg)
    path = Path(dst)
    muxer = muxer_of(path, codec)
    try:
        rate = Fraction(fps).limit_denominator(100_000)
    except (ValueError, OverflowError):
        rate = Fraction(0)
    if rate <= 0:
        raise ValueError(f"write_frames: fps must be a number above 0, got {fps}")
    iterator = iter(frames)
    first = next(chain(iterator, [None]))
    if first is None:
        raise ValueError("write_frames: frames must not be empty")
    head = _array(first, 0)
    height, width = head.shape[:2]
    if width < 16 or height < 16:
        raise ValueError(f"write_frames: frames must be at least 16x16, got {width}x{height}")
    encoder = choose_encoder(program, codec, hw, device)
    layout = "rgb24" if head.ndim == 3 else "gray"
    even = f"crop={width // 2 * 2}:{height // 2 * 2}:0:0," if width % 2 or height % 2 else ""
    with written_aside(path, overwrite) as part:
        arguments = [
            "-f", "rawvideo", "-pixel_format", layout, "-video_size", f"{width}x{height}",
            "-framerate", str(rate), "-i", "pipe:0",
            "-vf", f"{even}scale=out_color_matrix=bt709:out_range=tv,format=yuv420p",
            "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709",
            "-color_range", "tv", "-c:v", encoder, *quality_arguments(encoder, quality),
            *(["-movflags", "+faststart"] if muxer in ("mp4", "mov") else []),
            "-f", muxer, "-y", file_argument(part),
        ]  # fmt: skip
        number = supervise(program, arguments, chunks=_same(iterator, head))
        require_whole(part, number, program)
        return number
