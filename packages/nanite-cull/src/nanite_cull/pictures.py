"""Arrays as pictures: shading and debug colours."""

import io
from pathlib import Path
from typing import Protocol

import numpy as np

from nanite_cull._files import write_file
from nanite_cull.camera import Camera

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

    camera: Camera
    width: int
    height: int
    depth: np.ndarray
    coverage: np.ndarray
    distance: np.ndarray
    normal: np.ndarray
    color: np.ndarray
    cluster: np.ndarray
    instance: np.ndarray
    triangle: np.ndarray
    level: np.ndarray
    overdraw: np.ndarray
    top_level: int
    has_colors: bool


def stable_color(ids: np.ndarray) -> np.ndarray:
    """(..., 3) float32 in 0 to 1: the same id has the same colour in every picture."""
    h = ids.astype(np.uint32) * np.uint32(0x9E3779B1)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x85EBCA77)
    h ^= h >> np.uint32(13)
    channels = [(h >> np.uint32(8 * c) & np.uint32(255)).astype(np.float32) / 255 for c in range(3)]
    return 0.25 + 0.75 * np.stack(channels, -1)


def ramp(values: np.ndarray, stops: np.ndarray = RAMP) -> np.ndarray:
    """(..., 3) colours of values in 0 to 1."""
    at = np.clip(np.nan_to_num(values), 0, 1) * (len(stops) - 1)
    low = np.minimum(at.astype(int), len(stops) - 2)
    part = (at - low)[..., None].astype(np.float32)
    return stops[low] * (1 - part) + stops[low + 1] * part


def _light(frame: Frame) -> np.ndarray:
    """(height, width, 1): a lamp, the sky and a rim; both sides of a surface are lit."""
    normal, camera = frame.normal, frame.camera
    rotation = camera.view[:3, :3].astype(np.float32)
    if camera.orthographic:
        towards = normal @ (rotation[2] / np.float32(camera.scale))
    else:
        x, y = (axis.astype(np.float32) for axis in camera.rays(frame.width, frame.height))
        x, y = np.meshgrid(x, y)
        ray = np.stack([-x, -y, np.ones_like(x)], -1) / np.sqrt(x * x + y * y + 1)[..., None]
        towards = np.einsum("hwc,hwc->hw", normal, ray @ (rotation / np.float32(camera.scale)))
    normal = np.where(towards[..., None] < 0, -normal, normal)
    lamp = np.maximum(normal @ LIGHT.astype(np.float32), 0)
    sky = 0.5 + 0.5 * normal[..., 1]
    rim = (1 - np.abs(towards)) ** 3
    return (0.72 * lamp + 0.26 * sky + 0.10 * rim)[..., None]


def _box_mean(values: np.ndarray, weights: np.ndarray, radius: int) -> np.ndarray:
    """Weighted means over squares of 2 * radius + 1 pixels, cut off at the image's edges."""

    def box_sum(plane: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            padded = np.pad(plane, [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)])
            total = np.cumsum(padded, axis, dtype=np.float64)
            high, low = [slice(None)] * 2, [slice(None)] * 2
            high[axis], low[axis] = slice(2 * radius + 1, None), slice(0, plane.shape[axis])
            plane = total[tuple(high)] - total[tuple(low)]
        return plane

    return box_sum(values * weights) / np.maximum(box_sum(weights), 1e-9)


def _relief(frame: Frame) -> np.ndarray:
    """(height, width, 1) factor: hollows darker, ridges lighter, from the depth alone.

    After Luft, Colditz and Deussen, "Image Enhancement by Unsharp Masking the Depth Buffer", 2006.
    """
    camera, seen = frame.camera, frame.coverage
    distance = np.where(seen, frame.distance, 0).astype(np.float64)
    pixel = 2 / (camera._window(frame.width, frame.height)[1] * frame.height * camera.scale)
    at_one = camera.scale * pixel
    pixels = np.full(distance.shape, pixel) if camera.orthographic else distance * at_one
    hollow = np.zeros_like(distance)
    for radius in (max(1, frame.height // 180), max(2, frame.height // 45)):
        mean = _box_mean(distance, seen.astype(np.float64), radius)
        hollow += (distance - mean) / np.where(seen, pixels * radius, 1)
    return (1 - np.clip(RELIEF * hollow, -0.12, 0.4)).astype(np.float32)[..., None]


def _background(frame: Frame) -> np.ndarray:
    t = np.linspace(0, 1, frame.height, dtype=np.float32)[:, None, None]
    rows = (
        np.array(BACKGROUND_TOP, np.float32) * (1 - t) + np.array(BACKGROUND_BOTTOM, np.float32) * t
    )
    return np.broadcast_to(rows, (frame.height, frame.width, 3))


def _base(frame: Frame, kind: str) -> np.ndarray:
    if kind == "cluster":
        return stable_color(frame.cluster ^ (frame.instance << np.uint32(20)))
    if kind == "triangle":
        return stable_color(frame.triangle)
    if kind == "instance":
        return stable_color(frame.instance)
    if kind == "level":
        return ramp(frame.level.astype(np.float32) / max(1, frame.top_level), LEVEL_RAMP)
    if frame.has_colors:
        return frame.color[..., :3]
    return np.full((frame.height, frame.width, 3), (0.80, 0.76, 0.70), np.float32)


def picture(frame: Frame, kind: str) -> np.ndarray:
    """(height, width, 3) uint8 picture of a frame. Raises ValueError for an unknown kind."""
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
        color = _base(frame, kind) * np.clip(_light(frame) * _relief(frame), 0, 1.2)
    color = np.where(frame.coverage[..., None], color, _background(frame))
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
