"""Transcode a file, with as much of the pipeline on the GPU as is proven there."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..ffmpeg import Ffmpeg, FfmpegError, file_argument
from .pipeline import SOFTWARE, Pipeline, plan_pipeline, quality_arguments
from .probing import PROTOCOLS, Media, probe, require_whole
from .session import Progress, supervise, written_aside

MUXERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".ts": "mpegts",
    ".avi": "avi",
}
# Video that a container holds. FFmpeg writes the rest without a word (HEVC in AVI is read back as
# raw pixels) or refuses the header, after which SVT-AV1 1.4 never ends.
HOLDS = {
    "mov": ("h264", "hevc"),
    "webm": ("vp9", "av1"),
    "mpegts": ("h264", "hevc"),
    "avi": ("h264", "av1", "vp9"),
}
# Audio that a container takes as it is; any other is encoded.
TAKES = {
    "matroska": {
        *("aac", "mp3", "mp2", "ac3", "eac3", "dts", "truehd", "flac", "alac", "opus", "vorbis"),
        *("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"),
        *("pcm_s16be", "pcm_s24be", "pcm_s32be", "pcm_alaw", "pcm_mulaw", "wavpack", "tta"),
        *("wmav1", "wmav2", "wmapro", "wmalossless", "adpcm_ms", "adpcm_ima_wav"),
    },
    "mp4": {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"},
    "mov": {"aac", "mp3", "ac3", "alac", "pcm_s16le", "pcm_s24le"},
    "webm": {"opus", "vorbis"},
    "mpegts": {"aac", "mp3", "ac3", "mp2"},
    "avi": {"mp3", "ac3", "pcm_s16le"},
}


@dataclass(frozen=True)
class Transcoded:
    """What came out: the file, frames, seconds it took, where each stage ran, why, and the
    command.
    """

    path: Path
    frames: int
    seconds: float
    pipeline: Pipeline
    notes: tuple[str, ...]
    command: tuple[str, ...]

    @property
    def fps(self) -> float:
        """Frames a second of wall time."""
        return self.frames / self.seconds if self.seconds else 0.0


# Subtitles that Matroska takes as they are.
SUBTITLES = {
    *("subrip", "ass", "ssa", "text", "webvtt"),
    *("hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle", "hdmv_text_subtitle"),
}


def muxer_of(path: Path, codec: str) -> str:
    """FFmpeg's muxer for a file name. Raises ValueError for an ending we do not write, and for a
    codec that such a file does not hold.
    """
    if path.suffix.lower() not in MUXERS:
        raise ValueError(
            f"transcode: dst must end in one of {', '.join(MUXERS)}, got {path.name!r}"
        )
    muxer = MUXERS[path.suffix.lower()]
    holds = HOLDS.get(muxer, SOFTWARE)
    if codec in SOFTWARE and codec not in holds:
        raise ValueError(
            f"transcode: {path.suffix} holds {' or '.join(holds)}, not {codec}: take such a codec, "
            "or .mkv, which holds them all"
        )
    return muxer


def _audio(media: Media, muxer: str, wanted: str, program: Ffmpeg) -> tuple[list[str], list[str]]:
    """Arguments for the audio streams, and what to tell about them."""
    if wanted not in ("auto", "copy", "none", "aac", "opus"):
        raise ValueError(f"transcode: audio must be auto, copy, none, aac or opus, got {wanted!r}")
    if wanted == "none" or not media.audio:
        return ["-an"], []
    if wanted == "copy":
        return ["-map", "0:a", "-c:a", "copy"], []
    arguments, notes = ["-map", "0:a"], []
    if wanted == "auto" and all(codec in TAKES[muxer] for codec in media.audio):
        lax = ["-strict", "-2"] if muxer == "mp4" and "flac" in media.audio else []  # FFmpeg 5
        return [*arguments, "-c:a", "copy", *lax], []
    encoder = "libopus" if muxer == "webm" or wanted == "opus" else "aac"
    if encoder not in program.encoders:
        raise FfmpegError(f"transcode: this FFmpeg has no {encoder} encoder", "not-built-in")
    if wanted == "auto":
        notes.append(
            f"audio {', '.join(media.audio)} does not go into {muxer}: encoded as {encoder}"
        )
    return [*arguments, "-c:a", encoder, "-b:a", "160k"], notes


def _subtitles(media: Media, muxer: str, program: Ffmpeg) -> tuple[list[str], list[str]]:
    """Arguments for the subtitle streams, and what to tell about them."""
    if not media.subtitles:
        return [], []
    if muxer != "matroska":
        return [], [f"{media.subtitles} subtitle stream(s) do not go into {muxer}: left out"]
    arguments, notes = [], []
    converts = "mov_text" in program.decoders and "subrip" in program.encoders
    kept = 0
    for index, codec in enumerate(media.subtitle_codecs):
        if codec in SUBTITLES:
            encoder = "copy"
        elif codec == "mov_text" and converts:
            encoder = "subrip"
            notes.append(f"subtitles {codec} do not go into {muxer}: written as subrip")
        else:
            notes.append(f"subtitles {codec} do not go into {muxer}: left out")
            continue
        arguments += ["-map", f"0:s:{index}", f"-c:s:{kept}", encoder]
        kept += 1
    return arguments, notes


def _rest(media: Media, muxer: str) -> tuple[list[str], list[str]]:
    """Arguments for what is no picture, sound or text, and what to tell about streams left out."""
    notes = []
    if media.more_videos:
        notes.append(f"{media.more_videos} further video stream(s) left out: the first is taken")
    if media.attachments and muxer == "matroska":
        return ["-map", "0:t", "-c:t", "copy"], notes
    if media.attachments:
        notes.append(f"{media.attachments} attachment(s) do not go into {muxer}: left out")
    return [], notes


def _vary(muxer: str, program: Ffmpeg) -> list[str]:
    """Keep the frames and times of a source of variable rate where the container can; older FFmpeg
    repeat and drop frames in MP4 to fit a rate.
    """
    return program.frame_times("vfr") if muxer in ("mp4", "mov", "matroska", "webm") else []


def transcode(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    hw: str = "auto",
    codec: str = "h264",
    size: tuple[int, int] | None = None,
    filters: str = "",
    quality: int = 23,
    bitrate: str | None = None,
    audio: str = "auto",
    decode: str | None = None,
    encode: str | None = None,
    device: str = "",
    ffmpeg: str | os.PathLike[str] | Ffmpeg | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    timeout: float | None = None,
) -> Transcoded:
    """Transcode the first video stream of `src`, and its audio, into `dst`; subtitles and
    attachments go into Matroska.

    hw       "auto": each stage on the GPU if `verify` proves it here, else on the CPU, and `notes`
             say why; "cuda", "vaapi", "vulkan": all stages there or HardwareError; "opencl":
             `filters` there; "cpu"
    codec    "h264", "hevc", "av1" or "vp9"; .webm, .mov, .ts and .avi do not hold them all
    size     (width, height), both even
    filters  a chain between decode and encode; for hw="opencl" of OpenCL filters, else of CPU ones
    quality  0 (best) to 51, on the encoder's own scale; bitrate ("4M") replaces it
    audio    "auto" copies what the container takes and encodes the rest; "copy", "aac", "opus",
             "none"
    decode   "cpu" moves this stage off the device; encode likewise
    device   which one: "1" for the second CUDA GPU, "/dev/dri/renderD129" for VAAPI

    The file appears under its name only when whole. Raises FileNotFoundError, FileExistsError,
    ValueError for an argument, HardwareError if hw cannot be had, Cancelled, FfmpegError.
    """
    source, target = Path(src), Path(dst)
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"transcode: dst must be another file than src, {os.fspath(src)!r}")
    if bitrate is not None and not re.fullmatch(r"(?=.*[1-9])[0-9]+(\.[0-9]+)?[kKMG]?", bitrate):
        raise ValueError(
            f"transcode: bitrate must be a number such as '4M' or '800k', got {bitrate!r}"
        )
    program = Ffmpeg.at(ffmpeg)
    muxer = muxer_of(target, codec)
    media = probe(source, ffmpeg=program)
    if media.video is None:
        raise FfmpegError(f"transcode: {os.fspath(src)!r} has no video stream", "bad-input")
    pipeline = plan_pipeline(
        program, media.video, hw=hw, codec=codec, size=size, filters=filters, decode=decode,
        encode=encode, device=device,
    )  # fmt: skip
    sound, notes = _audio(media, muxer, audio, program)
    words, told = _subtitles(media, muxer, program)
    rest, left = _rest(media, muxer)
    notes += told + left
    rate = ["-b:v", bitrate] if bitrate else quality_arguments(pipeline.encoder, quality)
    fast = ["-movflags", "+faststart"] if muxer in ("mp4", "mov") else []
    started = time.monotonic()
    with written_aside(target, overwrite) as part:
        arguments = [
            *pipeline.before, *PROTOCOLS, "-i", file_argument(source),
            "-map", f"0:{media.video.index}", *(["-vf", pipeline.filters] if pipeline.filters else
            []), "-c:v", pipeline.encoder, *rate, *_vary(muxer, program), *sound, *words, *rest,
            *fast, "-f", muxer, "-y", file_argument(part),
        ]  # fmt: skip
        frames = supervise(
            program, arguments, total=media.frames, tell=progress, cancel=cancel, timeout=timeout
        )
        require_whole(part, frames, program)
    seconds = time.monotonic() - started
    everything = (*pipeline.notes, *notes)
    return Transcoded(
        target, frames, seconds, pipeline, everything, (str(program.path), *arguments)
    )
