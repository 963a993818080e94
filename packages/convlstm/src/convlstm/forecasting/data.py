"""Sequences to learn from: moving squares, moving handwritten digits, the user's own frames.

Every source is a function of (seed, number): batch 17 of seed 3 is the same whenever it is made,
so training resumes exactly. Frames are float32 in [0, 1], sequences (B, T, H, W, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np

from .radar import MovingCells
from .recordings import (
    Recording,
    load_frames,
    load_recordings,
    natural_order,
    open_recordings,
)
from .scales import SCALES, Scale

__all__ = [
    "SCALES",
    "Frames",
    "MovingCells",
    "MovingDigits",
    "MovingSquares",
    "Recording",
    "Scale",
    "Source",
    "load_frames",
    "load_recordings",
    "natural_order",
    "open_recordings",
]

# The digits from this one on are held out: never in a training sequence.
FIRST_HELD_OUT_DIGIT = 1500


class Source(Protocol):
    """What training draws from."""

    def batch(self, seed: int, number: int, size: int, held_out: bool = False) -> np.ndarray:
        """`size` sequences (B, T, H, W, C)."""


@dataclass(frozen=True)
class MovingSquares:
    """The data of Keras' original example: 3 to 7 squares drift, some noisy, over black frames.

    The world is twice the frame in each direction and the frame shows its middle, so squares
    enter and leave.
    """

    steps: int = 15
    size: tuple[int, int] = (40, 40)
    noisy: bool = True

    def batch(self, seed: int, number: int, size: int, held_out: bool = False) -> np.ndarray:
        rng = np.random.default_rng([seed, number, int(held_out)])
        out = np.zeros((size, self.steps, *self.size, 1), np.float32)
        for sequence in out:
            for _ in range(rng.integers(3, 8)):
                self._draw(sequence[..., 0], rng)
        return np.clip(out, 0, 1)

    def _draw(self, frames: np.ndarray, rng: np.random.Generator) -> None:
        h, w = self.size
        start = rng.integers((h // 2, w // 2), (h + h // 2, w + w // 2))
        velocity = rng.integers(-1, 2, 2)
        half = int(rng.integers(2, 4))
        for t, frame in enumerate(frames):
            y, x = start + t * velocity - (h // 2, w // 2)
            rows = slice(max(0, y - half), max(0, y + half))
            columns = slice(max(0, x - half), max(0, x + half))
            frame[rows, columns] += 1
            if self.noisy and rng.integers(2):
                shade = float(rng.choice([-0.1, 0.1]))
                frame[max(0, y - half - 1) : max(0, y + half + 1),
                      max(0, x - half - 1) : max(0, x + half + 1)] += shade  # fmt: skip


@dataclass(frozen=True)
class MovingDigits:
    """Moving-MNIST-style sequences from the 1,797 handwritten digits that come with scikit-learn.

    `count` digits, enlarged from 8x8 to `digit` pixels, move at a constant speed (`speed`: lowest
    and highest, in pixels a frame, drawn between pixels) and bounce off the edges; overlapping ink
    takes the maximum. Digits from number 1500 on are held out.
    """

    steps: int = 20
    size: tuple[int, int] = (32, 32)
    count: int = 2
    digit: int = 16
    speed: tuple[float, float] = (1.0, 2.0)
    colour: bool = False

    def batch(self, seed: int, number: int, size: int, held_out: bool = False) -> np.ndarray:
        rng = np.random.default_rng([seed, number, int(held_out)])
        images = _digits(self.digit)
        split = (FIRST_HELD_OUT_DIGIT, len(images)) if held_out else (0, FIRST_HELD_OUT_DIGIT)
        channels = 3 if self.colour else 1
        out = np.zeros((size, self.steps, *self.size, channels), np.float32)
        for sequence in out:
            for k in range(self.count):
                image = images[rng.integers(*split)]
                ink = np.ones(channels, np.float32)
                if self.colour:
                    ink[:] = 0.25
                    ink[k % 3] = 1
                self._draw(sequence, image[..., None] * ink, rng)
        return out

    def _draw(self, frames: np.ndarray, image: np.ndarray, rng: np.random.Generator) -> None:
        room = np.array(self.size) - self.digit
        place = rng.random(2) * room
        angle, speed = rng.random() * 2 * np.pi, rng.uniform(*self.speed)
        velocity = speed * np.array([np.sin(angle), np.cos(angle)])
        places = np.empty((len(frames), 2))
        for t in range(len(frames)):
            places[t] = place
            place = place + velocity
            for axis in range(2):
                if not 0 <= place[axis] <= room[axis]:
                    velocity[axis] = -velocity[axis]
                    place[axis] = np.clip(place[axis], 0, room[axis])
        corners = np.floor(places).astype(int)
        moved = _between(image, *(places - corners).T)
        for frame, ink, (y, x) in zip(frames, moved, corners, strict=True):
            part = frame[y : y + self.digit + 1, x : x + self.digit + 1]
            np.maximum(part, ink[: part.shape[0], : part.shape[1]], out=part)


def _between(image: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """An image (n, n, C) moved by parts of a pixel (T,), (T, n + 1, n + 1, C): linear
    interpolation."""
    n = len(image)
    out = np.zeros((len(down), n + 1, n + 1, image.shape[-1]), np.float32)
    for dy, wy in ((0, 1 - down), (1, down)):
        for dx, wx in ((0, 1 - right), (1, right)):
            out[:, dy : dy + n, dx : dx + n] += (wy * wx).reshape(-1, 1, 1, 1) * image
    return out


@lru_cache(maxsize=4)
def _digits(side: int) -> np.ndarray:
    """The digits (1797, side, side) in [0, 1], enlarged by cubic interpolation."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise RuntimeError(
            "The handwritten digits come with scikit-learn, which is not installed: "
            "pip install scikit-learn (or conda install scikit-learn)"
        ) from None
    import torch

    small = torch.tensor(load_digits().images / 16.0, dtype=torch.float32)[:, None]
    large = torch.nn.functional.interpolate(
        small, size=(side, side), mode="bicubic", align_corners=False
    )
    return large[:, 0].clamp(0, 1).numpy()


