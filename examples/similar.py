"""Finds where a picture was taken: the same streets, driven on another day, by nearest neighbours.

nanite-cull draws each street twice, under two suns and on two lanes; ffmpeg-gpu-build keeps the
drives as videos; a narrow ResNet of resnet-zoo learns on three streets that two pictures of one
place belong together (InfoNCE: van den Oord et al., 2018, arXiv 1807.03748) and then finds places
on a fourth, beside a search by pixels.

    python examples/similar.py --out similar
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from card import arguments, leave
from flight import FPS, METRES_A_FRAME, SEEN, drive
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from town import make_town
from tqdm import tqdm

import resnet_zoo
from ffmpeg_gpu_build import read_frames, write_frames

DAYS = {"morning": ((0.9, 0.6, 0.3), -0.7), "evening": ((-0.8, 0.5, -0.4), 0.7)}
NEAR_M = 2.0  # what counts as the same place
CODE = """\
net = resnet_zoo.resnet18(num_classes=64, planes=16)
morning, evening = places("morning.mp4"), places("evening.mp4")   # (N, 3, 64, 96) tensors
features = F.normalize(net(morning)), F.normalize(net(evening))
nearest = (features[1] @ features[0].T).argmax(1)                 # evening -> morning"""


def record(folder: Path, ways: int, frames: int) -> dict[str, list[Tensor]]:
    """Each day's drives along `ways` of the streets, read back: (frames, 3, H, W) in [-1, 1]."""
    town, seen = make_town(0), {}
    for day, (light, lane) in DAYS.items():
        seen[day] = []
        for number in tqdm(range(ways), day, disable=None):
            path = folder / f"{day}{number}.mp4"
            pictures = drive(town, number, frames, light=light, lane=lane)
            write_frames(path, (p.picture() for p in pictures), fps=FPS, overwrite=True)
            read = torch.stack(list(read_frames(path, torch=True)))
            seen[day].append(read.permute(0, 3, 1, 2) / 127.5 - 1)
    return seen


def train(
    net: nn.Module, pairs: tuple[Tensor, Tensor], steps: int, temperature: float = 0.1
) -> None:
    """pairs: (N, 3, H, W) twice, the same place in each row."""
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    net.train()
    for step in tqdm(range(steps), "training", disable=None):
        rows = torch.randperm(len(pairs[0]), generator=torch.Generator().manual_seed(step))[:24]
        one, other = (F.normalize(net(side[rows])) for side in pairs)
        likeness = one @ other.T / temperature
        right = torch.arange(len(rows))
        loss = (F.cross_entropy(likeness, right) + F.cross_entropy(likeness.T, right)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def nearest(queries: Tensor, known: Tensor, count: int) -> Tensor:
    """(Q, count): the rows of `known` that are most alike, best first; rows are unit vectors."""
    return (queries @ known.T).topk(count).indices


def found(neighbours: Tensor) -> float:
    """The share of queries whose nearest neighbour is the same place; row k is place k."""
    metres = (neighbours[:, 0] - torch.arange(len(neighbours))).abs() * METRES_A_FRAME
    return float((metres <= NEAR_M).float().mean())


def draw(path: Path, evening: Tensor, morning: Tensor, neighbours: Tensor) -> None:
    """A row for some of the queries: the picture, then its three nearest of the other day."""
    rows = []
    for query in range(0, len(evening), max(1, len(evening) // 5)):
        row = torch.cat([evening[query], *(morning[k] for k in neighbours[query])], 2)
        rows.append(((row + 1) * 127.5).byte().permute(1, 2, 0).numpy())
    picture = Image.fromarray(np.concatenate(rows))
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(path)


def main() -> None:
    options = arguments(__doc__).parse_args()
    out, ways, frames, steps = options.out, 8, 48, 120  # four streets, there and back
    if options.small:
        ways, frames, steps = 4, 4, 2
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    seen = record(out, ways, frames)
    known = [torch.cat(seen[day][:-2]) for day in DAYS]  # the last street is held out
    morning, evening = (torch.cat(seen[day][-2:]) for day in DAYS)
    net = resnet_zoo.resnet18(num_classes=64, planes=16)
    started = time.perf_counter()
    train(net, (known[0], known[1]), steps)
    print(f"trained in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    net.eval()
    with torch.no_grad():
        by_net = nearest(F.normalize(net(evening)), F.normalize(net(morning)), 3)
    flat = [F.normalize(side.flatten(1) - side.flatten(1).mean(0)) for side in (evening, morning)]
    by_pixels = nearest(*flat, 3)
    shares = {"features": found(by_net), "pixels": found(by_pixels)}
    print(*(f"{name}: {share:.2f} of {len(evening)} places" for name, share in shares.items()))
    draw(out / "neighbours.png", evening, morning, by_net)
    leave(
        out,
        "The same place, another day",
        "Streets drawn in the morning and in the evening, kept as videos of "
        f"{SEEN[0]}x{SEEN[1]}; a narrow ResNet learned on three of them what makes two pictures "
        "one place.",
        {
            f"of {len(evening)} places of a fourth street, found within {NEAR_M:.0f} m": (
                f"{100 * shares['features']:.0f} %"
            ),
            "by pixels alone": f"{100 * shares['pixels']:.0f} %",
        },
        {"neighbours.png": "Evening on the left; the three nearest of the morning beside it"},
        CODE,
    )


if __name__ == "__main__":
    main()
