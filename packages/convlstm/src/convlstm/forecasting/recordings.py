"""Recordings from files: folders of pictures, arrays, animations, videos, NetCDF and Zarr.

Frames are read when a window asks for them, so that a recording may be larger than memory; an
animation, a video and an `.npz` are decoded once as a whole.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .._files import system_error
from .gridded import GRIDDED_ENDINGS, gridded_array
from .scales import Scale, scale_of_unit

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
VIDEO_ENDINGS = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v"}
# Values that a pass over a recording reads at once.
CHUNK = 1 << 24


@dataclass(frozen=True)
class Values:
    """The values of a recording's frames as the file has them, (count, *shape) with shape
    (H, W, C); read(start, stop) gives some of them. missing: the value that stands for none."""

    read: Callable[[int, int], np.ndarray]
    count: int
    shape: tuple[int, int, int]
    dtype: np.dtype
    unit: str = ""
    missing: float | None = None

    @classmethod
    def of(cls, array: np.ndarray, missing: float | None = None) -> Values:
        read = lambda a, b: array[a:b]  # noqa: E731
        return cls(read, len(array), array.shape[1:], array.dtype, missing=missing)

    def part(self, start: int, stop: int) -> Values:
        """Some of the frames as a recording of their own."""
        return replace(self, read=lambda a, b: self.read(start + a, start + b), count=stop - start)

    def absent(self, values: np.ndarray) -> np.ndarray | None:
        """Where values stand for none; None where no value does."""
        return None if self.missing is None else values == np.asarray(self.missing, self.dtype)

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
            absent = self.absent(piece)
            known = np.isfinite(piece) if absent is None else np.isfinite(piece) & ~absent
            finite = piece[known]
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
        frames = self.scale.apply(values)
        absent = self.values.absent(values)
        if absent is not None:
            frames[absent] = np.nan
        return _resized(frames, self.size)


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
    Missing values (NaN, _FillValue, GDAL's NODATA) are NaN. Where a file's times have gaps, a new
    recording begins. Raises FileNotFoundError, ValueError for what holds no frames, for frames of
    several sizes and for values that are known to be of another unit than the scale, RuntimeError
    where a package is missing.
    """
    if channels not in (1, 3):
        raise ValueError(f"load_frames: channels must be 1 or 3, got {channels!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"load_frames: limit must be at least 1 frame, got {limit!r}")
    found = _found(Path(path), channels, limit)
    if scale is None:
        scales = [values.scale() for values in found]
        if len(set(scales)) == 1:
            scale = scales[0]
        else:
            unit = next((s.unit for s in scales if s.unit), "")
            scale = Scale(min(s.low for s in scales), max(s.high for s in scales), unit)
    else:
        for values in found:
            _refuse_another_quantity(values, scale, path)
    return [Recording(values, scale, size) for values in found], scale


def _refuse_another_quantity(values: Values, scale: Scale, path: str | os.PathLike[str]) -> None:
    """Raises ValueError where values are known to be of another quantity than a scale."""
    if values.dtype.kind == "u":
        own: Scale | None = Scale.of(np.empty(0, values.dtype))
    else:
        own = scale_of_unit(values.unit)
    name = own.unit if own is not None else ""
    if own is None and scale.unit.startswith("of ") and values.count:
        first = next(values.pieces())
        if not (first > 1).any():
            name = "from 0 to 1"
    if name and (scale.unit or scale == Scale(0, 1)) and name != scale.unit:
        raise ValueError(
            f"load_frames: the values of {path} are {name}, those of the checkpoint "
            f"{scale.unit or 'from 0 to 1'}; convert them, or train on this kind"
        )


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


def _found(path: Path, channels: int, limit: int | None) -> list[Values]:
    """`_values`; what a library raises of a damaged file is a ValueError that names it."""
    try:
        return _values(path, channels, limit)
    except RuntimeError:  # a package is missing
        raise
    except Exception as error:
        named = isinstance(error, (OSError, ValueError)) and str(path) in str(error)
        if named:
            raise
        if system := system_error(error, path):
            raise system from error
        told = str(error).removeprefix("load_frames: ") or type(error).__name__
        raise ValueError(f"load_frames: {path} is damaged, or no recording: {told}") from error


def _values(path: Path, channels: int, limit: int | None) -> list[Values]:
    """The recordings of a path with the values of its files."""
    file, _, variable = str(path).partition("::")
    suffix = Path(file).suffix.lower()
    if not Path(file).exists():
        raise FileNotFoundError(f"load_frames: there is no {file}")
    if Path(file).is_file():
        open(file, "rb").close()  # what the system refuses is told here, whoever reads the file
    if suffix in GRIDDED_ENDINGS:
        return _gridded(Path(file), variable, channels, limit)
    if path.is_dir():
        shown = [p for p in path.iterdir() if not p.name.startswith((".", "__MACOSX"))]
        inner = natural_order(p for p in shown if p.is_dir())
        files = natural_order(p for p in shown if p.suffix.lower() in IMAGE_ENDINGS)
        files = [p for p in files if p not in inner]
        if files:
            return [_folder(files[:limit], channels)]
        found = [r for p in inner for r in _values(p, channels, limit)]
        if not found:
            raise ValueError(f"load_frames: {path} has no pictures ({', '.join(IMAGE_ENDINGS)})")
        return found
    if suffix in (".npy", ".npz"):
        return _array_recordings(path, channels, limit)
    if suffix in VIDEO_ENDINGS:
        return [Values.of(_stacked(_video(path), channels, limit))]
    return [Values.of(_stacked(_animation(path), channels, limit), _nodata(_open(path)))]


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Paths by name with numbers as numbers: frame2 before frame10."""

    def key(path: Path) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", path.name)
        return [(1, int(p), p) if p.isdecimal() else (0, 0, p) for p in parts]

    return sorted(paths, key=key)


def _gridded(path: Path, variable: str, channels: int, limit: int | None) -> list[Values]:
    array, unit, starts = gridded_array(path, variable)

    def read(start: int, stop: int) -> np.ndarray:
        return np.repeat(np.asarray(array[start:stop].values)[..., None], channels, -1)

    whole = Values(read, len(array), (*array.shape[1:], channels), array.dtype, unit)
    parts = zip(starts, [*starts[1:], len(array)], strict=True)
    return [whole.part(a, b if limit is None else min(b, a + limit)) for a, b in parts]


def _folder(files: Sequence[Path], channels: int) -> Values:
    opened = _one(files[0])
    missing = _nodata(opened)
    first = _as_array(opened, channels)

    def read(start: int, stop: int) -> np.ndarray:
        if stop <= start:
            return first[None][:0]
        return _stacked((_one(p, missing) for p in files[start:stop]), channels, None, first)

    return Values(read, len(files), first.shape, first.dtype, missing=missing)


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
    except Exception as error:  # of a damaged header numpy raises many kinds
        if system := system_error(error, path):
            raise system from error
        raise ValueError(f"load_frames: {path} is no array of numbers: {error}") from error
    if loaded.dtype.kind not in "buif" or loaded.size == 0:
        raise ValueError(f"load_frames: {path} must hold numbers, got {loaded.dtype}")
    shape = loaded.shape
    if loaded.ndim == 3:
        recordings = [loaded[..., None]]
    elif loaded.ndim == 4 and shape[-1] in (1, 3):
        recordings = [loaded]
    elif loaded.ndim == 4 and shape[-1] not in (2, 4):  # which are channels, not columns
        recordings = [r[..., None] for r in _sequences_first(loaded)]
    elif loaded.ndim == 5 and shape[-1] in (1, 3):
        recordings = list(loaded)
    else:
        raise ValueError(
            f"load_frames: {path} must be (N, H, W), (N, H, W, C), (T, N, H, W) or "
            f"(N, T, H, W, C) with 1 or 3 channels, got {shape}"
        )
    return [_with_channels(r[:limit], channels, path) for r in recordings]


def _sequences_first(frames: np.ndarray) -> np.ndarray:
    """(T, N, H, W), as Moving MNIST's file is, or (N, T, H, W), as (N, T, H, W): time is the axis
    along which neighbours differ clearly less, or else the shorter one."""
    if 1 in frames.shape[:2]:
        return frames if frames.shape[0] == 1 else frames.swapaxes(0, 1)
    some = frames[:16, :16].astype(np.float64)
    along = [np.abs(np.diff(some, axis=k)).mean() for k in (0, 1)]
    clear = min(along) < 0.9 * max(along)
    time_first = along[0] < along[1] if clear else len(frames) < frames.shape[1]
    return frames.swapaxes(0, 1) if time_first else frames


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
    image = _pillow()
    with _decoding(path):
        return image.open(path)


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Makes what Pillow raises of a damaged file, of many kinds, a ValueError that names it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        if system := system_error(error, path):
            raise system from error
        raise ValueError(f"load_frames: {path} is no picture, or damaged: {error}") from error


def _one(path: Path, *missing: float | None):
    """The picture of a file in a folder, with the value for what is missing that others have."""
    picture = _open(path)
    with _decoding(path):
        pages = getattr(picture, "n_frames", 1)
        if pages > 1:
            raise ValueError(
                f"load_frames: {path} holds {pages} frames, its folder one a file; give the file "
                "itself, or a folder of such for each"
            )
        if missing and _nodata(picture) not in missing:
            raise ValueError(
                f"load_frames: all frames must have one NODATA, {path} has {_nodata(picture)}, the "
                f"first {missing[0]}"
            )
        _refuse_cut_depth(picture, path)
        picture.load()
    return picture


def _animation(path: Path):
    picture = _open(path)
    with _decoding(path):
        count = getattr(picture, "n_frames", 1)
    for k in range(count):
        with _decoding(path):
            picture.seek(k)
            _refuse_cut_depth(picture, path)
            frame = picture.copy()
        yield frame


def _refuse_cut_depth(picture, path: Path) -> None:
    """Raises ValueError for more than 8 bits of several channels, of which Pillow keeps 8, and for
    numbers whose sign it takes for another."""
    modes = [str(tile[3]) for tile in getattr(picture, "tile", ())]
    tags = getattr(picture, "tag_v2", {})
    signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    if (picture.mode == "L" and signed) or (
        picture.mode == "I" and not signed and tags and picture.getextrema()[0] < 0
    ):
        raise ValueError(
            f"load_frames: {path} has {'signed 8' if signed else 'unsigned 32'}-bit numbers, which "
            "Pillow reads as others; save the frames as an array (.npy)"
        )
    if picture.mode not in _DEEP and any(";16" in mode for mode in modes):
        raise ValueError(
            f"load_frames: {path} has 16 bits for each of several channels, of which Pillow keeps "
            "8; save it with one channel, or the frames as an array (.npy)"
        )


# The tag of a TIFF that tells signed (2) from unsigned numbers (1, also where it is absent).
_SAMPLE_FORMAT = 339
# GDAL's tag of a TIFF for the value of what is missing, as text.
_GDAL_NODATA = 42113


def _nodata(picture) -> float | None:
    """The value that a GeoTIFF has where it has none."""
    text = getattr(picture, "tag_v2", {}).get(_GDAL_NODATA)
    if text is None:
        return None
    try:
        value = float(str(text).strip("\0 "))
    except ValueError:
        return None
    return None if np.isnan(value) else value


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
