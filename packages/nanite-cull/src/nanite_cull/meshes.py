"""Procedural meshes of any size, for trying things out, tests and benchmarks."""

import numpy as np


def icosphere(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    """A unit sphere of 20 * 4**subdivisions triangles: (V, 3) float32, (F, 3) uint32."""
    t = (1 + 5**0.5) / 2
    vertices = np.array(
        [(-1, t, 0), (1, t, 0), (-1, -t, 0), (1, -t, 0), (0, -1, t), (0, 1, t),
         (0, -1, -t), (0, 1, -t),
         (t, 0, -1), (t, 0, 1), (-t, 0, -1), (-t, 0, 1)]
    )  # fmt: skip
    faces = np.array(
        [(0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9),
         (5, 11, 4), (11, 10, 2),
         (10, 7, 6), (7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9), (4, 9, 5),
         (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1)]
    )  # fmt: skip
    vertices /= np.linalg.norm(vertices[0])
    for _ in range(subdivisions):
        edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
        keys, inverse = np.unique(edges[:, 0] * len(vertices) + edges[:, 1], return_inverse=True)
        middle = vertices[keys // len(vertices)] + vertices[keys % len(vertices)]
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        a, b, c = inverse.reshape(3, -1) + len(vertices)
        v0, v1, v2 = faces.T
        faces = np.concatenate(
            [np.stack(f, 1) for f in ((v0, a, c), (v1, b, a), (v2, c, b), (a, b, c))]
        )
        vertices = np.concatenate([vertices, middle])
    return vertices.astype(np.float32), faces.astype(np.uint32)


def waves(points: np.ndarray, octaves: int = 9, seed: int = 7) -> np.ndarray:
    """A smooth random function of (N, d) points, about -1 to 1: sines of doubling frequency."""
    random = np.random.default_rng(seed)
    out = np.zeros(len(points))
    for octave in range(octaves):
        for _ in range(3):
            axis = random.normal(size=points.shape[1])
            axis *= 2.1 * 2**octave / np.linalg.norm(axis)
            out += np.sin(points @ axis + random.uniform(0, 2 * np.pi)) * 0.55**octave / 3
    return out


def planet(
    subdivisions: int = 8, relief: float = 0.08, seed: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    """A displaced icosphere (subdivisions 8: 1.3 million triangles, 9: 5.2 million)."""
    vertices, faces = icosphere(subdivisions)
    height = waves(vertices.astype(np.float64), seed=seed)
    return (vertices * (1 + relief * height)[:, None]).astype(np.float32), faces


def heightfield(side: int, relief: float = 0.15, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A landscape on [-1, 1]^2, y up: side * side vertices, 2 * (side - 1)**2 triangles."""
    axis = np.linspace(-1, 1, side)
    x, z = np.meshgrid(axis, axis, indexing="xy")
    flat = np.stack([x.ravel(), z.ravel()], 1)
    height = waves(flat, octaves=8, seed=seed) * relief
    vertices = np.stack([flat[:, 0], height, flat[:, 1]], 1).astype(np.float32)
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel().astype(np.uint32)
    a, b, c, d = corner, corner + 1, corner + side, corner + side + 1
    faces = np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])
    order = np.argsort(np.tile(np.arange(len(corner)), 2), kind="stable")
    return vertices, np.ascontiguousarray(faces[order], dtype=np.uint32)


def torus(
    around: int, across: int, radius: float = 0.35
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A torus with a texture seam: vertices, faces, normals, uvs; 2 * around * across triangles."""
    u, v = np.meshgrid(np.arange(around + 1), np.arange(across + 1), indexing="ij")
    uv = np.stack([u.ravel() / around, v.ravel() / across], 1)
    # the same angle, bit for bit, at both ends of the seam
    a, b = 2 * np.pi * (u.ravel() % around) / around, 2 * np.pi * (v.ravel() % across) / across
    normal = np.stack([np.cos(b) * np.cos(a), np.sin(b), np.cos(b) * np.sin(a)], 1)
    ring = np.stack([np.cos(a), np.zeros_like(a), np.sin(a)], 1)
    corner = (np.arange(around)[:, None] * (across + 1) + np.arange(across)).ravel()
    p, q, r, s = corner, corner + 1, corner + across + 1, corner + across + 2
    faces = np.concatenate([np.stack([p, q, r], 1), np.stack([q, s, r], 1)]).astype(np.uint32)
    return (
        (ring + radius * normal).astype(np.float32),
        faces,
        normal.astype(np.float32),
        uv.astype(np.float32),
    )


def gyroid(cells: int, periods: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """The gyroid in [-1, 1]^3, open at the cube's sides: about 9 * periods * cells**2 triangles.

    The zero set of sin x cos y + sin y cos z + sin z cos x on a grid of cells**3, by naive surface
    nets (Gibson, "Constrained Elastic Surface Nets", 1998). Raises ValueError for cells < 2.
    """
    if cells < 2:
        raise ValueError(f"gyroid: cells must be at least 2, got {cells}")
    angle = np.linspace(-1, 1, cells + 1, dtype=np.float32) * np.float32(np.pi * periods)
    s, c = np.sin(angle), np.cos(angle)
    value = s[:, None, None] * c[None, :, None] + s[None, :, None] * c[None, None, :]
    value += s[None, None, :] * c[:, None, None]
    inside = value > 0
    corners = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), 1)
    part = [slice(0, cells), slice(1, cells + 1)]
    count = sum(inside[part[i], part[j], part[k]].astype(np.uint8) for i, j, k in corners)
    active = np.stack(np.nonzero((count > 0) & (count < 8)), 1)
    number = np.full((cells,) * 3, -1, np.int32)
    number[tuple(active.T)] = np.arange(len(active))

    total = np.zeros((len(active), 3), np.float32)
    crossings = np.zeros(len(active), np.float32)
    faces = []
    for axis in range(3):
        step = np.eye(3, dtype=np.int64)[axis]
        for corner in corners[corners[:, axis] == 0]:
            a, b = value[tuple((active + corner).T)], value[tuple((active + corner + step).T)]
            hit = np.flatnonzero((a > 0) != (b > 0))
            at = corner + step * (a[hit] / (a[hit] - b[hit]))[:, None]
            total[hit] += at.astype(np.float32)
            crossings[hit] += 1
        inner = [slice(1, cells)] * 3
        here, there = list(inner), list(inner)
        here[axis], there[axis] = part
        edge = np.stack(np.nonzero(inside[tuple(here)] != inside[tuple(there)]), 1) + 1 - step
        u, v = np.roll(step, 1), np.roll(step, 2)
        ring = [number[tuple((edge - o).T)] for o in (u + v, v, 0 * u, u)]
        quad = np.stack(ring, 1)
        outward = inside[tuple(edge.T)]
        quad[~outward] = quad[~outward][:, ::-1]
        faces += [quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]
    vertices = (active + total / crossings[:, None]) * (2 / cells) - 1
    return vertices.astype(np.float32), np.concatenate(faces).astype(np.uint32)
