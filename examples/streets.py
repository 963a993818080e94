"""Learns the parts of a town from depth pictures, and names them in a town it has not seen.

nanite-cull draws all around from places in the streets; pixels become points with the labels of
what they show; spconv-lite cuts them into voxels and trains a U-Net on rendered towns.

    python examples/streets.py --out streets
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from card import arguments, leave
from PIL import Image
from torch import Tensor, nn
from town import BLOCK, CLASSES, STREET, Town, make_town
from tqdm import tqdm

import nanite_cull as nc
import spconv_lite as sp

VOXEL_M = 0.4
REACH_M = 24.0  # to each side of where a sample was seen
GRID = (-REACH_M, -REACH_M, -1.0, REACH_M, REACH_M, 15.0)  # x, y (the scene's z), height
SIDE = 128  # pixels of a view; four of them go round
COLORS = np.array([(120, 120, 125), (200, 90, 70), (60, 150, 60), (70, 110, 220), (240, 200, 60)])
CODE = """\
points = frame.position[frame.coverage][:, [0, 2, 1]] - eye       # numpy -> torch without a copy
voxels, indices, number = sp.PointToVoxel([0.4] * 3, GRID, 3, 60_000, 8)(torch.from_numpy(points))
x = sp.SparseConvTensor(features, batched(indices), grid_zyx, 1)
loss = F.cross_entropy(unet(x), labels)              # ground, house, tree, car, post"""


@dataclass
class Sample:
    """What was seen around one place, as voxels."""

    x: sp.SparseConvTensor  # features (N, 4): height, points, and the mean place within the voxel
    labels: Tensor  # (N,) int64: the class that most points of the voxel have


def look_around(town: Town, eye: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) float32 around `eye`, x, z, height, and their classes (N,) int64."""
    renderer, points, labels = nc.Renderer(SIDE, SIDE), [], []
    for turn in np.radians(range(0, 360, 90)):
        target = eye + np.array([np.sin(turn), 0.0, np.cos(turn)])
        camera = nc.Camera.look_at(eye, target, fov_y=90, near=0.05)
        frame = renderer.render(town.scene, camera)
        points.append(
            frame.position[frame.coverage][:, [0, 2, 1]] - np.float32(eye[[0, 2, 1]] * [1, 1, 0])
        )
        labels.append(town.labels(frame)[frame.coverage])
    return np.concatenate(points).astype(np.float32), np.concatenate(labels)


def make_sample(town: Town, eye: np.ndarray) -> Sample:
    points, classes = look_around(town, eye)
    cut = sp.PointToVoxel([VOXEL_M] * 3, GRID, 3, 60_000, 8)
    voxels, indices, number, voxel_of_point = cut.generate_voxel_with_id(torch.from_numpy(points))
    inside = voxel_of_point >= 0
    votes = torch.zeros(len(indices), len(CLASSES), dtype=torch.int64)
    places = voxel_of_point[inside], torch.from_numpy(classes)[inside]
    votes.index_put_(places, torch.ones((), dtype=torch.int64), accumulate=True)
    mean = voxels.sum(1) / number[:, None]
    features = torch.stack(
        [mean[:, 2] / 5, number / 8, *((mean[:, :2] / VOXEL_M) % 1).unbind(1)], 1
    )
    sites = nn.functional.pad(indices, (1, 0))
    return Sample(sp.SparseConvTensor(features, sites, cut.grid_size, 1), votes.argmax(1))


def samples(seed: int, count: int) -> list[Sample]:
    """Around `count` places in the streets of town `seed`."""
    town, random = make_town(seed), np.random.default_rng(seed)
    made = []
    for _ in tqdm(range(count), f"town {seed}", disable=None):
        street = random.integers(1, 5) * (BLOCK + STREET) - town.size
        along = random.uniform(-0.8, 0.8) * town.size
        made.append(make_sample(town, np.array([street + random.uniform(-1, 1), 1.7, along])))
    return made


def layer(conv: sp.SparseConvolution) -> sp.SparseSequential:
    return sp.SparseSequential(conv, nn.BatchNorm1d(conv.out_channels), nn.ReLU())


class UNet(nn.Module):
    """Two resolutions and a skip; logits (N, classes) in the order of the input's sites."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = layer(sp.SubMConv3d(4, 16, 3, bias=False, indice_key="fine"))
        self.down = layer(sp.SparseConv3d(16, 32, 3, 2, 1, bias=False, indice_key="down"))
        self.coarse = sp.SparseSequential(
            *(layer(sp.SubMConv3d(32, 32, 3, bias=False, indice_key="coarse")) for _ in range(3))
        )
        self.up = layer(sp.SparseInverseConv3d(32, 16, 3, "down", bias=False))
        self.join = layer(sp.SubMConv3d(32, 16, 3, bias=False, indice_key="fine"))
        self.head = nn.Linear(16, len(CLASSES))

    def forward(self, x: sp.SparseConvTensor) -> Tensor:
        fine = self.fine(x)
        up = self.up(self.coarse(self.down(fine)))
        return self.head(self.join(sp.JoinTable()([up, fine])).features)


