"""Building: levels, invariants of the structure, bad meshes, options."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nanite_cull as nc
from nanite_cull import meshes
from nanite_cull.asset import NONE


def test_every_level_has_about_half_the_triangles_and_one_cluster_is_left(planet_asset):
    levels = planet_asset.levels()
    assert levels[0].triangles == 20_480
    assert all(0.4 < level.ratio < 0.7 for level in levels[1:])
    assert levels[-1].clusters == 1
    assert planet_asset.statistics()["roots"] == 1
    assert planet_asset.report.stuck_groups == 0


def test_clusters_are_nearly_full(planet_asset, field_asset):
    for asset in (planet_asset, field_asset):
        assert asset.levels()[0].fill > 112
        assert asset.clusters["triangle_count"].max() <= 128


@pytest.mark.parametrize("name", ["planet_asset", "field_asset", "torus_asset"])
def test_all_structural_promises_hold(name, request):
    assert request.getfixturevalue(name).validate() == []


def test_the_leaves_are_the_source_triangles_each_once(planet, planet_asset):
    vertices, faces = planet
    leaf = np.flatnonzero(planet_asset.clusters["source_group"] == NONE)
    built = np.concatenate([planet_asset.faces(int(c)) for c in leaf])
    begin = planet_asset.clusters["triangle_begin"][leaf]
    count = planet_asset.clusters["triangle_count"][leaf]
    source = np.concatenate(
        [planet_asset.leaf_source[b : b + c] for b, c in zip(begin, count, strict=True)]
    )
    assert np.array_equal(np.sort(source), np.arange(len(faces)))
    step = planet_asset.step
    expected = np.rint(vertices[faces[source]] / step) * step
    found = planet_asset.positions[built]
    # the same triangle, turned so that one corner comes first
    assert np.array_equal(
        np.sort(expected.view("f4,f4,f4"), 1), np.sort(found.view("f4,f4,f4"), 1)
    ) or all(
        any(np.array_equal(np.roll(e, k, 0), g) for k in range(3))
        for e, g in zip(expected, found, strict=True)
    )


def test_one_thread_and_many_give_the_same_bytes(planet, digest):
    assert digest(nc.build(*planet, threads=1)) == digest(nc.build(*planet, threads=3))


def test_a_soup_of_separate_triangles_gives_what_the_welded_mesh_gives(
    planet, planet_asset, digest
):
    vertices, faces = planet
    soup = vertices[faces].reshape(-1, 3)
    asset = nc.build(soup, np.arange(len(soup)).reshape(-1, 3))
    assert digest(asset) == digest(planet_asset)


def test_torch_tensors_and_other_integer_types_give_the_same_bytes(planet, planet_asset, digest):
    torch = pytest.importorskip("torch")
    vertices, faces = planet
    for v, f in (
        (torch.from_numpy(vertices), torch.from_numpy(faces.astype(np.int64))),
        (vertices.astype(np.float64), faces.astype(np.int32)),
        (np.asfortranarray(vertices), faces.tolist()),
    ):
        assert digest(nc.build(v, f)) == digest(planet_asset)


def test_progress_reaches_the_end_and_shows_only_when_asked(planet, capsys):
    nc.build(*planet, progress=True)
    assert "100%" in capsys.readouterr().err
    nc.build(*planet)
    assert capsys.readouterr().err == ""


def test_seams_and_attributes_survive(torus_asset):
    s = torus_asset.statistics()
    assert s["roots"] == 1
    assert torus_asset.normals.shape == torus_asset.positions.shape
    assert np.allclose(np.linalg.norm(torus_asset.normals, axis=1), 1, atol=1e-6)
    assert torus_asset.uvs.min() == 0
    assert torus_asset.uvs.max() == 1
    # at the seam a position carries two wedges
    assert len(np.unique(torus_asset.positions, axis=0)) < len(torus_asset.positions)


def test_materials_stay_with_their_triangles(field):
    vertices, faces = field
    left = (vertices[faces, 0].mean(1) < 0).astype(np.uint32)
    asset = nc.build(vertices, faces, material_ids=left)
    for cluster in range(len(asset.clusters)):
        material = asset.materials[asset.faces(cluster)]
        assert (material == material[:, :1]).all()
    leaf = asset.leaf_source != NONE
    begin = asset.clusters["triangle_begin"]
    for cluster in np.flatnonzero(asset.clusters["level"] == 0):
        faces_of = asset.faces(int(cluster))
        source = asset.leaf_source[begin[cluster] : begin[cluster] + len(faces_of)]
        assert np.array_equal(asset.materials[faces_of[:, 0]], left[source])
    assert leaf.sum() == len(faces)


@pytest.mark.parametrize(("width", "most"), [(4, 4), (8, 8)])
def test_nodes_have_at_most_width_children(planet, width, most):
    asset = nc.build(*planet, width=width)
    used = (asset.nodes[:, 12] != NONE).sum(1)
    assert used.max() <= most
    assert asset.validate() == []


def test_smaller_clusters_and_groups_are_honoured(planet):
    asset = nc.build(*planet, max_triangles=64, group_size=8)
    assert asset.clusters["triangle_count"].max() <= 64
    assert asset.validate() == []
    assert asset.statistics()["roots"] == 1


def test_ten_separate_parts_end_in_one_root():
    vertices, faces = meshes.planet(3)
    parts = [vertices + np.float32([3 * i, 0, 0]) for i in range(10)]
    asset = nc.build(
        np.concatenate(parts), np.concatenate([faces + i * len(vertices) for i in range(10)])
    )
    assert asset.validate() == []
    assert asset.statistics()["roots"] == 1
    assert asset.report.stuck_groups == 0


def test_two_thousand_tiny_parts_end_in_one_root():
    vertices, faces = meshes.icosphere(1)
    places = np.random.default_rng(0).uniform(-1, 1, (2000, 1, 3)).astype(np.float32)
    numbers = np.arange(2000)[:, None, None] * len(vertices) + faces
    asset = nc.build((vertices * 0.02 + places).reshape(-1, 3), numbers.reshape(-1, 3))
    assert asset.validate() == []
    assert asset.statistics()["roots"] == 1
    assert asset.statistics()["triangles"] < 2.1 * 2000 * len(faces)


def test_triangles_that_share_nothing_are_built_and_shrink():
    vertices = np.random.default_rng(1).normal(size=(3000, 3))
    asset = nc.build(vertices, np.arange(3000).reshape(-1, 3))
    assert asset.validate() == []
    assert asset.statistics()["source_triangles"] == 1000
    assert asset.statistics()["roots"] == 1


def test_the_report_has_the_error_of_what_was_kept():
    """A pass of which hardly a group could be simplified is dropped, and its errors with it."""
    random = np.random.default_rng(1)
    tangle = random.integers(0, 40, (3000, 3))
    knots = random.integers(0, 3000, (60000, 3))
    vertices, faces = meshes.heightfield(16)
    asset = nc.build(
        np.concatenate([tangle, vertices * 10 + [500, 0, 0]]),
        np.concatenate([knots, faces.astype(np.int64) + 3000]),
    )
    assert asset.report.stuck_groups < len(asset.groups)
    assert len(asset.levels()) == 1
    assert asset.report.max_error == asset.statistics()["max_error"] == 0


@settings(max_examples=60, deadline=None)
@given(
    points=st.integers(3, 60), count=st.integers(1, 300), seed=st.integers(0, 2**32 - 1),
    grid=st.sampled_from([2, 5, 1000]), attributes=st.booleans(),
)  # fmt: skip
def test_any_tangle_of_triangles_is_sound_or_refused(points, count, seed, grid, attributes):
    """Random faces over few points: folded, doubled, flipped, non-manifold, degenerate."""
    random = np.random.default_rng(seed)
    vertices = random.integers(0, grid, (points, 3)).astype(np.float32)
    faces = random.integers(0, points, (count, 3))
    more = {
        "normals": random.normal(size=(points, 3)),
        "uvs": random.random((points, 2)),
        "colors": random.random((points, 4)),
        "material_ids": random.integers(0, 3, count),
    }
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    distinct = (a != b).any(1) & (b != c).any(1) & (c != a).any(1)
    if not np.cross(b - a, c - a).any():
        with pytest.raises(ValueError, match="degenerate"):
            nc.build(vertices, faces)
        return
    asset = nc.build(vertices, faces, **(more if attributes else {}))
    assert asset.validate() == []
    kept = asset.leaf_source[asset.leaf_source != NONE]
    assert np.array_equal(np.sort(kept), np.flatnonzero(distinct))
    assert asset.report.degenerate_triangles == count - distinct.sum()


def test_the_error_of_a_cut_is_about_its_distance_to_the_source(planet, planet_asset):
    """Points on coarse triangles lie about as far from the source as their cluster's error says."""
    from scipy.spatial import cKDTree

    vertices, faces = planet
    weights = np.random.default_rng(2).dirichlet((1, 1, 1), (40, 1))
    sampled = np.einsum("sfc,fcd->sfd", np.broadcast_to(weights, (40, len(faces), 3)),
                        vertices[faces]).reshape(-1, 3)  # fmt: skip
    tree = cKDTree(np.concatenate([vertices, sampled]))
    spacing = np.median(np.linalg.norm(vertices[faces[:, 0]] - vertices[faces[:, 1]], axis=1)) / 4
    for level in (2, 4, 6):
        clusters = np.flatnonzero(planet_asset.clusters["level"] == level)
        ratio = []
        for cluster in clusters:
            centres = planet_asset.positions[planet_asset.faces(int(cluster))].mean(1)
            distance, _ = tree.query(centres)
            ratio.append((distance - spacing) / planet_asset.clusters["error"][cluster])
        ratio = np.concatenate(ratio)
        assert np.median(ratio) < 1
        assert np.quantile(ratio, 0.99) < 3


