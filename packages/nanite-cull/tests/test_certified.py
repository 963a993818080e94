"""The threshold holds: errors are measured, so what it hides is no larger than it says."""

import numpy as np
import pytest
import trimesh
from promises import extents_of_parts, pixels_beyond_threshold, sampled
from scipy.spatial import cKDTree

import nanite_cull as nc
from nanite_cull import meshes
from nanite_cull.asset import NONE

pytestmark = pytest.mark.native


def _sheet(n=33):
    """A flat sheet and its faces turned over: a closed surface of no thickness."""
    x = np.linspace(-1, 1, n, dtype=np.float32)
    gx, gz = np.meshgrid(x, x, indexing="ij")
    vertices, faces = np.stack([gx, 0 * gx, gz], -1).reshape(-1, 3), meshes.heightfield(n)[1]
    return vertices, np.concatenate([faces, faces[:, ::-1]])


def _plate(thickness):
    vertices, faces = _box(24, (2, thickness, 2))
    return vertices, faces


def _box(n, size):
    box = trimesh.creation.box(size)
    for _ in range(int(np.log2(n))):
        box = box.subdivide()
    return np.asarray(box.vertices), np.asarray(box.faces)


def _needles():
    random = np.random.default_rng(3)
    parts = []
    for _ in range(8):
        needle = trimesh.creation.cylinder(0.004, 1.5, sections=8).subdivide().subdivide()
        needle.apply_transform(trimesh.transformations.random_rotation_matrix(random.random(3)))
        needle.apply_translation(random.uniform(-0.3, 0.3, 3))
        parts.append(needle)
    mesh = trimesh.util.concatenate(parts)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def _crumbs():
    vertices, faces = meshes.icosphere(1)
    places = np.random.default_rng(0).uniform(-1, 1, (600, 1, 3))
    numbers = np.arange(600)[:, None, None] * len(vertices) + faces
    return (vertices * 0.02 + places).reshape(-1, 3), numbers.reshape(-1, 3)


def _nested_shells():
    parts = [
        (meshes.planet(4)[0] * s, meshes.planet(4)[1][:, :: 1 if s > 0.99 else -1])
        for s in (1, 0.985)
    ]
    vertices = np.concatenate([p[0] for p in parts])
    return vertices, np.concatenate([parts[0][1], parts[1][1].astype(int) + len(parts[0][0])])


def _folded():
    vertices, faces = meshes.heightfield(65)
    vertices = vertices.copy()
    vertices[:, 1] = 0.05 * np.sin(40 * vertices[:, 0])
    return vertices, faces


MESHES = {
    "planet": lambda: meshes.planet(5),
    "field": lambda: meshes.heightfield(97),
    "sheet with its back": _sheet,
    "two coincident sheets": lambda: (np.concatenate([_sheet()[0]] * 2), _sheet()[1]),
    "thin plate": lambda: _plate(0.01),
    "very thin plate": lambda: _plate(1e-4),
    "needles": _needles,
    "crumbs": _crumbs,
    "nested shells": _nested_shells,
    "folded": _folded,
    "gyroid": lambda: meshes.gyroid(24),
    "torus": lambda: meshes.torus(96, 32)[:2],
}


@pytest.fixture(scope="module", params=MESHES)
def case(request):
    vertices, faces = MESHES[request.param]()
    return request.param, np.asarray(vertices, float), faces, nc.build(vertices, faces)


def _distance(points, corners):
    """To the nearest of the triangles whose centres are near: exact for the ones looked at."""
    if len(points) * len(corners) <= 3_000_000:  # all of them
        pairs = np.tile(corners, (len(points), 1, 1)), np.repeat(points, len(corners), 0)
        found = np.linalg.norm(trimesh.triangles.closest_point(*pairs) - pairs[1], axis=1)
        return found.reshape(len(points), -1).min(1), np.ones(len(points), bool)
    tree = cKDTree(corners.mean(1))
    reach = np.linalg.norm(corners - corners.mean(1, keepdims=True), axis=2).max()
    nearest = np.full(len(points), np.inf)
    k = min(48, len(corners))
    centre, which = tree.query(points, k)
    for i in range(k):
        found = trimesh.triangles.closest_point(corners[which[:, i]], points)
        nearest = np.minimum(nearest, np.linalg.norm(found - points, axis=1))
    sure = centre[:, -1] - reach > nearest  # no triangle that was not looked at is nearer
    return nearest, sure | (k == len(corners))


@pytest.mark.once
def test_no_point_lies_farther_than_the_error_says(case):
    """Cuts at many errors: random points of the source against the cut and the other way round."""
    name, vertices, faces, asset = case
    random = np.random.default_rng(1)
    table, groups = asset.clusters, asset.groups
    parent = groups["error"][table["group"]]
    source = vertices[faces]
    extent = extents_of_parts(np.asarray(faces, int), vertices)
    count, coarse, checked = 100 if name == "needles" else 1000, 0, 0  # long triangles: all pairs
    for error in np.unique(np.quantile(table["error"][table["error"] > 0], [0, 0.3, 0.6, 0.9, 1])):
        cut = np.flatnonzero((table["error"] <= error) & (parent > error))
        drawn = np.concatenate([asset.faces(int(c)) for c in cut])
        corners = asset.positions[drawn].astype(float) + asset.origin
        coarse += len(drawn) < len(faces)
        points, which = sampled(source, count, random)
        lost, sure = _distance(points, corners)
        lost = np.where(extent[which] <= error, 0, lost)  # a part that small may be gone
        points, _ = sampled(corners, count, random)
        grown, sure_too = _distance(points, source)
        allowed = error * (1 + 1e-5) + 1e-6
        assert lost[sure].max(initial=0) <= allowed, f"{name}: lost at {error}"
        assert grown[sure_too].max(initial=0) <= allowed, f"{name}: grown at {error}"
        checked += sure.sum() + sure_too.sum()
    assert checked > 100
    assert coarse > 0


@pytest.mark.parametrize("threshold", [1, 4])
def test_every_pixel_is_within_the_threshold_of_the_other_picture(case, threshold):
    name, vertices, faces, asset = case
    drawn = 0
    for distance in (1, 3, 8):
        lost, grown, pixels = pixels_beyond_threshold(
            vertices, np.asarray(faces, int), asset, threshold, distance
        )
        assert lost <= threshold + 1, f"{name} at {distance}"
        assert grown <= threshold + 1, f"{name} at {distance}"
        drawn += pixels
    assert drawn > 100


def test_a_sheet_with_its_back_keeps_its_pixels():
    asset = nc.build(*_sheet(65))
    scene, camera = nc.Scene(asset), nc.Camera.around(asset, 30, 40)
    full, cut = (
        nc.Renderer(640, 480, threshold=t).render(scene, camera).coverage for t in (0, 0.01)
    )
    assert full.sum() > 50_000
    assert (full & ~cut).sum() < 50


def test_the_report_says_how_often_the_measured_error_was_the_larger(case):
    report = case[3].report
    assert 0 <= report.measured_larger <= report.simplified_groups
    assert report.simplified_groups > 0
    assert report.measured_ratio >= 1


def test_crumbs_still_coarsen_to_one_root():
    asset = nc.build(*_crumbs())
    assert asset.statistics()["roots"] == 1
    assert len(asset.levels()) > 5


def test_no_triangle_mixes_materials():
    """Facetted soup of materials in halves, by stripe and at random, many small parts too."""
    random = np.random.default_rng(0)
    grid, faces = meshes.heightfield(40)
    soup = grid[faces].reshape(-1, 3)
    normals = np.repeat(np.cross(*np.diff(grid[faces], axis=1).transpose(1, 0, 2)), 3, 0)
    centre = grid[faces].mean(1)
    for materials in (
        (centre[:, 0] > 0).astype(int),
        ((centre[:, 0] * 5) % 5).astype(int),
        random.integers(0, 5, len(faces)),
    ):
        asset = nc.build(soup, np.arange(len(soup)).reshape(-1, 3), normals=normals,
                         material_ids=materials)  # fmt: skip
        assert asset.validate() == []
        for cluster in range(len(asset.clusters)):
            material = asset.materials[asset.faces(cluster)]
            assert (material == material[:, :1]).all()
        assert asset.statistics()["roots"] <= 2  # and they keep nothing from being simplified
        assert asset.report.stuck_groups == 0
        assert set(np.unique(asset.materials)) <= set(np.unique(materials))
    stripes = nc.build(grid, faces, material_ids=(centre[:, 0] > 0).astype(int))
    assert stripes.statistics()["roots"] <= 2
    assert (stripes.leaf_source != NONE).sum() == len(faces)


def test_small_open_parts_with_hard_normals_end_in_one_root():
    """300 open patches, facetted, five materials at random: the seam test refuses nothing sound."""
    random = np.random.default_rng(0)
    grid, faces = meshes.heightfield(12)
    soup, normals = [], []
    for _ in range(300):
        p = grid * 0.05 + random.uniform(-1, 1, 3)
        soup.append(p[faces].reshape(-1, 3))
        normals.append(np.repeat(np.cross(*np.diff(p[faces], axis=1).transpose(1, 0, 2)), 3, 0))
    vertices = np.concatenate(soup)
    asset = nc.build(vertices, np.arange(len(vertices)).reshape(-1, 3),
                     normals=np.concatenate(normals),
                     material_ids=random.integers(0, 5, len(vertices) // 3))  # fmt: skip
    assert asset.validate() == []
    assert asset.statistics()["roots"] == 1
    again = nc.build(vertices, np.arange(len(vertices)).reshape(-1, 3),
                     normals=np.concatenate(normals), threads=1,
                     material_ids=np.repeat(np.arange(300) % 5, len(faces)))  # fmt: skip
    assert again.statistics()["roots"] == 1
