"""Animations of predictions (GIF, MP4) and side-by-side strips as PNG. Needs Pillow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from .._files import replacing

BACKGROUND = (250, 250, 248)
INK = (32, 34, 40)
FAINT = (120, 124, 132)
ACCENT = (196, 78, 50)


def _pillow():
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise RuntimeError("Pictures need Pillow: pip install pillow") from None
    return Image, ImageDraw, ImageFont


def to_bytes(frame: np.ndarray) -> np.ndarray:
    """(H, W, 1 or 3) in [0, 1] as (H, W, 3) bytes. Raises ValueError for other channels."""
    frame = np.asarray(frame, np.float32)
    if frame.ndim != 3 or frame.shape[-1] not in (1, 3):
        raise ValueError(
            f"pictures: a frame must be (H, W, 1) grey or (H, W, 3) colour, got {frame.shape}"
        )
    frame = np.clip(np.nan_to_num(frame), 0, 1)
    if frame.shape[-1] == 1:
        frame = np.repeat(frame, 3, -1)
    return np.rint(frame * 255).astype(np.uint8)


def _check_ending(function: str, path: str | os.PathLike[str], ending: str, other: str) -> None:
    """Refuses to write one format under the name of another; pipes and devices have no format."""
    path = Path(path)
    special = path.exists() and not path.is_file()
    if path.suffix.lower() != ending and not special:
        raise ValueError(f"{function}: path must end in {ending}, got {path}; {other}")


def _tile(frame: np.ndarray, side: int):
    image = _pillow()[0]
    picture = image.fromarray(to_bytes(frame))
    height = max(1, round(side * frame.shape[0] / frame.shape[1]))
    return picture.resize((side, height), image.Resampling.NEAREST)


def strip(
    rows: Mapping[str, np.ndarray],
    columns: Sequence[str],
    path: str | os.PathLike[str],
    *,
    split: int = 0,
    side: int = 84,
    title: str = "",
) -> None:
    """Writes a PNG: one row of frames (N, H, W, C) for each label.

    A row with fewer frames than there are columns ends at the right edge. split: how many columns
    are given to the model; a line is drawn after them.
    """
    _check_ending("strip", path, ".png", "a strip is a PNG")
    image, draw_module, font_module = _pillow()
    font, small = font_module.load_default(16), font_module.load_default(13)
    label, gap, top = 172, 6, 62 if title else 34
    first = next(iter(rows.values()))
    height = round(side * first.shape[1] / first.shape[2])
    width = label + len(columns) * (side + gap) + 14
    picture = image.new("RGB", (width, top + len(rows) * (height + gap) + 10), BACKGROUND)
    draw = draw_module.Draw(picture)
    if title:
        draw.text((14, 10), title, INK, font_module.load_default(19))
    for k, name in enumerate(columns):
        x = label + k * (side + gap)
        draw.text((x + side / 2, top - 12), name, FAINT, small, anchor="mm")
    for r, (name, frames) in enumerate(rows.items()):
        y = top + r * (height + gap)
        draw.text((14, y + height / 2), name, INK, font, anchor="lm")
        offset = len(columns) - len(frames)
        for k, frame in enumerate(frames):
            picture.paste(_tile(frame, side), (label + (offset + k) * (side + gap), y))
    if split:
        x = label + split * (side + gap) - gap // 2 - 1
        draw.line([(x, top - 22), (x, picture.height - 8)], ACCENT, 2)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def animation(
    panels: Mapping[str, np.ndarray], path: str | os.PathLike[str], **options: int
) -> None:
    """Writes panels (T, H, W, C) side by side, as a GIF or an MP4 by the ending of `path`; see
    `gif` for the options. An MP4 needs PyAV."""
    ending = Path(path).suffix.lower()
    if ending == ".mp4":
        mp4(panels, path, **options)
    else:
        gif(panels, path, **options)


def gif(
    panels: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    *,
    side: int = 200,
    milliseconds: int = 160,
    given: int = 0,
) -> None:
    """Writes an animated GIF: the panels (T, H, W, C) side by side, each under its label.

    given: the first so many frames are marked as input. Raises ValueError for an ending that is
    not .gif and for panels that do not go together.
    """
    _check_ending("gif", path, ".gif", "use pictures.mp4 for a video")
    frames = [picture.quantize(64) for picture in _pages(panels, side, given)]
    with replacing(path) as temporary:
        frames[0].save(
            temporary, format="GIF", save_all=True, append_images=frames[1:],
            duration=milliseconds, loop=0, disposal=1,
        )  # fmt: skip


def mp4(
    panels: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    *,
    side: int = 200,
    milliseconds: int = 160,
    given: int = 0,
) -> None:
    """The same as an MP4 video. Raises RuntimeError without PyAV."""
    _check_ending("mp4", path, ".mp4", "use pictures.gif for a GIF")
    try:
        import av
    except ImportError:
        raise RuntimeError(
            f"mp4: writing {path} needs PyAV: pip install av (or write a .gif)"
        ) from None
    if milliseconds < 1:
        raise ValueError(f"mp4: milliseconds must be at least 1, got {milliseconds}")
    pages = [np.asarray(picture) for picture in _pages(panels, side, given)]
    even = [n - n % 2 for n in pages[0].shape[:2]]  # the format halves the colours
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(1000, milliseconds))
        stream.height, stream.width = even
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for page in pages:
            page = np.ascontiguousarray(page[: even[0], : even[1]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(page, format="rgb24")))
        container.mux(stream.encode())


def _pages(panels: Mapping[str, np.ndarray], side: int, given: int) -> list:
    """One picture for each time: the panels under their labels, and what is shown below."""
    image, draw_module, font_module = _pillow()
    font, small = font_module.load_default(16), font_module.load_default(13)
    if side < 1:
        raise ValueError(f"gif: side must be at least 1 pixel, got {side}")
    panels = {name: np.asarray(panel) for name, panel in panels.items()}
    if len({panel.shape[1:3] for panel in panels.values()}) > 1:
        shapes = ", ".join(f"{name} {panel.shape}" for name, panel in panels.items())
        raise ValueError(f"gif: all panels must have frames of one size, got {shapes}")
    steps = {len(p) for p in panels.values()}
    if len(steps) != 1 or steps == {0}:
        raise ValueError(f"gif: all panels must have one number of frames, got {sorted(steps)}")
    count, gap, top, bottom = steps.pop(), 14, 36, 30
    first = next(iter(panels.values()))
    height = max(1, round(side * first.shape[1] / first.shape[2]))
    size = (gap + len(panels) * (side + gap), top + height + bottom)
    pages = []
    for t in range(count):
        picture = image.new("RGB", size, BACKGROUND)
        draw = draw_module.Draw(picture)
        for k, (name, panel) in enumerate(panels.items()):
            x = gap + k * (side + gap)
            draw.text((x + side / 2, top / 2), name, INK, font, anchor="mm")
            picture.paste(_tile(panel[t], side), (x, top))
        stage = "input" if t < given else "forecast"
        colour = FAINT if t < given else ACCENT
        text = f"frame {t + 1} of {count}" + (f"  ·  {stage}" if given else "")
        draw.text((gap, top + height + bottom / 2), text, colour, small, anchor="lm")
        pages.append(picture)
    return pages
