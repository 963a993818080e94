"""An FFmpeg on this machine: where it is, what it was built with, what it lists."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from . import kept, proc

# Codec -> the decoders that read it without a device, where that is not just the one of its name.
CPU_DECODERS = {
    "av1": frozenset({"libdav1d", "libaom-av1", "libgav1"}),  # "av1" itself needs a GPU
    "vp9": frozenset({"vp9", "libvpx-vp9"}),
    "opus": frozenset({"opus", "libopus"}),
    "mp3": frozenset({"mp3", "mp3float"}),
    "aac": frozenset({"aac", "libfdk_aac"}),
}


class FfmpegError(RuntimeError):
    """FFmpeg is missing or ended with an error; `code` names the cause where it was recognised."""

    def __init__(self, message: str, code: str = "unknown", log: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.log = log


def find(path: str | os.PathLike[str] | None = None) -> Path:
    """The ffmpeg to use: `path`, else $FFMPEG, else the first on PATH, else the static program that
    the wheel of imageio-ffmpeg carries, if that is installed (extras `demo` and `test`).

    A folder stands for its bin/ffmpeg. Raises FfmpegError where there is none.
    """
    given = os.fspath(path) if path is not None else os.environ.get("FFMPEG")
    wanted = given or "ffmpeg"
    if given and Path(given).is_dir():  # never a folder that merely lies here under that name
        inside = [Path(wanted) / "bin" / "ffmpeg", Path(wanted) / "ffmpeg"]
        wanted = str(next((p for p in inside if p.is_file()), inside[0]))
    found = shutil.which(wanted) or (None if given else _embedded())
    if not found:
        raise FfmpegError(
            f"find: no ffmpeg at {wanted!r}; install one, build one (`ffmpeg-gpu-build build`), "
            "name one with --ffmpeg or $FFMPEG, or `pip install imageio-ffmpeg`, which carries one",
            "no-ffmpeg",
        )
    return Path(found)


def _embedded() -> str | None:
    """The program inside the wheel of imageio-ffmpeg; None without it, or without a program in
    it.
    """
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:  # a wheel for another platform has none
        return None


@dataclass
class Ffmpeg:
    """One ffmpeg program. `env` is laid over the environment of every run (say LD_LIBRARY_PATH)."""

    path: Path
    env: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, path: str | os.PathLike[str] | Ffmpeg | None = None, **env: str) -> Ffmpeg:
        """From a path, a folder, None (see `find`) or another Ffmpeg."""
        if isinstance(path, Ffmpeg):
            return cls(path.path, {**path.env, **env}) if env else path
        return cls(find(path), env)

    def run(
        self, *arguments: str | os.PathLike[str], timeout: float = 120.0, stdin: bytes | None = None
    ) -> proc.Finished:
        """Run with these arguments behind `-hide_banner`; see `proc.run`."""
        return proc.run(
            [self.path, "-hide_banner", *arguments], timeout=timeout, stdin=stdin, env=self.env
        )

    @property
    def probe_path(self) -> Path | None:
        """The ffprobe beside this ffmpeg, else the first on PATH, or None: imageio-ffmpeg has
        none.
        """
        beside = self.path.with_name(self.path.name.replace("ffmpeg", "ffprobe"))
        found = str(beside) if beside.is_file() else shutil.which("ffprobe")
        return Path(found) if found else None

    @cached_property
    def banner(self) -> str:
        """`ffmpeg -version`. Raises FfmpegError if the program does not start."""
        return _banner(self.path, self.path.stat().st_mtime_ns, self._loader)

    @property
    def version(self) -> str:
        """As it says itself, for example "5.1.9-0+deb12u1"."""
        match = re.match(r"ffmpeg version (\S+)", self.banner)
        return match[1] if match else "unknown"

    @property
    def every_frame(self) -> list[str]:
        """Output arguments that neither drop nor repeat frames to fit a rate."""
        return self.frame_times("passthrough")

    def frame_times(self, mode: str) -> list[str]:
        """Output arguments that choose how frames are put into time ("passthrough", "vfr")."""
        numbers = re.match(r"n?(\d+)\.(\d+)", self.version)
        old = numbers is not None and (int(numbers[1]), int(numbers[2])) < (5, 1)
        return ["-vsync" if old else "-fps_mode", mode]

    @property
    def configuration(self) -> list[str]:
        """The arguments of its configure."""
        import shlex

        match = re.search(r"^\s*configuration: (.*)$", self.banner, re.M)
        try:
            return shlex.split(match[1]) if match else []
        except ValueError:
            return match[1].split() if match else []

    @property
    def licence(self) -> str:
        """What its configuration makes of it, in FFmpeg's words."""
        arguments = self.configuration
        if "--enable-nonfree" in arguments:
            return "nonfree and unredistributable"
        three = "3" if "--enable-version3" in arguments else None
        if "--enable-gpl" in arguments:
            return f"GPL version {three or '2'} or later"
        return f"LGPL version {three or '2.1'} or later"

    def _names(self, option: str, pattern: str) -> frozenset[str]:
        text = _printed(self.path, self.path.stat().st_mtime_ns, self._loader, option)
        body = text.partition("---")[2] or text
        return frozenset(re.findall(pattern, body, re.M))

    @property
    def _loader(self) -> tuple[tuple[str, str], ...]:
        """The part of the environment that decides which libraries are loaded."""
        return tuple(sorted((k, v) for k, v in self.env.items() if k.startswith("LD_")))

    @cached_property
    def encoders(self) -> frozenset[str]:
        return self._names("-encoders", r"^ [VAS][A-Z.]{5} (\S+)")

    @cached_property
    def decoders(self) -> frozenset[str]:
        return self._names("-decoders", r"^ [VAS][A-Z.]{5} (\S+)")

    @cached_property
    def decodable(self) -> frozenset[str]:
        """Codecs, by FFmpeg's names ("dts", not its decoder "dca"), that it decodes."""
        return self._names("-codecs", r"^ D[E.][VASDT]...? (\S+)") or self.decoders

    def decodes_on_cpu(self, codec: str) -> bool:
        """Whether it has a decoder for a codec ("h264", "av1") that needs no device."""
        return bool(CPU_DECODERS.get(codec, {codec}) & self.decoders)

    @cached_property
    def demuxers(self) -> frozenset[str]:
        """Containers that it reads, each by all its names ("mov", "mp4", ...)."""
        lines = self._names("-demuxers", r"^ D[ d]* +(\S+)")
        return frozenset(name for line in lines for name in line.split(","))

    @cached_property
    def filters(self) -> frozenset[str]:
        return self._names("-filters", r"^ [A-Z.]{2,3} (\S+) +\S+->\S+")

    @cached_property
    def hwaccels(self) -> frozenset[str]:
        return self._names("-hwaccels", r"^([a-z0-9]+)\s*$")


