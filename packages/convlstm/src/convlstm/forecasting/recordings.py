"""Recordings from files: folders of pictures, arrays, animations, videos, NetCDF and Zarr.

Frames are read when a window asks for them, so that a recording may be larger than memory; an
animation, a video and an `.npz` are decoded once as a whole.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .gridded import GRIDDED_ENDINGS, gridded_array
from .scales import Scale, scale_of_unit

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
VIDEO_ENDINGS = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v"}
# Values that a pass over a recording reads at once.
CHUNK = 1 << 24


@dataclass(frozen=True)
class Values:
    """The values of a recording's frames as the file has them, (count, *shape) with shape
    (H, W, C); read(start, stop) gives some of them."""

    read: Callable[[int, int], np.ndarray]
    count: int
    shape: tuple[int, int, int]
    dtype: np.dtype
    unit: str = ""

    @classmethod
    def of(cls, array: np.ndarray) -> Values:
        return cls(lambda a, b: array[a:b], len(array), array.shape[1:], array.dtype)

    def pieces(self) -> Iterator[np.ndarray]:
        """All of them, a part of memory at a time."""
        step = max(1, CHUNK // max(1, int(np.prod(self.shape))))
        for start in range(0, self.count, step):
            yield self.read(start, min(self.count, start + step))

    def scale(self) -> Scale:
        """That of the unit or the type, else of the lowest and largest value."""
        known = scale_of_unit(self.unit)
        if known is not None:
            return known
        if self.dtype.kind in "bu":
            return Scale.of(np.empty(0, self.dtype))
        low, high = np.inf, -np.inf
        for piece in self.pieces():
            finite = piece[np.isfinite(piece)]
            if finite.size:
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        if low > high:
            raise ValueError("Scale: there is no finite value to scale by")
        return replace(Scale.between(low, high, self.dtype), unit=self.unit)


@dataclass(frozen=True)
class Recording:
    """Frames (N, H, W, C) as float32, [low, high] of `scale` as [0, 1], read when they are asked
    for: `recording[3:15]`. Missing values are NaN. size: (H, W) to scale to, None for the file's
    own."""

    values: Values
    scale: Scale
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self.values.count

    @property
    def shape(self) -> tuple[int, int, int, int]:
        h, w, c = self.values.shape
        return (len(self), *(self.size or (h, w)), c)

    def __getitem__(self, which: slice) -> np.ndarray:
        start, stop, step = which.indices(len(self))
        if step != 1:
            raise ValueError(f"Recording: frames are read in a row, got step {step}")
        values = self.values.read(start, max(start, stop))
        if values.dtype.kind == "f" and np.isinf(values).any():
            raise ValueError(
                "Recording: there are infinite values; a missing value must be NaN (or the file's "
                "_FillValue)"
            )
        return _resized(self.scale.apply(values), self.size)


def open_recordings(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    channels: int = 1,
    limit: int | None = None,
    scale: Scale | None = None,
) -> tuple[list[Recording], Scale]:
    """Recordings, read when they are used, and the scale that takes their values to [0, 1].

    path: a folder of pictures (frame2 comes before frame10; 8 and 16 bit and float pictures keep
    their depth), a GIF or a multi-page TIFF, a video (needs PyAV), an array: `.npy` or the one
    array of an `.npz`, (N, H, W), (N, H, W, C), or sequences (T, N, H, W) as `mnist_test_seq.npy`
    has them, or (N, T, H, W, C); or NetCDF (`.nc`) and Zarr (`.zarr`) with a variable over time and
    two more axes, `radar.nc::rain` where there are several (needs xarray). A folder of folders has
    a recording in each.
    size: (H, W) to scale to. channels: 1 or 3. limit: at most so many frames of each. scale: in
    place of the one that follows from the values' unit or type, such as that of a checkpoint.
    Missing values (NaN, _FillValue) stay NaN. Raises FileNotFoundError, ValueError for what holds
    no frames and for frames of several sizes, RuntimeError where a package is missing.
    """
    found = _values(Path(path), channels, limit)
    if scale is None:
        scales = [values.scale() for values in found]
        if len(set(scales)) == 1:
            scale = scales[0]
        else:
            unit = next((s.unit for s in scales if s.unit), "")
            scale = Scale(min(s.low for s in scales), max(s.high for s in scales), unit)
    return [Recording(values, scale, size) for values in found], scale


def load_recordings(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    channels: int = 1,
    limit: int | None = None,
    scale: Scale | None = None,
    missing: str = "refuse",
) -> tuple[list[np.ndarray], Scale]:
    """As `open_recordings`, with all frames in memory. Raises ValueError for missing values (NaN)
    unless missing is "keep"."""
    opened, scale = open_recordings(path, size, channels, limit, scale)
    out = [recording[:] for recording in opened]
    if missing != "keep" and any(np.isnan(frames).any() for frames in out):
        raise ValueError(
            f'load_frames: {path} has missing values (NaN); take them as they are (missing="keep"),'
            " fill them first, or leave those frames out"
        )
    return out, scale


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


def _values(path: Path, channels: int, limit: int | None) -> list[Values]:
    """The recordings of a path with the values of its files."""
    file, _, variable = str(path).partition("::")
    suffix = Path(file).suffix.lower()
    if not Path(file).exists():
        raise FileNotFoundError(f"load_frames: there is no {file}")
    if suffix in GRIDDED_ENDINGS:
        return [_gridded(Path(file), variable, channels, limit)]
    if path.is_dir():
        files = natural_order(p for p in path.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
        if files:
            return [_folder(files[:limit], channels)]
        inner = natural_order(p for p in path.iterdir() if p.is_dir())
        found = [r for p in inner for r in _values(p, channels, limit)]
        if not found:
            raise ValueError(f"load_frames: {path} has no pictures ({', '.join(IMAGE_ENDINGS)})")
        return found
    if suffix in (".npy", ".npz"):
        return _array_recordings(path, channels, limit)
    pictures = _video(path) if suffix in VIDEO_ENDINGS else _animation(path)
    return [Values.of(_stacked(pictures, channels, limit))]


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Paths by name with numbers as numbers: frame2 before frame10."""

    def key(path: Path) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", path.name)
        return [(1, int(p), p) if p.isdecimal() else (0, 0, p) for p in parts]

    return sorted(paths, key=key)


