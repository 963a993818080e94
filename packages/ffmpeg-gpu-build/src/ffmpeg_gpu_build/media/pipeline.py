"""Where each stage of a transcode runs: decode, filter, encode, each on a device or on the CPU.

A stage goes to a device only if the check of `checks.py` proved that path on this machine; the
proof is kept for the program, the driver and the device, and the file itself is tried besides.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import kept
from ..ffmpeg import Ffmpeg, FfmpegError
from ..verification.checks import (
    CLIPS_OF,
    CODEC_OF,
    QUIET,
    Machine,
    check_decoder,
    check_device,
    check_encoder,
    check_filter,
    clips,
    failed,
    same_frames,
)
from ..verification.filter_checks import device_of
from ..verification.judge import ask_nvidia
from ..verification.verdict import NOT_TRIED, PROVEN, Verdict
from . import arguments as check
from .hdr import HDR
from .probing import VideoStream
from .reach import opening_file

SOFTWARE = {codec: encoder for encoder, codec in CODEC_OF.items()}
# component of the description that brings the software encoder
COMPONENTS = {"h264": "x264", "hevc": "x265", "av1": "svtav1", "vp9": "vpx"}
# A device hands its frames on as they are stored, and FFmpeg forgets that they are to be turned.
TURNED = "the picture is stored turned, and only the CPU's decoder puts it upright"
NAMES_IN_PATHS = {"mpeg2video": "mpeg2"}
AUTO_ORDER = ("cuda", "vaapi", "vulkan")


@dataclass(frozen=True)
class Kind:
    """How one kind of device is spoken to."""

    decoder: str  # suffix of the hwaccel's path
    encoder: str  # suffix of the encoder
    scale: str


KINDS = {
    "cuda": Kind("nvdec", "nvenc", "scale_cuda"),
    "vaapi": Kind("vaapi", "vaapi", "scale_vaapi"),
    "vulkan": Kind("vulkan", "vulkan", "scale_vulkan"),
}


class HardwareError(FfmpegError):
    """A device that was asked for cannot do a stage; `verdict` says why."""

    def __init__(self, stage: str, hw: str, verdict: Verdict) -> None:
        cure = f"; {verdict.cure}" if verdict.cure else ""
        super().__init__(
            f"transcode: hw={hw!r} cannot {stage}: {verdict.sentence}{cure}. hw='auto' takes "
            f"what works, "
            f"{stage if stage != 'scale' else 'hw'}='cpu' moves this stage",
            verdict.code,
        )
        self.verdict = verdict


@dataclass(frozen=True)
class Pipeline:
    """Device of each stage ("cpu", "cuda", ...), the encoder, the ffmpeg arguments, and the
    reasons.
    """

    decode: str
    filter: str
    encode: str
    encoder: str
    before: tuple[str, ...]
    filters: str
    notes: tuple[str, ...]


@lru_cache(maxsize=256)
def _proof(path: Path, env: tuple[tuple[str, str], ...], device: str, stage: str) -> Verdict:
    """The verdict on a path, tried once a process, and once a day for this program, driver and
    device: `verify` always tries.
    """

    def judge() -> dict[str, Any]:
        verb, _, name = stage.partition(".")
        kind = name if verb == "device" else device_of(name)
        program = Ffmpeg(path, dict(env))
        nvidia = ask_nvidia(program.env) if kind == "cuda" else {}
        machine = Machine(program, {kind: device} if device else {}, nvidia)
        judges = {"encode": check_encoder, "decode": check_decoder, "filter": check_filter}
        return (judges | {"device": check_device})[verb](machine, name).as_dict()

    known = [kept.stamp_of_program(path), kept.stamp_of_devices(), _around(env), device, stage]
    found = kept.answer("proofs", known, judge, seconds=PROOF_SECONDS)
    return Verdict(**{**found, "command": tuple(found["command"])})


def _around(env: tuple[tuple[str, str], ...]) -> list[Any]:
    """What of the environment decides which driver a program finds."""
    seen = {**os.environ, **dict(env)}
    names = [k for k in seen if k.startswith(("LD_", "LIBVA_", "VK_", "CUDA_")) or k in dict(env)]
    folders = [Path(f) for f in seen.get("LD_LIBRARY_PATH", "").split(":") if f]
    return [{k: seen[k] for k in sorted(names)}, [kept.stamp_of_file(f) for f in folders]]


def proof(program: Ffmpeg, stage: str, device: str = "") -> Verdict:
    """The verdict on one path id ("encode.h264_nvenc"), tried once and kept; see `_proof`."""
    return _proof(program.path, tuple(sorted(program.env.items())), device, stage)


def covered(verdict: Verdict, video: VideoStream) -> Verdict:
    """A proof of a decoder, held to what it was made of: it says nothing of other pixel formats, or
    of profiles with other tools.

    NVDEC decodes H.264 in 8 bits and 4:2:0 on every GPU, in 10 bits or 4:2:2 on hardly any, and
    nothing of Baseline's slices in any order.
    """
    formats, profiles = proven_pixels(video.codec), proven_profiles(video.codec)
    if video.pixels not in formats:
        kind, found, proven = "pixels", f"in {video.pixels}", formats
    elif video.profile not in profiles:
        kind, found, proven = "profile", f"of profile {video.profile}", profiles
    else:
        return verdict
    text = f"{video.codec} {found} was not tried: the proof is of {' and '.join(proven)}"
    return replace(verdict, status=NOT_TRIED, code=f"other-{kind}", sentence=text, cure="")


def _shown(codec: str) -> list[dict[str, Any]]:
    """The clips by which a decoder of this codec is judged."""
    name = NAMES_IN_PATHS.get(codec, codec)
    return [clips()[c] for c in CLIPS_OF.get(name, (name,)) if c in clips()]


def proven_pixels(codec: str) -> tuple[str, ...]:
    """The pixel formats of the clips by which a decoder of this codec is judged."""
    found = [clip["pixels"] for clip in _shown(codec)]
    return tuple(dict.fromkeys([*found, *("yuvj420p" for p in found if p == "yuv420p")]))


def proven_profiles(codec: str) -> tuple[str, ...]:
    """The profiles of those clips, and those whose tools are among theirs."""
    found = [clip["profile"] for clip in _shown(codec)]
    return tuple(dict.fromkeys([*found, *(p for f in found for p in WITHIN.get((codec, f), ()))]))


# (codec, profile) -> the profiles that use no other tools, as FFmpeg names them.
WITHIN = {
    ("h264", "High"): ("Main", "Constrained Baseline"),
    ("hevc", "Main"): ("Main Still Picture",),
    ("mpeg2video", "Main"): ("Simple",),
}
TRIAL_FRAMES = 8
PROOF_SECONDS = 86_400  # hardware fails too: a proof is not for ever
# Pixel formats that come down from a device as they are -> the layout in which they do.
DOWNLOADS = {"yuv420p": "nv12", "yuvj420p": "nv12", "yuv420p10le": "p010le"}


@lru_cache(maxsize=256)
def _tried(
    path: Path, env: tuple[tuple[str, str], ...], file: Path, stamp: tuple[int, int],
    index: int, codec: str, pixels: str, kind: str, device: str, urls: bool,
) -> Verdict:  # fmt: skip
    """See `tried`; `stamp` is of the file, so that a changed one is tried again."""
    program, where = Ffmpeg(path, dict(env)), f"decode of this file on {kind}"
    out = "yuv420p" if pixels == "yuvj420p" else pixels
    name = f"{kind}=d" + (f":{device}" if device else "")
    opening = ["-init_hw_device", name, "-hwaccel", kind, "-hwaccel_device", "d"]
    runs = []
    for before, chain in (
        ([*opening, "-hwaccel_output_format", kind], f"hwdownload,format={DOWNLOADS[pixels]},"),
        ([], ""),
    ):
        done = program.run(
            *QUIET, *before, *opening_file(file, program.demuxers, urls), "-map", f"0:{index}",
            "-frames:v", str(TRIAL_FRAMES), "-vf", f"{chain}format={out}",
            *program.every_frame, "-f", "rawvideo", "pipe:1", timeout=90,
        )  # fmt: skip
        if not done.ok or not done.out:
            return failed(where, done)
        runs.append(done.out)
    known = clips().get(NAMES_IN_PATHS.get(codec, codec), {})
    return same_frames(where, *runs, exact=known.get("exact", True), deep=out.endswith("10le"))


def tried(
    program: Ffmpeg, file: Path, video: VideoStream, kind: str, device: str, urls: bool = False
) -> Verdict:
    """Decode the first frames of this very file on a device and on the CPU and compare them; `urls`
    lets it name others.
    """
    where = f"decode of this file on {kind}"
    if video.pixels not in DOWNLOADS:
        text = f"{video.codec} in {video.pixels} does not come down from a device unchanged"
        return Verdict(where, NOT_TRIED, "other-pixels", text)
    facts = file.stat()
    return _tried(
        program.path, tuple(sorted(program.env.items())), file.absolute(),
        (facts.st_mtime_ns, facts.st_size), video.index, video.codec, video.pixels, kind, device,
        urls,
    )  # fmt: skip


def quality_arguments(where: str, encoder: str, quality: int) -> list[str]:
    """The encoder's arguments for constant quality. Raises ValueError outside 0 to 51."""
    if check.whole(where, "quality", quality, 0) > 51:
        raise ValueError(f"{where}: quality must be in 0..51, got {quality}")
    if encoder.endswith("_nvenc"):
        return ["-rc", "vbr", "-cq", str(quality), "-b:v", "0"]
    if encoder.endswith(("_vaapi", "_vulkan")):
        return ["-qp", str(quality)]
    if encoder == "libvpx-vp9":
        return ["-crf", str(quality), "-b:v", "0"]
    return ["-crf", str(quality)]


