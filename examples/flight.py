"""Drives through a rendered town, keeps what it saw as videos, and forecasts what comes next.

nanite-cull draws the drives, ffmpeg-gpu-build encodes them and gives the frames back as tensors
with their times, convlstm learns from nine of ten drives and forecasts the tenth, whose street it
has not seen; a video shows the forecast beside the truth.

    python examples/flight.py --out flight
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from card import arguments, leave
from torch import Tensor
from town import BLOCK, STREET, Town, make_town
from tqdm import tqdm

import convlstm
import nanite_cull as nc
from convlstm.forecasting import Trainer, TrainOptions, advect_last, copy_last
from convlstm.forecasting.data import Frames
from convlstm.forecasting.metrics import by_lead_time, mse
from ffmpeg_gpu_build import read_frames, write_frames

FPS, GIVEN, AHEAD = 12, 8, 8
METRES_A_FRAME = 0.5
UPDATES = 2000  # at most
SEEN = (96, 64)  # width and height of a video
READ = (48, 32)  # of what the forecaster reads
CODE = """\
write_frames("drive.mp4", (frame.picture() for frame in drive(town, street)), fps=12)
frames = list(read_frames("drive.mp4", size=(48, 32), pixels="gray", torch=True))
print(frames[7].time)                              # 0.583, seconds
clip = torch.stack(frames)[None, ..., None] / 255  # (1, T, 32, 48, 1)
ahead = convlstm.forecast(model, clip[:, :8], steps=8)"""


def drive(
    town: Town,
    number: int,
    frames: int,
    *,
    light: tuple[float, float, float] = (0.5, 1.0, 0.3),
    lane: float = 0.0,
) -> Iterator[nc.Frame]:
    """Frames of a car's camera along one of four streets, this way (even numbers) or that.

    light: towards the sun; lane: metres to the side.
    """
    street, way = 1 + number // 2 % 4, 1 - 2 * (number % 2)
    middle = -town.size + street * (BLOCK + STREET) - 0.4 * way + lane
    sun = nc.Sun(light, cascades=2)
    renderer = nc.Renderer(*SEEN, lights=[sun], shadow_size=512, samples=2)
    for at in -0.95 * town.size + METRES_A_FRAME * np.arange(frames):
        eye = np.array([middle + 0.4 * np.sin(at / 5), 1.7, way * at])
        target = eye + np.array([0.05 * np.cos(at / 5), 0.05, way])
        yield renderer.render(town.scene, nc.Camera.look_at(eye, target, fov_y=65, near=0.05))


def record(folder: Path, drives: int, frames: int) -> list[Path]:
    """A video of each drive: eight in one town, there and back, then others in the next town, each
    along a street of its own."""
    paths = []
    for number in tqdm(range(drives), "drives", disable=None):
        if number % 8 == 0:
            town = make_town(number // 8)
        paths.append(folder / f"drive{number}.mp4")
        way = number if number < 8 else 2 * (number - 8)
        pictures = (frame.picture() for frame in drive(town, way, frames))
        write_frames(paths[-1], pictures, fps=FPS, overwrite=True)
    return paths


def read(path: Path) -> tuple[Tensor, list[float]]:
    """A video as (T, H, W, 1) in [0, 1], and the second at which each of its frames is shown."""
    frames = list(read_frames(path, size=READ, pixels="gray", torch=True))
    return torch.stack(frames)[..., None] / 255, [frame.time for frame in frames]


def train(recordings: list[Tensor], seconds: float) -> torch.nn.Module:
    """A forecaster of AHEAD frames from GIVEN; of ten recordings the last is held out."""
    source = Frames([r.numpy() for r in recordings], steps=GIVEN + AHEAD)
    model = convlstm.forecasting.forecaster(READ[::-1], given=GIVEN, ahead=AHEAD, width=32)
    options = TrainOptions(
        steps=UPDATES, seconds=seconds, batch=4, lr=2e-3, decay=True, clip=1.0, every=UPDATES
    )
    Trainer(model, source, options).run()
    return model


def beside(truth: Tensor, forecast: Tensor, scale: int = 6) -> np.ndarray:
    """(T, H, W, 3) uint8: the true frames on the left, the forecast ones on the right."""
    gap = torch.ones(*truth.shape[:2], 2, 1)
    both = torch.cat([truth, gap, forecast], 2).clamp(0, 1)
    large = both.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return (large * 255).byte().expand(*large.shape[:3], 3).contiguous().numpy()


def windows(clip: Tensor) -> tuple[Tensor, Tensor]:
    """(N, GIVEN, H, W, 1) and (N, AHEAD, H, W, 1): every second start of one recording."""
    length = GIVEN + AHEAD
    all_of_them = torch.stack([clip[i : i + length] for i in range(0, len(clip) - length + 1, 2)])
    return all_of_them[:, :GIVEN], all_of_them[:, GIVEN:]


def main() -> None:
    parser = arguments(__doc__)
    options = parser.parse_args()
    out, drives, frames, seconds = options.out, 10, 60, 120.0
    if options.small:
        drives, frames, seconds = 1, 34, 1.0
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    started = time.perf_counter()
    paths = record(out, drives, frames)
    drawn = time.perf_counter() - started
    recordings, times = zip(*map(read, paths), strict=True)
    print(
        f"{sum(map(len, times))} frames drawn, encoded and read in {drawn:.0f} s", file=sys.stderr
    )
    model = train(list(recordings), seconds)

    given, truth = windows(recordings[-1])
    forecasts = {
        "forecast": convlstm.forecast(model, given, AHEAD).clamp(0, 1),
        "optical flow": advect_last(given, AHEAD).clamp(0, 1),
        "last frame": copy_last(given, AHEAD),
    }
    errors = {name: by_lead_time(mse, made, truth) for name, made in forecasts.items()}
    for name, values in errors.items():
        print(f"{name:12}", *(f"{value:8.2f}" for value in values))
    # each pair of frames: half a second ahead, seen from the second before
    half = FPS // 2 - 1
    shown = beside(truth[:, half], forecasts["forecast"][:, half])
    write_frames(out / "ahead.mp4", shown, fps=FPS / 2, overwrite=True)
    leave(
        out,
        "A drive, seen, kept and forecast",
        "Ten drives through a rendered town became videos; frames came back as tensors with "
        f"their times; a ConvLSTM learned from nine and forecasts {AHEAD} frames of the tenth from "
        f"{GIVEN}.",
        {
            "frames drawn, encoded, read": f"{sum(map(len, times))} in {drawn:.0f} s",
            "squared error a frame at t+4, forecast": f"{errors['forecast'][3]:.1f}",
            "the same, optical flow": f"{errors['optical flow'][3]:.1f}",
            "the same, last frame": f"{errors['last frame'][3]:.1f}",
        },
        {
            "ahead.mp4": "A street that the model has not seen: the truth on the left, on the "
            "right what it forecast half a second before",
            paths[-1].name: "The drive as it was drawn",
        },
        CODE,
    )


if __name__ == "__main__":
    main()
