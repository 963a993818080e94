"""The file format: bit for bit there and back, small, and never trusting."""

import hashlib
import os
import shutil
import struct
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import _C, meshes, ncl
from nanite_cull._core import open_meshoptimizer

pytestmark = pytest.mark.native

STORED = ("positions", "normals", "uvs", "colors", "materials", "vertex_refs", "local_triangles",
          "clusters", "groups", "nodes")  # fmt: skip


DATA = Path(__file__).parent / "data"
VERSION_2 = DATA / "torus_version_2.ncl"
VERSION_2_ARRAYS = "fb2651d5d32a20f179742f34a2cbb085d808a1e722ec514e65a1b18d6c77c757"


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


@pytest.mark.parametrize("size", [1e-40, 1e-36, 1e-28, 1e17])
def test_tiny_and_huge_coordinates_are_kept(size, tmp_path):
    vertices, faces = meshes.icosphere(2)
    for scale, uv in ((1, size), (max(size, 1e-25), 1)):
        asset = nc.build(vertices * np.float32(scale), faces, uvs=vertices[:, :2] * np.float32(uv))
        assert _equal(asset, nc.load(asset.save(tmp_path / "a.ncl")))


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
    for other in (1, 5):  # an older layout, a newer one
        assert (
            f"has version {other}, this library reads versions 2 to 4; store the mesh again"
            in reason(8, struct.pack("<I", other))
        )
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


def test_a_file_of_version_2_still_opens():
    """A torus with normals and uvs, stored when that was the version."""
    asset = nc.load(VERSION_2)
    arrays = hashlib.sha256()
    for name in STORED:
        arrays.update(np.ascontiguousarray(getattr(asset, name)).tobytes())
    assert arrays.hexdigest() == VERSION_2_ARRAYS
    assert asset.validate() == []
    with pytest.raises(ValueError, match="version 2 has no header to open it by"):
        ncl.open(VERSION_2)
    data = bytearray(VERSION_2.read_bytes())
    data[-7] ^= 1
    with pytest.raises(ValueError, match="page 0 is damaged"):
        _C.decode_ncl(bytes(data), [])


def _parts(file):
    """Of every page, in the order of the asset's clusters."""
    parts = [part for page in range(len(file.page_bytes)) for part in file.page(page)]
    return sorted(parts, key=lambda part: part.cluster_begin)


@pytest.mark.parametrize("name", ["planet_asset", "field_asset", "torus_asset"])
def test_a_file_is_opened_by_its_header_and_read_page_by_page(name, request, tmp_path):
    asset = request.getfixturevalue(name)
    file = ncl.open(asset.save(tmp_path / "a.ncl"))
    for table in ("clusters", "groups", "nodes", "origin"):
        assert getattr(file, table).tobytes() == getattr(asset, table).tobytes()
    parts = _parts(file)
    positions = np.concatenate([part.positions for part in parts])
    triangles = np.concatenate([part.triangles for part in parts])
    assert np.array_equal(positions, asset.positions[asset.vertex_refs])
    assert np.array_equal(triangles, asset.local_triangles)
    clusters = asset.clusters
    for part in parts:
        held = clusters[part.cluster_begin : part.cluster_begin + part.cluster_count]
        assert (held["group"] == part.group).all()
        assert held["vertex_count"].sum() == len(part.positions)
        assert len(part.normals) == (len(part.positions) if len(asset.normals) else 0)
    assert file.page_bytes.max() <= 128 * 1024
    for group in range(len(asset.groups)):
        made = np.unique(clusters["group"][clusters["source_group"] == group])
        assert np.array_equal(file.dependencies(group), made)
    assert _equal(file.load(), asset)
    assert (np.diff(file.parts["cluster_begin"].astype(int)) < 0).all()  # the coarsest come first


@pytest.mark.parametrize("scale", [1, 2**-20, 1e6])
def test_the_smallest_meshes_end_where_their_bits_end(scale, tmp_path):
    """One to seven triangles, fanned and apart: the last numbers of a page reach its last bits."""
    for count in range(1, 8):
        fan = [(0, i + 1, i + 2) for i in range(count)]
        angle = np.arange(count + 2)
        rim = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1) * scale
        vertices = np.concatenate([np.zeros((1, 3)), rim[1:]])
        for v, f in ((vertices, fan), (vertices[np.array(fan)].reshape(-1, 3) + 0.0, None)):
            faces = np.array(f) if f is not None else np.arange(len(v)).reshape(-1, 3)
            asset = nc.build(v, faces)
            assert _equal(asset, nc.load(asset.save(tmp_path / "a.ncl")))


