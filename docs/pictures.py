"""Draws the pictures of the pages "How it works", each with the library that it explains.

    .venv/bin/python docs/pictures.py [package ...]

They lie beside the pages, in packages/<name>/docs; tp-parallel's has a script of its own there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt

PACKAGES = Path(__file__).resolve().parent.parent / "packages"
COLUMNS, SIDE = 3, 2.6  # three pictures abreast, in inches of 100 dots: legible on a phone


def panels(pictures: list[tuple[str, np.ndarray]], file: Path, **options: object) -> None:
    """Pictures with their titles, three abreast."""
    rows = -(-len(pictures) // COLUMNS)
    tall = pictures[0][1].shape[0] / pictures[0][1].shape[1] * SIDE + 0.5
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(COLUMNS * SIDE, rows * tall), layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, picture) in zip(axes.flat, pictures, strict=False):
        axis.imshow(picture, interpolation="nearest", **options)
        axis.set_title(title, fontsize=11)
    save(figure, file)


def save(figure: plt.Figure, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=100, metadata={"Software": None})
    plt.close(figure)


def convlstm(folder: Path) -> None:
    """Which pixels of earlier frames one output pixel depends on."""
    import convlstm

    torch.manual_seed(0)
    layer = convlstm.ConvLSTM2d(1, 16, kernel_size=3, padding="same", return_sequences=True)
    x = torch.rand(1, 6, 1, 25, 25, requires_grad=True)
    layer(x)[0, -1, :, 12, 12].sum().backward()
    seen = x.grad.abs()[0, :, 0]
    shown = [(f"frame {t + 1} of 6", np.log10(seen[t].numpy() + 1e-12)) for t in range(6)]
    panels(shown, folder / "field.png", cmap="magma", vmin=-7, vmax=float(seen.max().log10()))


def spconv_lite(folder: Path) -> None:
    """The active sites of a ring after a layer of each kind."""
    import spconv_lite as sp

    side = 24
    y, x = np.mgrid[:side, :side]
    ring = np.abs(np.hypot(y - 11.5, x - 11.5) - 8) < 0.6
    sites = torch.from_numpy(np.argwhere(ring)).int()
    sites = torch.cat([torch.zeros(len(sites), 1, dtype=torch.int32), sites], 1)
    start = sp.SparseConvTensor(torch.ones(len(sites), 1), sites, [side, side], 1)
    layers = {
        "SubMConv2d,\nthree times": sp.SparseSequential(
            *[sp.SubMConv2d(1, 1, 3) for _ in range(3)]
        ),
        "SparseConv2d, once": sp.SparseConv2d(1, 1, 3, padding=1),
        "SparseConv2d,\nthree times": sp.SparseSequential(
            *[sp.SparseConv2d(1, 1, 3, padding=1) for _ in range(3)]
        ),
        "SparseConv2d, stride 2": sp.SparseConv2d(1, 1, 3, stride=2, padding=1),
    }
    shown = [(f"input: {len(sites)} sites", ring)]
    for name, layer in layers.items():
        made = layer(start)
        active = np.zeros(made.spatial_shape, bool)
        active[tuple(made.indices[:, 1:].T.numpy())] = True
        shown.append((f"{name}: {len(made.indices)} sites", active))
    panels(shown, folder / "sites.png", cmap="Blues", vmin=0, vmax=1.3)


def nanite_cull(folder: Path) -> None:
    """One view at three allowed errors: clusters, and how coarse each is."""
    import nanite_cull as nc

    asset = nc.build(*nc.meshes.planet(6), progress=False)
    scene, camera = nc.Scene(asset), nc.Camera.around(asset)
    shown = []
    for threshold in (0.5, 2.0, 8.0):
        frame = nc.Renderer(300, 300, threshold=threshold).render(scene, camera)
        title = f"{threshold:g} pixels:\n{frame.stats['triangles']:,} triangles"
        shown.append((title, np.asarray(frame.picture("cluster"))))
    panels(shown, folder / "cut.png")


def ffmpeg_gpu_build(folder: Path) -> None:
    """What the judge of an encoder looks at: the frames that went in, those that came back."""
    from ffmpeg_gpu_build import read_frames, write_frames

    y, x = np.mgrid[:180, :320]
    clip = [
        np.stack([(x + 4 * t) % 256, (y * 2) % 256, (x ^ (y + t)) % 256], 2).astype(np.uint8)
        for t in range(24)
    ]
    shown = [("frame 12 as it went in", clip[12])]
    with tempfile.TemporaryDirectory() as scratch:
        for quality in (18, 40):
            path = Path(scratch, f"{quality}.mp4")
            write_frames(path, clip, quality=quality)
            back = np.asarray(list(read_frames(path))[12]).astype(int)
            error = np.abs(back - clip[12])
            decibel = 10 * np.log10(255**2 / np.mean(error.astype(float) ** 2))
            title = f"quality {quality}, error x 4:\n{decibel:.1f} dB"
            shown.append((title, np.clip(4 * error, 0, 255).astype(np.uint8)))
    panels(shown, folder / "judged.png")


def resnet_zoo(folder: Path) -> None:
    """The live model as its own picture."""
    from resnet_zoo import resnet18
    from resnet_zoo.seeing.draw import draw_svg

    folder.mkdir(exist_ok=True)
    (folder / "resnet18.svg").write_text(draw_svg(resnet18(), title="resnet18"), encoding="utf-8")


DRAWERS = {
    drawer.__name__.replace("_", "-"): drawer
    for drawer in (convlstm, spconv_lite, nanite_cull, ffmpeg_gpu_build, resnet_zoo)
}

if __name__ == "__main__":
    for name in sys.argv[1:] or DRAWERS:
        DRAWERS[name](PACKAGES / name / "docs")
