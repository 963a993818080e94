"""What a threshold and a certified error promise, as figures that tests judge."""

import numpy as np
import trimesh
from scipy.ndimage import distance_transform_edt

import nanite_cull as nc

WIDTH, HEIGHT, FINER = 320, 240, 4


def sampled(
    corners: np.ndarray, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random points of (n, 3, 3) triangles, evenly over their area, and the triangle of each."""
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    which = random.choice(len(corners), count, p=area / area.sum())
    weights = random.dirichlet((1, 1, 1), count)
    return np.einsum("nc,nca->na", weights, corners[which]), which


def extents_of_parts(faces: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Of every triangle: the diagonal of its connected part, which may go once it is small."""
    _, ids = np.unique(vertices, axis=0, return_inverse=True)
    corners = ids.ravel()[faces]
    part = trimesh.graph.connected_component_labels(
        np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]]]), node_count=corners.max() + 1
    )[corners[:, 0]]
    lo = np.full((part.max() + 1, 3), np.inf)
    hi = -lo
    for c in range(3):
        np.minimum.at(lo, part, vertices[faces[:, c]])
        np.maximum.at(hi, part, vertices[faces[:, c]])
    return np.linalg.norm(hi - lo, axis=1)[part]


def pixels_beyond_threshold(
    vertices: np.ndarray, faces: np.ndarray, asset: nc.Asset, threshold: float, distance: float
) -> tuple[float, float, int]:
    """How many pixels the source's picture reaches beyond that of the cut, and the other way round,
    and how many were drawn: four times as fine, so that what is thin covers a pixel's centre."""
    scene, extent = nc.Scene(asset), extents_of_parts(faces, vertices)
    camera = nc.Camera.around(asset, 30, 40, distance)
    full, cut = (
        nc.Renderer(FINER * WIDTH, FINER * HEIGHT, threshold=FINER * t).render(scene, camera)
        for t in (0, threshold)
    )
    a, b = full.coverage, cut.coverage
    pixels = HEIGHT / 2 / np.tan(np.radians(camera.fov_y / 2)) / np.where(a, full.distance, 1)
    small = np.zeros_like(a)
    small[a] = extent[full.source_triangle[a]] * pixels[a] <= threshold
    seen = a & ~small
    lost = np.where(seen, distance_transform_edt(~b) / FINER if b.any() else np.inf, 0)
    grown = np.where(b, distance_transform_edt(~a) / FINER, 0) if a.any() else np.zeros(1)
    return float(lost.max()), float(grown.max()), int(a.sum())
