"""What is in a media file, by ffprobe's JSON."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from .. import proc
from ..doctor.failures import diagnose, last_lines
from ..ffmpeg import Ffmpeg, FfmpegError, file_argument
from .endings import unfinished
from .formats import empty, no_reader
from .reach import PROTOCOLS, for_av, is_playlist, opening_file, playlist_error
from .session import is_stream

# AVColorTransferCharacteristic -> FFmpeg's name, those that we look at
TRANSFERS = {1: "bt709", 16: "smpte2084", 18: "arib-std-b67"}
FIELDS = {2: "tt", 3: "bb", 4: "tb", 5: "bt"}  # AVFieldOrder


@dataclass(frozen=True)
class VideoStream:
    """A video stream. `size` is (width, height) as shown, after rotation; `depth` in bits; `turned`
    if the picture is stored turned or mirrored, which FFmpeg puts right on the CPU alone;
    `transfer` is FFmpeg's name of the transfer characteristic ("bt709", "smpte2084"); `fields`
    "progressive" or the order of two fields ("tt", "bb", "tb", "bt"); `alpha` if a WebM says that
    its transparency is in a stream of its own.
    """

    index: int
    codec: str
    size: tuple[int, int]
    pixels: str
    depth: int
    rate: Fraction
    frames: int | None
    turned: bool = False
    transfer: str = "unknown"
    profile: str = "unknown"
    fields: str = "progressive"
    alpha: bool = False

    @property
    def interlaced(self) -> bool:
        """Whether its frames are made of two fields each."""
        return self.fields in ("tt", "bb", "tb", "bt")


Video = VideoStream  # its name before there was `media.video.Video`


@dataclass(frozen=True)
class Audio:
    """An audio stream: codec ("unknown" where FFmpeg has no name for it), channels, FFmpeg's name
    of their layout ("" where it is not known).
    """

    codec: str
    channels: int = 0
    layout: str = ""


@dataclass(frozen=True)
class Media:
    """A file: its container, seconds, first video stream, codecs of its audio and subtitles, number
    of further video streams, of attachments (fonts of subtitles) and of chapters.
    """

    path: Path
    container: str
    seconds: float | None
    video: VideoStream | None
    audio: tuple[str, ...]
    subtitle_codecs: tuple[str, ...]
    more_videos: int = 0
    attachments: int = 0
    tracks: tuple[Audio, ...] = ()
    chapters: int = 0

    @property
    def subtitles(self) -> int:
        """Number of subtitle streams."""
        return len(self.subtitle_codecs)

    @property
    def frames(self) -> int | None:
        """Number of video frames if the file says it or rate and duration do; else None."""
        if self.video is None:
            return None
        if self.video.frames:
            return self.video.frames
        return round(self.seconds * self.video.rate) if self.seconds and self.video.rate else None


def _seconds(said: str | None) -> float | None:
    """A duration; None where none is said, or one below 0. Raises ValueError for no number."""
    if not said:
        return None
    seconds = float(said)
    if not math.isfinite(seconds):
        raise ValueError(f"a duration of {said}")
    return seconds if seconds >= 0 else None


def _rate(stream: dict[str, Any]) -> Fraction:
    for key in ("avg_frame_rate", "r_frame_rate"):
        top, _, bottom = stream.get(key, "0/0").partition("/")
        if int(top) > 0 and int(bottom or 1) > 0:
            return Fraction(int(top), int(bottom or 1))
    return Fraction(0)


def _depth(stream: dict[str, Any]) -> int:
    said = stream.get("bits_per_raw_sample", "")
    if said.isdigit() and int(said) > 0:
        return int(said)
    name = stream.get("pix_fmt", "")
    return next((n for n in (16, 14, 12, 10, 9) if f"{n}le" in name or f"{n}be" in name), 8)


def _turned(stream: dict[str, Any]) -> bool:
    """Whether the display matrix, three rows of "00000000: a b c", is another than upright."""
    for data in stream.get("side_data_list", []):
        cells = [row.partition(":")[2].split() for row in data.get("displaymatrix", "").split("\n")]
        upright = [row[:2] for row in cells if len(row) == 3][:2]
        if upright and (upright[0][1:] != ["0"] or upright[1][:1] != ["0"]):
            return True
        if any(cell.startswith("-") for row in upright for cell in row):
            return True
    return False


def _video(stream: dict[str, Any]) -> VideoStream:
    width, height = int(stream["width"]), int(stream["height"])
    turns = [d["rotation"] for d in stream.get("side_data_list", []) if "rotation" in d]
    if turns and round(float(turns[0])) % 180 == 90:
        width, height = height, width
    frames = stream.get("nb_frames", "")
    return VideoStream(
        index=int(stream["index"]),
        codec=stream.get("codec_name", "unknown"),
        size=(width, height),
        pixels=stream.get("pix_fmt", "unknown"),
        depth=_depth(stream),
        rate=_rate(stream),
        frames=int(frames) if frames.isdigit() else None,
        turned=_turned(stream),
        alpha={k.lower(): v for k, v in stream.get("tags", {}).items()}.get("alpha_mode") == "1",
        transfer=stream.get("color_transfer", "unknown"),
        profile=str(stream.get("profile") or "unknown"),
        fields=stream.get("field_order", "progressive"),
    )


def probe(
    path: str | os.PathLike[str],
    *,
    urls: bool = False,
    ffmpeg: str | os.PathLike[str] | Ffmpeg | None = None,
) -> Media:
    """Look into a file with the ffprobe that belongs to `ffmpeg`.

    Raises FileNotFoundError if there is no such file and FfmpegError if it is no media file (code
    "bad-input"), is cut so that it does not say what is in it ("damaged"), or is a playlist and not
    `urls` ("playlist").
    """
    if is_stream(Path(path)):
        raise ValueError(
            f"probe: path must be a file that can be read again, {os.fspath(path)!r} is a pipe or "
            "a device: `read_frames` reads those, once"
        )
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "there is none"
        raise FileNotFoundError(f"probe: path must be a file, {what} at {os.fspath(path)!r}")
    if not Path(path).stat().st_size:
        raise empty("probe", os.fspath(path))
    program = Ffmpeg.at(ffmpeg)
    ask = _ask_ffprobe if program.probe_path else _ask_av
    answer = ask(Path(path), program, urls)
    return described(Path(path), answer)


def described(path: Path, answer: Any) -> Media:
    """The Media of ffprobe's answer on a file. Raises FfmpegError, code "bad-input", for what no
    ffprobe says."""
    try:
        return _described(path, answer)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise FfmpegError(
            f"probe: {os.fspath(path)!r}: ffprobe's answer is not understood: {error!r}",
            "bad-input",
        ) from error


def _described(path: Path, answer: dict[str, Any]) -> Media:
    container = answer.get("format", {}).get("format_name", "unknown")
    streams = answer.get("streams", [])
    # a cover picture is a video stream to FFmpeg, not to us
    moving = [
        s
        for s in streams
        if s.get("codec_type") == "video" and not s.get("disposition", {}).get("attached_pic")
    ]
    return Media(
        path=path,
        container=container,
        seconds=_seconds(answer.get("format", {}).get("duration")),
        video=_video(moving[0]) if moving and moving[0].get("width") else None,
        audio=_codecs(streams, "audio"),
        subtitle_codecs=_codecs(streams, "subtitle"),
        more_videos=max(0, len(moving) - 1),
        attachments=len(_codecs(streams, "attachment")),
        tracks=tuple(
            Audio(codec, int(s.get("channels") or 0), str(s.get("channel_layout") or ""))
            for codec, s in zip(
                _codecs(streams, "audio"),
                (s for s in streams if s.get("codec_type") == "audio"),
                strict=True,
            )
        ),
        chapters=len(answer.get("chapters", ())),
    )


def _ask_ffprobe(path: Path, program: Ffmpeg, urls: bool) -> dict[str, Any]:
    """ffprobe's JSON on a file."""
    if program.probe_path is None:
        raise RuntimeError(f"{program}: no ffprobe stands beside it, which reads {path}")
    its_own = Ffmpeg(program.probe_path, program.env).demuxers
    done = proc.run(
        [program.probe_path, "-v", "error", "-of", "json", "-show_format", "-show_streams",
         "-show_chapters", *opening_file(path, its_own, urls)],
        env=program.env,
    )  # fmt: skip
    if not done.ok:
        if not urls and is_playlist(path, done.err):
            raise playlist_error("probe", os.fspath(path))
        lacking = no_reader("probe", program.demuxers, path, os.fspath(path))
        if lacking:
            raise lacking
        cut = unfinished(path)
        if cut:
            raise _not_whole(path, cut, done.err)
        found = diagnose(done.err)
        text = found.sentence if found else last_lines(done.err, 1)
        code = found.code if found else "bad-input"
        raise FfmpegError(f"probe: {os.fspath(path)!r}: {text}", code, done.err)
    try:
        return json.loads(done.out)
    except (ValueError, RecursionError) as error:
        text = f"probe: {os.fspath(path)!r}: ffprobe's answer is no JSON: {error}"
        raise FfmpegError(text, "bad-input", done.err) from error


