"""Trains a small sparse U-Net to name the parts of a street, on scans that it ray-casts itself.

    python examples/segmentation.py -o street.png

docs/tutorial.md walks through this file.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import spconv_lite as sp

sys.path.insert(0, str(Path(__file__).resolve().parent))
import street

VOXEL = (0.2, 0.2, 0.2)
RANGE = (-40.0, -40.0, -2.4, 40.0, 40.0, 8.0)
CLASSES = len(street.LABELS)


@dataclass
class Sample:
    """One scan as voxels: what the network reads, what it should answer, and the way back."""

    features: Tensor  # (N, 4): height, intensity, distance, points in the voxel
    indices: Tensor  # (N, 4) int32: batch 0, z, y, x
    labels: Tensor  # (N,): the most frequent class of the voxel's points
    voxel_of_point: Tensor  # (P,): -1 outside the grid
    scan: street.Scan
    shape: list[int]

    def tensor(self) -> sp.SparseConvTensor:
        return sp.SparseConvTensor(self.features, self.indices, self.shape, 1)


def make_sample(seed: int, turns: int = 2048) -> Sample:
    """A scan of street `seed`, cut into voxels of 20 cm."""
    scan = street.scan(street.make_street(seed), seed=seed, turns=turns)
    make_voxels = sp.PointToVoxel(VOXEL, RANGE, 4, 200_000, 8)
    points = torch.from_numpy(scan.points)
    voxels, indices, number, voxel_of_point = make_voxels.generate_voxel_with_id(points)
    mean = voxels.sum(1) / number[:, None]
    features = torch.stack(
        [mean[:, 2] / 3, mean[:, 3], mean[:, :2].norm(dim=1) / 40, number.clamp(max=8) / 8], 1
    )
    inside = voxel_of_point >= 0
    votes = torch.zeros(len(indices), CLASSES, dtype=torch.int64)
    place = voxel_of_point[inside], torch.from_numpy(scan.labels)[inside]
    votes.index_put_(place, torch.ones((), dtype=torch.int64), accumulate=True)
    indices = nn.functional.pad(indices, (1, 0))
    return Sample(features, indices, votes.argmax(1), voxel_of_point, scan, make_voxels.grid_size)


def block(conv: sp.SparseConvolution) -> sp.SparseSequential:
    return sp.SparseSequential(conv, nn.BatchNorm1d(conv.out_channels), nn.ReLU())


class UNet(nn.Module):
    """Three resolutions. Going down, a strided convolution; going up, its inverse, which gives back
    the very sites of the way down, so that both can be joined."""

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.stem = block(sp.SubMConv3d(4, channels[0], 3, bias=False, indice_key="level0"))
        self.down, self.deep, self.up, self.join = (nn.ModuleList() for _ in range(4))
        for level, (fine, coarse) in enumerate(pairwise(channels)):
            here, below, step = f"level{level}", f"level{level + 1}", f"step{level}"
            self.down.append(
                block(sp.SparseConv3d(fine, coarse, 3, 2, 1, bias=False, indice_key=step))
            )
            self.deep.append(block(sp.SubMConv3d(coarse, coarse, 3, bias=False, indice_key=below)))
            self.up.append(block(sp.SparseInverseConv3d(coarse, fine, 3, step, bias=False)))
            self.join.append(block(sp.SubMConv3d(2 * fine, fine, 3, bias=False, indice_key=here)))
        self.head = nn.Linear(channels[0], CLASSES)

    def forward(self, x: sp.SparseConvTensor) -> Tensor:
        """Logits (N, classes) of the voxels, in the order of x."""
        skips = [self.stem(x)]
        for down, deep in zip(self.down, self.deep, strict=True):
            skips.append(deep(down(skips[-1])))
        x = skips.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            x = join(sp.JoinTable()([up(x), skips.pop()]))
        return self.head(x.features)


def turned(sample: Sample) -> sp.SparseConvTensor:
    """The sample mirrored along x or y, or neither, at random: the street looks alike."""
    indices = sample.indices.clone()
    for axis in (2, 3):
        if torch.rand(()) < 0.5:
            indices[:, axis] = sample.shape[axis - 1] - 1 - indices[:, axis]
    return sp.SparseConvTensor(sample.features, indices, sample.shape, 1)


def train(net: UNet, samples: list[Sample], steps: int) -> list[float]:
    """Trains with a learning rate that falls to zero; returns the losses. Rare classes weigh more.
    The same seed gives the same network, whatever the number of threads."""
    counts = sum(torch.bincount(s.labels, minlength=CLASSES) for s in samples).float()
    loss_of = nn.CrossEntropyLoss(weight=(counts.sum() / counts.clamp(min=1)).sqrt())
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    net.train()
    for step in range(steps):
        sample = samples[step % len(samples)]
        loss = loss_of(net(turned(sample)), sample.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if sys.stderr.isatty():
            print(f"\rstep {step + 1} of {steps}, loss {losses[-1]:.3f}", end="", file=sys.stderr)
    return losses


@torch.no_grad()
def predict(net: UNet, sample: Sample) -> Tensor:
    """The class of each voxel (N,)."""
    return net.eval()(sample.tensor()).argmax(1)


def intersection_over_union(got: Tensor, truth: Tensor) -> Tensor:
    """One number a class; not a number where neither has it."""
    confusion = torch.bincount(truth * CLASSES + got, minlength=CLASSES**2).view(CLASSES, CLASSES)
    hits = confusion.diagonal().float()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def point_labels(classes: Tensor, sample: Sample) -> np.ndarray:
    """The class of each point of the scan; -1 outside the grid."""
    return sp.gather_features_by_pc_voxel_id(classes, sample.voxel_of_point, -1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True, help="the picture, a .png")
    parser.add_argument("--steps", type=int, default=300, help="of training, default 300")
    options = parser.parse_args()
    torch.manual_seed(0)
    print("casting rays", file=sys.stderr)
    samples, unseen = [make_sample(seed) for seed in range(10, 16)], make_sample(3)
    net = UNet()
    losses = train(net, samples, options.steps)
    got = predict(net, unseen)
    print(f"\nloss {losses[0]:.2f} to {losses[-1]:.2f}; an unseen street, intersection over union:")
    for name, value in zip(street.LABELS, intersection_over_union(got, unseen.labels), strict=True):
        print(f"  {name:10} {value:.2f}")
    from drawing import draw_segmentation  # needs matplotlib

    draw_segmentation(options.out, unseen.scan, point_labels(got, unseen))
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
