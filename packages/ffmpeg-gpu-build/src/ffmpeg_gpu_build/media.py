"""What is in a media file, by ffprobe's JSON."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from . import proc
from .failures import diagnose, last_lines
from .ffmpeg import Ffmpeg, FfmpegError, file_argument

# Local files only: a playlist in disguise must not make FFmpeg open a connection.
PROTOCOLS = ("-protocol_whitelist", "file,pipe,fd,data,crypto")


@dataclass(frozen=True)
class Video:
    """A video stream. `size` is (width, height) as shown, after rotation; `depth` in bits; `turned`
    if the picture is stored turned or mirrored, which FFmpeg puts right on the CPU alone;
    `transfer` is FFmpeg's name of the transfer characteristic ("bt709", "smpte2084").
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


@dataclass(frozen=True)
class Media:
    """A file: its container, seconds, first video stream, codecs of its audio and subtitles, number
    of further video streams and of attachments (fonts of subtitles).
    """

    path: Path
    container: str
    seconds: float | None
    video: Video | None
    audio: tuple[str, ...]
    subtitle_codecs: tuple[str, ...]
    more_videos: int = 0
    attachments: int = 0

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


def _video(stream: dict[str, Any]) -> Video:
    width, height = int(stream["width"]), int(stream["height"])
    turns = [d["rotation"] for d in stream.get("side_data_list", []) if "rotation" in d]
    if turns and round(float(turns[0])) % 180 == 90:
        width, height = height, width
    frames = stream.get("nb_frames", "")
    return Video(
        index=int(stream["index"]),
        codec=stream.get("codec_name", "unknown"),
        size=(width, height),
        pixels=stream.get("pix_fmt", "unknown"),
        depth=_depth(stream),
        rate=_rate(stream),
        frames=int(frames) if frames.isdigit() else None,
        turned=_turned(stream),
        transfer=stream.get("color_transfer", "unknown"),
    )


def probe(
    path: str | os.PathLike[str], *, ffmpeg: str | os.PathLike[str] | Ffmpeg | None = None
) -> Media:
    """Look into a file with the ffprobe that belongs to `ffmpeg`.

    Raises FileNotFoundError if there is no such file and FfmpegError (code "bad-input") if it is no
    media file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"probe: path must be a file, there is none at {os.fspath(path)!r}")
    program = Ffmpeg.at(ffmpeg)
    done = proc.run(
        [program.probe_path, "-v", "error", "-of", "json", "-show_format", "-show_streams",
        *PROTOCOLS,
         "-i", file_argument(path)],
        env=program.env,
    )  # fmt: skip
    if not done.ok:
        found = diagnose(done.err)
        text = found.sentence if found else last_lines(done.err, 1)
        raise FfmpegError(
            f"probe: {os.fspath(path)!r}: {text}", found.code if found else "bad-input", done.err
        )
    answer = json.loads(done.out)
    streams = answer.get("streams", [])
    # a cover picture is a video stream to FFmpeg, not to us
    moving = [
        s
        for s in streams
        if s.get("codec_type") == "video" and not s.get("disposition", {}).get("attached_pic")
    ]
    seconds = answer.get("format", {}).get("duration")
    return Media(
        path=Path(path),
        container=answer.get("format", {}).get("format_name", "unknown"),
        seconds=float(seconds) if seconds else None,
        video=_video(moving[0]) if moving and moving[0].get("width") else None,
        audio=_codecs(streams, "audio"),
        subtitle_codecs=_codecs(streams, "subtitle"),
        more_videos=max(0, len(moving) - 1),
        attachments=len(_codecs(streams, "attachment")),
    )


def _codecs(streams: list[dict[str, Any]], kind: str) -> tuple[str, ...]:
    return tuple(s.get("codec_name", "unknown") for s in streams if s.get("codec_type") == kind)


def require_whole(path: Path, frames: int, program: Ffmpeg) -> None:
    """Hold a file that ffmpeg just wrote to the number of frames it said it wrote.

    FFmpeg can end with exit code 0 and no message after a write failed. Raises FfmpegError, code
    "disk-full" where no space is left, else "wrong-count".
    """
    done = proc.run(
        [program.probe_path, "-v", "error", "-of", "json", "-select_streams", "V:0",
         "-count_packets", "-show_entries", "stream=nb_read_packets", *PROTOCOLS,
         "-i", file_argument(path)],
        env=program.env, timeout=3600,
    )  # fmt: skip
    streams = json.loads(done.out).get("streams", []) if done.ok else []
    found = int(streams[0].get("nb_read_packets", 0)) if streams else 0
    if found == frames and frames > 0:
        return
    full = shutil.disk_usage(path.parent).free < 1 << 16
    cause = "the disk is full; free space or write elsewhere" if full else "ffmpeg gave no reason"
    raise FfmpegError(
        f"ffmpeg ended with exit code 0, but {found} of {frames} frames are in the file: "
        f"{cause}; the "
        "unfinished file was removed",
        "disk-full" if full else "wrong-count",
        done.err,
    )