def test_two_coincident_sheets_are_built(field):
    vertices, faces = field
    asset = nc.build(
        np.concatenate([vertices, vertices]),
        np.concatenate([faces, faces[:, ::-1] + len(vertices)]),
    )
    assert asset.validate() == []
    assert asset.statistics()["source_triangles"] == 2 * len(faces)


def test_a_non_manifold_fan_is_built():
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    vertices = np.concatenate(
        [[[0, 0, 0], [0, 1, 0]], np.stack([np.cos(angle), 0 * angle, np.sin(angle)], 1)]
    )
    faces = np.stack([np.zeros(64, int), np.ones(64, int), np.arange(2, 66)], 1)
    asset = nc.build(vertices, faces)
    assert asset.validate() == []
    assert asset.statistics()["source_triangles"] == 64


def test_triangles_that_all_meet_at_a_vertex_take_no_quadratic_time():
    """20,000 copies of one triangle, and a fan: the time of as many triangles of a field."""
    count = 20_000
    angle = np.linspace(0, 6, count + 1)
    rim = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    fan = np.stack([np.zeros(count), np.arange(count) + 1, np.arange(count) + 2], 1).astype(int)
    seconds = []
    for vertices, faces in (
        meshes.heightfield(102),
        (np.eye(3), np.tile([[0, 1, 2]], (count, 1))),
        (np.concatenate([np.zeros((1, 3)), rim]), fan),
    ):
        start = time.process_time()
        asset = nc.build(vertices, faces)
        seconds.append(time.process_time() - start)
        assert asset.validate() == []
        assert (np.unique(asset.leaf_source)[: len(faces)] == np.arange(len(faces))).all()
    assert max(seconds) < 30 * seconds[0]  # about 4; 100 and more where it is quadratic


