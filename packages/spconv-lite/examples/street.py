"""A procedural street and a rotating 64-beam LiDAR in it: labelled point clouds without a data set.

The scene is a set of primitives (ground, boxes, upright cylinders, spheres); every beam is
intersected with every primitive it can meet, and the nearest hit returns, with range noise and
drop-outs. The angles are those of a common 64-beam sensor: 2 degrees up to 24.8 degrees down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LABELS = ("ground", "building", "car", "tree", "pole", "person")
GROUND, BUILDING, CAR, TREE, POLE, PERSON = range(len(LABELS))

SENSOR_HEIGHT = 1.73  # metres above the road
ELEVATION_DEGREES = (2.0, -24.8)
MOST_RANGE = 80.0


class Scan(NamedTuple):
    """points: float32 (N, 4), columns x, y, z in metres and intensity in [0, 1], in the order in
    which the sensor sees them; labels: int64 (N,), indices into LABELS."""

    points: np.ndarray
    labels: np.ndarray


@dataclass
class Street:
    """Primitives as arrays with one row each. Boxes: (x, y, z) of two corners; cylinders:
    (x, y, radius, bottom, top); spheres: (x, y, z, radius)."""

    boxes: np.ndarray
    box_labels: np.ndarray
    cylinders: np.ndarray
    cylinder_labels: np.ndarray
    spheres: np.ndarray
    sphere_labels: np.ndarray


def make_street(seed: int = 0, length: float = 140.0) -> Street:
    """A straight street along x with houses, parked and moving cars, trees, lamps and people."""
    rng = np.random.default_rng(seed)
    boxes, cylinders, spheres = [], [], []

    def box(x, y, size_x, size_y, bottom, top, label):
        boxes.append(
            (x - size_x / 2, y - size_y / 2, bottom, x + size_x / 2, y + size_y / 2, top, label)
        )

    for side in (-1, 1):
        x = -length / 2
        while x < length / 2:
            width, depth, front = rng.uniform(8, 20), rng.uniform(8, 14), rng.uniform(10.5, 14)
            if rng.random() < 0.85:
                box(
                    x + width / 2,
                    side * (front + depth / 2),
                    width,
                    depth,
                    -0.2,
                    rng.uniform(4, 14),
                    BUILDING,
                )
                for _ in range(int(rng.integers(0, 3))):  # bays and steps
                    along = x + rng.uniform(1, width - 1)
                    box(
                        along,
                        side * front,
                        rng.uniform(1, 3),
                        rng.uniform(0.5, 1.6),
                        0,
                        rng.uniform(1, 4),
                        BUILDING,
                    )
            x += width + rng.uniform(0.2, 4)
        x = -length / 2 + rng.uniform(0, 4)
        while x < length / 2:
            if rng.random() < 0.6:
                _car(box, rng, x, side * rng.uniform(6.2, 6.7))
            x += rng.uniform(5.3, 7)
        x = -length / 2 + rng.uniform(0, 8)
        while x < length / 2:
            y, trunk = side * rng.uniform(8.2, 9.0), rng.uniform(1.8, 2.8)
            cylinders.append((x, y, rng.uniform(0.12, 0.25), 0.0, trunk + 0.5, TREE))
            for _ in range(int(rng.integers(3, 6))):
                shift, radius = rng.normal(0, 0.7, 3), rng.uniform(0.7, 1.5)
                spheres.append((x + shift[0], y + shift[1], trunk + 1.4 + shift[2], radius, TREE))
            cylinders.append(
                (x + rng.uniform(3, 5), side * 7.8, 0.09, 0.0, rng.uniform(5, 7), POLE)
            )
            x += rng.uniform(8, 14)
        for _ in range(12):
            x, y, height = rng.uniform(-40, 40), side * rng.uniform(7.6, 10), rng.uniform(1.5, 1.9)
            cylinders.append((x, y, 0.22, 0.0, height - 0.25, PERSON))
            spheres.append((x, y, height - 0.12, 0.13, PERSON))
    for lane in (-2.6, 2.6):
        for x in np.arange(-length / 2, length / 2, 19.0) + rng.uniform(-5, 5):
            if abs(x) > 7:
                _car(box, rng, x, lane)
    split = [np.array(rows, dtype=np.float64) for rows in (boxes, cylinders, spheres)]
    parts = [part for rows in split for part in (rows[:, :-1], rows[:, -1].astype(np.int64))]
    return Street(*parts)


def _car(box, rng: np.random.Generator, x: float, y: float) -> None:
    size, width, height = rng.uniform(3.8, 4.7), rng.uniform(1.65, 1.85), rng.uniform(1.4, 1.7)
    box(x, y, size, width, 0.25, 0.9, CAR)
    box(x - 0.05 * size, y, 0.55 * size, 0.9 * width, 0.9, height, CAR)


def ground_height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height of the ground in metres: a road with kerbs at |y| = 7.2 and a slow wave along x."""
    return 0.12 * (np.abs(y) > 7.2) + 0.08 * np.sin(0.11 * x) + 0.004 * np.abs(y)


