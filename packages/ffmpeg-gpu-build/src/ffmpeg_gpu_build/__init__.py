"""Build an FFmpeg with GPU paths, prove each path by pixels, and transcode with it."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import _moved

_moved.install()

_WHERE = {
    "Cancelled": "media.session",
    "DamageWarning": "media.damage",
    "DescriptionError": "build.description",
    "Ffmpeg": "ffmpeg",
    "FfmpegError": "ffmpeg",
    "Frame": "media.frames",
    "Frames": "media.frames",
    "HardwareError": "media.pipeline",
    "Media": "media.probing",
    "Plan": "build.description",
    "Progress": "media.session",
    "Report": "verification.judge",
    "Transcoded": "media.transcoding",
    "Verdict": "verification.verdict",
    "Video": "media.video",
    "diagnose": "doctor.failures",
    "probe": "media.probing",
    "Sound": "media.audio",
    "read_audio": "media.audio",
    "read_frames": "media.frames",
    "resolve": "build.description",
    "transcode": "media.transcoding",
    "transcode_folder": "media.batch",
    "verify": "verification.judge",
    "write_frames": "media.frames",
}

__all__ = ["__version__", *_WHERE]

try:
    __version__ = version("ffmpeg-gpu-build")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Load a name when it is first used: importing the package costs nothing."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