def _lost(video: VideoStream) -> list[str]:
    """What of the picture does not reach the result, which is 4:2:0 in 8 bits on every path."""
    lost = [f"{video.depth} bits are written as 8"] if video.depth > 8 else []
    if re.match(r"yuva|ya\d|ayuv|gbrap|(rgb|bgr)a|a(rgb|bgr)", video.pixels):
        lost.append(f"the transparency of {video.pixels} is left out")
    elif video.alpha:
        lost.append(f"the transparency of {video.codec} is left out")
    if video.transfer in HDR:
        name = HDR[video.transfer]
        lost.append(
            f"HDR ({name}) is not tone-mapped: hdr='sdr' (--hdr sdr) does, or it looks washed out"
        )
    return lost


def _size(
    video: VideoStream, size: tuple[int, int] | None, notes: list[str]
) -> tuple[int, int] | None:
    """The size to scale to, or None. Raises ValueError for an odd or empty one."""
    if size is not None:
        if len(size) != 2 or any(side < 16 or side % 2 for side in size):
            raise ValueError(
                f"transcode: size must be two even numbers of at least 16, got {tuple(size)}"
            )
        return None if tuple(size) == video.size else (int(size[0]), int(size[1]))
    even = (max(2, video.size[0] // 2 * 2), max(2, video.size[1] // 2 * 2))
    if even != video.size:
        notes.append(f"odd size {video.size[0]}x{video.size[1]}: scaled to {even[0]}x{even[1]}")
        return even
    return None


def turned_verdict(path: str) -> Verdict:
    """What is said of a device's decoder for a video that is stored turned."""
    return Verdict(path, NOT_TRIED, "turned", TURNED)


def _stage(
    program: Ffmpeg, hw: str, kind: str, device: str, stage: str, path: str, notes: list[str]
) -> bool:
    """True if the path is proven. Else False under "auto", with a note; HardwareError otherwise."""
    verdict = proof(program, path, device)
    if verdict.status == PROVEN:
        return True
    if hw != "auto":
        raise HardwareError(stage, kind, verdict)
    notes.append(f"{stage} on the CPU: {path.partition('.')[2]}: {verdict.sentence}")
    return False


def plan_pipeline(
    program: Ffmpeg,
    video: VideoStream,
    *,
    hw: str,
    codec: str,
    size: tuple[int, int] | None = None,
    filters: str = "",
    decode: str | None = None,
    encode: str | None = None,
    device: str = "",
    file: Path | None = None,
    urls: bool = False,
) -> Pipeline:
    """Decide where each stage runs; see `transcode` for the arguments. With `file` its own first
    frames are tried on the device.

    Raises ValueError for an unknown name and HardwareError if a device that was asked for cannot
    do a stage.
    """
    if hw not in ("auto", "cpu", "opencl", *KINDS):
        raise ValueError(
            f"transcode: hw must be auto, cuda, vaapi, vulkan, opencl or cpu, got {hw!r}"
        )
    if codec not in SOFTWARE:
        raise ValueError(f"transcode: codec must be one of {', '.join(SOFTWARE)}, got {codec!r}")
    for name, value in (("decode", decode), ("encode", encode)):
        if value not in (None, "cpu", hw):
            raise ValueError(f"transcode: {name} must be 'cpu' or hw's {hw!r}, got {value!r}")
    notes = _lost(video)
    scale = _size(video, size, notes)
    if hw == "opencl":
        require_decoder(program, video)
        return _opencl(program, codec, scale, filters, device, notes)
    kind = hw if hw in KINDS else "cpu"
    if hw == "auto":
        kind = _choose(program, device, notes)
    if kind == "cpu":
        require_decoder(program, video)
        return _software(program, codec, scale, filters, notes)
    return _on_device(
        program,
        video,
        hw,
        kind,
        codec,
        scale,
        filters,
        device,
        decode == "cpu",
        encode == "cpu",
        notes,
        file,
        urls,
    )


def _choose(program: Ffmpeg, device: str, notes: list[str]) -> str:
    """The first kind of device that opens and returns frames unchanged; "cpu" if none does."""
    said = []
    for kind in AUTO_ORDER:
        verdict = proof(program, f"device.{kind}", device)
        if verdict.status == PROVEN:
            codecs = [f"encode.{codec}_{KINDS[kind].encoder}" for codec in ("h264", "hevc")]
            paths = [f"decode.h264_{KINDS[kind].decoder}", *codecs]
            if any(proof(program, path, device).status == PROVEN for path in paths):
                return kind
            said.append(f"{kind}: opens, but neither decodes nor encodes")
        else:
            said.append(f"{kind}: {verdict.sentence}")
    notes.append("all on the CPU: " + "; ".join(said))
    return "cpu"


def _software_encoder(program: Ffmpeg, codec: str) -> str:
    encoder = SOFTWARE[codec]
    if encoder not in program.encoders:
        raise FfmpegError(
            f"transcode: this FFmpeg has no {encoder} encoder: choose another codec, or build one "
            f"that has it (`ffmpeg-gpu-build build --with {COMPONENTS[codec]}`)",
            "not-built-in",
        )
    return encoder


def require_decoder(program: Ffmpeg, video: VideoStream) -> None:
    """Raise FfmpegError if this FFmpeg decodes the video on a GPU only, which it says as nothing
    but "your platform doesn't support hardware accelerated AV1 decoding".
    """
    if video.codec == "av1" and not program.decodes_on_cpu("av1"):
        raise no_cpu_decoder()


def require_codec(program: Ffmpeg, video: VideoStream) -> None:
    """Raise FfmpegError if this FFmpeg has no decoder of this codec at all: a whole file is never
    called damaged for that.
    """
    if video.codec not in program.decodable:
        raise FfmpegError(
            f"decode: this FFmpeg was built without a decoder of {video.codec}: take another, or "
            "build one that has it (`ffmpeg-gpu-build build --profile full`)",
            "not-built-in",
        )


def no_cpu_decoder() -> FfmpegError:
    """The error of an AV1 stream and an FFmpeg that reads it on a GPU only."""
    return FfmpegError(
        "decode: this FFmpeg decodes AV1 on a GPU only: take another, or build one that has a "
        "software decoder (`ffmpeg-gpu-build build --with dav1d`)",
        "no-cpu-decoder",
    )


def choose_encoder(program: Ffmpeg, codec: str, hw: str, device: str = "") -> str:
    """The encoder for frames that come from the CPU: hw is "cpu", "auto" or "cuda".

    Raises ValueError for an unknown name, HardwareError if hw="cuda" cannot be had.
    """
    if hw not in ("cpu", "auto", "cuda"):
        raise ValueError(f"write_frames: hw must be cpu, auto or cuda, got {hw!r}")
    if codec not in SOFTWARE:
        raise ValueError(f"write_frames: codec must be one of {', '.join(SOFTWARE)}, got {codec!r}")
    if hw != "cpu":
        verdict = proof(program, f"encode.{codec}_nvenc", device)
        if verdict.status == PROVEN:
            return f"{codec}_nvenc"
        if hw == "cuda":
            raise HardwareError("encode", hw, verdict)
    return _software_encoder(program, codec)


def _software(
    program: Ffmpeg, codec: str, scale: tuple[int, int] | None, filters: str, notes: list[str]
) -> Pipeline:
    chain = [
        f for f in (filters, f"scale={scale[0]}:{scale[1]}" if scale else "", "format=yuv420p") if f
    ]
    encoder = _software_encoder(program, codec)
    return Pipeline("cpu", "cpu", "cpu", encoder, (), ",".join(chain), tuple(notes))


def _opencl(
    program: Ffmpeg,
    codec: str,
    scale: tuple[int, int] | None,
    filters: str,
    device: str,
    notes: list[str],
) -> Pipeline:
    if not filters:
        raise ValueError(
            "transcode: hw='opencl' needs filters=..., for example 'unsharp_opencl=la=1.5': "
            "FFmpeg has "
            "no OpenCL decoder, encoder or scaler"
        )
    verdict = proof(program, "device.opencl", device)
    if verdict.status != PROVEN:
        raise HardwareError("filter", "opencl", verdict)
    resize = f"scale={scale[0]}:{scale[1]}," if scale else ""
    chain = f"{resize}format=yuv420p,hwupload,{filters},hwdownload,format=yuv420p"
    before = (
        "-init_hw_device",
        "opencl=d" + (f":{device}" if device else ""),
        "-filter_hw_device",
        "d",
    )
    encoder = _software_encoder(program, codec)
    return Pipeline("cpu", "opencl", "cpu", encoder, before, chain, tuple(notes))


def _on_device(
    program: Ffmpeg,
    video: VideoStream,
    hw: str,
    kind: str,
    codec: str,
    scale: tuple[int, int] | None,
    filters: str,
    device: str,
    decode_on_cpu: bool,
    encode_on_cpu: bool,
    notes: list[str],
    file: Path | None = None,
    urls: bool = False,
) -> Pipeline:
    """A pipeline on one device; CPU `filters` bring the frames down and up again."""
    spoken = KINDS[kind]
    source = NAMES_IN_PATHS.get(video.codec, video.codec)

    def proven(stage: str, path: str) -> bool:
        return _stage(program, hw, kind, device, stage, path, notes)

    path = f"decode.{source}_{spoken.decoder}"
    if video.turned and not decode_on_cpu:
        if hw != "auto":
            raise HardwareError("decode", kind, turned_verdict(path))
        notes.append(f"decode on the CPU: {TURNED}")
    decodes = not (decode_on_cpu or video.turned) and proven("decode", path)
    if decodes:
        plain = Verdict(path, PROVEN, "pixels", "")
        known = covered(plain, video)
        if file:
            known = tried(program, file, video, kind, device, urls)
        decodes = known.status == PROVEN
        if not decodes and hw != "auto":
            raise HardwareError("decode", kind, known)
        if not decodes:
            notes.append(f"decode on the CPU: {known.sentence}")
    if not decodes:
        require_decoder(program, video)
    encodes = not encode_on_cpu and proven("encode", f"encode.{codec}_{spoken.encoder}")
    converts = encodes and (video.depth > 8 or not decodes)
    wants_scaler = bool(scale) or (decodes and converts)
    scales = wants_scaler and (decodes or encodes) and proven("scale", f"filter.{spoken.scale}")
    before = [
        "-init_hw_device",
        f"{kind}=d" + (f":{device}" if device else ""),
        "-filter_hw_device",
        "d",
    ]
    if decodes:
        before += ["-hwaccel", kind, "-hwaccel_device", "d", "-hwaccel_output_format", kind]
    chain: list[str] = []
    up = decodes  # where the frames are: True on the device

    def move(to_device: bool) -> None:
        nonlocal up
        if to_device and not up:
            chain.extend(["format=nv12", "hwupload"])
        elif up and not to_device:
            deep = video.depth > 8 and not any(c.startswith("scale_") for c in chain)
            chain.extend(["hwdownload", "format=p010le" if deep else "format=nv12"])
        up = to_device

    if filters:
        move(False)
        chain.append(filters)
    if scales:
        move(True)
        box = f"w={scale[0]}:h={scale[1]}:" if scale else ""
        chain.append(f"{spoken.scale}={box}format=nv12")
    elif scale:
        move(False)
        chain.append(f"scale={scale[0]}:{scale[1]}")
    if encodes:
        move(True)
        encoder = f"{codec}_{spoken.encoder}"
    else:
        move(False)
        chain.append("format=yuv420p")
        encoder = _software_encoder(program, codec)
    where = {True: kind, False: "cpu"}
    return Pipeline(
        where[decodes], where[scales], where[encodes], encoder, tuple(before), ",".join(chain),
        tuple(notes),
    )  # fmt: skip