@lru_cache(maxsize=64)
def _printed(path: Path, stamp: int, loader: tuple[tuple[str, str], ...], option: str) -> str:
    """What the program prints for -encoders and the like: the same for one file on one system, and
    kept for the next process.
    """

    def ask() -> str:
        done = proc.run([path, "-hide_banner", option], env=dict(loader), timeout=60)
        text = done.out.decode("utf-8", "replace")
        if not done.ok:
            raise _NoAnswer(text)
        return text

    try:
        return kept.answer("programs", [kept.stamp_of_program(path), _search(loader), option], ask)
    except _NoAnswer as none:
        return str(none)


class _NoAnswer(Exception):
    """A listing that failed: not kept."""


def _search(loader: tuple[tuple[str, str], ...]) -> list[Any]:
    """What decides which libraries a program finds, with the stamps of those folders."""
    found = {k: v for k, v in os.environ.items() if k.startswith("LD_")} | dict(loader)
    folders = [Path(f) for f in found.get("LD_LIBRARY_PATH", "").split(":") if f]
    return [sorted(found.items()), [kept.stamp_of_file(folder) for folder in folders]]


@lru_cache(maxsize=64)
def _banner(path: Path, stamp: int, loader: tuple[tuple[str, str], ...]) -> str:
    """What -version prints; asked once of a file that does not change."""

    def ask() -> str:
        done = proc.run([path, "-version"], env=dict(loader), timeout=60)
        if not done.ok:
            last = (done.err.strip() or f"exit code {done.rc}").splitlines()[-1]
            raise FfmpegError(f"{path} does not start: {last}", "does-not-start", done.err)
        text = done.out.decode("utf-8", "replace")
        if "ffmpeg version" not in text:
            raise FfmpegError(f"{path} is no ffmpeg: -version names none", "no-ffmpeg", text)
        return text

    return kept.answer("programs", [kept.stamp_of_program(path), _search(loader), "-version"], ask)


def file_argument(path: str | os.PathLike[str]) -> str:
    """A file name that FFmpeg takes as a file whatever it contains: '-', ':', newlines, spaces."""
    return "file:" + os.path.abspath(os.fspath(path))
