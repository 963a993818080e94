"""Test pictures and their comparison. Frames are uint8 planar YUV 4:2:0, one frame after
another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT, FRAMES = 320, 180, 4


@dataclass(frozen=True)
class Difference:
    """How far two clips are apart, in grey levels.

    mean and max are over all samples of all planes; distinct counts the luma values of the first
    clip: 1 means one flat colour.
    """

    mean: float
    max: int
    distinct: int


def frame_bytes(width: int, height: int) -> int:
    """Bytes of one 8-bit 4:2:0 frame; chroma sides are rounded up."""
    return width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)


def pattern(frames: int = FRAMES, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A moving picture with slopes, waves, grain and hard edges: uint8 (frames, frame_bytes).

    No symmetry under flips and transposes, and most grey levels occur, so that a filter that does
    nothing, writes one colour or mixes up an axis is far away from the right answer.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    grain = 14 * np.sin(1.9 * x + 0.7 * y) * np.cos(2.3 * y - 0.4 * x)  # what a blur takes away
    clip = np.empty((frames, frame_bytes(width, height)), np.uint8)
    for index in range(frames):
        shift = 3.0 * index
        wave = 40 * np.sin((x + shift) / 9.0) * np.cos(y / 17.0) + 25 * np.sin((x * y) / 2600.0)
        luma = 40 + 150 * x / width * (0.35 + 0.65 * y / height) + wave + grain
        box = (x - 60 - shift) ** 2 + (y - 50) ** 2 < 26**2
        luma[box] = 225
        luma[(np.abs(x - 230) < 30) & (np.abs(y - 130) < 18)] = 30
        u = 128 + 70 * np.sin((x[::2, ::2] - shift) / 31.0)
        v = 128 + 70 * (y[::2, ::2] / height - 0.5) + 30 * np.cos(x[::2, ::2] / 23.0)
        planes = [np.clip(np.rint(p), 16, 235).astype(np.uint8).ravel() for p in (luma, u, v)]
        clip[index] = np.concatenate(planes)
    return clip


def compare(got: bytes, want: bytes, luma: int | None = None) -> Difference:
    """The difference of two clips of the same size; `luma` is the number of luma samples of the
    first frame, for counting distinct values (all samples where not given).

    Raises ValueError if the sizes differ.
    """
    a, b = np.frombuffer(got, np.uint8), np.frombuffer(want, np.uint8)
    if a.size != b.size:
        raise ValueError(f"compare: want clips of one size, got {a.size} and {b.size} bytes")
    gap = np.abs(a.astype(np.int16) - b.astype(np.int16))
    mean = float(gap.mean()) if gap.size else 0.0
    return Difference(mean, int(gap.max(initial=0)), int(np.unique(a[:luma]).size))


def psnr(got: np.ndarray, want: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 arrays of one shape, in dB; inf if they are equal."""
    error = np.mean((got.astype(np.float64) - want.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))
