"""The cut and the culling: exact against the definition, over many cameras."""

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import reference
from nanite_cull.asset import NONE

pytestmark = pytest.mark.native

THRESHOLDS = (0.0, 0.3, 1.0, 3.0, 30.0)


def _view(camera, height):
    scale = height / 2 / np.tan(np.radians(camera.fov_y) / 2)
    return {"eye": camera.eye, "near": camera.near, "pixels_per_unit": scale}


def _set(visible):
    return {tuple(row) for row in visible.tolist()}


def test_the_cut_is_the_definition(planet_asset, random_camera):
    """Without a frustum: the selected clusters are those of the numpy definition, bit for bit."""
    random = np.random.default_rng(1)
    scene = nc.Scene(planet_asset)
    for _ in range(200):
        camera, threshold = random_camera(random), float(random.choice(THRESHOLDS))
        renderer = nc.Renderer(
            640, 480, threshold=threshold, frustum=False, max_visible_clusters=4096
        )
        visible, _ = renderer.cull(scene, camera)
        # the instance's singular values are bounded outward by 1e-5: take the core's constants
        view = _view(camera, 480)
        f = np.float32
        largest, smallest = f(1 * (1 + 1e-5)), f(1 * (1 - 1e-5))
        view["near"] = f(camera.near) / smallest
        view["pixels_per_unit"] = f(view["pixels_per_unit"]) * (largest / smallest)
        view["eye"] = camera.eye.astype(f)
        expected = reference.cut(planet_asset, **view, threshold=threshold)
        assert np.array_equal(np.sort(visible[:, 1]), expected)


@pytest.mark.once
def test_the_tree_finds_exactly_what_testing_every_cluster_finds(
    planet_asset, field_asset, random_camera
):
    """10,000 random cameras: traversal set = flat test of all clusters, as sets and in order."""
    random = np.random.default_rng(2)
    scenes = [nc.Scene(planet_asset), nc.Scene(field_asset)]
    sizes = {"max_visible_clusters": 4096, "threads": 1}
    pairs = {
        t: (
            nc.Renderer(640, 480, threshold=t, **sizes),
            nc.Renderer(640, 480, threshold=t, hierarchy=False, **sizes),
        )
        for t in THRESHOLDS
    }
    drawn = 0
    for i in range(10_000):
        tree, flat = pairs[THRESHOLDS[i % len(THRESHOLDS)]]
        camera = random_camera(random)
        if i % 10 == 9:
            camera = camera.moved(fov_y=None, height=float(random.uniform(0.1, 4)), far=50.0)
        found, _ = tree.cull(scenes[i % 2], camera)
        expected, _ = flat.cull(scenes[i % 2], camera)
        assert np.array_equal(found, expected)
        drawn += len(found)
    assert drawn > 100_000


@pytest.mark.parametrize("name", ["planet_asset", "field_asset", "torus_asset"])
def test_every_leaf_has_exactly_one_selected_ancestor(name, request, random_camera):
    asset = request.getfixturevalue(name)
    random = np.random.default_rng(3)
    scene = nc.Scene(asset)
    for _ in range(30):
        renderer = nc.Renderer(640, 480, threshold=float(random.choice(THRESHOLDS)), frustum=False)
        visible, _ = renderer.cull(scene, random_camera(random))
        fewest, most = reference.selected_on_paths(asset, visible[:, 1])
        assert fewest.min() == 1
        assert most.max() == 1


@pytest.mark.parametrize("name", ["planet_asset", "torus_asset"])
def test_every_cut_of_a_closed_mesh_is_closed(name, request, random_camera, position_ids):
    asset = request.getfixturevalue(name)
    random = np.random.default_rng(4)
    scene, ids = nc.Scene(asset), position_ids(asset)
    for _ in range(40):
        renderer = nc.Renderer(640, 480, threshold=float(random.choice(THRESHOLDS)), frustum=False)
        visible, _ = renderer.cull(scene, random_camera(random))
        corners = ids[reference.cut_triangles(asset, visible[:, 1])]
        assert len(reference.edge_balance(corners)) == 0


