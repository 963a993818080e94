"""Trains a ResNet and a sparse encoder as one model in processes of which one is killed.

nanite-cull draws places in a town: a picture for a ResNet of resnet-zoo, points for an encoder of
spconv-lite. Together they learn how much of each class can be seen. tp-parallel averages the
gradients over the processes and keeps checkpoints; with --kill-at one process ends itself by
SIGKILL, torchrun starts all again, and the run ends with the same bits as one left alone.

    torchrun --nproc-per-node 2 --max-restarts 1 examples/replicas.py --out replicas --kill-at 12
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from card import arguments
from streets import VOXEL_M, look_around
from torch import Tensor, nn
from torch.nn import functional as F
from town import BLOCK, CLASSES, STREET, Town, make_town

import nanite_cull as nc
import resnet_zoo
import spconv_lite as sp
import tp_parallel as tp
from tp_parallel.training import checkpoint

REACH_M = 12.0
GRID = (-REACH_M, -REACH_M, -1.0, REACH_M, REACH_M, 7.0)
EVERY = 5  # steps from one checkpoint to the next


class Both(nn.Module):
    """A picture and the voxels around a place -> the logits of its classes' shares.

    Norms over channels, not over the batch: a batch's statistics would depend on how it is split.
    """

    def __init__(self) -> None:
        super().__init__()
        self.picture = resnet_zoo.resnet18(
            num_classes=32, planes=8, norm_layer=lambda width: nn.GroupNorm(4, width)
        )
        self.voxels = sp.SparseSequential(
            sp.SubMConv3d(1, 8, 3), nn.LayerNorm(8), nn.ReLU(),
            sp.SparseConv3d(8, 16, 3, stride=2, padding=1), nn.LayerNorm(16), nn.ReLU(),
            sp.SparseGlobalAvgPool(),
        )  # fmt: skip
        self.head = nn.Linear(32 + 16, len(CLASSES))

    def forward(self, picture: Tensor, voxels: sp.SparseConvTensor) -> Tensor:
        return self.head(torch.cat([self.picture(picture), self.voxels(voxels)], 1))


def place(town: Town, seed: int) -> tuple[Tensor, sp.SparseConvTensor, Tensor]:
    """Picture (1, 3, 48, 64), voxels around, and the share of each class in the views, (1, C)."""
    random = np.random.default_rng(seed)
    street = random.integers(1, 3) * (BLOCK + STREET) - town.size
    eye = np.array([street + random.uniform(-1, 1), 1.7, random.uniform(-0.8, 0.8) * town.size])
    points, classes = look_around(town, eye)
    share = np.bincount(classes, minlength=len(CLASSES)) / len(classes)
    camera = nc.Camera.look_at(eye, eye + np.array([0, 0, 1]), fov_y=75, near=0.05)
    picture = torch.from_numpy(nc.Renderer(64, 48).render(town.scene, camera).picture())
    cut = sp.PointToVoxel([VOXEL_M] * 3, GRID, 3, 20_000, 4)
    _, indices, number = cut(torch.from_numpy(points))
    sites = F.pad(indices, (1, 0))
    voxels = sp.SparseConvTensor(number[:, None] / 4, sites, cut.grid_size, 1)
    return picture.permute(2, 0, 1)[None] / 255, voxels, torch.from_numpy(share)[None].float()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--kill-at", type=int, help="the last process ends itself at this step, once"
    )
    options = parser.parse_args()
    root = Path(options.out)
    context = tp.ParallelContext(dp=int(os.environ.get("WORLD_SIZE", "1")))
    torch.manual_seed(0)
    model = Both()
    tp.declare_replicated(model)
    optimizer = tp.AdamW([model], context, lr=2e-3)
    buckets = tp.GradientBuckets([model], context)
    town = make_town(0, blocks=3)
    first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"

    found = checkpoint.resume(root, [model], optimizer, context=context)
    first = found["step"] if found else 0
    for step in range(first, options.steps):
        if step == options.kill_at and first_life and context.dp.rank == context.dp.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        picture, voxels, share = place(town, step * context.dp.size + context.dp.rank)
        buckets.zero()
        loss = F.kl_div(model(picture, voxels).log_softmax(1), share, reduction="batchmean")
        (loss / context.dp.size).backward()  # gradients are summed over the processes
        tp.finish_gradients([model], context, buckets=buckets)
        optimizer.step()
        if (step + 1) % EVERY == 0 or step + 1 == options.steps:
            checkpoint.save(root, step + 1, [model], optimizer, context=context, keep=2)
        if context.dp.rank == 0:
            print(f"step {step + 1}, loss {loss.item():.6f}", file=sys.stderr, flush=True)
    context.close()


if __name__ == "__main__":
    main()
