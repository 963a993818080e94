"""The file format: bit for bit there and back, small, and never trusting."""

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
    for other in (1, 4):  # an older layout, a newer one
        assert (
            f"has version {other}, this library reads versions 2 and 3; store the mesh again"
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


def test_a_file_of_version_2_still_opens(planet_asset, stored):
    """The same file without what version 3 adds: the end of the header, and the border table."""
    data = bytearray(stored.read_bytes())
    assert struct.unpack_from("<Q", data, HEADER - 8) == (0,)  # a closed mesh has no border table
    groups, clusters, pages = struct.unpack_from("<QQQ", data, 32)
    table = HEADER + groups * GROUP + clusters * 8
    for page in range(pages):
        (offset,) = struct.unpack_from("<Q", data, table + 24 * page)
        struct.pack_into("<Q", data, table + 24 * page, offset - 32)
    struct.pack_into("<I", data, 8, 2)
    struct.pack_into("<Q", data, 64, len(data) - 32)
    stored.write_bytes(data[:80] + data[HEADER:])
    again = nc.Asset(_C.read_ncl(str(stored), 1, False))
    assert _equal(planet_asset, again)
    assert again.validate() == []


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
            asset = _C.read_ncl(str(path), 1, False)
        except ValueError:
            refused += 1
        else:
            assert asset.validate(1) == []
    assert refused > 100


HEADER, GROUP = 112, 40  # bytes


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
    struct.pack_into("<f", data, HEADER + 2 * GROUP + 4 * field, value)
    stored.write_bytes(data)
    with pytest.raises(ValueError, match="content is unsound: " + message):
        _C.read_ncl(str(stored), 1, False)


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
    ncl.save(nc.build(*meshes.icosphere(1)), corpus / "sphere")
    ncl.save(nc.build(*torus[:2], normals=torus[2], uvs=torus[3]), corpus / "torus")
    ncl.save(nc.build([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]), corpus / "triangle")
    folder, name = (sysconfig.get_config_var(v) for v in ("LIBDIR", "INSTSONAME"))
    library = Path(folder or "/") / str(name)
    environment = os.environ | {"NCL_MESHOPTIMIZER": open_meshoptimizer()}
    environment["ASAN_OPTIONS"] = "detect_leaks=0"  # the libraries' own, at exit
    if library.exists():
        environment["NCL_PYTHON"] = str(library)
    limits = ["-max_total_time=60", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"]
    done = subprocess.run(
        [tmp_path / "fuzz", *limits, corpus],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr
