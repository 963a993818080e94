"""A camera's way past a mesh, and its pictures as files, a GIF or a video."""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nanite_cull.asset import Asset
from nanite_cull.camera import Camera
from nanite_cull.orbit import save_gif
from nanite_cull.pictures import save

VIDEOS = (".mp4", ".mkv", ".mov", ".webm")
GIF_FPS = 50  # players show what a GIF gives less than two hundredths of a second for a tenth


def around(asset: Asset) -> np.ndarray:
    """(6, 2, 3) float64: eye and target of a flight from afar to the surface and on around it."""
    lo, hi = asset.box
    centre, radius = (lo + hi) / 2, asset.radius
    places = []
    for turn, height, distance in (
        (0, 0.5, 3.2), (60, 0.4, 2.0), (120, 0.3, 1.45), (170, 0.25, 1.25), (220, 0.3, 1.4),
        (290, 0.5, 2.4),
    ):  # fmt: skip
        angle = np.radians(turn)
        ray = np.array([np.sin(angle), height, np.cos(angle)])
        eye = centre + radius * distance * ray / np.linalg.norm(ray)
        places.append((eye, centre + (eye - centre) * 0.3 / distance))
    return np.array(places)


def read_path(path: str | Path) -> np.ndarray:
    """(K, 2, 3) float64: eyes and targets of a JSON file, a list of {"eye": [x, y, z], "target":
    [x, y, z]}. Raises ValueError for what is no such list of two or more, OSError."""
    try:
        rows = json.loads(Path(path).read_text())
        places = np.array([[row["eye"], row["target"]] for row in rows], float)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f'fly: {path} must be a list of {{"eye": [x, y, z], "target": [x, y, z]}}: {error}'
        ) from error
    if places.shape[1:] != (2, 3) or len(places) < 2 or not np.isfinite(places).all():
        raise ValueError(f"fly: {path} must have two places or more, of finite numbers")
    return places


def cameras(places: np.ndarray, frames: int, asset: Asset) -> Iterator[Camera]:
    """`frames` cameras along a Catmull-Rom curve through (K, 2, 3) places; y is up, and in a view
    straight along y, -z, as north on a map."""
    near = 1e-3 * asset.radius
    ends = np.concatenate([2 * places[:1] - places[1:2], places, 2 * places[-1:] - places[-2:-1]])
    for at in np.linspace(0, len(places) - 1, frames):
        i = min(int(at), len(places) - 2)
        t, (a, b, c, d) = at - i, ends[i : i + 4]
        eye, target = b + t / 2 * (
            c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))
        )
        right, _, back = np.abs(eye - target)
        up = (0, 1, 0) if right + back > 1e-12 * np.abs(eye).max() else (0, 0, -1)
        yield Camera.look_at(eye, target, up, fov_y=50, near=near)


def write(images: Iterable[np.ndarray], path: Path, fps: int) -> None:
    """Writes (height, width, 3) uint8 pictures: to a folder (no suffix), a .gif or a video.

    A video is made by the command of ffmpeg-gpu-build, where that is installed: packages do not
    import each other, they meet in files. Raises ValueError for another suffix and for a GIF of
    more than 50 pictures a second, ImportError where the command is missing, RuntimeError where it
    fails, OSError. Warns of other frames in a folder.
    """
    suffix = path.suffix.lower()
    if suffix == ".gif":
        if fps > GIF_FPS:
            raise ValueError(
                f"fly: --fps of a GIF must be at most {GIF_FPS}, got {fps}; write a video "
                f"({', '.join(VIDEOS)}) or a folder"
            )
        pictures = list(images)
        save_gif(pictures, path, seconds=len(pictures) / fps)
    elif suffix in VIDEOS:
        _write_video(images, path, fps)
    elif not suffix:
        path.mkdir(parents=True, exist_ok=True)
        names = [save(image, path / f"frame_{i:05}.png").name for i, image in enumerate(images)]
        if older := sorted({file.name for file in path.glob("frame_*.png")}.difference(names)):
            warnings.warn(
                f"fly: {len(older)} pictures of another flight are still in {path}, {older[0]} and "
                "on; remove them before the folder becomes a video",
                RuntimeWarning,
                stacklevel=2,
            )
    else:
        raise ValueError(
            f"fly: {path} must be a folder, a .gif or a video ({', '.join(VIDEOS)}), got {suffix!r}"
        )


def _write_video(images: Iterable[np.ndarray], path: Path, fps: int) -> None:
    command: list[Any] = [sys.executable, "-m", "ffmpeg_gpu_build"]
    if subprocess.run([*command, "--version"], capture_output=True).returncode != 0:
        raise ImportError(
            "fly: videos need ffmpeg-gpu-build (pip install ffmpeg-gpu-build) and an ffmpeg; "
            "or write a .gif or a folder"
        )
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "frames.png"  # animated, without loss
        first, *others = (Image.fromarray(image) for image in images)
        first.save(
            frames, save_all=True, append_images=others, duration=1000 / fps, compress_level=1,
            default_image=False,
        )  # fmt: skip
        done = subprocess.run(
            [*command, "transcode", "--overwrite", frames, path, "--quality", "18",
             "--codec", "vp9" if path.suffix.lower() == ".webm" else "h264"],
            capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"fly: ffmpeg-gpu-build failed: {(done.stderr or done.stdout).strip()}")