def test_any_monotone_choice_of_groups_is_a_closed_cut(planet_asset, torus_asset, position_ids):
    """Not only cameras: refine any set of groups that is closed upward, and nothing tears."""
    random = np.random.default_rng(11)
    for asset in (planet_asset, torus_asset):
        clusters, ids = asset.clusters, position_ids(asset)
        made_by, used_by = clusters["source_group"], clusters["group"]
        leaf = made_by == NONE
        sizes = set()
        for chance in np.repeat([0.0, 0.02, 0.1, 0.5, 1.0], 8):
            refined = ~np.isfinite(asset.groups["error"]) | (
                random.random(len(asset.groups)) < chance
            )
            for group in range(len(asset.groups)):  # finer groups have smaller numbers
                if refined[group]:
                    refined[used_by[made_by == group]] = True
            selected = refined[used_by] & (leaf | ~refined[np.where(leaf, 0, made_by)])
            fewest, most = reference.selected_on_paths(asset, np.flatnonzero(selected))
            assert fewest.min() == most.max() == 1
            corners = ids[reference.cut_triangles(asset, np.flatnonzero(selected))]
            assert len(reference.edge_balance(corners)) == 0
            sizes.add(int(selected.sum()))
        assert len(sizes) > 10


def test_a_tree_four_wide_finds_the_same(planet, planet_asset, random_camera):
    random = np.random.default_rng(12)
    narrow = nc.build(*planet, width=4)
    for i in range(300):
        renderer = nc.Renderer(640, 480, threshold=THRESHOLDS[i % len(THRESHOLDS)])
        camera = random_camera(random)
        found, _ = renderer.cull(nc.Scene(narrow), camera)
        assert np.array_equal(found, renderer.cull(nc.Scene(planet_asset), camera)[0])


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 1e17])
def test_a_camera_around_a_mesh_of_any_size_sees_the_whole_of_it(planet, scale):
    vertices, faces = planet
    asset = nc.build(vertices * np.float32(scale), faces)
    away = np.linalg.norm(asset.positions - np.mean(asset.box, 0), axis=1)
    assert asset.radius == pytest.approx(away.max(), rel=1e-5)
    for lens in ({}, {"fov_y": None}):
        camera = nc.Camera.around(asset, **lens)
        frame = nc.Renderer(64, 64).render(nc.Scene(asset), camera)
        seen = frame.coverage
        assert seen.mean() > 0.5
        assert not any(edge.all() for edge in (seen[0], seen[-1], seen[:, 0], seen[:, -1]))


def test_every_cut_of_an_open_mesh_is_open_only_at_its_border(
    field_asset, random_camera, position_ids
):
    random = np.random.default_rng(5)
    scene, ids = nc.Scene(field_asset), position_ids(field_asset)
    at = np.empty((ids.max() + 1, 3), np.float32)
    at[ids] = field_asset.positions
    for _ in range(40):
        renderer = nc.Renderer(640, 480, threshold=float(random.choice(THRESHOLDS)), frustum=False)
        visible, _ = renderer.cull(scene, random_camera(random))
        border = reference.edge_balance(ids[reference.cut_triangles(field_asset, visible[:, 1])])
        assert len(border) > 0
        on_x = (np.abs(at[border][:, :, 0]) == 1).all(1)
        on_z = (np.abs(at[border][:, :, 2]) == 1).all(1)
        assert (on_x | on_z).all()


def _grid(n, spacing=2.5, seed=6):
    random = np.random.default_rng(seed)
    transforms = np.tile(np.eye(4, dtype=np.float32), (n, 1, 1))
    q, _ = np.linalg.qr(random.normal(size=(n, 3, 3)))
    scale = np.exp(random.uniform(-1, 1, (n, 1, 3)))
    transforms[:, :3, :3] = q * scale  # turned, mirrored, stretched by axis
    side = int(np.ceil(n ** (1 / 3)))
    cells = np.stack(np.unravel_index(np.arange(n), (side,) * 3), 1)
    transforms[:, :3, 3] = (cells - side / 2) * spacing
    return transforms


def test_instances_of_many_assets_are_found_alike_with_and_without_the_tree(
    planet_asset, field_asset, random_camera
):
    random = np.random.default_rng(7)
    scene = nc.Scene()
    scene.add(planet_asset, _grid(300))
    scene.add(field_asset, _grid(200, seed=8))
    assert len(scene) == 500
    for threads in (1, 3):
        for _ in range(10):
            camera = random_camera(random)
            tree, _ = nc.Renderer(640, 480, threads=threads).cull(scene, camera)
            flat, _ = nc.Renderer(640, 480, hierarchy=False, threads=1).cull(scene, camera)
            assert np.array_equal(tree, flat)


def test_an_update_of_a_slice_is_a_new_scene(planet_asset):
    transforms = _grid(64)
    scene = nc.Scene()
    scene.add(planet_asset, np.tile(np.eye(4), (64, 1, 1)))
    scene.update(0, transforms[:20])
    scene.update(20, transforms[20:])
    fresh = nc.Scene()
    fresh.add(planet_asset, transforms)
    camera = nc.Camera.look_at((9, 4, 7))
    renderer = nc.Renderer(320, 240)
    assert np.array_equal(renderer.cull(scene, camera)[0], renderer.cull(fresh, camera)[0])


