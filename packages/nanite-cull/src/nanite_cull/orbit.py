"""A turn around a scene as an animated GIF."""

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from nanite_cull._files import write_file
from nanite_cull.asset import Asset
from nanite_cull.camera import Camera
from nanite_cull.frame import Frame
from nanite_cull.render import Renderer
from nanite_cull.scene import Scene


def turn(
    asset: Asset,
    renderer: Renderer,
    frames: int,
    *,
    distances: tuple[float, float] = (1.0, 1.0),
    elevation: float = 22,
) -> Iterator[Frame]:
    """Renders a full turn; the camera's distance swings between the two given ones and back."""
    scene = Scene(asset)
    near, far = distances
    for i in range(frames):
        swing = 0.5 - 0.5 * np.cos(2 * np.pi * i / frames)
        distance = near * (far / near) ** swing
        yield renderer.render(scene, Camera.around(asset, 360 * i / frames, elevation, distance))


def save_gif(pictures: list[np.ndarray], path: str | Path, *, seconds: float = 4.0) -> Path:
    """Writes (height, width, 3) uint8 pictures as an endless GIF, aside and then renamed.

    seconds: of all together. A GIF shows each for whole hundredths of a second, two or more: they
    differ by one where that makes the sum, and more than 50 pictures a second take longer.
    """
    from PIL import Image

    images = [Image.fromarray(p).quantize(128, dither=Image.Dither.NONE) for p in pictures]
    ends = [round(100 * seconds * i / len(images)) for i in range(len(images) + 1)]
    data = io.BytesIO()
    images[0].save(
        data, "GIF", save_all=True, append_images=images[1:], loop=0,
        duration=[10 * max(2, b - a) for a, b in pairwise(ends)],
    )  # fmt: skip
    return write_file(path, data.getvalue())