def test_damage_in_one_page_is_met_there_alone(field_asset, tmp_path):
    path = field_asset.save(tmp_path / "a.ncl")
    sizes = ncl.open(path).page_bytes.astype(int)
    assert len(sizes) > 1
    data = bytearray(path.read_bytes())
    data[len(data) - sizes[-1] + 1000] ^= 4
    path.write_bytes(data)
    file = ncl.open(path)
    assert file.page(0)
    with pytest.raises(ValueError, match=f"page {len(sizes) - 1} is damaged"):
        file.page(len(sizes) - 1)
    with pytest.raises(ValueError, match="is damaged"):
        file.load()
    with pytest.raises(ValueError, match=f"page must be 0 to {len(sizes) - 1}, got {len(sizes)}"):
        file.page(len(sizes))
    with pytest.raises(ValueError, match="group must be 0 to"):
        file.dependencies(10**6)


def test_a_file_cut_short_while_it_is_open_is_an_error_of_the_page(field_asset, tmp_path):
    """Where a mapping would end the process (SIGBUS)."""
    path = ncl.save(field_asset, tmp_path / "field.ncl")
    file = ncl.open(path)
    last = len(file.page_bytes) - 1
    assert last > 0
    os.truncate(path, path.stat().st_size - int(file.page_bytes[last]))
    with pytest.raises(ValueError, match="cut short while it was open"):
        file.page(last)
    assert file.page(0)
    os.truncate(path, 0)
    with pytest.raises(ValueError, match="cut short while it was open"):
        file.page(0)
    assert len(file.clusters) == len(field_asset.clusters)


def test_a_group_larger_than_a_page_is_split(field_asset, tmp_path):
    """Pages of at most 5,000 bytes: about half a group."""
    path = tmp_path / "a.ncl"
    path.write_bytes(_C.encode_ncl(field_asset._core, 0, 5_000))
    file = ncl.open(path)
    assert np.bincount(file.parts["group"]).max() > 1
    assert file.page_bytes.max() <= 5_000
    assert (np.bincount(file.parts["group"]) > 0).all()
    assert sum(part.cluster_count for part in _parts(file)) == len(field_asset.clusters)
    assert _equal(nc.load(path), field_asset)
    with pytest.raises(ValueError, match="most_page_bytes must be 4096 to 131072, got 200000"):
        _C.encode_ncl(field_asset._core, 0, 200_000)


def test_a_loaded_mesh_takes_at_most_20_bytes_a_source_triangle(field_asset, tmp_path):
    """Positions only: vertices, clusters, groups and the tree, all arrays of the core."""
    asset = nc.load(field_asset.save(tmp_path / "a.ncl"))
    arrays = (asset.positions, asset.vertex_refs, asset.local_triangles, asset.groups, asset.nodes)
    cluster = 32 + 11 * 4
    total = sum(a.nbytes for a in arrays) + cluster * len(asset.clusters)
    assert total / asset.statistics()["source_triangles"] < 20


def test_an_open_border_and_a_far_origin_are_kept(field, tmp_path):
    vertices, faces = field
    asset = nc.build(vertices, faces)
    assert (np.rint(asset.positions / asset.step) * asset.step != asset.positions).any()
    assert _equal(asset, nc.load(asset.save(tmp_path / "a.ncl")))
    far = nc.build(vertices.astype(float) + 5e6 + 1 / 3, faces)
    again = nc.load(far.save(tmp_path / "b.ncl"))
    assert _equal(far, again)
    assert far.origin.any()
    assert np.array_equal(far.origin, again.origin)


def test_a_missing_file_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.ncl does not exist"):
        nc.load(tmp_path / "nothing.ncl")