def test_singular_transforms_and_unknown_slices_are_refused(planet_asset):
    scene = nc.Scene()
    with pytest.raises(ValueError, match="invertible, instance 0"):
        scene.add(planet_asset, np.diag([1, 1, 0, 1]))
    with pytest.raises(ValueError, match="invertible"):
        scene.add(planet_asset, np.eye(4)[:3] * np.nan)
    assert len(scene) == 0
    scene.add(planet_asset)
    with pytest.raises(ValueError, match="do not exist; the scene has 1"):
        scene.update(1, np.eye(4))
    with pytest.raises(ValueError, match="last row"):
        scene.add(planet_asset, np.eye(4)[None] * 2)
    with pytest.raises(TypeError, match="asset must be an Asset"):
        scene.add("planet")


@pytest.mark.parametrize(
    "name", ["max_visible_clusters", "max_candidate_clusters", "max_candidate_nodes"]
)
def test_what_does_not_fit_is_counted_and_never_silent(planet_asset, name):
    scene, camera = nc.Scene(planet_asset), nc.Camera.around(planet_asset)
    whole, stats = nc.Renderer(640, 480, threshold=0).cull(scene, camera)
    with pytest.raises(RuntimeError, match=name[4:] + r" dropped \d+ at capacity 1; raise them"):
        nc.Renderer(640, 480, threshold=0, **{name: 1}).cull(scene, camera)
    with pytest.warns(RuntimeWarning, match="geometry is missing"):
        part, stats = nc.Renderer(640, 480, threshold=0, on_overflow="warn", **{name: 1}).cull(
            scene, camera
        )
    dropped = stats["dropped_" + name[4:]]
    assert dropped > 0
    if name == "max_visible_clusters":
        assert len(part) == 1
        assert dropped == len(whole) - 1


def test_small_and_large_clusters_lie_at_the_two_ends(planet_asset):
    scene = nc.Scene(planet_asset)
    _, far = nc.Renderer(640, 480).cull(scene, nc.Camera.look_at((0, 0, 20)))
    _, close = nc.Renderer(640, 480).cull(scene, nc.Camera.look_at((0, 0, 1.2), near=0.05))
    assert far["visible_large"] == 0
    assert close["visible_large"] > 0


def test_cameras_that_make_no_sense_are_refused(planet_asset):
    scene, renderer = nc.Scene(planet_asset), nc.Renderer(64, 64)
    with pytest.raises(ValueError, match="span a plane"):
        nc.Camera.look_at((0, 1, 0), (0, 0, 0), up=(0, 1, 0))
    with pytest.raises(ValueError, match="near must be positive"):
        renderer.render(scene, nc.Camera.look_at((0, 0, 3), near=0))
    with pytest.raises(ValueError, match="fov_y"):
        renderer.render(scene, nc.Camera.look_at((0, 0, 3), fov_y=180))
    with pytest.raises(ValueError, match="threshold must be 0 to"):
        nc.Renderer(64, 64, threshold=-1).render(scene, nc.Camera.look_at((0, 0, 3)))


@pytest.mark.parametrize(
    "view", [np.eye(4)[::-1], np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, -3, 1]])]
)
def test_a_view_or_a_pose_that_is_transposed_is_refused(view, planet_asset):
    with pytest.raises(ValueError, match=r"view: the last row must be \(0, 0, 0, 1\)"):
        nc.Renderer(64, 64).render(nc.Scene(planet_asset), nc.Camera(view))
    with pytest.raises(ValueError, match=r"pose: the last row must be \(0, 0, 0, 1\)"):
        nc.Camera.from_intrinsics(50, 50, 32, 32, 64, 64, view)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_cameras_of_what_is_not_finite_are_refused_by_name(bad, planet_asset):
    with pytest.raises(ValueError, match="eye must be finite"):
        nc.Camera.look_at((0, 0, bad))
    with pytest.raises(ValueError, match="cx, cy must be finite"):
        nc.Camera.from_intrinsics(50, 50, bad, 32, 64, 64)
    with pytest.raises(ValueError, match="positive and finite"):
        nc.Camera.from_intrinsics(bad, 50, 32, 32, 64, 64)
    with pytest.raises(ValueError, match="pose must be finite"):
        nc.Camera.from_intrinsics(50, 50, 32, 32, 64, 64, np.full((3, 4), bad))
    scene, renderer = nc.Scene(planet_asset), nc.Renderer(64, 64)
    for options in ({"near": bad}, {"far": bad, "fov_y": None}):
        with pytest.raises(ValueError, match="near must be positive, finite and below far"):
            renderer.render(scene, nc.Camera.look_at((0, 0, 3), **options))


