"""Pictures of scans, for the demo and the tutorial."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib import colors, figure
from matplotlib.backends.backend_agg import FigureCanvasAgg

sys.path.insert(0, str(Path(__file__).resolve().parent))
import street

PALETTE = ["#6f7885", "#c98f5a", "#3f8efc", "#4caf6d", "#f2c14e", "#e4572e"]
INK, PAPER = "#e8edf2", "#0f141a"


def canvas(width: float, height: float) -> figure.Figure:
    made = figure.Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(made)
    return made


def dress(axes, title: str) -> None:
    axes.set_facecolor(PAPER)
    axes.set_title(title, color=INK, fontsize=11, loc="left")
    axes.tick_params(colors="#8b98a5", labelsize=8)
    for side in axes.spines.values():
        side.set_color("#2a333d")
    axes.set_aspect("equal")


def perspective(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Screen x, y and depth of the points from behind and above the sensor."""
    eye, pitch = np.array([-17.0, 0.0, 10.0]), np.deg2rad(27)
    away = points - eye
    depth = away[:, 0] * np.cos(pitch) - away[:, 2] * np.sin(pitch)
    up = away[:, 0] * np.sin(pitch) + away[:, 2] * np.cos(pitch)
    return -away[:, 1] / depth, up / depth, depth


def draw_points(axes, points: np.ndarray, labels: np.ndarray, title: str) -> None:
    """The points in perspective, coloured by class; nearer ones are larger and brighter."""
    x, y, depth = perspective(points[:, :3].astype(np.float64))
    seen = (depth > 2) & (np.abs(x) < 1.05) & (y > -0.62) & (y < 0.30) & (labels >= 0)
    order = np.flatnonzero(seen)[np.argsort(-depth[seen])]
    shade = np.clip(1.15 - depth[order] / 85, 0.25, 1)[:, None]
    rgb = colors.to_rgba_array(PALETTE)[labels[order], :3] * shade
    axes.scatter(x[order], y[order], s=np.clip(28 / depth[order], 0.25, 3), c=rgb, linewidths=0)
    dress(axes, title)
    axes.set(xticks=[], yticks=[], xlim=(-1.05, 1.05), ylim=(-0.62, 0.30))
    for name, tint in zip(street.LABELS, PALETTE, strict=True):
        axes.scatter([], [], s=30, color=tint, label=name)
    axes.legend(ncols=6, loc="lower center", frameon=False, labelcolor=INK, fontsize=9)


def draw_segmentation(path: Path, scan: street.Scan, got: np.ndarray) -> None:
    """What a network answers, above what is true, for the points that it saw."""
    made = canvas(12, 10.4)
    right = (got == scan.labels)[got >= 0].mean()
    above, below = made.subplots(2)
    draw_points(
        above, scan.points, got, f"What the network says of an unseen street ({right:.1%} right)"
    )
    draw_points(below, scan.points, np.where(got >= 0, scan.labels, -1), "What is true")
    made.savefig(path, dpi=150)