@dataclass(frozen=True)
class Frames:
    """Windows of `steps` frames from recordings, of which the last tenth is held out: the end of
    each recording in time, or where there are 10 or more the last recordings as a whole.

    frames: one recording (N, H, W, C), or several: no window crosses from one to the next. A
    `Recording` is read window by window. Missing values are NaN, and so they are in batches. scale:
    what took their values to [0, 1], for the checkpoint. Raises ValueError where no recording has
    a window to train on and one to test on.
    """

    frames: np.ndarray | Recording | Sequence[np.ndarray] | Sequence[Recording]
    steps: int = 20
    scale: Scale | None = None
    recordings: tuple[np.ndarray | Recording, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        many = isinstance(self.frames, list | tuple)
        recordings = tuple(self.frames) if many else (self.frames,)
        object.__setattr__(self, "recordings", recordings)
        for held_out in (False, True):
            if not self._windows(held_out):
                longest = max(map(len, recordings))
                raise ValueError(
                    f"Frames: a recording must have at least {self.steps} frames to train on and "
                    f"as many to test on, the longest has {longest}; take more frames or fewer "
                    "steps"
                )

    def _split(self, recording: np.ndarray | Recording) -> int:
        return min(len(recording) * 9 // 10, len(recording) - self.steps)

    def _windows(self, held_out: bool) -> list[tuple[int, int, int]]:
        """(recording, first start, number of starts) wherever a window fits."""
        found = []
        all_of_them = len(self.recordings)
        whole = all_of_them - all_of_them // 10  # the first recording that is held out as a whole
        for k, recording in enumerate(self.recordings):
            split = self._split(recording)
            if whole < all_of_them:
                split = 0 if k >= whole else len(recording)
            first, last = (split, len(recording)) if held_out else (0, split)
            count = last - first - self.steps + 1
            if split >= 0 and count > 0:
                found.append((k, first, count))
        return found

    def batch(self, seed: int, number: int, size: int, held_out: bool = False) -> np.ndarray:
        rng = np.random.default_rng([seed, number, int(held_out)])
        windows = self._windows(held_out)
        ends = np.cumsum([count for _, _, count in windows])
        out = []
        for draw in rng.integers(0, ends[-1], size):
            k = int(np.searchsorted(ends, draw, side="right"))
            recording, first, count = windows[k]
            start = first + int(draw - (ends[k] - count))
            out.append(self.recordings[recording][start : start + self.steps])
        return np.stack(out).astype(np.float32)