def _ask_av(path: Path, _: Ffmpeg, urls: bool) -> dict[str, Any]:
    """The same from PyAV, for an ffmpeg that came without an ffprobe. Raises FfmpegError."""
    try:
        import av
    except ImportError:
        raise FfmpegError(
            "probe: no ffprobe beside this ffmpeg nor on PATH, and no PyAV: install the "
            "distribution's ffmpeg, or `pip install av`",
            "no-ffprobe",
        ) from None
    try:
        name, form, options = for_av(opening_file(path, av.formats_available, urls))
        with av.open(name, format=form, options=options) as file:
            streams = [_stream_of_av(stream) for stream in file.streams]
            for video in file.streams.video[:1]:
                frame = next(file.decode(video), None)
                turned = -frame.rotation if frame else 0
                matrix = {"displaymatrix": _matrix(frame), "rotation": turned}
                streams[video.index]["side_data_list"] = [matrix]
            chapters = file.chapters() if hasattr(file, "chapters") else []
            facts = {"format_name": file.format.name}
            if file.duration is not None:
                facts["duration"] = str(file.duration / av.time_base)
    except (av.FFmpegError, OSError) as error:
        if not urls and is_playlist(path):
            raise playlist_error("probe", os.fspath(path)) from None
        cut = unfinished(path)
        if cut:
            raise _not_whole(path, cut, str(error)) from None
        text = f"the input is damaged or of an unknown format ({error})"
        raise FfmpegError(f"probe: {os.fspath(path)!r}: {text}", "bad-input", str(error)) from None
    return {"streams": streams, "format": facts, "chapters": chapters}


