"""The file format: bit for bit there and back, small, and never trusting."""

import os
import struct

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import meshes, ncl

STORED = ("positions", "normals", "uvs", "colors", "materials", "vertex_refs", "local_triangles",
          "clusters", "groups", "nodes")  # fmt: skip


def _equal(a, b):
    return all(
        getattr(a, name).shape == getattr(b, name).shape
        and getattr(a, name).tobytes() == getattr(b, name).tobytes()
        for name in STORED
    )


@pytest.fixture
def stored(planet_asset, tmp_path):
    return ncl.save(planet_asset, tmp_path / "planet.ncl")


@pytest.mark.parametrize("name", ["planet_asset", "field_asset", "torus_asset"])
def test_what_is_read_is_what_was_written(name, request, tmp_path):
    asset = request.getfixturevalue(name)
    path = ncl.save(asset, tmp_path / "a.ncl")
    again = nc.load(path)
    assert _equal(asset, again)
    assert again.validate() == []
    assert ncl.save(again, tmp_path / "b.ncl").read_bytes() == path.read_bytes()


def test_colours_and_materials_are_kept(field, tmp_path):
    vertices, faces = field
    random = np.random.default_rng(1)
    asset = nc.build(
        vertices, faces, colors=random.random((len(vertices), 3)),
        material_ids=(np.arange(len(faces)) // 5000) * 1000,
    )  # fmt: skip
    assert _equal(asset, nc.load(ncl.save(asset, tmp_path / "a.ncl")))


def test_a_read_asset_draws_the_same_picture(planet_asset, stored):
    camera = nc.Camera.around(planet_asset)
    frames = [
        nc.Renderer(300, 200).render(nc.Scene(a), camera) for a in (planet_asset, nc.load(stored))
    ]
    assert np.array_equal(frames[0].visibility, frames[1].visibility)


def test_files_are_small(tmp_path):
    """Bytes for each source triangle, everything included: 9 with positions, 12 with all."""
    vertices, faces = meshes.planet(6)
    plain = ncl.save(nc.build(vertices, faces), tmp_path / "plain.ncl")
    assert plain.stat().st_size / len(faces) < 9
    vertices, faces, normals, uvs = meshes.torus(400, 200)
    full = ncl.save(nc.build(vertices, faces, normals=normals, uvs=uvs), tmp_path / "full.ncl")
    assert full.stat().st_size / len(faces) < 12


def test_threads_do_not_change_the_bytes(planet_asset, tmp_path):
    one, many = (ncl.save(planet_asset, tmp_path / f"{t}.ncl", threads=t) for t in (1, 3))
    assert one.read_bytes() == many.read_bytes()
    assert _equal(ncl.read(one, threads=1), ncl.read(one, threads=3))


def test_a_file_cut_short_anywhere_is_refused(stored):
    data = stored.read_bytes()
    for length in [0, 1, 7, 40, 79, 80, 200, len(data) // 2, len(data) - 1]:
        stored.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"empty|truncated|less than a header"):
            nc.load(stored)
    stored.write_bytes(data + b"x")
    with pytest.raises(ValueError, match="truncated or damaged"):
        nc.load(stored)


def test_any_flipped_bit_is_refused(stored):
    data = stored.read_bytes()
    random = np.random.default_rng(2)
    for position in [*range(0, 80, 3), *random.integers(0, len(data), 150)]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(random.integers(8))
        stored.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"read_ncl: "):
            nc.load(stored)


def test_the_reason_names_what_is_wrong(stored):
    data = bytearray(stored.read_bytes())

    def reason(position, value):
        changed = data.copy()
        changed[position : position + len(value)] = value
        stored.write_bytes(changed)
        with pytest.raises(ValueError, match="read_ncl") as error:
            nc.load(stored)
        return str(error.value)

    assert "not an .ncl file" in reason(0, b"GIF89a")
    assert "has version 2, this library reads version 1" in reason(8, struct.pack("<I", 2))
    assert "impossible counts" in reason(32, struct.pack("<Q", 2**40))
    assert "damaged (its hash differs)" in reason(len(data) - 5, b"\xff\xff")


def test_a_failed_write_leaves_the_old_file_and_no_other(planet_asset, stored, monkeypatch):
    before = stored.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        ncl.save(planet_asset, stored)
    assert stored.read_bytes() == before
    assert [p.name for p in stored.parent.iterdir()] == [stored.name]


def test_a_missing_file_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.ncl does not exist"):
        nc.load(tmp_path / "nothing.ncl")
