"""Image files: which they are, and decoding them upright with 8 bits a channel."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def images_below(folder: Path) -> list[Path]:
    """All image files below `folder`, sorted; hidden files and folders are left out."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]


def open_image(path: str | Path) -> Image.Image:
    """The first picture of an image file, upright (EXIF orientation), scaled to 8 bits if deeper.

    Raises ValueError, naming file and fault, for what is no image, is damaged, or has no scale of
    its own (floating point).
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).copy()
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: {str(error) or type(error).__name__}") from error
    if image.mode in _DEEP:
        image = image.convert("I")
        highest = image.getextrema()[1]
        if isinstance(highest, tuple) or highest > 65535:
            raise ValueError(f"{path}: 32-bit numbers have no known white; scale it to 8 bits")
        return image.point(lambda value: value * (1 / 257)).convert("L")
    if image.mode == "F":
        raise ValueError(f"{path}: floating-point numbers have no known white; scale it to 8 bits")
    return image
