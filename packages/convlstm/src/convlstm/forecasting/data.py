"""Sequences to learn from: moving squares, moving handwritten digits, the user's own frames.

Every source is a function of (seed, number): batch 17 of seed 3 is the same whenever it is made,
so training resumes exactly. Frames are float32 in [0, 1], sequences (B, T, H, W, C).
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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
class Scale:
    """How the values of a recording become [0, 1]: (value - low) / (high - low).

    It is kept in checkpoints, so that a forecast is of the same quantity as the training. unit
    names the quantity (dBZ, mm/h, "of 255"). Values outside [low, high] are kept as they are.
    """

    low: float = 0.0
    high: float = 255.0
    unit: str = ""

    def __post_init__(self) -> None:
        if not np.isfinite([self.low, self.high]).all() or not self.low < self.high:
            raise ValueError(f"Scale: low must be below high, got {self.low} and {self.high}")

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values in their unit to float32, [low, high] to [0, 1]."""
        return ((values - self.low) / (self.high - self.low)).astype(np.float32)

    def undo(self, frames: np.ndarray) -> np.ndarray:
        """float32 frames back in their unit."""
        return (frames * (self.high - self.low) + self.low).astype(np.float32)

    @classmethod
    def of(cls, values: np.ndarray) -> Scale:
        """That of whole numbers' type (of 255, of 65535), or from 0 to the largest value of
        others; from the lowest where that is below 0. Raises ValueError for what is not finite."""
        if values.dtype == np.bool_:
            return cls(0, 1)
        if values.dtype.kind == "u":
            most = float(np.iinfo(values.dtype).max)
            return cls(0, most, f"of {most:.0f}")
        finite = values[np.isfinite(values)]
        if not finite.size:
            raise ValueError("Scale: there is no finite value to scale by")
        low, high = min(0.0, float(finite.min())), float(finite.max())
        if values.dtype.kind == "f" and low >= 0 and high <= 1:
            return cls(0, 1)
        return cls(low, high if high > low else low + 1)


@dataclass(frozen=True)
class Frames:
    """Windows of `steps` frames from recordings, of which the last tenth is held out: the end of
    each recording in time, or where there are 10 or more the last recordings as a whole.

    frames: one recording (N, H, W, C), or several: no window crosses from one to the next. scale:
    what took their values to [0, 1], for the checkpoint. Raises ValueError where no recording has
    a window to train on and one to test on.
    """

    frames: np.ndarray | Sequence[np.ndarray]
    steps: int = 20
    scale: Scale | None = None
    recordings: tuple[np.ndarray, ...] = field(init=False, repr=False, compare=False)

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

    def _split(self, recording: np.ndarray) -> int:
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


def load_frames(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    channels: int = 1,
    limit: int | None = None,
) -> np.ndarray:
    """Frames (N, H, W, C) in [0, 1] of one recording; see `load_recordings`.

    Raises ValueError too for a file with several recordings of equal length, (N, T, H, W).
    """
    recordings, _ = load_recordings(path, size, channels, limit)
    if len(recordings) != 1:
        raise ValueError(
            f"load_frames: {path} has {len(recordings)} recordings; use load_recordings"
        )
    return recordings[0]


def load_recordings(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    channels: int = 1,
    limit: int | None = None,
    scale: Scale | None = None,
) -> tuple[list[np.ndarray], Scale]:
    """Recordings (N, H, W, C) as float32, and the scale that took their values to [0, 1].

    path: a folder of pictures (frame2 comes before frame10; 8 and 16 bit and float pictures keep
    their depth), a GIF or a multi-page TIFF, a video (needs PyAV), or an array: `.npy` or the one
    array of an `.npz`, (N, H, W), (N, H, W, C), or sequences (T, N, H, W) as `mnist_test_seq.npy`
    has them, or (N, T, H, W, C). A folder of folders has a recording in each.
    size: (H, W) to scale to. channels: 1 or 3. limit: at most so many frames of each. scale: in
    place of the one that follows from the values' type, such as that of a checkpoint.
    Raises FileNotFoundError, ValueError for what holds no frames, for missing values (NaN) and for
    frames of several sizes, RuntimeError where a package is missing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"load_frames: there is no {path}")
    raw = _raw_recordings(path, channels, limit)
    if scale is None:
        scales = [Scale.of(values) for values in raw]
        unit = next((s.unit for s in scales if s.unit), "")
        scale = Scale(min(s.low for s in scales), max(s.high for s in scales), unit)
    out = []
    for values in raw:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(
                f"load_frames: {path} has missing values (NaN or infinity); fill them first, or "
                "leave those frames out"
            )
        out.append(_resized(scale.apply(values), size))
    return out, scale


def _raw_recordings(path: Path, channels: int, limit: int | None) -> list[np.ndarray]:
    """Recordings (N, H, W, C) with the values of the files."""
    suffix = path.suffix.lower()
    if path.is_dir():
        files = natural_order(p for p in path.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
        if files:
            return [_stacked((_open(p) for p in files[:limit]), channels, limit)]
        inner = natural_order(p for p in path.iterdir() if p.is_dir())
        found = [r for p in inner for r in _raw_recordings(p, channels, limit)]
        if not found:
            raise ValueError(f"load_frames: {path} has no pictures ({', '.join(IMAGE_ENDINGS)})")
        return found
    if suffix in (".npy", ".npz"):
        return _array_recordings(path, channels, limit)
    if suffix in VIDEO_ENDINGS:
        return [_stacked(_video(path), channels, limit)]
    return [_stacked(_animation(path), channels, limit)]


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Paths by name with numbers as numbers: frame2 before frame10."""

    def key(path: Path) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", path.name)
        return [(1, int(p), p) if p.isdecimal() else (0, 0, p) for p in parts]

    return sorted(paths, key=key)


