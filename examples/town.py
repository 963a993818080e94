"""A small town of labelled parts for the examples: ground, houses, trees, cars, lamp posts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import nanite_cull as nc
from nanite_cull import meshes

CLASSES = ("ground", "house", "tree", "car", "post")
BLOCK, STREET = 18.0, 8.0  # metres: a block of houses, and the street beside it
SKY = (0.62, 0.74, 0.88)


@dataclass
class Town:
    """A scene, and what its assets are."""

    scene: nc.Scene
    class_of_asset: np.ndarray  # (assets,) int64, numbers of CLASSES
    size: float  # metres from the middle to the border

    def labels(self, frame: nc.Frame) -> np.ndarray:
        """(height, width) int64: the class that each pixel shows, -1 for the sky."""
        instance = np.where(frame.coverage, frame.instance, 0)
        classes = self.class_of_asset[np.asarray(self.scene.asset_of)[instance]]
        return np.where(frame.coverage, classes, -1)


def box(size: tuple[float, float, float], side: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """A box that stands on the ground, each face a grid of `side` x `side` vertices."""
    line = np.linspace(-1, 1, side)
    u, v = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
    corner = np.arange((side - 1) * side).reshape(-1, side)[:, :-1].ravel()
    square = [corner, corner + 1, corner + side, corner + side, corner + 1, corner + side + 1]
    faces = np.stack(square).T.reshape(-1, 3)
    points, all_faces = [], []
    for axis in range(3):
        for sign in (-1, 1):
            side_points = np.roll([np.full_like(u, sign), sign * u, v], axis, axis=0).T
            all_faces.append(faces + len(points) * side * side)
            points.append(side_points * np.array(size) / 2 + [0, size[1] / 2, 0])
    return np.concatenate(points).astype(np.float32), np.concatenate(all_faces).astype(np.uint32)


def house(random: np.random.Generator) -> nc.Asset:
    """A house with rows of dark windows."""
    height = float(random.uniform(5, 14))
    vertices, faces = box((BLOCK * 0.42, height, BLOCK * 0.42), side=25)
    wall = random.uniform(0.45, 0.95, 3)
    across = np.where(
        np.abs(vertices[:, 0]) > np.abs(vertices[:, 2]), vertices[:, 2], vertices[:, 0]
    )
    window = (np.abs((across * 0.6) % 1 - 0.5) < 0.25) & (
        np.abs((vertices[:, 1] / 2.6) % 1 - 0.5) < 0.2
    )
    window &= (vertices[:, 1] > 0.5) & (vertices[:, 1] < height - 0.3)
    colors = np.where(window[:, None], [0.12, 0.15, 0.2], wall)
    colors = np.where((vertices[:, 1] >= height)[:, None], [0.45, 0.22, 0.18], colors)
    return nc.build(vertices, faces, colors=colors, progress=False)


def tree(random: np.random.Generator) -> nc.Asset:
    """A crown on a trunk."""
    crown, crown_faces = meshes.planet(4)
    trunk, trunk_faces = box((0.35, 2.4, 0.35), side=3)
    width = float(random.uniform(1.2, 1.9))
    crown = crown * np.float32(width) + np.float32([0, 1.6 + width, 0])
    green = np.broadcast_to(random.uniform((0.1, 0.3, 0.08), (0.3, 0.55, 0.2)), crown.shape)
    brown = np.broadcast_to(np.array([0.32, 0.22, 0.14]), trunk.shape)
    return nc.build(
        np.concatenate([crown, trunk]),
        np.concatenate([crown_faces, trunk_faces + np.uint32(len(crown))]),
        colors=np.concatenate([green, brown]),
        progress=False,
    )


def car(random: np.random.Generator) -> nc.Asset:
    """A body and a cabin."""
    body, body_faces = box((1.8, 0.9, 4.2), side=5)
    cabin, cabin_faces = box((1.5, 0.6, 2.1), side=5)
    paint = np.broadcast_to(random.uniform(0.1, 0.95, 3), body.shape)
    glass = np.broadcast_to(np.array([0.1, 0.12, 0.15]), cabin.shape)
    return nc.build(
        np.concatenate([body + np.float32([0, 0.25, 0]), cabin + np.float32([0, 1.15, 0])]),
        np.concatenate([body_faces, cabin_faces + np.uint32(len(body))]),
        colors=np.concatenate([paint, glass]),
        progress=False,
    )


def post() -> nc.Asset:
    vertices, faces = box((0.2, 5.5, 0.2), side=3)
    return nc.build(vertices, faces, colors=np.full(vertices.shape, 0.3), progress=False)


def ground(size: float, blocks: int) -> nc.Asset:
    """Grey streets around green blocks, slightly uneven."""
    side = 24 * blocks + 1
    vertices, faces = meshes.heightfield(side, relief=0.0)
    vertices = (vertices * np.float32([size, 0, size])).astype(np.float32)
    pitch = BLOCK + STREET
    inside = np.abs((vertices[:, ::2] + size) % pitch - pitch / 2) < BLOCK / 2
    green = inside.all(1, keepdims=True)
    grain = np.random.default_rng(0).uniform(-0.03, 0.03, (len(vertices), 1))
    colors = np.where(green, [0.35, 0.45, 0.25], [0.36, 0.36, 0.38]) + grain
    return nc.build(vertices, faces, colors=colors, progress=False)


def placed(places: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """(N, 3, 4) transforms: around the upright axis by (N,) radians, then to (N, 2) x and z."""
    transforms = np.zeros((len(places), 3, 4))
    transforms[:, 1, 1] = 1
    transforms[:, 0, 0] = transforms[:, 2, 2] = np.cos(turns)
    transforms[:, 0, 2], transforms[:, 2, 0] = np.sin(turns), -np.sin(turns)
    transforms[:, 0, 3], transforms[:, 2, 3] = places.T
    return transforms


def make_town(seed: int, blocks: int = 5) -> Town:
    """`blocks` x `blocks` blocks with four plots each; the same seed gives the same town."""
    random = np.random.default_rng(seed)
    pitch = BLOCK + STREET
    size = blocks * pitch / 2
    scene, classes = nc.Scene(), []

    def add(asset: nc.Asset, kind: str, places: np.ndarray, turns: np.ndarray) -> None:
        scene.add(asset, placed(places, turns))
        classes.append(CLASSES.index(kind))

    add(ground(size, blocks), "ground", np.zeros((1, 2)), np.zeros(1))
    middle = (
        np.stack(np.unravel_index(np.arange(blocks**2), (blocks, blocks)), 1) + 0.5
    ) * pitch - size
    corners = BLOCK / 4 * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
    plots = random.permutation((middle[:, None] + corners).reshape(-1, 2))
    built, wild = np.split(plots, [len(plots) * 2 // 3])
    for places in np.array_split(built, 8):
        add(house(random), "house", places, random.integers(0, 4, len(places)) * np.pi / 2)
    woods = (wild[:, None] + random.uniform(-3, 3, (len(wild), 4, 2))).reshape(-1, 2)
    for places in np.array_split(woods, 4):
        add(tree(random), "tree", places, random.uniform(0, 2 * np.pi, len(places)))
    lanes = np.repeat(middle[:, None], 3, axis=1)  # beside each block, along z
    lanes[..., 0] += BLOCK / 2 + 1.6
    lanes[..., 1] += BLOCK / 3 * np.arange(-1, 2) + random.uniform(-0.8, 0.8, lanes.shape[:2])
    for places in np.array_split(random.permutation(lanes.reshape(-1, 2)), 6):
        add(car(random), "car", places, random.normal(0, 0.04, len(places)))
    posts = (middle[:, None] + BLOCK / 2 * np.array([(1, 1), (-1, 1)])).reshape(-1, 2)
    add(post(), "post", posts, np.zeros(len(posts)))
    return Town(scene, np.array(classes), size)