def _box_range(direction: np.ndarray, origin: np.ndarray, corners: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (corners[:3] - origin) / direction, (corners[3:] - origin) / direction
    near, far = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
    return np.where((near <= far) & (near > 0), near, np.inf)


def _cylinder_range(direction: np.ndarray, origin: np.ndarray, shape: np.ndarray) -> np.ndarray:
    x, y, radius, bottom, top = shape
    a = direction[:, 0] ** 2 + direction[:, 1] ** 2
    b = direction[:, 0] * (origin[0] - x) + direction[:, 1] * (origin[1] - y)
    c = (origin[0] - x) ** 2 + (origin[1] - y) ** 2 - radius**2
    root = b * b - a * c
    distance = (-b - np.sqrt(np.maximum(root, 0))) / a
    height = origin[2] + distance * direction[:, 2]
    return np.where(
        (root > 0) & (distance > 0) & (height > bottom) & (height < top), distance, np.inf
    )


def _sphere_range(direction: np.ndarray, origin: np.ndarray, shape: np.ndarray) -> np.ndarray:
    away = origin - shape[:3]
    b, c = direction @ away, away @ away - shape[3] ** 2
    root = b * b - c
    distance = -b - np.sqrt(np.maximum(root, 0))
    return np.where((root > 0) & (distance > 0), distance, np.inf)


def _ground_range(direction: np.ndarray, origin: np.ndarray) -> np.ndarray:
    down = direction[:, 2] < -1e-3
    slope = np.where(down, direction[:, 2], -1.0)
    distance = -origin[2] / slope
    for _ in range(3):  # the ground is nearly flat: a few steps towards its height at the hit
        height = ground_height(
            origin[0] + distance * direction[:, 0], origin[1] + distance * direction[:, 1]
        )
        distance = (height - origin[2]) / slope
    return np.where(down, distance, np.inf)


def scan(
    street: Street,
    position: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
    beams: int = 64,
    turns: int = 2048,
) -> Scan:
    """One revolution of the sensor at `position` (metres): about 120,000 points for 64 x 2048
    beams. Points are relative to the sensor. Deterministic for a seed."""
    rng = np.random.default_rng(seed)
    elevation = np.deg2rad(np.linspace(*ELEVATION_DEGREES, beams))
    azimuth = np.linspace(-np.pi, np.pi, turns, endpoint=False)
    elevation, azimuth = (grid.ravel() for grid in np.meshgrid(elevation, azimuth, indexing="ij"))
    azimuth = azimuth + rng.normal(0, 2e-4, azimuth.shape)
    direction = np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ],
        1,
    )
    origin = np.array([*position, SENSOR_HEIGHT])
    best = _ground_range(direction, origin)
    label = np.full(len(best), GROUND)

    def hit(cast, shape, centre, radius, kind):
        away = centre - origin[:2]
        if np.hypot(*away) > MOST_RANGE + radius:
            return
        facing = np.arange(len(best))
        if np.hypot(*away) > 1.01 * radius:  # only the beams whose azimuth can meet it
            turn = np.abs((azimuth - np.arctan2(away[1], away[0]) + np.pi) % (2 * np.pi) - np.pi)
            facing = np.flatnonzero(turn < np.arcsin(radius / np.hypot(*away)) + 1e-3)
        distance = cast(direction[facing], origin, shape)
        nearer = distance < best[facing]
        best[facing[nearer]] = distance[nearer]
        label[facing[nearer]] = kind

    for shape, kind in zip(street.boxes, street.box_labels, strict=True):
        hit(
            _box_range,
            shape,
            (shape[:2] + shape[3:5]) / 2,
            np.hypot(*(shape[3:5] - shape[:2])) / 2,
            kind,
        )
    for shape, kind in zip(street.cylinders, street.cylinder_labels, strict=True):
        hit(_cylinder_range, shape, shape[:2], shape[2], kind)
    for shape, kind in zip(street.spheres, street.sphere_labels, strict=True):
        hit(_sphere_range, shape, shape[:2], shape[3], kind)
    seen = (best < MOST_RANGE) & (rng.random(len(best)) > 0.02)
    distance = best[seen] + rng.normal(0, 0.015, seen.sum())
    distance += np.abs(rng.normal(0, 0.12, seen.sum())) * (label[seen] == TREE)  # leaves are soft
    intensity = np.clip(
        rng.normal(0.35, 0.08, seen.sum()) + 0.1 * label[seen] - distance / 300, 0, 1
    )
    points = np.column_stack([direction[seen] * distance[:, None], intensity])
    return Scan(points.astype(np.float32), label[seen].astype(np.int64))


def voxel_sites(
    count: int,
    seed: int = 0,
    voxel=(0.05, 0.05, 0.1),
    grid=(1440, 1440, 41),
    low=(-36.0, -36.0, -2.3),
) -> np.ndarray:
    """Exactly `count` distinct voxels of merged scans, int32 (count, 4), columns batch 0, z, y, x,
    in the order in which the sensor saw them: the input of the benchmarks. Voxel size, grid and low
    corner are given as x, y, z; spatial shape (41, 1440, 1440)."""
    street = make_street(seed)
    found = np.empty((0, 3), np.int64)
    sweep = 0
    while len(found) < count:
        cloud = scan(street, (1.7 * sweep, 0.3 * (sweep % 3)), seed=seed + sweep).points[:, :3]
        cloud = cloud + np.array([1.7 * sweep, 0.3 * (sweep % 3), 0])
        cells = np.floor((cloud - np.array(low)) / np.array(voxel)).astype(np.int64)
        cells = cells[((cells >= 0) & (cells < np.array(grid))).all(1)]
        found = np.concatenate([found, cells])
        _, first = np.unique(found, axis=0, return_index=True)
        found = found[np.sort(first)]
        sweep += 1
    keep = np.sort(np.random.default_rng(seed).choice(len(found), count, replace=False))
    cells = found[keep]
    return np.column_stack([np.zeros(count, np.int64), cells[:, ::-1]]).astype(np.int32)