def train(net: UNet, seen: list[Sample], steps: int) -> None:
    """Rare classes weigh more; the same seed gives the same network."""
    counts = sum(torch.bincount(s.labels, minlength=len(CLASSES)) for s in seen).float()
    loss_of = nn.CrossEntropyLoss(weight=(counts.sum() / counts.clamp(min=1)).sqrt())
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    net.train()
    for step in tqdm(range(steps), "training", disable=None):
        sample = seen[step % len(seen)]
        loss = loss_of(net(sample.x), sample.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def shared_over_all(got: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union, one number a class; not a number where neither has it."""
    pairs = torch.bincount(truth * len(CLASSES) + got, minlength=len(CLASSES) ** 2)
    table = pairs.view(len(CLASSES), -1).float()
    return table.diagonal() / (table.sum(0) + table.sum(1) - table.diagonal())


def from_above(sample: Sample, classes: Tensor, scale: int = 4) -> np.ndarray:
    """(H, W, 3) uint8: the highest voxel of each column, in its class's colour."""
    _, rows, columns = sample.x.spatial_shape
    picture = np.full((rows, columns, 3), 20, np.uint8)
    for k in torch.argsort(sample.x.indices[:, 1]):  # higher ones later, on top
        picture[tuple(sample.x.indices[k, 2:].tolist())] = COLORS[classes[k]]
    return picture.repeat(scale, 0).repeat(scale, 1)


def main() -> None:
    options = arguments(__doc__).parse_args()
    out, towns, places, steps = options.out, 4, 8, 160
    if options.small:
        towns, places, steps = 1, 1, 2
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    seen = [sample for seed in range(towns) for sample in samples(seed, places)]
    unseen = samples(100, places)
    net = UNet()
    started = time.perf_counter()
    train(net, seen, steps)
    seconds = time.perf_counter() - started
    net.eval()
    with torch.no_grad():
        answers = [net(sample.x).argmax(1) for sample in unseen]
    truth = torch.cat([sample.labels for sample in unseen])
    quality = shared_over_all(torch.cat(answers), truth)
    print(*(f"{name} {value:.2f}" for name, value in zip(CLASSES, quality, strict=True)))
    gap = np.full((from_above(unseen[0], truth).shape[0], 12, 3), 255, np.uint8)
    both = [from_above(unseen[0], classes) for classes in (unseen[0].labels, answers[0])]
    Image.fromarray(np.concatenate([both[0], gap, both[1]], 1)).save(out / "streets.png")
    voxels = sum(len(sample.labels) for sample in seen)
    leave(
        out,
        "A town learned from its depth",
        f"Views all around from {len(seen)} places in {towns} rendered towns became {voxels:,} "
        f"labelled voxels; a sparse U-Net learned {', '.join(CLASSES)} and names another town.",
        {
            "mean intersection over union, unseen town": f"{quality.nanmean():.2f}",
            **{name: f"{value:.2f}" for name, value in zip(CLASSES, quality, strict=True)},
            f"{steps} training steps": f"{seconds:.0f} s",
        },
        {"streets.png": "From above, around one place: the truth, and the answer beside it"},
        CODE,
    )


if __name__ == "__main__":
    main()