def _stacked(pictures: Iterable, channels: int, limit: int | None) -> np.ndarray:
    frames: list[np.ndarray] = []
    for picture in pictures:
        if limit is not None and len(frames) >= limit:
            break
        frames.append(_as_array(picture, channels))
        first = frames[0]
        if frames[-1].shape != first.shape or frames[-1].dtype != first.dtype:
            raise ValueError(
                f"load_frames: all frames must have one size and depth, got {first.shape} of "
                f"{first.dtype} and {frames[-1].shape} of {frames[-1].dtype}"
            )
    if not frames:
        raise ValueError("load_frames: there are no frames")
    return np.stack(frames)


def _array_recordings(path: Path, channels: int, limit: int | None) -> list[np.ndarray]:
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            names = loaded.files
            if len(names) != 1:
                raise ValueError(f"it must hold one array, it has {', '.join(names)}")
            loaded = loaded[names[0]]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"load_frames: {path} is no array of numbers: {error}") from error
    if loaded.dtype.kind not in "buif" or loaded.size == 0:
        raise ValueError(f"load_frames: {path} must hold numbers, got {loaded.dtype}")
    shape = loaded.shape
    if loaded.ndim == 3:
        recordings = [loaded[..., None]]
    elif loaded.ndim == 4 and shape[-1] in (1, 3):
        recordings = [loaded]
    elif loaded.ndim == 4:
        # Moving MNIST's file is (time, sequence, H, W): the sequences outnumber their frames.
        whole = loaded.swapaxes(0, 1) if shape[0] < shape[1] else loaded
        recordings = [r[..., None] for r in whole]
    elif loaded.ndim == 5 and shape[-1] in (1, 3):
        recordings = list(loaded)
    else:
        raise ValueError(
            f"load_frames: {path} must be (N, H, W), (N, H, W, C), (T, N, H, W) or "
            f"(N, T, H, W, C) with 1 or 3 channels, got {shape}"
        )
    return [_with_channels(np.asarray(r[:limit]), channels, path) for r in recordings]


def _with_channels(frames: np.ndarray, channels: int, path: Path) -> np.ndarray:
    if frames.shape[-1] == channels:
        return frames
    if frames.shape[-1] == 1:
        return np.repeat(frames, channels, -1)
    raise ValueError(
        f"load_frames: {path} has {frames.shape[-1]} channels, {channels} are asked for"
    )


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


# Pillow's modes with more than 8 bits, and the type that holds their values.
_DEEP = {"I;16": np.uint16, "I;16L": np.uint16, "I;16B": np.uint16, "I": np.int32, "F": np.float32}


def _as_array(picture, channels: int) -> np.ndarray:
    """(H, W, C) with the picture's own values: 8 bit, 16 bit or float."""
    if picture.mode in _DEEP:
        array = np.asarray(picture)
        if picture.mode == "I" and picture.format == "PNG":
            array = array.clip(0, 65535).astype(np.uint16)  # how Pillow before 11 read 16 bits
        array = array.astype(_DEEP[picture.mode]) if picture.mode != "I" else array
        return np.repeat(array[..., None], channels, -1)
    if picture.mode == "1":
        picture = picture.convert("L")
    picture = picture.convert("L" if channels == 1 else "RGB")
    array = np.asarray(picture)
    return array.reshape(*array.shape[:2], channels)


def _resized(frames: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """(N, H, W, C) scaled to (H, W), with an average over what is made smaller."""
    if size is None or frames.shape[1:3] == tuple(size):
        return frames
    import torch

    x = torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, 1)
    x = torch.nn.functional.interpolate(
        x, size=tuple(size), mode="bilinear", align_corners=False, antialias=True
    )
    return x.movedim(1, -1).contiguous().numpy()
