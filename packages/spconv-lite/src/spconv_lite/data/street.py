"""Voxels like those of a scanner in a street, for timing: a road between two walls."""

from __future__ import annotations

import numpy as np

SHAPE = [41, 1440, 1440]  # z, y, x: voxels of 0.1, 0.05 and 0.05 m
_LOW, _VOXEL = (-36.0, -36.0, -2.3), (0.05, 0.05, 0.1)  # x, y, z
_HEIGHT, _HALF_WIDTH = 1.73, 9.0  # metres, of the scanner and of the street


def _turn(rng: np.random.Generator) -> np.ndarray:
    """Where the 64 x 2048 beams of one turn end, (N, 3) metres: the road or a wall."""
    elevation = np.deg2rad(np.linspace(2.0, -24.8, 64))[:, None]
    azimuth = np.linspace(-np.pi, np.pi, 2048, endpoint=False) + rng.normal(0, 2e-4, 2048)
    x, y, z = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), elevation
    with np.errstate(divide="ignore"):
        road = np.where(z < 0, -_HEIGHT / np.sin(z), np.inf)
        distance = np.minimum(road, _HALF_WIDTH / np.abs(y))
    distance = distance + rng.normal(0, 0.03, distance.shape)
    ends = np.stack([x * distance, y * distance, np.sin(z) * distance], -1)
    return ends[distance < 80.0]


def voxel_sites(count: int, seed: int = 0) -> np.ndarray:
    """Exactly `count` distinct voxels, int32 (count, 4), columns batch 0, z, y, x of a grid SHAPE,
    in the order in which a scanner that drives along would see them."""
    rng = np.random.default_rng(seed)
    found = np.empty((0, 3), np.int64)
    while len(found) < count:
        ends = _turn(rng) + np.array([rng.uniform(-20, 20), rng.uniform(-2, 2), 0.0])
        cells = np.floor((ends - _LOW) / _VOXEL).astype(np.int64)
        cells = cells[((cells >= 0) & (cells < SHAPE[::-1])).all(1)]
        found = np.concatenate([found, cells])
        _, first = np.unique(found, axis=0, return_index=True)
        found = found[np.sort(first)]
    cells = found[np.sort(rng.choice(len(found), count, replace=False))]
    return np.column_stack([np.zeros(count, np.int64), cells[:, ::-1]]).astype(np.int32)
