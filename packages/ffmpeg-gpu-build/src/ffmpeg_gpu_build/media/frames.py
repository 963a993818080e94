"""Frames out of a video and into one, as numpy arrays or torch tensors, through pipes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..ffmpeg import Ffmpeg, FfmpegError, file_argument
from ..verification.verdict import PROVEN
from . import arguments as check
from .animations import animation_of
from .crops import not_cropped
from .damage import complaints, judge, nothing_came
from .frame import Frame
from .hdr import Step, checked, tone_map, transfer_of
from .index import index as index_of
from .inprocess import InProcess, av_demuxers, av_filters, first_of_av, require_av
from .on_gpu import choose, device_of_frames, frames_on_gpu
from .overheard import log_of_program
from .pipe import EXACT, FIRST, LAST, First, Pipe, Shown, first_shown
from .pipeline import (
    KINDS,
    NAMES_IN_PATHS,
    HardwareError,
    choose_encoder,
    covered,
    no_cpu_decoder,
    proof,
    quality_arguments,
    require_decoder,
    tried,
    turned_verdict,
)
from .probing import VideoStream, probe, require_whole
from .session import failure, is_stream, supervise, written_aside
from .sources import Source, opened, require_device
from .transcoding import muxer_of

if TYPE_CHECKING:
    import torch

# our name -> FFmpeg's pixel format, numpy type, channels
PIXELS = {
    "rgb": ("rgb24", np.dtype(np.uint8), 3),
    "gray": ("gray", np.dtype(np.uint8), 1),
    "rgba": ("rgba", np.dtype(np.uint8), 4),
    "rgb16": ("rgb48le", np.dtype("<u2"), 3),
    "gray16": ("gray16le", np.dtype("<u2"), 1),
}


def _decoding(
    program: Ffmpeg,
    video: VideoStream,
    hw: str,
    device: str,
    file: Path | None = None,
    notes: list[str] | None = None,
    urls: bool = False,
) -> tuple[list[str], str]:
    """Arguments before -i and the filters that bring frames down, for hw as in `read_frames`.

    With `file` its own first frames are tried on the device too.
    """
    for kind in KINDS if hw == "auto" else [hw] if hw != "cpu" else []:
        path = f"decode.{NAMES_IN_PATHS.get(video.codec, video.codec)}_{KINDS[kind].decoder}"
        verdict = turned_verdict(path) if video.turned else proof(program, path, device)
        if verdict.status == PROVEN:
            if file is None:
                verdict = covered(verdict, video)
            else:
                verdict = tried(program, file, video, kind, device, urls)
        if verdict.status == PROVEN:
            name = f"{kind}=d" + (f":{device}" if device else "")
            layout = "p010le" if video.depth > 8 else "nv12"
            opening = ["-init_hw_device", name, "-hwaccel", kind, "-hwaccel_device", "d"]
            return [*opening, "-hwaccel_output_format", kind], f"hwdownload,format={layout},"
        if hw != "auto":
            raise HardwareError("decode", kind, verdict)
        if notes is not None:
            notes.append(f"decode not on {kind}: {verdict.sentence}")
    require_decoder(program, video)
    return [], ""


class Frames(Iterator[Any]):
    """The frames of `read_frames`, one by one. `engine` says what decodes, `notes` what was lost.

    Ends ffmpeg when closed, when left as a context, and when nobody holds it any more.
    """

    def __init__(self, reading: Iterator[Any], notes: list[str], engine: str = "pipe") -> None:
        self._reading, self.notes, self.engine = reading, notes, engine

    def __iter__(self) -> Frames:
        return self

    def __next__(self) -> Any:
        return next(self._reading)

    def close(self) -> None:
        """End ffmpeg; further frames are not to be had."""
        self._reading.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Wish:
    """What `read_frames` was asked for."""

    size: tuple[int, int] | None
    pixels: str
    rate: Fraction | None
    start: Fraction
    count: int | None
    stream: int
    square: bool
    strict: bool
    torch: bool
    engine: str = "pipe"
    place: str = ""  # of torch's tensors
    hdr: str = "keep"
    tone: tuple[Step, ...] = ()  # what `hdr` means for this stream

    def steps(self) -> list[Step]:
        """The filters, with their arguments: tones, rate, shape, pixels."""
        found = list(self.tone)
        if self.rate:
            found.append(("fps", str(self.rate)))
        if self.size:
            found.append(("scale", f"{self.size[0]}:{self.size[1]}"))
        elif self.square:
            found += [("scale", "trunc(iw*sar/2+0.5)*2:ih"), ("setsar", "1")]
        return [*found, ("format", PIXELS[self.pixels][0])]

    def chain(self, down: str, begin: int | None) -> str:
        """The same for the program: `down` from a device, the exact cut, the steps."""
        parts = [down.rstrip(",")] if down else []
        if begin is not None:
            parts += [FIRST, rf"select=gte(pts\,{begin})+gt(selected_n\,0)"]
        return ",".join([*parts, *("=".join(step) for step in self.steps()), LAST])


def read_frames(
    src: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    size: tuple[int, int] | None = None,
    pixels: str = "rgb",
    fps: float | Fraction | None = None,
    start: float | Fraction = 0.0,
    count: int | None = None,
    stream: int = 0,
    square: bool = False,
    strict: bool = True,
    urls: bool = False,
    engine: str = "pipe",
    hw: str = "cpu",
    device: str = "",
    torch: bool = False,
    hdr: str = "keep",
    ffmpeg: str | os.PathLike[str] | Ffmpeg | None = None,
) -> Frames:
    """Yield the frames of a video one by one, each a `Frame`: (H, W, 3), gray (H, W), rgba (H, W,
    4).

    src      a path (also of a pipe or a camera, which are read once), "v4l2:/dev/video0" and the
             like, bytes, a binary file object; with `urls=True` also a URL, a playlist (which
             names other files) and any graph of "lavfi:"
    pixels   "rgb", "gray", "rgba" uint8; "rgb16", "gray16" uint16
    size     (width, height), else that of the first decoded frame, turned upright (later ones of
             another size are scaled to it, with a note); fps: resampled
    start    seconds after the first frame: exact in every container; count: frames at most
    stream   which video stream, cover pictures not counted; square: square pixels
    strict   a damaged file, or one that is not whole, is an FfmpegError (code "damaged") after
             its last frame; with False a DamageWarning, and `notes` of what is returned says it
    engine   "pipe": the ffmpeg program; "av": PyAV in this process, where it is installed: half
             the work a frame, seeks without a start; it does not tell of every concealed picture
    hw       "cpu", "auto" (a GPU if proven here for this file), "cuda", "vaapi", "vulkan"
    device   of hw ("1", "/dev/dri/renderD129"); "cuda" or "cuda:1": torch tensors on that GPU, by
             torchcodec or PyNvVideoCodec where they are installed and the first frame is right,
             through the pipe otherwise; `engine` of what is returned and its `notes` say it
    torch    tensors on the CPU with the same attributes; each owns its memory
    hdr      "sdr" tone-maps PQ and HLG to BT.709 (FFmpeg's zscale and tonemap); "keep": the values
             as they are

    Leaving the loop early ends ffmpeg. Raises FileNotFoundError, TypeError and ValueError for an
    argument (also for a start beyond the end, when the first frame is asked for), FfmpegError.
    """
    if pixels not in PIXELS:
        raise ValueError(f"read_frames: pixels must be one of {', '.join(PIXELS)}, got {pixels!r}")
    wish = _Wish(
        None if size is None else check.size("read_frames", size),
        pixels,
        None if fps is None else check.rate("read_frames", "fps", fps),
        check.seconds("read_frames", "start", start),
        None if count is None else check.whole("read_frames", "count", count, 1),
        check.whole("read_frames", "stream", stream, 0),
        square, strict, torch, engine, hdr=checked("read_frames", hdr),
    )  # fmt: skip
    if engine not in ("pipe", "av"):
        raise ValueError(f"read_frames: engine must be pipe or av, got {engine!r}")
    if engine == "av":
        require_av("read_frames")
        if hw != "cpu":
            raise ValueError(f"read_frames: engine='av' decodes on the CPU, got hw={hw!r}")
    program = Ffmpeg.at(ffmpeg)
    if hw not in ("cpu", "auto", *KINDS):
        raise ValueError(
            f"read_frames: hw must be cpu, auto or one of {', '.join(KINDS)}, got {hw!r}"
        )
    held = contextlib.ExitStack()
    source = held.enter_context(opened("read_frames", src, urls))
    notes: list[str] = []
    if source.device:
        by_av = engine == "av"
        readers = av_demuxers() if by_av else program.demuxers
        require_device("read_frames", source, readers, "PyAV's FFmpeg" if by_av else "this ffmpeg")
    place = device_of_frames(device)
    if place:
        wish, device = replace(wish, torch=True, place=place), place.partition(":")[2]
        stays = _on_gpu(program, source, wish, hw, notes) if engine == "pipe" else None
        if stays:
            held.close()
            return stays
    before, down = [], ""
    if hw != "cpu":
        if source.file is None or not source.again:
            raise ValueError(f"read_frames: hw={hw!r} needs a file that can be tried first")
        media = probe(source.file, urls=urls, ffmpeg=program)
        if media.video is None:
            raise FfmpegError(f"read_frames: {source.name!r} has no video stream", "bad-input")
        before, down = _decoding(program, media.video, hw, device, source.file, notes, urls)
    return Frames(_frames(program, source, wish, before, down, notes, held), notes, engine)


def _on_gpu(
    program: Ffmpeg, source: Source, wish: _Wish, hw: str, notes: list[str]
) -> Frames | None:
    """A reading by an engine that decodes on the GPU and leaves the frames there; None where the
    wish is not one of those that it grants, or no engine does.
    """
    asked = wish.size or wish.rate or wish.square or wish.stream or wish.hdr != "keep"
    plain = wish.pixels == "rgb" and not asked
    if not plain or hw not in ("cpu", "auto", "cuda") or source.file is None or not source.again:
        return None
    known = index_of(program, source, 0)
    if not known.rising:
        return None
    wished = {"count": 1, "strict": False, "urls": source.urls, "ffmpeg": program}
    with read_frames(source.file, **wished) as frames:
        first = next(frames)
    found = choose(source.file, wish.place, known, np.asarray(first), notes)
    if found is None:
        return None

    def reading() -> Iterator[Any]:
        yield from frames_on_gpu(found[1], known, wish.start, wish.count)
        if wish.count is None:
            notes.extend(judge("read_frames", source, len(known.pts), "", wish.strict))

    return Frames(reading(), notes, found[0])


def _run(
    program: Ffmpeg, source: Source, wish: _Wish, before: list[str], down: str,
    begin: int | None, coarse: Fraction | None, origin: Fraction = Fraction(0),
) -> Pipe | InProcess:  # fmt: skip
    """Start a reading of a source; `coarse` is where it is told to seek to, in seconds after the
    first frame, whose pts is `origin`.
    """
    if wish.engine == "av":
        seek = None if coarse is None else origin + coarse
        return InProcess(source, wish.stream, wish.steps(), begin=begin, seek=seek)
    seek = [] if coarse is None else ["-noaccurate_seek", "-ss", f"{float(coarse):.6f}"]
    command = [
        *before, "-copyts", *seek, *EXACT, *source.given(program.demuxers),
        "-map", f"0:V:{wish.stream}", "-vf", wish.chain(down, begin),
        *(["-frames:v", str(min(wish.count, 1 << 62))] if wish.count else []),
        *program.every_frame, "-f", "rawvideo", "-pix_fmt", PIXELS[wish.pixels][0], "pipe:1",
    ]  # fmt: skip
    return Pipe(
        program, command, descriptors=source.descriptors, begin=begin, sought=coarse is not None
    )


# Seconds by which a seek goes before the first frame that is wanted. A demuxer may land behind its
# target by a GOP or more; if no key frame before it was met, the next is tried, at last the whole.
MARGINS = (2, 12, 60)


def _begun(
    program: Ffmpeg, source: Source, wish: _Wish, before: list[str], down: str
) -> tuple[Pipe | InProcess, Shown | None, Fraction]:
    """A run that stands before the first wanted frame, what is said of that, and the pts of the
    stream's first frame.
    """
    if not wish.start:
        pipe = _run(program, source, wish, before, down, None, None)
        shown = pipe.next()
        return pipe, shown, (shown.pts if shown else None) or Fraction(0)
    if not source.again:
        raise ValueError(
            f"read_frames: start must be 0 for {source.name!r}, which can be read only once"
        )
    if wish.engine == "av":
        found = first_of_av(source, wish.stream)
    else:
        found = _first(program, source, f"0:V:{wish.stream}")
    first = found.shown
    if first is None:
        raise nothing_came("read_frames", source, found.log)
    if first.ticks is None:
        raise FfmpegError(
            f"read_frames: start cannot be found in {source.name!r}, whose frames have no times",
            "no-times",
        )
    begin = round((first.pts + wish.start) / first.base)
    for margin in (None,) if found.bare else (*MARGINS, None):
        coarse = None if margin is None or margin >= wish.start else wish.start - margin
        pipe = _run(program, source, wish, before, down, begin, coarse, first.pts)
        try:
            shown = pipe.next()
            if pipe.landed:
                if shown is None and pipe.end() == 0:
                    last = pipe.latest.pts - first.pts if pipe.latest else Fraction(0)
                    raise ValueError(
                        f"read_frames: start must be within the video, whose last frame begins at "
                        f"{float(last):g} seconds, got {float(wish.start):g}"
                    )
                return pipe, shown, first.pts
        except BaseException:
            pipe.close()
            raise
        pipe.close()
    raise AssertionError("a run from the beginning has landed")


_FIRST: dict[Any, Any] = {}


def _first(program: Ffmpeg, source: Source, stream: str) -> First:
    """`first_shown`, kept for a file that has not changed."""
    key = (program.path, source.stamp, stream) if source.stamp else None
    if key is None or key not in _FIRST:
        found = first_shown(program, source.given(program.demuxers), stream, source.descriptors)
        if key is None:
            return found
        if len(_FIRST) > 256:
            _FIRST.clear()
        _FIRST[key] = found
    return _FIRST[key]


def _tone(program: Ffmpeg, source: Source, wish: _Wish) -> tuple[Step, ...]:
    """The filters of hdr="sdr" for a stream, at whose first frame the program looks."""
    if not source.again:
        raise ValueError(
            f"read_frames: hdr must be 'keep' for {source.name!r}, which can be read only once"
        )
    found = _first(program, source, f"0:V:{wish.stream}")
    filters = av_filters() if wish.engine == "av" else program.filters
    deep = PIXELS[wish.pixels][1].itemsize > 1
    pixels = "yuv420p10le" if deep else "yuv420p"
    return tone_map("read_frames", transfer_of(found.log), filters, pixels)


def _with_alpha(program: Ffmpeg, source: Source, wish: _Wish, notes: list[str]) -> list[str]:
    """Arguments for the decoder that knows the transparency of a WebM, a stream of its own that
    FFmpeg's decoders of VP8 and VP9 pass over.
    """
    found = _first(program, source, f"0:V:{wish.stream}")
    head = found.log.partition("Output #0")[0]
    stream = re.search(r"Video: (vp8|vp9)\b.*?\balpha_mode +: 1", head, re.S)
    if stream is None:
        return []
    decoder = {"vp8": "libvpx", "vp9": "libvpx-vp9"}[stream[1]]
    if wish.engine == "pipe" and decoder in program.decoders:
        return ["-c:v", decoder]
    notes.append(f"the transparency is left out: engine='pipe' and {decoder} would read it")
    return []


def _frames(
    program: Ffmpeg, source: Source, wish: _Wish, before: list[str], down: str,
    notes: list[str], held: contextlib.ExitStack,
) -> Iterator[Any]:  # fmt: skip
    _, dtype, channels = PIXELS[wish.pixels]
    with held:
        if wish.hdr == "sdr":
            wish = replace(wish, tone=_tone(program, source, wish))
        if wish.pixels == "rgba" and source.again and not before:
            before = _with_alpha(program, source, wish, notes)
        pipe, shown, origin = _begun(program, source, wish, before, down)
        index, sizes = 0, {shown.size} if shown else set()
        try:
            by_program = wish.engine == "pipe"
            alone = by_program and not down
            if alone and pipe.codec == "av1" and not program.decodes_on_cpu("av1"):
                raise no_cpu_decoder()
            if by_program and source.content and "Frame Cropping:" not in pipe.log:
                notes += not_cropped(source.content, wish.stream)
            width, height = shown.size if shown else (0, 0)
            shape = (height, width, channels) if channels > 1 else (height, width)
            size = width * height * channels * dtype.itemsize
            while shown is not None and index != wish.count:
                if shown.size not in sizes:
                    sizes.add(shown.size)
                    new = "x".join(map(str, shown.size))
                    notes.append(
                        f"the pictures are {new} from frame {index} on: scaled to {width}x{height}"
                    )
                memory = pipe.read(size, (width, height))
                if len(memory) < size:
                    break
                array = np.frombuffer(memory, dtype).reshape(shape)
                yield _dressed(array, shown, origin, index, wish)
                index += 1
                shown = pipe.next()
            done = pipe.end() == 0 and (shown is None or index == wish.count)
            if index == 0:
                pipe.close()  # its log is whole then
                demuxers = program.demuxers if by_program else av_demuxers()
                error = nothing_came("read_frames", source, pipe.log, pipe.code, demuxers)
                if wish.rate and error.code == "no-frames":
                    raise FfmpegError(
                        f"read_frames: fps={wish.rate} leaves no frame of {source.name!r}, which "
                        "is shorter than half the time of one",
                        "no-frames",
                    )
                raise error
            if not done:
                raise failure(pipe.log, pipe.code)
        finally:
            pipe.close()
        if wish.count is None or index < wish.count:
            log = pipe.log_since_first if wish.start else pipe.log
            if isinstance(pipe, InProcess) and pipe.suspicious and source.again:
                said = log_of_program(program, source, wish.stream)
                if said and (complaints(said, source.content) or not pipe.refused):
                    log = said  # else what the program decodes was lost here
            notes += judge("read_frames", source, index, log, wish.strict)


def _dressed(array: np.ndarray, shown: Shown, origin: Fraction, index: int, wish: _Wish) -> Any:
    """The frame with its time."""
    frame: Any = _tensor(array) if wish.torch else array.view(Frame)
    if wish.place:
        frame = frame.to(wish.place)
    frame.pts, frame.index, frame.key = shown.pts, index, shown.key
    frame.time = float(shown.pts - origin) if shown.pts is not None else 0.0
    frame.interlaced = shown.interlaced
    return frame


def _tensor(frame: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(frame)


def _array(frame: Any, index: int, alpha: bool = False) -> np.ndarray:
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
    takes = (3, 4) if alpha else (3,)
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in takes)):
        cure = "; move channels last" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
        raise ValueError(
            f"write_frames: frame {index} must be (H, W, 3) or (H, W), got {array.shape}{cure}"
        )
    return np.ascontiguousarray(array)


def _same(frames: Iterator[Any], first: np.ndarray, alpha: bool) -> Iterator[bytes]:
    yield first.data.cast("B")
    for index, frame in enumerate(frames, 1):
        array = _array(frame, index, alpha)
        if array.shape != first.shape:
            raise ValueError(
                f"write_frames: frame {index} is {array.shape}, the first was {first.shape}"
            )
        yield array.data.cast("B")


def _video_arguments(encoder: str, quality: int, width: int, height: int) -> list[str]:
    """Filters and encoder of a video: even sides, BT.709."""
    even = f"crop={width // 2 * 2}:{height // 2 * 2}:0:0," if width % 2 or height % 2 else ""
    return [
        "-vf", f"{even}scale=out_color_matrix=bt709:out_range=tv,format=yuv420p",
        "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709",
        "-color_range", "tv", "-c:v", encoder, *quality_arguments("write_frames", encoder, quality),
    ]  # fmt: skip


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

    A .gif, .apng or .webp becomes an animated picture, which takes (H, W, 4) RGBA too; a GIF has
    256 colours. hw is "cpu", "auto" (a GPU's encoder if it is proven here) or "cuda". Odd sides
    lose their last row or column, which 4:2:0 cannot hold. Colours are stored as BT.709. The file
    appears only when whole. Raises ValueError for no frames or frames of different shape, TypeError
    for another dtype, FileExistsError, HardwareError, FfmpegError.
    """
    program = Ffmpeg.at(ffmpeg)
    path = Path(dst)
    animated = animation_of("write_frames", path, program)
    muxer = animated.muxer if animated else muxer_of("write_frames", path, codec)
    rate = check.rate("write_frames", "fps", fps)
    if not isinstance(frames, Iterable):
        raise TypeError(f"write_frames: frames must be an iterable, got {type(frames).__name__}")
    iterator = iter(frames)
    for first in iterator:
        head = _array(first, 0, bool(animated))
        break
    else:
        raise ValueError("write_frames: frames must not be empty")
    height, width = head.shape[:2]
    if not animated and (width < 16 or height < 16):
        raise ValueError(f"write_frames: frames must be at least 16x16, got {width}x{height}")
    layout = "gray" if head.ndim == 2 else "rgb24" if head.shape[2] == 3 else "rgba"
    if animated:
        made = ["-vf", animated.filters, "-c:v", animated.encoder, *animated.arguments(quality)]
    else:
        made = _video_arguments(choose_encoder(program, codec, hw, device), quality, width, height)
    with written_aside(path, overwrite) as part:
        arguments = [
            "-f", "rawvideo", "-pixel_format", layout, "-video_size", f"{width}x{height}",
            "-framerate", str(rate), "-i", "pipe:0",
            *made, *(["-movflags", "+faststart"] if muxer in ("mp4", "mov") else []),
            "-f", muxer, "-y", file_argument(part),
        ]  # fmt: skip
        number = supervise(program, arguments, chunks=_same(iterator, head, bool(animated))).frames
        if animated and not is_stream(part):
            number = animated.frames(part, number, program)
        elif not is_stream(part):
            require_whole(part, number, program)
        return number
