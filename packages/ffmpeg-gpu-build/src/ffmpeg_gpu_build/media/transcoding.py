"""Transcode a file, with as much of the pipeline on the GPU as is proven there."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..ffmpeg import Ffmpeg, FfmpegError, file_argument
from .animations import ANIMATIONS, animation_of
from .crops import not_cropped
from .damage import complaints, sentence
from .endings import unfinished
from .hdr import HDR, checked, tone_map
from .pipe import EXACT
from .pipeline import (
    SOFTWARE,
    Pipeline,
    plan_pipeline,
    quality_arguments,
    require_codec,
    require_decoder,
)
from .probing import Media, VideoStream, probe, require_whole
from .reach import opening_file, refuse_addresses
from .session import Cancelled, Progress, Run, is_stream, supervise, written_aside

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


def muxer_of(where: str, path: Path, codec: str) -> str:
    """FFmpeg's muxer for a file name. Raises ValueError for an ending we do not write, and for a
    codec that such a file does not hold.
    """
    if path.suffix.lower() not in MUXERS:
        raise ValueError(f"{where}: dst must end in one of {', '.join(MUXERS)}, got {path.name!r}")
    muxer = MUXERS[path.suffix.lower()]
    holds = HOLDS.get(muxer, SOFTWARE)
    if codec in SOFTWARE and codec not in holds:
        raise ValueError(
            f"{where}: {path.suffix} holds {' or '.join(holds)}, not {codec}: take such a codec, "
            "or .mkv, which holds them all"
        )
    return muxer


# Channels -> the layout that an encoder is given: libopus refuses 5.1(side), which is the same six.
LAYOUTS = {
    1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1",
}  # fmt: skip
# Subtitles that are text, and what each muxer takes them as.
TEXTS = {"subrip", "ass", "ssa", "text", "webvtt", "mov_text"}
TEXT_AS = {"mp4": "mov_text", "mov": "mov_text", "webm": "webvtt", "matroska": "subrip"}


def _bitrate(channels: int) -> str:
    """Bits a second for sound: 96k for one channel, 80k for each of several."""
    return f"{96 if channels == 1 else 80 * min(max(channels, 2), 8)}k"


def _audio(media: Media, muxer: str, wanted: str, program: Ffmpeg) -> tuple[list[str], list[str]]:
    """Arguments for the audio streams, and what to tell about them: each is copied, encoded or,
    where this FFmpeg has no decoder for it, left out.
    """
    if wanted not in ("auto", "copy", "none", "aac", "opus"):
        raise ValueError(f"transcode: audio must be auto, copy, none, aac or opus, got {wanted!r}")
    if wanted == "none" or not media.audio:
        return ["-an"], []
    if wanted == "copy":
        return ["-map", "0:a", "-c:a", "copy"], []
    encoder = "libopus" if muxer == "webm" or wanted == "opus" else "aac"
    arguments, notes, encoded, kept = [], [], [], 0
    for index, track in enumerate(media.tracks):
        copied = wanted == "auto" and track.codec in TAKES[muxer]
        if not copied and track.codec not in program.decodable:
            notes.append(f"audio stream {index} ({track.codec}) has no decoder here: left out")
            continue
        arguments += ["-map", f"0:a:{index}", f"-c:a:{kept}"]
        if copied:
            lax = ["-strict", "-2"] if muxer == "mp4" and track.codec == "flac" else []  # FFmpeg 5
            arguments += ["copy", *lax]
        else:
            encoded.append(track.codec)
            arguments += [encoder, f"-b:a:{kept}", _bitrate(track.channels)]
            layout = LAYOUTS.get(track.channels)
            if layout and track.layout and layout != re.sub(r"\((side|back)\)", "", track.layout):
                notes.append(f"audio stream {index}: {track.layout} is mixed to {layout}")
            if layout:
                arguments += [f"-filter:a:{kept}", f"aformat=channel_layouts={layout}"]
        kept += 1
    if encoded and encoder not in program.encoders:
        raise FfmpegError(f"transcode: this FFmpeg has no {encoder} encoder", "not-built-in")
    if encoded and wanted == "auto":
        names = ", ".join(encoded)
        notes.append(f"audio {names} does not go into {muxer}: encoded as {encoder}")
    return arguments or ["-an"], notes


def _subtitles(media: Media, muxer: str, program: Ffmpeg) -> tuple[list[str], list[str]]:
    """Arguments for the subtitle streams, and what to tell about them: text goes where a container
    holds text, pictures into Matroska.
    """
    arguments, notes, kept = [], [], 0
    text = TEXT_AS.get(muxer)
    for index, codec in enumerate(media.subtitle_codecs):
        converts = text in program.encoders and codec in program.decoders
        if codec == text or (muxer == "matroska" and codec in SUBTITLES):
            encoder = "copy"
        elif codec in TEXTS and text and converts:
            encoder = text
            notes.append(f"subtitles {codec} do not go into {muxer}: written as {text}")
        else:
            notes.append(f"subtitles {codec} do not go into {muxer}: left out")
            continue
        arguments += ["-map", f"0:s:{index}", f"-c:s:{kept}", encoder]
        kept += 1
    return arguments, notes


def _rest(media: Media, muxer: str) -> tuple[list[str], list[str]]:
    """Arguments for what is no picture, sound or text, and what to tell about streams left out."""
    notes = []
    if media.chapters and muxer in ("mpegts", "avi"):
        notes.append(f"{media.chapters} chapter(s) do not go into {muxer}: left out")
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
    strict: bool = True,
    hdr: str = "keep",
    urls: bool = False,
    ffmpeg: str | os.PathLike[str] | Ffmpeg | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    timeout: float | None = None,
) -> Transcoded:
    """Transcode the first video stream of `src`, its audio and what the container holds of its
    subtitles into `dst`; attachments go into Matroska. Chapters and metadata are kept. Interlaced
    pictures are deinterlaced, with a note.

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
    strict   a source that is damaged or not whole is an FfmpegError (code "damaged"), and nothing
             is written; with False what is there is written, and `notes` say it

    hdr      "sdr" tone-maps PQ and HLG to BT.709 on the CPU (FFmpeg's zscale and tonemap); "keep"
             writes the values as they are, with a note
    urls     True lets a playlist and `filters` open other files and addresses

    A .gif, .apng or .webp becomes an animated picture, made on the CPU, without sound.

    Under "auto" a stage that fails on a device in the middle is done again on the CPU. The file
    appears under its name only when whole. Raises FileNotFoundError, FileExistsError, ValueError
    for an argument, HardwareError if hw cannot be had, Cancelled, FfmpegError.
    """
    source, target = Path(src), Path(dst)
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"transcode: dst must be another file than src, {os.fspath(src)!r}")
    if bitrate is not None and not re.fullmatch(r"(?=.*[1-9])[0-9]+(\.[0-9]+)?[kKMG]?", bitrate):
        raise ValueError(
            f"transcode: bitrate must be a number such as '4M' or '800k', got {bitrate!r}"
        )
    if not urls:
        refuse_addresses("transcode", filters)
    program = Ffmpeg.at(ffmpeg)
    animated = animation_of("transcode", target, program)
    muxer = animated.muxer if animated else muxer_of("transcode", target, codec)
    media = probe(source, urls=urls, ffmpeg=program)
    cut = unfinished(source)
    if cut and (strict or media.video is None):
        raise _damaged(source, [cut])
    if media.video is None:
        raise FfmpegError(f"transcode: {os.fspath(src)!r} has no video stream", "bad-input")
    require_codec(program, media.video)
    video, mapped, told = _tone_mapped(program, media.video, hdr, filters, hw)
    chain, notes = _deinterlaced(video, mapped, hw)
    notes += told
    plan = partial(
        _plan_animation if animated else plan_pipeline, program, video, codec=codec, size=size,
        filters=chain, decode=decode, encode=encode, device=device,
        file=target if animated else source, urls=urls,
    )  # fmt: skip
    pipeline = plan(hw=hw)
    if animated:
        sound, words, rest = ["-an"], [], []
        notes += ["sound is left out"] if media.audio else []
    else:
        sound, told = _audio(media, muxer, audio, program)
        words, said = _subtitles(media, muxer, program)
        rest, left = _rest(media, muxer)
        notes += told + said + left
    started = time.monotonic()
    with written_aside(target, overwrite) as part:

        def run(pipeline: Pipeline) -> tuple[Run, list[str]]:
            if animated:
                rate = animated.arguments(quality)
            elif bitrate:
                rate = ["-b:v", bitrate]
            else:
                rate = quality_arguments("transcode", pipeline.encoder, quality)
            arguments = [
                *pipeline.before, *EXACT, *opening_file(source, program.demuxers, urls),
                "-map", f"0:{media.video.index}",
                *(["-vf", pipeline.filters] if pipeline.filters else []),
                "-c:v", pipeline.encoder, *rate, *_vary(muxer, program), *sound, *words, *rest,
                *_packed(muxer, codec, part), "-f", muxer, "-y", file_argument(part),
            ]  # fmt: skip
            done = supervise(
                program, arguments, total=media.frames, tell=progress, cancel=cancel,
                timeout=timeout,
            )  # fmt: skip
            return done, arguments

        try:
            done, arguments = run(pipeline)
        except FfmpegError as error:
            here = {pipeline.decode, pipeline.filter, pipeline.encode} <= {"cpu"}
            if hw != "auto" or here or isinstance(error, Cancelled) or is_stream(part):
                raise
            notes.append(f"all again on the CPU: {str(error).splitlines()[0]}")
            pipeline = plan(hw="cpu")
            done, arguments = run(pipeline)
        frames = done.frames
        if animated and not is_stream(part):
            frames = animated.frames(part, frames, program)
        elif not is_stream(part):
            require_whole(part, frames, program)
        lost = complaints(done.log) + ([cut] if cut else [])
        if lost and strict:
            raise _damaged(source, lost, done)
    if lost:
        notes.append(f"the source is damaged or not whole: {sentence(lost)}")
    if "Frame Cropping:" not in done.log:
        notes += not_cropped(source, 0)
    decoded = re.search(r"\(video\): .*?; (\d+) frames decoded", done.log)
    if not (filters or animated) and decoded and int(decoded[1]) != done.frames:
        notes.append(
            f"{decoded[1]} frames were decoded and {done.frames} written: times of the source are "
            "equal, run backwards or have gaps"
        )
    seconds = time.monotonic() - started
    everything = (*pipeline.notes, *notes)
    command = (str(program.path), *arguments)
    return Transcoded(target, frames, seconds, pipeline, everything, command)


def _damaged(source: Path, lost: list[str], done: Run | None = None) -> FfmpegError:
    """The error of a source of which something is missing."""
    came = f"{done.frames} frames came out of it; " if done else ""
    return FfmpegError(
        f"transcode: {os.fspath(source)!r} is damaged or not whole: {sentence(lost)}; {came}"
        "strict=False (--no-strict) writes what is there",
        "damaged",
        done.log if done else "",
    )


def _tone_mapped(
    program: Ffmpeg, video: VideoStream, hdr: str, filters: str, hw: str
) -> tuple[VideoStream, str, list[str]]:
    """The stream and the filters after `hdr`, and the note. Raises ValueError, FfmpegError."""
    hdr = checked("transcode", hdr)
    if hdr == "keep" or video.transfer not in HDR:
        return video, filters, []
    if hw == "opencl":
        raise ValueError("transcode: hdr='sdr' is done on the CPU, not with hw='opencl'")
    steps = tone_map("transcode", video.transfer, program.filters, "yuv420p")
    note = f"HDR ({HDR[video.transfer]}) is tone-mapped to BT.709"
    chain = ",".join([*("=".join(step) for step in steps), *([filters] if filters else [])])
    return replace(video, transfer="bt709"), chain, [note]


def _plan_animation(
    program: Ffmpeg, video: VideoStream, *, hw: str, size: tuple[int, int] | None, filters: str,
    file: Path, **_: object,
) -> Pipeline:  # fmt: skip
    """The pipeline of an animated picture; `file` ends as it is called."""
    if hw not in ("auto", "cpu"):
        raise ValueError(f"transcode: an animated picture is made with hw='cpu', got {hw!r}")
    require_decoder(program, video)
    animated = ANIMATIONS[file.suffix.lower()]
    scale = f"scale={size[0]}:{size[1]}" if size else ""
    chain = ",".join(f for f in (filters, scale, animated.filters) if f)
    return Pipeline("cpu", "cpu", "cpu", animated.encoder, (), chain, ())


def _deinterlaced(video: VideoStream, filters: str, hw: str) -> tuple[str, list[str]]:
    """The filter chain with a deinterlacer where the picture is made of fields, and the note."""
    if not video.interlaced:
        return filters, []
    if hw == "opencl" or re.search(r"bwdif|yadif|w3fdif|kerndeint|estdif|deinterlace", filters):
        return filters, ["the source is interlaced"] if hw == "opencl" else []
    note = f"interlaced ({video.fields}): deinterlaced by bwdif, one frame for each of the source"
    return ",".join(f for f in ("bwdif=mode=send_frame", filters) if f), [note]


def _packed(muxer: str, codec: str, part: Path) -> list[str]:
    """What MP4 and MOV want: the index in front, or in pieces where nobody can go back (a pipe);
    HEVC under the name that Apple's players know.
    """
    if muxer not in ("mp4", "mov"):
        return []
    flags = "frag_keyframe+empty_moov" if is_stream(part) else "+faststart"
    return ["-movflags", flags, *(["-tag:v", "hvc1"] if codec == "hevc" else [])]