def _gridded(path: Path, variable: str, channels: int, limit: int | None) -> Values:
    array, unit = gridded_array(path, variable)

    def read(start: int, stop: int) -> np.ndarray:
        return np.repeat(np.asarray(array[start:stop].values)[..., None], channels, -1)

    count = len(array) if limit is None else min(limit, len(array))
    return Values(read, count, (*array.shape[1:], channels), array.dtype, unit)


def _folder(files: Sequence[Path], channels: int) -> Values:
    first = _as_array(_open(files[0]), channels)

    def read(start: int, stop: int) -> np.ndarray:
        if stop <= start:
            return first[None][:0]
        return _stacked((_open(p) for p in files[start:stop]), channels, None, first)

    return Values(read, len(files), first.shape, first.dtype)


def _stacked(
    pictures: Iterable, channels: int, limit: int | None, first: np.ndarray | None = None
) -> np.ndarray:
    frames: list[np.ndarray] = []
    for picture in pictures:
        if limit is not None and len(frames) >= limit:
            break
        frames.append(_as_array(picture, channels))
        first = frames[0] if first is None else first
        if frames[-1].shape != first.shape or frames[-1].dtype != first.dtype:
            raise ValueError(
                f"load_frames: all frames must have one size and depth, got {first.shape} of "
                f"{first.dtype} and {frames[-1].shape} of {frames[-1].dtype}"
            )
    if not frames:
        raise ValueError("load_frames: there are no frames")
    return np.stack(frames)


def _array_recordings(path: Path, channels: int, limit: int | None) -> list[Values]:
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
    return [_with_channels(r[:limit], channels, path) for r in recordings]


def _with_channels(frames: np.ndarray, channels: int, path: Path) -> Values:
    own = frames.shape[-1]
    if own not in (1, channels):
        raise ValueError(f"load_frames: {path} has {own} channels, {channels} are asked for")

    def read(start: int, stop: int) -> np.ndarray:
        return np.repeat(np.asarray(frames[start:stop]), channels // own, -1)

    return Values(read, len(frames), (*frames.shape[1:3], channels), frames.dtype)


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
    """(N, H, W, C) scaled to (H, W), with an average over what is made smaller. A pixel is missing
    where any that it is made of is."""
    if size is None or frames.shape[1:3] == tuple(size) or not len(frames):
        return frames
    import torch

    x = torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, 1)
    x = torch.nn.functional.interpolate(
        x, size=tuple(size), mode="bilinear", align_corners=False, antialias=True
    )
    return x.movedim(1, -1).contiguous().numpy()
