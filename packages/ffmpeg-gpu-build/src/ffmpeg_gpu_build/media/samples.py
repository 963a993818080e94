"""How many samples a file of sound says that it has: FLAC, True Audio and WavPack.

FFmpeg's parsers pass over frames whose head was hurt, and their files end where the bytes do.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

from .sources import Source

# Sampling rates by the number in a block of WavPack (WavPack 4 & 5 file format, flags)
_WAVPACK = (
    *(6000, 8000, 9600, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200),
    *(96000, 192000),
)


def promised(path: Path) -> tuple[int, int] | None:
    """Samples of each channel, and how many a second; None where the file does not say it."""
    with path.open("rb") as file:
        head = file.read(42)
    if len(head) < 42:
        return None
    if head.startswith(b"fLaC") and head[4] & 0x7F == 0:  # STREAMINFO (RFC 9639, section 8.2)
        facts = int.from_bytes(head[18:26], "big")
        rate, samples = facts >> 44, facts & ((1 << 36) - 1)
    elif head.startswith(b"TTA1"):
        rate, samples = struct.unpack_from("<II", head, 10)
    elif head.startswith(b"wvpk"):
        samples, flags = struct.unpack_from("<I8xI", head, 12)
        number = flags >> 23 & 15
        rate = _WAVPACK[number] if number < len(_WAVPACK) and not flags >> 31 else 0
        samples = 0 if samples == 0xFFFFFFFF or head[11] else samples
    else:
        return None
    return (samples, rate) if samples and rate else None


def missing(source: Source, end: Fraction, rate: int | None) -> list[str]:
    """What is to be said of a reading of the first stream that came to `end` seconds, resampled to
    `rate` or not.
    """
    known = promised(source.content) if source.content else None
    if known is None:
        return []
    whole, sample = Fraction(*known), Fraction(1, known[1])  # a start is rounded to a sample
    if end >= whole - (Fraction(1, 100) if rate else sample):
        return []
    return [f"its header says {float(whole):g} seconds of sound, {float(end):g} came"]
