"""Arrays as pictures: shading and debug colours."""

import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nanite_cull._files import write_file
from nanite_cull._numbers import unit

KINDS = ("shaded", "cluster", "level", "triangle", "instance", "normal", "depth", "overdraw")
BACKGROUND_TOP, BACKGROUND_BOTTOM = (0.16, 0.19, 0.24), (0.42, 0.47, 0.54)
LIGHT = np.array([0.45, 0.75, 0.5]) / np.linalg.norm([0.45, 0.75, 0.5])
RELIEF = 0.55  # how strongly hollows darken
# Depth and overdraw: readable in print and for colour-blind readers (after viridis).
RAMP = (
    np.array(
        [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float32
    )
    / 255
)
# Levels: many hues, so that two neighbouring levels differ at a glance (after turbo).
LEVEL_RAMP = (
    np.array(
        [(60, 40, 110), (70, 98, 215), (53, 171, 249), (27, 229, 181), (116, 254, 93),
         (201, 239, 52), (251, 184, 56), (246, 107, 25), (203, 42, 4)], np.float32
    )
    / 255
)  # fmt: skip


class Frame(Protocol):
    """What a picture is made of: the planes of `nanite_cull.Frame`."""

    height: int
    depth: np.ndarray
    coverage: np.ndarray
    normal: np.ndarray
    overdraw: np.ndarray

    def _shade(self, kind: str, light: np.ndarray | None) -> np.ndarray: ...


def ramp(values: np.ndarray, stops: np.ndarray = RAMP) -> np.ndarray:
    """(..., 3) colours of values in 0 to 1."""
    at = np.clip(np.nan_to_num(values), 0, 1) * (len(stops) - 1)
    low = np.minimum(at.astype(int), len(stops) - 2)
    part = (at - low)[..., None].astype(np.float32)
    return stops[low] * (1 - part) + stops[low + 1] * part


def background(height: int) -> np.ndarray:
    """(height, 3) float32: the colour of each row where nothing was drawn."""
    t = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    return (
        np.array(BACKGROUND_TOP, np.float32) * (1 - t) + np.array(BACKGROUND_BOTTOM, np.float32) * t
    )


def direction(light: Any) -> np.ndarray:
    """(3,) unit: the way to a light. Raises ValueError for what has no direction."""
    asked = f"picture: light must be a direction (x, y, z), got {light}"
    try:
        towards = np.asarray(light, float)
    except (TypeError, ValueError):
        raise ValueError(asked) from None
    if towards.shape != (3,) or not 0 < np.abs(towards).max() < np.inf:
        raise ValueError(asked)
    return unit(towards)


def picture(frame: Frame, kind: str, light: Any = None) -> np.ndarray:
    """(height, width, 3) uint8 picture of a frame. light: (3,), towards a lamp without shadows;
    None: the frame's lights, LIGHT where it has none. Raises ValueError for an unknown kind, and
    for a light without direction."""
    towards = None if light is None else direction(light)
    if kind not in KINDS:
        raise ValueError(f"picture: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "normal":
        color = frame.normal * 0.5 + 0.5
    elif kind == "overdraw":
        color = ramp(frame.overdraw / max(8, np.percentile(frame.overdraw, 99.5)))
    elif kind == "depth":
        near, far = (
            (frame.depth[frame.coverage].max(), frame.depth[frame.coverage].min())
            if frame.coverage.any()
            else (1, 0)
        )
        color = ramp(0.08 + 0.92 * (frame.depth - far) / max(near - far, 1e-30))
    else:
        return frame._shade(kind, towards)
    color = np.where(frame.coverage[..., None], color, background(frame.height)[:, None])
    return (np.clip(color, 0, 1) ** (1 / 1.1) * 255 + 0.5).astype(np.uint8)


def save(image: np.ndarray, path: str | Path) -> Path:
    """Writes an image file (PNG, or what the suffix says), aside and then renamed.

    Raises ValueError for a suffix that names no kind of image, OSError where it cannot be written.
    """
    from PIL import Image

    suffix = Path(path).suffix.lower()
    kind = Image.registered_extensions().get(suffix) if suffix else "PNG"
    if kind is None:
        raise ValueError(f"save: {suffix!r} names no kind of image, got {path}; use .png")
    data = io.BytesIO()
    Image.fromarray(image).save(data, kind)
    return write_file(path, data.getvalue())
