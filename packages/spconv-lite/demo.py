"""Ray-casts a street with a 64-beam scanner, cuts it into voxels, runs a sparse encoder on it, and
trains a small U-Net to name its parts."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import spconv_lite as sp
from examples import segmentation
from examples.drawing import canvas, draw_points, draw_segmentation, dress, street

TRAINING_STEPS = 90
RANGE = (-40.0, -40.0, -2.4, 40.0, 40.0, 4.0)
VOXEL = (0.1, 0.1, 0.2)
CODE = """import spconv_lite as sp
from torch import nn

voxels, indices, number = sp.PointToVoxel((0.1, 0.1, 0.2), RANGE, 4, 150_000, 5)(points)
x = sp.SparseConvTensor(voxels.sum(1) / number[:, None], batched(indices), grid_zyx, 1)
encoder = sp.SparseSequential(
    sp.SubMConv3d(4, 16, 3, indice_key="subm1"), nn.BatchNorm1d(16), nn.ReLU(),
    sp.SparseConv3d(16, 32, 3, stride=2, padding=1), nn.BatchNorm1d(32), nn.ReLU(),
    sp.SubMConv3d(32, 32, 3, indice_key="subm2"))
encoder(x).dense()                                  # (batch, channels, z, y, x)"""


def block(make: type, c_in: int, c_out: int, **settings: object) -> sp.SparseSequential:
    conv = make(c_in, c_out, 3, bias=False, **settings)
    return sp.SparseSequential(conv, nn.BatchNorm1d(c_out), nn.ReLU())


def encoder() -> list[sp.SparseSequential]:
    """Three stages, each at half the resolution of the one before."""
    return [
        sp.SparseSequential(
            block(sp.SubMConv3d, 4, 16, indice_key="a"),
            block(sp.SubMConv3d, 16, 16, indice_key="a"),
        ),
        sp.SparseSequential(
            block(sp.SparseConv3d, 16, 32, stride=2, padding=1),
            block(sp.SubMConv3d, 32, 32, indice_key="b"),
        ),
        sp.SparseSequential(
            block(sp.SparseConv3d, 32, 64, stride=2, padding=1),
            block(sp.SubMConv3d, 64, 64, indice_key="c"),
        ),
    ]


def draw_scan(path: Path, scan: street.Scan) -> None:
    made = canvas(12, 5.2)
    title = f"One turn of a 64-beam scanner in a procedural street: {len(scan.points):,} points"
    draw_points(made.subplots(), scan.points, scan.labels, title)
    made.savefig(path, dpi=150)


def draw_stages(path: Path, stages: list[sp.SparseConvTensor]) -> None:
    made = canvas(14, 3.9)
    for axes, stage, scale in zip(made.subplots(1, 3), stages, (1, 2, 4), strict=True):
        depth, rows, columns = stage.spatial_shape
        strength = stage.features.norm(dim=1)
        top = torch.zeros(rows * columns)
        cell = stage.indices[:, 2].long() * columns + stage.indices[:, 3]
        top = top.scatter_reduce(0, cell, strength, "amax").view(rows, columns).numpy()
        high = np.quantile(top[top > 0], 0.995)
        axes.imshow(
            np.ma.masked_equal(top, 0), origin="lower", cmap="magma", vmin=0, vmax=high,
            extent=(RANGE[0], RANGE[3], RANGE[1], RANGE[4]), interpolation="nearest",
        )  # fmt: skip
        dress(
            axes,
            f"{columns} x {rows} x {depth} cells of {VOXEL[0] * scale:.1f} m\n"
            f"{len(strength):,} active ({100 * stage.sparity:.2f} %), "
            f"{stage.features.shape[1]} channels",
        )
        axes.set(xlim=(-40, 40), ylim=(-26, 26), xlabel="x, m")
        axes.xaxis.label.set_color("#8b98a5")
    made.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where pictures and card.json go")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    print("spconv-lite: casting rays", file=sys.stderr)
    scan = street.scan(street.make_street(3), seed=1)
    make_voxels = sp.PointToVoxel(VOXEL, RANGE, 4, 150_000, 5)
    voxels, indices, number = make_voxels(torch.from_numpy(scan.points))
    indices = nn.functional.pad(indices, (1, 0))  # batch index 0
    features = voxels.sum(1) / number[:, None] / torch.tensor([40.0, 40.0, 4.0, 1.0])
    x = sp.SparseConvTensor(features, indices, make_voxels.grid_size, 1)

    print("spconv-lite: encoding", file=sys.stderr)
    layers, stages = [stage.train() for stage in encoder()], []
    with torch.no_grad():
        start = time.perf_counter()
        for layer in layers:
            stages.append(layer(x if not stages else stages[-1]))
        seconds = time.perf_counter() - start

    print("spconv-lite: training a U-Net", file=sys.stderr)
    samples, unseen = (
        [segmentation.make_sample(seed) for seed in (10, 11, 12)],
        segmentation.make_sample(3),
    )
    net = segmentation.UNet()
    segmentation.train(net, samples, TRAINING_STEPS)
    answer = segmentation.predict(net, unseen)
    quality = segmentation.intersection_over_union(answer, unseen.labels).nanmean()

    draw_segmentation(
        out / "segmentation.png", unseen.scan, segmentation.point_labels(answer, unseen)
    )
    draw_scan(out / "scan.png", scan)
    draw_stages(out / "encoder.png", stages)
    card = {
        "title": "spconv-lite",
        "summary": "A LiDAR-like scan of a procedural street becomes voxels, a sparse encoder "
        "computes on the active ones only, and a sparse U-Net learns the parts of a street.",
        "figures": [
            {"label": "points", "value": f"{len(scan.points):,}"},
            {"label": "voxels", "value": f"{len(number):,}"},
            {"label": "cells of the dense grid", "value": f"{x.spatial_size:,}"},
            {"label": "encoder, 6 layers", "value": f"{1e3 * seconds:.0f} ms"},
            {"label": "U-Net, training steps", "value": str(TRAINING_STEPS)},
            {"label": "mean IoU on an unseen street", "value": f"{quality:.2f}"},
        ],
        "beside": {"result": "encoder-2026-11-30.json", "case": "inference, lidar 120k, 1 threads"},
        "pictures": [
            {"file": "scan.png", "caption": "The scan; colours are the classes of the scene"},
            {
                "file": "encoder.png",
                "caption": "From above: how strongly each active cell answers after each stage",
            },
            {
                "file": "segmentation.png",
                "caption": "A U-Net after 90 steps, on a street that it has not seen",
            },
        ],
        "code": CODE,
    }
    (out / "card.json").write_text(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
