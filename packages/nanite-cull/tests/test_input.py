"""Coordinates as people have them: far away, doubled, tiny beside huge; tiles that meet."""

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import meshes

pytestmark = pytest.mark.native
UTM = np.array([500000.0, 5400000.0, 300.0])


@pytest.mark.parametrize("scale", [0.5, 1e-3, 40])
def test_float64_coordinates_far_away_lose_nothing(scale):
    vertices, faces = meshes.planet(4)
    exact = vertices.astype(np.float64) * scale + UTM
    asset = nc.build(exact, faces)
    assert asset.report.degenerate_triangles == asset.report.vanished_triangles == 0
    assert asset.validate() == []
    assert asset.step < 1e-3 * scale
    leaves = np.flatnonzero(asset.clusters["level"] == 0)
    drawn = np.concatenate([asset.faces(int(c)) for c in leaves])
    source = asset.leaf_source[: len(drawn)]
    centres = (asset.positions[drawn] + asset.origin).mean(1)
    assert np.abs(centres - exact[faces[source]].mean(1)).max() <= asset.step / 2 + 1e-9


def test_an_asset_far_away_is_stored_and_drawn_as_near(tmp_path):
    vertices, faces = meshes.planet(4)
    near = nc.build(vertices, faces)
    far = nc.load(nc.build(vertices.astype(float) + 2.0**22, faces).save(tmp_path / "far.ncl"))
    assert (far.origin != 0).all()
    frames = [
        nc.Renderer(200, 200).render(nc.Scene(a), nc.Camera.look_at(o + np.array([0, 0, 3]), o))
        for a, o in ((near, np.zeros(3)), (far, np.full(3, 2.0**22)))
    ]
    assert (frames[0].coverage != frames[1].coverage).mean() < 1e-3
    assert np.abs(far.box[0] - 2.0**22 - near.box[0]).max() < 1e-4


def test_what_no_face_uses_does_not_count():
    vertices, faces = meshes.planet(4)
    asset = nc.build(vertices, faces)
    for stray in ([1e6, 0, 0], [np.nan, 0, 0], [0, np.inf, 1e300]):
        more = nc.build(np.concatenate([vertices.astype(float), [stray]]), faces)
        assert more.step == asset.step
        assert np.array_equal(more.positions, asset.positions)
    uvs = vertices[:, :2]
    asset = nc.build(vertices, faces, uvs=uvs)
    more = nc.build(np.concatenate([vertices, vertices[:1]]), faces,
                    uvs=np.concatenate([uvs, [[np.nan, 1e30]]]))  # fmt: skip
    assert np.array_equal(more.uvs, asset.uvs)


def test_a_small_part_in_a_large_mesh_keeps_its_shape():
    ground, ground_faces = meshes.heightfield(200)
    statue, statue_faces = meshes.planet(4)
    for first in (True, False):
        parts = [(ground * 5000.0, ground_faces), (statue * 0.5 + [0.0, 800, 0], statue_faces)]
        (a, fa), (b, fb) = parts if first else parts[::-1]
        asset = nc.build(np.concatenate([a, b]), np.concatenate([fa, fb.astype(int) + len(a)]))
        assert asset.report.degenerate_triangles == asset.report.vanished_triangles == 0
        assert asset.step <= 1 / 256  # edges of 3 cm


@pytest.mark.parametrize("wild", [1e6, -1e6, 3e9, 1e15])
def test_one_wild_texture_coordinate_does_not_coarsen_the_others(wild, tmp_path):
    vertices, faces = meshes.planet(4)
    uvs = vertices[:, :2] * 0.5 + 0.5
    uvs[7] = wild
    asset = nc.build(vertices, faces, uvs=uvs)
    assert len(np.unique(asset.uvs, axis=0)) > 0.99 * len(np.unique(uvs, axis=0))
    assert np.float32(wild) in asset.uvs
    again = nc.load(asset.save(tmp_path / "a.ncl"))
    assert np.array_equal(again.uvs, asset.uvs)