def test_a_single_triangle_is_an_asset():
    asset = nc.build([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    assert asset.validate() == []
    assert asset.statistics()["clusters"] == 1


def test_coordinates_of_1e12_are_kept():
    vertices, faces = meshes.planet(4)
    near, far = nc.build(vertices, faces), nc.build(vertices * np.float32(2.0**40), faces)
    assert far.validate() == []
    assert np.array_equal(far.positions, near.positions * np.float32(2.0**40))


def test_degenerate_triangles_are_dropped_and_counted(planet, planet_asset):
    vertices, faces = planet
    extra = np.array([[0, 0, 1], [2, 2, 2]], np.uint32)
    asset = nc.build(vertices, np.concatenate([faces, extra]))
    assert asset.report.degenerate_triangles == 2
    assert asset.statistics()["source_triangles"] == len(faces)


BAD = {
    "not finite": (
        lambda v, f: (np.where(np.arange(len(v))[:, None] == 5, np.nan, v), f),
        "vertices must be finite.*vertex 5",
    ),
    "infinite": (
        lambda v, f: (np.where(np.arange(len(v))[:, None] == 5, np.inf, v), f),
        "vertices must be finite",
    ),
    "out of range": (
        lambda v, f: (v, np.where(f == 7, len(v), f)),
        "faces must index vertices 0 to",
    ),
    "negative": (lambda v, f: (v, f.astype(np.int64) - 1), "faces must be 0 to"),
    "empty": (lambda v, f: (v, f[:0]), "no triangles"),
    "no vertices": (lambda v, f: (v[:0], f[:0]), "no triangles"),
    "all on one point": (lambda v, f: (v * 0, f), "degenerate"),
    "all on one line": (lambda v, f: (v * np.float32([1, 0, 0]), f), "degenerate"),
    "too far": (lambda v, f: (v * np.float32(1e20), f), "within 1e18"),
    "wrong shape": (lambda v, f: (v[:, :2], f), r"vertices must have shape \(N, 3\), got"),
    "quads": (
        lambda v, f: (v, f[: len(f) // 4 * 4].reshape(-1, 4)),
        r"faces must have shape \(N, 3\), got",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_meshes_are_refused_with_the_reason(name, planet):
    change, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        nc.build(*change(*planet))


def test_texture_coordinates_beyond_the_grid_are_refused(planet):
    vertices, faces = planet
    with pytest.raises(ValueError, match=r"uvs must lie within 1e18 of zero, got \d+"):
        nc.build(vertices, faces, uvs=vertices[:, :2] * np.float32(1e20))


def test_wrong_kinds_are_type_errors(planet):
    vertices, faces = planet
    with pytest.raises(TypeError, match="faces must be integers, got float32"):
        nc.build(vertices, faces.astype(np.float32))
    with pytest.raises(TypeError, match="vertices must be an array"):
        nc.build("mesh", faces)
    with pytest.raises(ValueError, match=r"normals must have shape \(10242, 3\), got \(1, 3\)"):
        nc.build(vertices, faces, normals=np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_triangles": 130}, "max_triangles must be a multiple of 4 from 12 to 128, got 130"),
        ({"group_size": 1}, "group_size must be 2 to 32, got 1"),
        ({"width": 5}, "width must be 4 or 8, got 5"),
        ({"position_bits": 25}, "position_bits must be 0"),
    ],
)
def test_bad_options_are_refused(planet, options, message):
    with pytest.raises(ValueError, match=message):
        nc.build(*planet, **options)


def test_an_interrupt_stops_a_build(planet, monkeypatch):
    """The progress callback runs Python between passes: what it raises ends the build."""
    from tqdm import tqdm

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tqdm, "set_postfix_str", interrupt)
    with pytest.raises(KeyboardInterrupt):
        nc.build(*planet)


def test_errors_of_colours_are_weighed_as_a_display_shows_them():
    """Dark stripes: linear light of 17 / 255 is what a display is sent as 73 / 255, and as bright
    stripes are they kept."""
    vertices, faces = meshes.heightfield(65)
    stripe = np.arange(len(vertices)) % 65 // 9 % 2
    off = {}
    for space, byte in (("linear", 17), ("display", 73), ("display", 17)):
        colors = np.repeat((stripe * byte).astype(np.uint8)[:, None], 3, 1)
        asset = nc.build(
            vertices, faces, colors=colors, materials=[nc.Material(vertex_colors=space)]
        )
        camera = nc.Camera.around(asset, 30, 60, 1.0)
        full, cut = (
            nc.Renderer(320, 240, threshold=t).render(nc.Scene(asset), camera).color for t in (0, 2)
        )
        off[space, byte] = float(np.abs(full - cut)[..., 0].mean() / (byte / 255))
    assert off["linear", 17] == pytest.approx(off["display", 73], rel=0.1)  # ties fall differently
    assert off["display", 17] > 5 * off["linear", 17]
