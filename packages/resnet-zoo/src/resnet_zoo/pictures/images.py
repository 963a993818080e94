"""Image files: which they are, and decoding them upright with 8 bits a channel."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageOps, UnidentifiedImageError

_HEIF = (".heic", ".heif")
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".avif",
    *_HEIF,
)  # fmt: skip
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")
Decoded = TypeVar("Decoded")


def images_below(folder: Path) -> list[Path]:
    """All image files below `folder`, sorted; hidden files and folders are left out."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]


def open_image(path: str | Path, short: int | None = None) -> Image.Image:
    """The first picture of an image file, upright (EXIF orientation), scaled to 8 bits if deeper.

    With `short`, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its shorter side then still
    has that many pixels (libjpeg's scaled decoding): several times as fast, and other pixels than
    those of the whole picture scaled down.

    Raises ValueError, naming file and fault, for what is no image, is damaged, or has no scale of
    its own (floating point).
    """
    heif = Path(path).suffix.lower() in _HEIF
    if heif:
        _register_heif()
    try:
        with Image.open(path) as file:
            if short is not None and file.format == "JPEG":
                file.draft(file.mode, (short, short))
            image = ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        cure = " that Pillow reads; cure: pip install pillow-heif" if heif else ""
        raise ValueError(f"{path}: not an image{cure}") from None
    except Exception as error:  # of damaged files Pillow raises many kinds
        raise ValueError(f"{path}: {str(error) or type(error).__name__}") from error
    try:
        return in_8_bits(image)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def in_8_bits(image: Image.Image) -> Image.Image:
    """A picture of 16 bits a channel scaled to 8; others as they are.

    Raises ValueError for numbers whose white is not known (32 bits, floating point): Pillow's own
    conversion would cut them off.
    """
    if image.mode in _DEEP:
        image = image.convert("I")
        if image.getextrema()[1] > 65535:  # type: ignore[operator]
            raise ValueError("32-bit numbers have no known white; scale it to 8 bits")
        return image.point(lambda value: value * (1 / 257)).convert("L")
    if image.mode == "F":
        raise ValueError("floating-point numbers have no known white; scale it to 8 bits")
    return image


def _register_heif() -> None:
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def decoded_ahead(
    paths: Sequence[str | Path],
    decode: Callable[[str | Path], Decoded],
    workers: int,
    ahead: int,
) -> Iterator[Decoded | ValueError]:
    """`decode` of each path, in order, run by `workers` threads; its ValueError in place of one.

    At most `ahead` pictures are held that were not taken yet. Threads serve, since Pillow decodes
    and scales without holding Python's lock. Without workers each is decoded when it is asked for.
    """

    def attempt(path: str | Path) -> Decoded | ValueError:
        try:
            return decode(path)
        except ValueError as error:
            return error

    if not workers:
        yield from map(attempt, paths)
        return
    remaining = iter(paths)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[Future[Decoded | ValueError]] = deque(
            pool.submit(attempt, path) for path in itertools.islice(remaining, ahead)
        )
        try:
            while waiting:
                done = waiting.popleft().result()
                for path in itertools.islice(remaining, 1):
                    waiting.append(pool.submit(attempt, path))
                yield done
        finally:
            for future in waiting:
                future.cancel()