def test_a_triangle_that_would_vanish_is_an_error_that_names_the_step():
    ground, faces = meshes.heightfield(20)
    vertices = np.concatenate([ground, np.array([[0, 1, 0], [3e-4, 1, 0], [0, 1, 3e-4]])])
    faces = np.concatenate([faces.astype(int), [[400, 401, 402]]])
    assert nc.build(vertices, faces).report.vanished_triangles == 0  # chosen fine enough
    with pytest.raises(
        ValueError, match=r"1 triangles .* vanish .*step=0\.000\d+ keeps them"
    ) as error:
        nc.build(vertices, faces, position_bits=8)
    step = float(str(error.value).split("step=")[1].split()[0])
    asset = nc.build(vertices, faces, step=step)
    assert asset.report.vanished_triangles == 0
    assert asset.step == step
    assert (
        nc.build(vertices, faces, position_bits=8, vanishing="drop").report.vanished_triangles == 1
    )
    with pytest.warns(RuntimeWarning, match="1 triangles with an area have no room"):
        nc.build(vertices, faces, position_bits=8, vanishing="warn")
    tiny = vertices.copy()
    tiny[400:] = [[0, 1, 0], [1e-12, 1, 0], [0, 1, 1e-12]]
    with pytest.raises(ValueError, match="no step of 24 bits keeps them: split the mesh"):
        nc.build(tiny, faces)


def test_steps_and_origins_that_do_not_suit_are_refused():
    vertices, faces = meshes.planet(2)
    with pytest.raises(ValueError, match=r"power of two, got 0\.001; take 0\.0009765625"):
        nc.build(vertices, faces, step=0.001)
    with pytest.raises(ValueError, match=r"more than 24 bits .* or split the mesh"):
        nc.build(vertices * 1000, faces, step=2.0**-20)
    with pytest.raises(ValueError, match="positive power of two"):
        nc.build(vertices, faces, step=-1)
    with pytest.raises(ValueError, match="vanishing must be"):
        nc.build(vertices, faces, vanishing="ignore")


def _strip(n, x0, x1):
    x, y = np.meshgrid(np.linspace(x0, x1, n), np.linspace(0, 1, 25) / 3, indexing="ij")
    vertices = np.stack([x, y, 0.05 * np.sin(7 * y)], -1).reshape(-1, 3)
    i = np.arange(n * 25).reshape(n, 25)
    return vertices, np.concatenate(
        [np.stack(c, -1).reshape(-1, 3) for c in ((i[:-1, :-1], i[1:, :-1], i[:-1, 1:]),
                                                  (i[1:, :-1], i[1:, 1:], i[:-1, 1:]))]
    )  # fmt: skip


def _inside_holes(coverage):
    """Pixels without anything that have something on all four sides."""
    along = np.maximum.accumulate
    return (
        along(coverage, 0) & along(coverage[::-1], 0)[::-1] & along(coverage, 1)
        & along(coverage[:, ::-1], 1)[:, ::-1] & ~coverage
    ).sum()  # fmt: skip


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_assets_of_equal_borders_meet_without_a_hole_at_threshold_zero(kind):
    (lv, lf), (rv, rf) = _strip(20, -1 / 3, 0.1), _strip(400, 0.1, 20.0)
    left, right = nc.build(lv.astype(kind), lf), nc.build(rv.astype(kind), rf)
    assert left.step != right.step
    scene = nc.Scene(left, right)
    for shift in (0.07, 0.11, 0.3):
        camera = nc.Camera.look_at((0.1, 1 / 6, shift), (0.1, 1 / 6, 0.04), near=1e-4, fov_y=40)
        seen = nc.Renderer(800, 800, threshold=0).render(scene, camera).coverage
        assert seen.sum() > 10_000
        assert _inside_holes(seen) == 0


LOCKS = {
    "border": lambda v, f: "border",
    "mask": lambda v, f: v[:, 0] == 0,
    "numbers": lambda v, f: np.flatnonzero(v[:, 0] == 0),
    "plane": lambda v, f: [1.0, 0, 0, 0],
    "box": lambda v, f: [[-1e-9, -9, -9], [1e-9, 9, 9]],
}


@pytest.mark.parametrize("kind", LOCKS)
def test_tiles_with_locked_borders_never_crack(kind):
    vertices, faces = meshes.heightfield(129, relief=0.3)
    left = vertices[faces][:, :, 0].mean(1) < 0
    tiles = []
    for part in (faces[left], faces[~left]):
        used, again = np.unique(part, return_inverse=True)
        v, f = vertices[used], again.reshape(-1, 3)
        tiles.append(nc.build(v, f, lock=LOCKS[kind](v, f)))
        seam = v[v[:, 0] == 0]
        roots = ~np.isfinite(tiles[-1].groups["error"][tiles[-1].clusters["group"]])
        kept = np.concatenate([tiles[-1].faces(int(c)) for c in np.flatnonzero(roots)])
        positions = {tuple(p) for p in tiles[-1].positions[np.unique(kept)]}
        assert all(tuple(p) in positions for p in seam)
        assert len(tiles[-1].levels()) > 3
    scene = nc.Scene(*tiles)
    for threshold in (0, 1, 4, 16):
        for eye in ((0.4, 0.9, 1.2), (0.0, 1.5, 0.3), (-1.2, 0.5, 0.1)):
            camera = nc.Camera.look_at(eye, near=0.01)
            seen = nc.Renderer(640, 360, threshold=threshold).render(scene, camera).coverage
            assert _inside_holes(seen) == 0


def test_tiles_far_away_meet_with_one_step_and_one_origin():
    vertices, faces = meshes.heightfield(65, relief=0.3)
    far = vertices.astype(float) * 100 + UTM
    left = vertices[faces][:, :, 0].mean(1) < 0
    step, origin = 2.0**-12, np.round(UTM)
    tiles = []
    for part in (faces[left], faces[~left]):
        used, again = np.unique(part, return_inverse=True)
        tiles.append(
            nc.build(far[used], again.reshape(-1, 3), lock="border", step=step, origin=origin)
        )
        assert tiles[-1].origin.tolist() == origin.tolist()
    for threshold in (0, 1, 4, 16):
        camera = nc.Camera.look_at(UTM + np.array([40, 90, 120]), UTM, near=1)
        seen = nc.Renderer(640, 360, threshold=threshold).render(nc.Scene(*tiles), camera).coverage
        assert _inside_holes(seen) == 0


def test_locks_that_are_none_are_refused():
    vertices, faces = meshes.planet(1)
    for bad in ("edges", np.zeros(3, bool), [0.0, 0, 0, 1], [99999]):
        with pytest.raises(ValueError, match="lock"):
            nc.build(vertices, faces, lock=bad)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ((1, 0, 0, 0), "plane of 4 floats"),  # else: the vertices 0 and 1
        ((0, 1, 0, -1), "plane of 4 floats"),
        ((1.0, 0, 0, np.inf), "numbers"),
        ([[np.nan] * 3, [1.0] * 3], "numbers"),
        ([[1, 1, 1], [0, 0, 0]], "lower corner"),
    ],
)
def test_locks_that_would_hold_nothing_or_something_else_are_refused(bad, why):
    with pytest.raises(ValueError, match=f"lock.*{why}"):
        nc.build(*meshes.planet(1), lock=bad)


def test_a_box_to_infinity_locks_a_half_space():
    vertices, faces = meshes.planet(1)
    half = nc.build(vertices, faces, lock=[[-np.inf] * 3, [0, np.inf, np.inf]])
    assert np.array_equal(
        half.clusters, nc.build(vertices, faces, lock=vertices[:, 0] <= 0).clusters
    )


def test_one_material_and_what_is_none_are_refused_by_name():
    vertices, faces = meshes.planet(1)
    for bad in (nc.Material(), 3, [3], None):
        with pytest.raises(TypeError, match="materials must be a sequence of Material"):
            nc.build(vertices, faces, materials=bad)
    given = (nc.Material(name=name) for name in ("a", "b"))
    assert [m.name for m in nc.build(vertices, faces, materials=given).material_table] == ["a", "b"]


def test_tensors_of_types_that_numpy_lacks_are_refused_by_name():
    torch = pytest.importorskip("torch")
    vertices, faces = meshes.planet(1)
    with pytest.raises(TypeError, match=r"vertices must be of a type that numpy has.*bfloat16"):
        nc.build(torch.from_numpy(vertices).bfloat16(), faces)


def test_facetted_meshes_are_as_small_and_as_simple_as_welded_ones(tmp_path):
    vertices, faces = meshes.planet(5)
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    soup = np.arange(3 * len(faces)).reshape(-1, 3)
    facetted = nc.build(corners.reshape(-1, 3), soup, normals=np.repeat(normals, 3, 0))
    welded = nc.build(vertices, faces)
    assert len(facetted.levels()) == len(welded.levels())
    assert facetted.statistics()["roots"] == 1
    assert facetted.save(tmp_path / "a.ncl").stat().st_size / len(faces) < 16
    camera = nc.Camera.around(facetted)
    frame = nc.Renderer(300, 300, threshold=0).render(nc.Scene(facetted), camera)
    unit = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    seen = frame.source_triangle[frame.coverage]
    assert np.abs(frame.normal[frame.coverage] - unit[seen]).max() < 1e-2
