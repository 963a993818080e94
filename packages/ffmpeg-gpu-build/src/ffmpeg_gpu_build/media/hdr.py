"""HDR pictures for SDR screens: which streams are HDR, and the filters that bend them to BT.709."""

from __future__ import annotations

import re
from collections.abc import Container

from ..ffmpeg import FfmpegError

# A filter and its arguments
Step = tuple[str, str]
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}  # FFmpeg's names of the transfer -> the usual
# Luminance of 100 cd/m2 is white, and what is brighter is bent below it (FFmpeg's filter tonemap).
# The pixel format that zscale is to give follows.
_TONE_MAP: tuple[Step, ...] = (
    ("zscale", "transfer=linear:npl=100"), ("format", "gbrpf32le"),
    ("zscale", "primaries=bt709"), ("tonemap", "mobius:desat=0"),
    ("zscale", "transfer=bt709:matrix=bt709:range=tv"),
)  # fmt: skip


def checked(where: str, hdr: str) -> str:
    """The argument `hdr`. Raises ValueError."""
    if hdr not in ("keep", "sdr"):
        raise ValueError(f"{where}: hdr must be keep or sdr, got {hdr!r}")
    return hdr


def tone_map(where: str, transfer: str, filters: Container[str], pixels: str) -> tuple[Step, ...]:
    """The filters for hdr="sdr" of a stream of this transfer, to a pixel format of FFmpeg; none if
    it is no HDR. Raises FfmpegError where an FFmpeg has not these `filters`.
    """
    if transfer not in HDR:
        return ()
    if "zscale" not in filters or "tonemap" not in filters:
        raise FfmpegError(
            f"{where}: hdr='sdr' needs the filters zscale and tonemap, which this FFmpeg does not "
            "have (PyAV's has no zscale): take the distribution's, or hdr='keep'",
            "not-built-in",
        )
    return (*_TONE_MAP, ("format", pixels))


def transfer_of(log: str) -> str:
    """The transfer of the pictures that a run decoded, from its log; "unknown" if it says none."""
    found = re.search(rf"Output #0.*?: Video: [^\n]*?/({'|'.join(HDR)})\b", log, re.S)
    return found[1] if found else "unknown"