def test_cameras_of_other_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"target must be finite, of shape \(3,\)"):
        nc.Camera.look_at((0, 0, 3), (0, 0))
    with pytest.raises(TypeError, match="eye must be numbers, got 'here'"):
        nc.Camera.look_at("here")
    with pytest.raises(ValueError, match="pose must hold a rotation"):
        nc.Camera.from_intrinsics(50, 50, 32, 32, 64, 64, np.zeros((3, 4)))


def test_far_instances_are_drawn_as_their_root_alone(planet_asset, field_asset):
    """The short way for far instances, eight at a time, finds what testing every cluster finds."""
    scene = nc.Scene()
    scene.add(planet_asset, _grid(1000, spacing=3))
    scene.add(field_asset, _grid(1003, spacing=3, seed=9))
    root = int(
        np.flatnonzero(planet_asset.clusters["level"] == planet_asset.clusters["level"].max())[0]
    )
    far = 0
    for eye, fov in (((0, 0, 900), 4), ((300, 200, 100), 8), ((40, 0, 0), 60), ((0, 700, 1), 2)):
        for orthographic in (False, True):
            camera = nc.Camera.look_at(eye, fov_y=fov, near=0.1)
            if orthographic:
                camera = camera.moved(fov_y=None, height=60.0, far=2000.0)
            for threshold in (1, 20):
                tree, stats = nc.Renderer(320, 240, threshold=threshold).cull(scene, camera)
                flat, _ = nc.Renderer(320, 240, threshold=threshold, hierarchy=False).cull(
                    scene, camera
                )
                assert np.array_equal(tree, flat)
                far += stats["far_instances"]
                if stats["far_instances"]:
                    assert root in tree[tree[:, 0] < 1000, 1] or threshold == 1
    assert far > 2000


def test_instances_of_many_assets_are_found_alike_in_any_order(
    planet_asset, field_asset, torus_asset
):
    """Assets in turn, where eight neighbours have different roots, and one after the other."""
    tangle = nc.build(
        np.random.default_rng(1).normal(size=(3000, 3)), np.arange(3000).reshape(-1, 3)
    )
    assets = [planet_asset, field_asset, torus_asset, tangle]
    transforms = _grid(1000)
    kind = np.random.default_rng(2).integers(0, 4, 1000)
    mixed, sorted_ = nc.Scene(), nc.Scene()
    for transform, k in zip(transforms, kind, strict=True):
        mixed.add(assets[k], transform)
    order = np.argsort(kind, kind="stable")
    for k in range(4):
        sorted_.add(assets[k], transforms[kind == k])
    for eye, threshold in (((0, 0, 60), 1), ((3, 2, 5), 4), ((0, 400, 10), 16)):
        renderer = nc.Renderer(640, 480, threshold=threshold)
        camera = nc.Camera.look_at(eye)
        found, stats = renderer.cull(mixed, camera)
        expected, _ = renderer.cull(sorted_, camera)
        expected[:, 0] = order[expected[:, 0]]
        assert set(map(tuple, found.tolist())) == set(map(tuple, expected.tolist()))
        assert stats["visible_instances"] > 0
        exhaustive, _ = nc.Renderer(640, 480, threshold=threshold, hierarchy=False).cull(
            mixed, camera
        )
        assert set(map(tuple, found.tolist())) == set(map(tuple, exhaustive.tolist()))


@pytest.mark.parametrize("distance", [1e12, 1e18, 3e19, 1e20, 1e30])
def test_what_is_farther_than_squares_reach_is_found_alike(planet_asset, distance):
    """Beyond 1.8e19 a distance's square is infinite: near and far path, tree and none agree."""
    random, scene = np.random.default_rng(13), nc.Scene()
    places = np.array(_grid(64), float)
    places[::2, :3, :3] *= distance / 1000  # the others are specks: in their units it is far
    places[:, :3, 3] = (random.normal(size=(64, 3)) * [0.2, 0.1, 0.2] + [0, 0, -2]) * distance
    scene.add(planet_asset, places)
    for threshold in (0.0, 1.0, 30.0):
        camera, options = nc.Camera.look_at((0, 0, 0), (0, 0, -1)), {"threshold": threshold}
        tree, stats = nc.Renderer(320, 200, **options).cull(scene, camera)
        flat, _ = nc.Renderer(320, 200, hierarchy=False, **options).cull(scene, camera)
        assert np.array_equal(tree, flat)
        assert len(np.unique(tree[:, 0])) == stats["visible_instances"] > 50  # none is a hole