def test_damage_behind_right_hashes_is_refused_or_harmless(tmp_path):
    """Hashes switched off: the decoders and the validator meet the damage themselves."""
    path = ncl.save(nc.build(*meshes.icosphere(3)), tmp_path / "a.ncl")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    random = np.random.default_rng(3)
    refused = 0
    for _ in range(400):
        damaged = data.copy()
        at = random.integers(12, len(data), random.integers(1, 4))
        damaged[at] = random.integers(0, 256, len(at))
        path.write_bytes(damaged.tobytes())
        try:
            asset, _ = _C.read_ncl(str(path), 1, False)
        except ValueError:
            refused += 1
        else:
            assert asset.validate(1) == []
    assert refused > 100


HEADER, NODE, GROUP = 152, 416, 48  # bytes


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (4, 0.0, "group 2 has no positive error"),
        (4, 1e3, "the error of group .* does not exceed that of its cluster"),
        (3, 1e-3, "the LOD sphere of group .* does not contain that of its cluster"),
        (0, 50.0, "the LOD sphere of group .* does not contain that of its cluster"),
    ],
)
def test_the_validator_finds_a_broken_promise(field, value, message, stored):
    """Bounds of a group changed behind the hashes: radius, centre, error."""
    data = bytearray(stored.read_bytes())
    (nodes,) = struct.unpack_from("<Q", data, 80)
    struct.pack_into("<f", data, HEADER + nodes * NODE + 2 * GROUP + 4 * field, value)
    stored.write_bytes(data)
    with pytest.raises(ValueError, match="content is unsound: " + message):
        _C.read_ncl(str(stored), 1, False)


@pytest.mark.parametrize(
    ("name", "version", "faces"), [("torus.ncl", 3, 2304), ("square_version_4.ncl", 4, 2)]
)
def test_files_of_versions_3_and_4_are_read_opened_and_streamed_for_ever(name, version, faces):
    assert ncl.version(DATA / name) == version
    asset = nc.load(DATA / name)
    assert asset.validate() == []
    leaves = asset.clusters[asset.clusters["level"] == 0]
    assert int(leaves["triangle_count"].sum()) == faces
    again = ncl.open(DATA / name).load()
    assert _equal(asset, again)
    assert len(again.material_table) == (version == 4)
    camera = nc.Camera.around(asset)
    pictures = [
        nc.Renderer(64, 64, wait_resident=True).render(nc.Scene(a), camera).depth
        for a in (nc.open(DATA / name), asset)
    ]
    assert np.array_equal(*pictures)


@pytest.mark.slow
def test_a_fuzzer_finds_no_crash_in_the_reader(tmp_path):
    compiler = next((c for c in ("clang++-19", "clang++") if shutil.which(c)), None)
    if compiler is None:
        pytest.skip("needs clang++ with libFuzzer")
    package = Path(__file__).resolve().parents[1]
    csrc = package / "csrc"
    command = [
        compiler, "-std=c++17", "-g", "-O1", "-fsanitize=fuzzer,address,undefined",
        "-fno-sanitize-recover=undefined", "-ffp-contract=off", f"-I{csrc}",
        f"-I{package.parents[1] / 'cmake' / 'include'}", str(package / "tests" / "fuzz_ncl.cpp"),
        *map(str, sorted([*csrc.glob("build/*.cpp"), *csrc.glob("store/*.cpp")])),
        "-ldl", "-o", str(tmp_path / "fuzz"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    torus = meshes.torus(12, 8)
    shutil.copy(VERSION_2, corpus)
    ncl.save(nc.build(*meshes.icosphere(1)), corpus / "sphere")
    ncl.save(nc.build(*torus[:2], normals=torus[2], uvs=torus[3]), corpus / "torus")
    ncl.save(nc.build([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]), corpus / "triangle")
    folder, name = (sysconfig.get_config_var(v) for v in ("LIBDIR", "INSTSONAME"))
    library = Path(folder or "/") / str(name)
    environment = os.environ | {"NCL_MESHOPTIMIZER": open_meshoptimizer()}
    environment["ASAN_OPTIONS"] = "detect_leaks=0"  # the libraries' own, at exit
    if library.exists():
        environment["NCL_PYTHON"] = str(library)
    limits = ["-max_total_time=60", "-max_len=16384", "-timeout=10", "-rss_limit_mb=2048"]
    done = subprocess.run(
        [tmp_path / "fuzz", *limits, corpus],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr
