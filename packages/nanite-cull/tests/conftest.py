"""Small assets, random cameras, and helpers that several test files use."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import meshes

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))  # promises.py, for the files that judge by it


@pytest.fixture(scope="session")
def planet():
    """A closed mesh of 20,480 triangles: vertices, faces."""
    return meshes.planet(5)


@pytest.fixture(scope="session")
def planet_asset(planet):
    return nc.build(*planet)


@pytest.fixture(scope="session")
def field():
    """An open mesh of 32,258 triangles."""
    return meshes.heightfield(128)


@pytest.fixture(scope="session")
def field_asset(field):
    return nc.build(*field)


@pytest.fixture(scope="session")
def torus_asset():
    """Normals, texture coordinates and a seam: 16,384 triangles."""
    vertices, faces, normals, uvs = meshes.torus(128, 64)
    return nc.build(vertices, faces, normals=normals, uvs=uvs)


ARRAYS = ("positions", "normals", "uvs", "colors", "materials", "vertex_refs", "local_triangles",
          "leaf_source", "clusters", "groups", "nodes")  # fmt: skip


@pytest.fixture(scope="session")
def digest():
    """A hash over every byte of an asset's arrays."""

    def of(asset):
        h = hashlib.sha256()
        for name in ARRAYS:
            h.update(np.ascontiguousarray(getattr(asset, name)).tobytes())
        return h.hexdigest()

    return of


@pytest.fixture(scope="session")
def random_camera():
    """Cameras around, inside and far from the unit ball, some with extreme lenses."""

    def make(random):
        distance = random.choice([0.3, 1.1, 2.0, 5.0, 40.0])
        eye = random.normal(size=3)
        eye *= distance / np.linalg.norm(eye)
        target = random.normal(size=3) * random.choice([0.1, 0.5, 2.0])
        return nc.Camera.look_at(
            eye, target, up=random.normal(size=3),
            fov_y=float(random.uniform(5, 120)), near=float(10 ** random.uniform(-3, -0.5)),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def position_ids():
    """Vertex -> id of its position: what welds the wedges of a seam."""

    def of(asset):
        return np.unique(asset.positions, axis=0, return_inverse=True)[1].ravel()

    return of


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory):
    """Programs of this folder on the core that culls, draws and streams, with std::thread in place
    of OpenMP, which the thread sanitizer does not see: `sanitized(name, sanitizer)`, a path."""
    compiler = next((c for c in ("clang++-19", "clang++") if shutil.which(c)), None)
    csrc = TESTS.parent / "csrc"
    graph = (
        "hierarchy",
        "mesh_grid",
        "meshopt_api",
        "pool",
        "surfaces",
        "validate",
        "vertex_codes",
    )
    sources = [csrc / "build" / f"{name}.cpp" for name in graph]
    sources += [
        f for wing in ("store", "scene", "cull", "raster") for f in csrc.glob(f"{wing}/*.cpp")
    ]
    cores = {}

    def run(sanitizer, *arguments, cwd):
        command = [
            compiler, "-std=c++17", "-g", "-O1", f"-fsanitize={sanitizer}",
            "-fno-sanitize-recover=all", "-ffp-contract=off", "-DNATIVE_STD_THREADS=1", "-pthread",
            f"-I{csrc}", f"-I{TESTS / 'sim'}", f"-I{TESTS.parents[2] / 'cmake' / 'include'}",
            *map(str, arguments),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
        assert done.returncode == 0, done.stderr[-2000:]

    def build(name, sanitizer):
        if compiler is None:
            pytest.skip("needs clang++")
        if sanitizer not in cores:
            folder = tmp_path_factory.mktemp("core")
            run(sanitizer, "-c", *sorted(sources), cwd=folder)
            cores[sanitizer] = folder
        folder = cores[sanitizer]
        objects = sorted(folder.glob("*.o"))
        run(sanitizer, TESTS / f"{name}.cpp", *objects, "-ldl", "-o", folder / name, cwd=folder)
        return folder / name

    return build
