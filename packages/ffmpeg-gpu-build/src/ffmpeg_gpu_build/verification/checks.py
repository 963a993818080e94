"""The judges: one device, one filter, one decoder or one encoder of an FFmpeg, by its pixels.

Each runs the real program on frames made here (or on the clips in data/clips), compares what comes
out with the CPU's result, and never takes an exit code for an answer.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..build import description
from ..doctor.failures import diagnose, last_lines
from ..ffmpeg import Ffmpeg, file_argument
from ..proc import Finished
from . import gpus, pixels
from .filter_checks import CHECKS, FilterCheck, device_of
from .verdict import ABSENT, BROKEN, NOT_TRIED, PROVEN, Verdict

CLIPS = description.DATA / "clips"
# Codec in a path's name -> the clips that show it.
CLIPS_OF = {"hevc": ("hevc", "hevc10")}
# Software decoder that comes from a library -> its codec.
DECODERS = {"libdav1d": "av1"}
# Software encoder -> its codec; those of a device carry it in their names.
CODEC_OF = {"libx264": "h264", "libx265": "hevc", "libsvtav1": "av1", "libvpx-vp9": "vp9"}
ENCODE_FRAMES, LOWEST_PSNR, FLAT = 24, 30.0, 8
RAW_IN = ("-f", "rawvideo", "-pixel_format", "yuv420p", "-framerate", "25", "-video_size")
RAW_OUT = ("-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:1")
QUIET = ("-nostdin", "-nostats", "-loglevel", "verbose")


@dataclass(frozen=True)
class Machine:
    """Where the checks run: the program, the device names and what the NVIDIA driver answered."""

    ffmpeg: Ffmpeg
    devices: dict[str, str]
    nvidia: dict[str, Any]

    def open_device(self, kind: str) -> list[str]:
        """Arguments that open a device of this kind under the name d."""
        name = self.devices.get(kind, "")
        return ["-init_hw_device", f"{kind}=d" + (f":{name}" if name else "")]

    @property
    def gpu(self) -> dict[str, Any] | None:
        """The NVIDIA GPU that is used, as `nvidia_probe` describes it, or None."""
        index = int(self.devices.get("cuda") or 0)
        found = self.nvidia.get("devices") or []
        return found[index] if index < len(found) else None


@cache
def clips() -> dict[str, dict[str, Any]]:
    """Clip name -> pixels, frames, md5 (data/clips/clips.toml)."""
    return description._load(CLIPS / "clips.toml")


@cache
def source(frames: int) -> bytes:
    """The test picture as raw bytes."""
    return pixels.pattern(frames).tobytes()


def failed(path: str, done: Finished, status: str = BROKEN) -> Verdict:
    """The verdict on a run that ended with an error: the known cause, else its last lines."""
    found = diagnose(done.err)
    if found:
        return Verdict(
            path,
            found.status,
            found.code,
            found.sentence,
            found.cure,
            {"line": found.line},
            done.argv,
        )
    if done.rc < 0:
        text = f"ffmpeg died of signal {-done.rc}"
        return Verdict(path, BROKEN, "crash", text, "", {"log": last_lines(done.err)}, done.argv)
    code = "timeout" if done.rc == 124 else "unknown"
    return Verdict(
        path, status, code, f"exit code {done.rc}: {last_lines(done.err, 1)}", "",
        {"log": last_lines(done.err)}, done.argv,
    )  # fmt: skip


def check_device(machine: Machine, kind: str) -> Verdict:
    """Open the device, take frames up and down and compare them: exact or broken."""
    path = f"device.{kind}"
    if kind not in machine.ffmpeg.hwaccels:
        return Verdict(path, ABSENT, "not-built-in", f"this FFmpeg was built without {kind}")
    check = FilterCheck("null", "null", pixels="nv12" if kind in ("vaapi", "qsv") else "yuv420p")
    done = _run_filter(machine, check, kind)
    if not done.ok or not done.out:
        return failed(path, done)
    gap = _difference(done.out, source(pixels.FRAMES))
    if gap is None or gap.max:
        return Verdict(
            path, BROKEN, "wrong-pixels", "frames come back from the device changed", "",
            {"difference": _numbers(gap)}, done.argv,
        )  # fmt: skip
    return Verdict(
        path,
        PROVEN,
        "round-trip",
        "opened; frames come back unchanged",
        "",
        _numbers(gap),
        done.argv,
    )


def _numbers(gap: pixels.Difference | None) -> dict[str, Any]:
    if gap is None:
        return {"frames": "of another size or number"}
    return {"mean": round(gap.mean, 4), "max": gap.max, "distinct": gap.distinct}


def _difference(
    got: bytes, want: bytes, size: tuple[int, int] = (pixels.WIDTH, pixels.HEIGHT)
) -> pixels.Difference | None:
    return pixels.compare(got, want, size[0] * size[1]) if len(got) == len(want) else None


def _graph(check: FilterCheck, device: str | None) -> str:
    """The filter graph, on the device or (None) on the CPU."""
    chain = check.cpu if device is None else check.gpu
    up = ""
    if device is not None:
        up = f"format={check.pixels}"
        up += "" if check.filter == "hwupload_cuda" else ",hwupload"
    down = "" if device is None else f",hwdownload,format={check.pixels}"
    down += f",{check.after or 'null'},format=yuv420p"
    before = check.before or "null"
    if not check.second:
        return f"[0:v]{before},{up or 'null'},{chain}{down}[o]"
    return (
        f"[0:v]{before},split[m][n];[m]{up or 'null'}[a];[n]{check.second},{up or 'null'}[b];"
        f"[a][b]{chain}{down}[o]"
    )


def _run_filter(machine: Machine, check: FilterCheck, device: str | None) -> Finished:
    opening: list[str] = []
    if device is not None:
        opening = [*machine.open_device(device), "-filter_hw_device", "d"]
    return machine.ffmpeg.run(
        *QUIET, *opening, *RAW_IN, f"{pixels.WIDTH}x{pixels.HEIGHT}", "-i", "pipe:0",
        "-filter_complex", _graph(check, device), "-map", "[o]", *RAW_OUT,
        stdin=source(pixels.FRAMES), timeout=90,
    )  # fmt: skip


def check_filter(machine: Machine, name: str) -> Verdict:
    """Run a GPU filter and its CPU twin on the same frames and compare all planes."""
    path = f"filter.{name}"
    check = CHECKS.get(name)
    if check is None:
        return Verdict(path, NOT_TRIED, "no-twin", "no CPU filter is known to compare it with")
    want = _run_filter(machine, check, None)
    if not want.ok:
        found = diagnose(want.err)
        text = found.sentence if found else last_lines(want.err, 1)
        return Verdict(
            path, NOT_TRIED, "no-twin", f"the CPU filter to compare with does not run: {text}"
        )
    done = _run_filter(machine, check, device_of(name))
    if not done.ok:
        return failed(path, done)
    gap = _difference(done.out, want.out, check.size)
    numbers = {**_numbers(gap), "allowed mean": check.mean}
    if gap is None:
        text = f"{len(done.out)} bytes came out, the CPU filter makes {len(want.out)}"
        return Verdict(path, BROKEN, "wrong-size", text, "", numbers, done.argv)
    if gap.distinct < FLAT:
        text = f"writes {gap.distinct} grey level(s) with exit code 0: a flat picture"
        return Verdict(path, BROKEN, "flat-picture", text, _driver_cure(name), numbers, done.argv)
    shift = _shift(done.out, want.out, check.size) if gap.mean > check.mean else None
    if shift:
        text = f"the picture of the CPU filter, {shift} pixel aside, with exit code 0"
        return Verdict(path, BROKEN, "shifted", text, _SHIFT_CURE, numbers, done.argv)
    if gap.mean > check.mean:
        text = (
            f"differs from {check.cpu.partition('=')[0]} by {gap.mean:.2f} grey levels, exit code 0"
        )
        return Verdict(path, BROKEN, "wrong-pixels", text, _driver_cure(name), numbers, done.argv)
    text = "equal to the CPU filter" if gap.max == 0 else f"within {gap.mean:.2f} of the CPU filter"
    return Verdict(path, PROVEN, "pixels", text, "", numbers, done.argv)


_SHIFT_CURE = (
    "FFmpeg's flip and transpose shaders count from size where size - 1 is meant, on every GPU: "
    "use the filter of the CPU, OpenCL or CUDA"
)


def _shift(got: bytes, want: bytes, size: tuple[int, int]) -> str | None:
    """Which way `got` is `want` moved by one pixel, by the first luma plane; None if it is not."""
    width, height = size
    a, b = (np.frombuffer(x, np.uint8, width * height).reshape(height, width) for x in (got, want))
    near, far, whole = slice(1, None), slice(None, -1), slice(None)
    for name, (y, x) in {"1 right": (0, 1), "1 down": (1, 0), "1 right and down": (1, 1)}.items():
        to = (near if y else whole, near if x else whole)
        back = (far if y else whole, far if x else whole)
        if np.array_equal(a[to], b[back]):
            return name
    return None


def _driver_cure(name: str) -> str:
    if device_of(name) == "vulkan":
        return "update the Vulkan driver; Mesa's software driver is known to do this"
    return "update the driver; report it with the command"


def _decode_arguments(machine: Machine, name: str, clip: str) -> list[str]:
    kind, deep = device_of(name), clips()[clip]["pixels"].endswith("10le")
    out = clips()[clip]["pixels"]
    if name in DECODERS:
        return ["-c:v", name, "-i", file_argument(CLIPS / f"{clip}.mkv"), "-pix_fmt", out]
    if name.endswith(("_cuvid", "_qsv")):
        index = machine.devices.get("cuda") if kind == "cuda" else None
        which = ["-gpu", index] if index else []
        return ["-c:v", name, *which, "-i", file_argument(CLIPS / f"{clip}.mkv"), "-pix_fmt", out]
    download = "p010le" if deep else "nv12"
    return [
        *machine.open_device(kind), "-hwaccel", kind, "-hwaccel_device", "d",
        "-hwaccel_output_format", kind, "-i", file_argument(CLIPS / f"{clip}.mkv"),
        "-vf", f"hwdownload,format={download},format={out}", "-pix_fmt", out,
    ]  # fmt: skip


def _no_decoder(machine: Machine, path: str, codec: str) -> Verdict | None:
    """What the driver itself says of a codec, before anything is run."""
    gpu = machine.gpu
    if gpu is None or "decoders" not in gpu or f"{codec}-8" in gpu["decoders"]:
        return None
    text = f"{gpu['name']} has no decoder for {codec}"
    known = gpus.generation(*gpu["compute"])
    if known:
        text += f" ({known.name})" + (" though its kind should" if codec in known.decodes else "")
    cure = "a MIG slice may have no decoder" if not gpu["decoders"] else "decode on the CPU"
    return Verdict(path, ABSENT, "gpu-cannot-decode", text, cure, {"decoders": gpu["decoders"]})


def check_decoder(machine: Machine, name: str) -> Verdict:
    """Decode our clips with frames forced onto the device; compare them with the CPU's frames.

    A software decoder from a library is held to the same frames.
    """
    path, codec = f"decode.{name}", DECODERS.get(name) or name.rpartition("_")[0]
    wanted = CLIPS_OF.get(codec, (codec,))
    if any(clip not in clips() for clip in wanted):
        return Verdict(path, NOT_TRIED, "no-clip", f"no {codec} clip to try it on")
    if device_of(name) == "cuda":
        missing = _no_decoder(machine, path, codec)
        if missing:
            return missing
    numbers: dict[str, Any] = {}
    for clip in wanted:
        fact = clips()[clip]
        done = machine.ffmpeg.run(
            *QUIET, *_decode_arguments(machine, name, clip), "-f", "rawvideo", "pipe:1", timeout=90
        )
        if not done.ok:
            return failed(path, done)
        verdict = _judge_frames(machine, path, clip, fact, done, numbers)
        if verdict:
            return verdict
    return Verdict(
        path, PROVEN, "pixels", f"frames equal the CPU's: {', '.join(wanted)}", "", numbers
    )


def _judge_frames(
    machine: Machine,
    path: str,
    clip: str,
    fact: dict[str, Any],
    done: Finished,
    numbers: dict[str, Any],
) -> Verdict | None:
    """None if the decoded frames are right; notes what was measured in `numbers`."""
    if hashlib.md5(done.out, usedforsecurity=False).hexdigest() == fact["md5"]:
        numbers[clip] = "equal"
        return None
    cpu = machine.ffmpeg.run(
        *QUIET, "-i", file_argument(CLIPS / f"{clip}.mkv"), "-pix_fmt", fact["pixels"],
        "-f", "rawvideo", "pipe:1",
    )  # fmt: skip
    size = 1 if fact["pixels"] == "yuv420p" else 2
    if not cpu.ok or len(done.out) != len(cpu.out):
        got = len(done.out) / (size * pixels.frame_bytes(pixels.WIDTH, pixels.HEIGHT))
        text = f"{clip}: {got:g} frames came out, {fact['frames']} are in it"
        return Verdict(path, BROKEN, "wrong-count", text, "", {clip: got}, done.argv)
    kind = np.uint8 if size == 1 else np.dtype("<u2")
    gap = np.abs(
        np.frombuffer(done.out, kind).astype(np.int32)
        - np.frombuffer(cpu.out, kind).astype(np.int32)
    )
    numbers[clip] = {"mean": round(float(gap.mean()), 4), "max": int(gap.max(initial=0))}
    if gap.mean() <= (0.0 if fact.get("exact", True) else 0.5):
        return None
    text = f"{clip}: frames differ from the CPU's by {gap.mean():.2f} with exit code 0"
    return Verdict(path, BROKEN, "wrong-pixels", text, "update the driver", numbers, done.argv)


def same_frames(path: str, got: bytes, want: bytes, *, exact: bool, deep: bool) -> Verdict:
    """The verdict on frames of a device beside the CPU's; `deep` samples have 16 bits. Codecs whose
    inverse transform is not exact (MPEG-2, MPEG-4) may differ by half a level in the mean.
    """
    if len(got) != len(want):
        text = f"{len(got)} bytes of frames came out, the CPU makes {len(want)}"
        return Verdict(path, BROKEN, "wrong-count", text)
    kind = np.dtype("<u2") if deep else np.dtype(np.uint8)
    a, b = (np.frombuffer(x, kind).astype(np.int32) for x in (got, want))
    mean = float(np.abs(a - b).mean()) if a.size else 0.0
    if mean > (0.0 if exact else 0.5):
        text = f"its frames differ from the CPU's by {mean:.2f} with exit code 0"
        return Verdict(path, BROKEN, "wrong-pixels", text, "", {"mean": mean})
    return Verdict(path, PROVEN, "pixels", "its first frames equal the CPU's", "", {"mean": mean})


def _no_encoder(machine: Machine, path: str, codec: str) -> Verdict | None:
    """What the table of GPU generations says of a codec."""
    gpu = machine.gpu
    known = gpus.generation(*gpu["compute"]) if gpu else None
    if gpu is None or known is None or codec in known.encodes:
        return None
    what = "no video encoder" if not known.encodes else f"no {codec} encoder"
    text = f"{gpu['name']} has {what} ({known.name})"
    return Verdict(path, ABSENT, "gpu-has-no-encoder", text, "encode on the CPU or on another GPU")


def _refused(machine: Machine, path: str, codec: str, verdict: Verdict) -> Verdict:
    """A refused encode, read again with what is known of the GPU."""
    if verdict.code != "gpu-has-no-encoder":
        return verdict
    gpu = machine.gpu
    known = gpus.generation(*gpu["compute"]) if gpu else None
    if known is None or gpu is None:
        return verdict
    if codec not in known.encodes:
        return _no_encoder(machine, path, codec) or verdict
    text = f"NVENC calls {gpu['name']} an unsupported device, though {known.name} encodes {codec}"
    cure = "a MIG slice has no encoder, and some boards (GT 1030, MX) were made without one"
    return replace(verdict, status=BROKEN, code="encoder-missing", sentence=text, cure=cure)


def check_encoder(machine: Machine, name: str) -> Verdict:
    """Encode frames, decode them on the CPU: all must be there, and near the originals."""
    path, kind = f"encode.{name}", device_of(name)
    before = []
    if kind in ("vaapi", "vulkan"):
        before = [*machine.open_device(kind), "-filter_hw_device", "d"]
    chain = (
        ["-vf", "format=nv12,hwupload"] if kind in ("vaapi", "vulkan") else ["-pix_fmt", "yuv420p"]
    )
    if kind == "cuda" and machine.devices.get("cuda"):
        chain += ["-gpu", machine.devices["cuda"]]
    size = f"{pixels.WIDTH}x{pixels.HEIGHT}"
    with tempfile.TemporaryDirectory(prefix="ffmpeg-gpu-build-") as folder:
        clip = Path(folder, "clip.mkv")
        done = machine.ffmpeg.run(
            *QUIET, *before, *RAW_IN, size, "-i", "pipe:0", *chain, "-c:v", name, "-b:v", "2M",
            file_argument(clip), stdin=source(ENCODE_FRAMES), timeout=90,
        )  # fmt: skip
        if not done.ok:
            return _refused(machine, path, name.partition("_")[0], failed(path, done))
        back = machine.ffmpeg.run(
            *QUIET, "-i", file_argument(clip), *machine.ffmpeg.every_frame, *RAW_OUT, timeout=90
        )
    if not back.ok:
        return undecoded(machine, path, CODEC_OF.get(name) or name.partition("_")[0], back)
    return _judge_encoded(path, done, back.out)


def undecoded(machine: Machine, path: str, codec: str, done: Finished) -> Verdict:
    """The verdict on something encoded that this FFmpeg did not decode again on the CPU."""
    log = {"log": last_lines(done.err)}
    if not machine.ffmpeg.decodes_on_cpu(codec):
        text = f"it encodes, but this FFmpeg has no CPU decoder of {codec} to look at the result"
        return Verdict(path, NOT_TRIED, "no-cpu-decoder", text, "", log, done.argv)
    text = f"what it encoded is not decoded: exit code {done.rc}: {last_lines(done.err, 1)}"
    return Verdict(path, BROKEN, "undecodable", text, "update the driver", log, done.argv)


def _judge_encoded(path: str, done: Finished, decoded: bytes) -> Verdict:
    one = pixels.frame_bytes(pixels.WIDTH, pixels.HEIGHT)
    count = len(decoded) / one
    if count != ENCODE_FRAMES:
        text = f"{ENCODE_FRAMES} frames went in, {count:g} came out"
        return Verdict(path, BROKEN, "wrong-count", text, "", {"frames": count}, done.argv)
    quality = pixels.psnr(
        np.frombuffer(decoded, np.uint8), np.frombuffer(source(ENCODE_FRAMES), np.uint8)
    )
    numbers = {"frames": int(count), "psnr": round(min(quality, 99.0), 2)}
    if quality < LOWEST_PSNR:
        text = f"the picture is {quality:.1f} dB from the original with exit code 0"
        return Verdict(path, BROKEN, "wrong-pixels", text, "update the driver", numbers, done.argv)
    text = f"{ENCODE_FRAMES} of {ENCODE_FRAMES} frames, {numbers['psnr']} dB"
    return Verdict(path, PROVEN, "pixels", text, "", numbers, done.argv)
