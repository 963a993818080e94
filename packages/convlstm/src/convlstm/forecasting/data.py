"""Sequences to learn from: moving squares, moving handwritten digits, the user's own frames.

Every source is a function of (seed, number): batch 17 of seed 3 is the same whenever it is made,
so training resumes exactly. Frames are float32 in [0, 1], sequences (B, T, H, W, C).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
VIDEO_ENDINGS = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v"}
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
        for frame in frames:
            y, x = np.floor(place).astype(int)
            moved = _between(image, *(place - (y, x)))
            part = frame[y : y + self.digit + 1, x : x + self.digit + 1]
            np.maximum(part, moved[: part.shape[0], : part.shape[1]], out=part)
            place = place + velocity
            for axis in range(2):
                if not 0 <= place[axis] <= room[axis]:
                    velocity[axis] = -velocity[axis]
                    place[axis] = np.clip(place[axis], 0, room[axis])


def _between(image: np.ndarray, down: float, right: float) -> np.ndarray:
    """An image (n, n, C) moved by a part of a pixel, (n + 1, n + 1, C): linear interpolation."""
    n = len(image)
    out = np.zeros((n + 1, n + 1, image.shape[-1]), np.float32)
    for dy, wy in ((0, 1 - down), (1, down)):
        for dx, wx in ((0, 1 - right), (1, right)):
            out[dy : dy + n, dx : dx + n] += (wy * wx) * image
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
    """Windows of `steps` frames from one recording (N, H, W, C); its last tenth is held out."""

    frames: np.ndarray
    steps: int = 20

    def __post_init__(self) -> None:
        held_out = len(self.frames) - self._split()
        if min(self._split(), held_out) < self.steps:
            raise ValueError(
                f"Frames: a recording must have at least {self.steps} frames to train on and as "
                f"many to test on, got {self._split()} and {held_out}; take more frames or fewer "
                "steps"
            )

    def _split(self) -> int:
        return min(len(self.frames) * 9 // 10, len(self.frames) - self.steps)

    def batch(self, seed: int, number: int, size: int, held_out: bool = False) -> np.ndarray:
        rng = np.random.default_rng([seed, number, int(held_out)])
        first, last = (self._split(), len(self.frames)) if held_out else (0, self._split())
        starts = rng.integers(first, last - self.steps + 1, size)
        return np.stack([self.frames[s : s + self.steps] for s in starts])


def load_frames(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    channels: int = 1,
    limit: int | None = None,
) -> np.ndarray:
    """Frames (N, H, W, C) in [0, 1] from a folder of pictures (in name order), a GIF or a video.

    size: (H, W) to scale to. channels: 1 or 3. limit: at most so many frames. Videos need PyAV.
    Raises FileNotFoundError, ValueError for a folder without pictures, RuntimeError without PyAV.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"load_frames: there is no {path}")
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
        if not files:
            raise ValueError(f"load_frames: {path} has no pictures ({', '.join(IMAGE_ENDINGS)})")
        pictures = (_open(p) for p in files[:limit])
    elif path.suffix.lower() in VIDEO_ENDINGS:
        pictures = _video(path)
    else:
        pictures = _animation(path)
    frames: list[np.ndarray] = []
    for picture in pictures:
        if limit is not None and len(frames) >= limit:
            break
        frames.append(_as_array(picture, size, channels))
        if frames[-1].shape != frames[0].shape:
            raise ValueError(
                f"load_frames: all frames must have one size, got {frames[0].shape} and "
                f"{frames[-1].shape}; give a size to scale to"
            )
    return np.stack(frames)


def _pillow():
    try:
        from PIL import Image
    except ImportError:
        raise RuntimeError("Pictures need Pillow: pip install pillow") from None
    return Image


def _open(path: Path):
    return _pillow().open(path)


def _animation(path: Path):
    picture = _open(path)
    for k in range(getattr(picture, "n_frames", 1)):
        picture.seek(k)
        yield picture.copy()


def _video(path: Path):
    try:
        import av
    except ImportError:
        raise RuntimeError(
            f"load_frames: reading the video {path} needs PyAV: pip install av "
            "(or cut the video into a folder of pictures)"
        ) from None
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_image()


def _as_array(picture, size: tuple[int, int] | None, channels: int) -> np.ndarray:
    picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None:
        picture = picture.resize((size[1], size[0]), _pillow().Resampling.BILINEAR)
    array = np.asarray(picture, np.float32) / 255
    return array.reshape(*array.shape[:2], channels)