def _not_whole(path: Path, cut: str, log: str) -> FfmpegError:
    """The error of a file that cannot be looked into, since it is cut."""
    text = f"probe: {os.fspath(path)!r} is damaged or not whole: {cut}; it is not to be read"
    return FfmpegError(text, "damaged", log)


def is_cover(stream: Any) -> bool:
    """Whether PyAV's stream is a picture that is attached (AV_DISPOSITION_ATTACHED_PIC)."""
    flags = stream.disposition  # a flag of ints, which older PyAV hold in `value`
    return bool(int(getattr(flags, "value", flags)) & 0x400)


def _stream_of_av(stream: Any) -> dict[str, Any]:
    """One stream in ffprobe's words."""
    context = getattr(stream, "codec_context", None)
    said = {
        "index": stream.index,
        "codec_type": stream.type,
        "codec_name": context.codec.canonical_name if context else "unknown",
        "disposition": {"attached_pic": int(is_cover(stream))},
        "tags": dict(stream.metadata),
    }
    if stream.type == "video" and context:
        said |= {
            "width": context.width,
            "height": context.height,
            "pix_fmt": context.pix_fmt or "unknown",
            "color_transfer": TRANSFERS.get(context.color_trc, "unknown"),
            "avg_frame_rate": str(stream.average_rate or "0/0"),
            "r_frame_rate": str(stream.base_rate or "0/0"),
            "nb_frames": str(stream.frames or ""),
            "profile": stream.profile,
            "field_order": FIELDS.get(context.field_order, "progressive"),
        }
    if stream.type == "audio" and context:
        said["channels"] = context.layout.nb_channels
        name = context.layout.name
        said["channel_layout"] = "" if name.endswith("channels") else name  # an order not told
    return said


def _matrix(frame: Any) -> str:
    """The display matrix of PyAV's frame as ffprobe prints it; "" if it has none."""
    for data in frame.side_data if frame else ():
        if data.type.name == "DISPLAYMATRIX":
            cells = struct.unpack("9i", bytes(data))
            return "\n".join("0: {} {} {}".format(*cells[i : i + 3]) for i in (0, 3, 6))
    return ""


def _codecs(streams: list[dict[str, Any]], kind: str) -> tuple[str, ...]:
    found = [s.get("codec_name", "unknown") for s in streams if s.get("codec_type") == kind]
    return tuple("unknown" if name == "none" else name for name in found)


def count_packets(path: Path, program: Ffmpeg) -> tuple[int, str]:
    """How many frames are in a file by its packets, 0 where it cannot be read; and the log."""
    done = program.run(
        "-nostdin", "-nostats", "-v", "error", "-progress", "pipe:1", *PROTOCOLS,
        "-i", file_argument(path), "-map", "0:V:0", "-c", "copy", "-copyinkf", "-f", "null", "-",
        timeout=3600,
    )  # fmt: skip
    counts = re.findall(rb"^frame=\s*(\d+)", done.out, re.M)
    return (int(counts[-1]) if done.ok and counts else 0), done.err


def require_whole(path: Path, frames: int, program: Ffmpeg) -> None:
    """Hold a file that ffmpeg just wrote to the number of frames it said it wrote.

    FFmpeg can end with exit code 0 and no message after a write failed. Raises FfmpegError, code
    "disk-full" where no space is left, else "wrong-count".
    """
    found, log = count_packets(path, program)
    if found == frames and frames > 0:
        return
    full = shutil.disk_usage(path.parent).free < 1 << 16
    cause = "the disk is full; free space or write elsewhere" if full else "ffmpeg gave no reason"
    raise FfmpegError(
        f"ffmpeg ended with exit code 0, but {found} of {frames} frames are in the file: "
        f"{cause}; the "
        "unfinished file was removed",
        "disk-full" if full else "wrong-count",
        log,
    )
