"""Judge every hardware path of an FFmpeg: proven, absent, broken or not tried."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import proc
from ..build import binary, description
from ..ffmpeg import Ffmpeg
from . import audio_checks
from .checks import (
    CODEC_OF,
    DECODERS,
    Machine,
    check_decoder,
    check_device,
    check_encoder,
    check_filter,
)
from .filter_checks import device_of
from .verdict import ABSENT, BROKEN, NOT_TRIED, PROVEN, Verdict, exit_code

DEVICES = ("cuda", "opencl", "vulkan", "vaapi", "qsv")
SOFTWARE = (*CODEC_OF, *audio_checks.ENCODERS)
# hwaccel -> its name inside libavcodec, and the codecs that a transcode meets
HWACCELS = {
    "cuda": ("nvdec", ("h264", "hevc", "av1", "vp9", "mpeg2", "mpeg4", "mjpeg")),
    "vulkan": ("vulkan", ("h264", "hevc", "av1")),
    "vaapi": ("vaapi", ("h264", "hevc", "av1", "vp9", "mpeg2")),
}
# Parts that are no path of their own: they open devices, or make frames on one.
NO_PATH = ("hwupload_cuda",)


@dataclass(frozen=True)
class Facts:
    """What the binaries say without being run on any device."""

    path: str
    version: str
    licence: str
    nvenc_driver_floor: str | None
    ptx: dict[str, Any] | None
    runpaths: dict[str, list[str]]
    unsafe_runpaths: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """All that `verify` found. `gpu` is what the NVIDIA driver answered."""

    facts: Facts
    gpu: dict[str, Any]
    verdicts: tuple[Verdict, ...]
    required: tuple[str, ...] = field(default=())

    @property
    def exit_code(self) -> int:
        """0, 1 (something is broken) or 3 (something required is not proven)."""
        return exit_code(self.verdicts, self.required)

    def counts(self) -> dict[str, int]:
        """Number of paths by verdict."""
        found = dict.fromkeys((PROVEN, ABSENT, BROKEN, NOT_TRIED), 0)
        for verdict in self.verdicts:
            found[verdict.status] += 1
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "facts": vars(self.facts),
            "gpu": self.gpu,
            "machine": platform.platform(),
            "counts": self.counts(),
            "exit_code": self.exit_code,
            "verdicts": [v.as_dict() for v in self.verdicts],
        }


def floor_of(ffmpeg: Ffmpeg, codec: Path) -> str | None:
    """NVENC's driver floor from the file that holds it; "unknown" where the program lists NVENC and
    the file, a wrapper script say, does not have it.
    """
    floor = binary.nvenc_driver_floor(codec)
    listed = any(name.endswith("_nvenc") for name in ffmpeg.encoders)
    return floor or ("unknown" if listed else None)


def facts(ffmpeg: Ffmpeg) -> Facts:
    """Read version, licence and floors of an FFmpeg and of the libraries it loads."""
    libraries = binary.libraries(ffmpeg.path, dict(ffmpeg.env))
    codec = libraries.get("libavcodec", ffmpeg.path)
    modules = binary.ptx_modules(libraries.get("libavfilter", ffmpeg.path))
    floor = binary.ptx_floor(modules)
    ptx = None
    if floor:
        ptx = {"modules": len(modules), "version": floor.version, "target": floor.target}
    runpaths: dict[str, list[str]] = {}
    unsafe = []
    for file in (ffmpeg.path, *libraries.values()):
        section = binary.dynamic(file)
        if section and section.runpath:
            runpaths[file.name] = list(section.runpath)
            if not section.runpath_is_safe:
                unsafe.append(file.name)
    return Facts(
        path=str(ffmpeg.path),
        version=ffmpeg.version,
        licence=ffmpeg.licence,
        nvenc_driver_floor=floor_of(ffmpeg, codec),
        ptx=ptx,
        runpaths=runpaths,
        unsafe_runpaths=tuple(unsafe),
    )


def ask_nvidia(env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the NVIDIA driver answers, asked in a process of its own; {"error": ...} if that
    dies.
    """
    probe = Path(__file__).with_name("nvidia_probe.py")
    done = proc.run([sys.executable, "-I", probe], env=env, timeout=60)
    try:
        return json.loads(done.out)
    except ValueError:
        return {"error": f"the driver ended the probe: exit code {done.rc}", "log": done.err[-500:]}


