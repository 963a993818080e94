"""Build an FFmpeg with GPU paths, prove each path by pixels, and transcode with it."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_WHERE = {
    "Cancelled": "session",
    "DescriptionError": "description",
    "Ffmpeg": "ffmpeg",
    "FfmpegError": "ffmpeg",
    "HardwareError": "pipeline",
    "Media": "media",
    "Plan": "description",
    "Progress": "session",
    "Report": "verification",
    "Transcoded": "transcoding",
    "Verdict": "verdict",
    "diagnose": "failures",
    "probe": "media",
    "read_frames": "frames",
    "resolve": "description",
    "transcode": "transcoding",
    "transcode_folder": "batch",
    "verify": "verification",
    "write_frames": "frames",
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