def paths_of(ffmpeg: Ffmpeg) -> list[str]:
    """The ids of all paths that this FFmpeg lists or contains, in the order they are judged."""
    found = [f"device.{kind}" for kind in DEVICES if kind in ffmpeg.hwaccels]
    found += [f"encode.{name}" for name in SOFTWARE if name in ffmpeg.encoders]
    encoders = sorted(n for n in ffmpeg.encoders if n.endswith(description.DEVICE_SUFFIXES))
    found += [f"encode.{n}" for n in encoders if n.startswith(("h264", "hevc", "av1", "vp9"))]
    inside = _libavcodec(ffmpeg).read_bytes()
    for kind, (suffix, codecs) in HWACCELS.items():
        if kind in ffmpeg.hwaccels:
            names = [f"{codec}_{suffix}" for codec in codecs]
            found += [f"decode.{n}" for n in names if n.encode() + b"\0" in inside]
    found += [f"decode.{n}" for n in sorted(ffmpeg.decoders) if n.endswith(("_cuvid", "_qsv"))]
    found += [f"decode.{name}" for name in DECODERS if name in ffmpeg.decoders]
    filters = sorted(n for n in ffmpeg.filters if device_of(n) not in ("cpu", "qsv"))
    return found + [f"filter.{n}" for n in filters]


def _libavcodec(ffmpeg: Ffmpeg) -> Path:
    """The file that holds the names of the hwaccels, which no option lists."""
    return binary.libraries(ffmpeg.path, dict(ffmpeg.env)).get("libavcodec", ffmpeg.path)


def _judge(machine: Machine, path: str, devices: Mapping[str, Verdict]) -> Verdict:
    """One path; a device that did not open answers for all that runs on it."""
    kind, _, name = path.partition(".")
    device = device_of(name)
    opened = devices.get(device)
    loads_by_itself = kind == "encode" and device in ("cuda", "qsv")
    if opened and opened.status != PROVEN and not loads_by_itself:
        return Verdict(path, opened.status, opened.code, opened.sentence, opened.cure)
    if kind == "encode" and name in audio_checks.ENCODERS:
        return audio_checks.check_audio_encoder(machine, name)
    judge = {"encode": check_encoder, "decode": check_decoder, "filter": check_filter}[kind]
    return judge(machine, name)


def verify(
    ffmpeg: str | Path | Ffmpeg | None = None,
    *,
    only: Sequence[str] = (),
    required: Sequence[str] = (),
    expected: Iterable[str] = (),
    devices: Mapping[str, str] | None = None,
    jobs: int = 2,
    progress: Callable[[int, int, Verdict], None] | None = None,
) -> Report:
    """Judge an FFmpeg, ours or any other.

    `only` and `required` are path ids or prefixes ("filter.*"); `expected` are ids that must be in
    the build (a plan's `verification()`): one that is not there is broken, code "dropped", one that
    is there and that nothing here can judge is not tried, code "no-judge".
    `devices` names a device by kind ({"cuda": "1", "vaapi": "/dev/dri/renderD129"}). Raises
    FfmpegError if there is no ffmpeg or it does not start.
    """
    program = Ffmpeg.at(ffmpeg)
    read = facts(program)
    machine = Machine(program, dict(devices or {}), ask_nvidia(program.env))
    expected = list(expected)
    listed = paths_of(program)
    paths = list(dict.fromkeys([*listed, *expected]))
    if only:
        paths = [p for p in paths if any(_matches(p, wanted) for wanted in only)]
    present = set(listed)
    opened: dict[str, Verdict] = {}
    verdicts: dict[str, Verdict] = {}

    def note(verdict: Verdict) -> None:
        verdicts[verdict.path] = verdict
        if progress:
            progress(len(verdicts), len(paths), verdict)

    needed = {device_of(p) for p in paths} | {p.removeprefix("device.") for p in paths}
    for kind in (d for d in DEVICES if d in needed and f"device.{d}" in present):
        opened[kind] = check_device(machine, kind)
        if f"device.{kind}" in paths:
            note(opened[kind])
    rest = [p for p in paths if p not in verdicts]

    def judge(path: str) -> Verdict:
        if path not in present and _lists(program, path):
            text = "it is in this FFmpeg, but no way is known to judge it"
            return Verdict(path, NOT_TRIED, "no-judge", text)
        if path not in present:
            text = "asked for, but not in this FFmpeg"
            return Verdict(path, BROKEN, "dropped", text, "look at configure's warnings")
        return _judge(machine, path, opened)

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for verdict in pool.map(judge, rest):
            note(verdict)
    ordered = tuple(verdicts[p] for p in paths)
    return Report(read, machine.nvidia, ordered, tuple(required))


def _lists(ffmpeg: Ffmpeg, path: str) -> bool:
    """Whether this FFmpeg has the codec, hwaccel or filter of a path, judged or not."""
    kind, _, name = path.partition(".")
    listed = {"encode": ffmpeg.encoders, "decode": ffmpeg.decoders, "filter": ffmpeg.filters}
    if name in listed.get(kind, ()):
        return True
    hwaccel = kind == "decode" and name.rpartition("_")[2] in {h for h, _ in HWACCELS.values()}
    return hwaccel and name.encode() + b"\0" in _libavcodec(ffmpeg).read_bytes()


def _matches(path: str, wanted: str) -> bool:
    return re.fullmatch(re.escape(wanted).replace(r"\*", ".*"), path) is not None
