"""The tree over instances: it changes where is looked, never what is found."""

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import meshes

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def assets(torus_asset):
    return nc.build(*meshes.planet(3)), torus_asset


def _places(random, count, spread):
    out = np.tile(np.eye(4)[:3], (count, 1, 1))
    q, _ = np.linalg.qr(random.normal(size=(count, 3, 3)))
    out[:, :, :3] = q * np.exp(random.uniform(-1, 1, (count, 1, 3)))
    out[:, :, 3] = random.normal(size=(count, 3)) * spread
    return out


def _expect_the_same(scene, random, cameras=3):
    """As testing everything finds it; returns the share of the instances that was looked at."""
    looked = 0
    for _ in range(cameras):
        camera = nc.Camera.look_at(
            random.normal(size=3) * 30, random.normal(size=3) * 30, up=random.normal(size=3),
            fov_y=float(random.uniform(3, 90)), near=float(10 ** random.uniform(-2, 0)),
        )  # fmt: skip
        if random.random() < 0.3:
            camera = camera.moved(fov_y=None, height=20.0, near=0.1, far=200.0)
        sizes = {"width": 320, "height": 200, "threshold": 4.0}
        found, stats = nc.Renderer(**sizes).cull(scene, camera)
        flat, exhaustive = nc.Renderer(**sizes, hierarchy=False).cull(scene, camera)
        assert np.array_equal(found, flat)
        assert stats["visible_instances"] == exhaustive["visible_instances"]
        looked += stats["tested_instances"] / len(scene)
    return looked / cameras


def test_a_scene_that_moves_jumps_grows_and_shrinks(assets):
    random = np.random.default_rng(1)
    scene = nc.Scene()
    for asset in assets:
        scene.add(asset, _places(random, 4000, 30))
    for step in range(25):
        _expect_the_same(scene, random, 2)
        change, first = step % 8, int(random.integers(0, len(scene) - 600))
        if change in (0, 5):  # all drift
            moved = scene.transforms
            moved[:, :, 3] += random.normal(size=(len(moved), 3)) * 0.1
            scene.update(0, moved)
        elif change == 1:  # some jump
            scene.update(first, _places(random, 300, 30))
        elif change == 2:
            scene.add(assets[0], _places(random, 200, 30))
        elif change == 3:
            scene.remove(slice(first, first + 150))
        elif change == 4:
            scene.hide(slice(first, first + 500))
        elif change == 6:  # what was hidden moved meanwhile
            scene.update(0, scene.transforms[::-1])
            scene.hide(slice(0, len(scene)), False)
        else:  # all grow
            grown = scene.transforms
            grown[:, :, :3] *= 1.5
            scene.update(0, grown)


@pytest.mark.parametrize("kind", ["one place", "a line", "far away", "few", "all hidden", "huge"])
def test_scenes_of_odd_shapes(assets, kind):
    random = np.random.default_rng(2)
    scene, places = nc.Scene(), _places(random, 5000, 20)
    if kind == "one place":
        places[:, :, 3] = 1
    elif kind == "a line":
        places[:, 1:, 3] = 0
    elif kind == "few":
        places = places[:4096]
    elif kind == "huge":
        places[::50, :, :3] *= 1e6
        places[::70, :, 3] *= 1e12
    scene.add(assets[0], places)
    if kind == "far away":
        places[:, :, 3] += 5e6
        scene.update(0, places)
    if kind == "all hidden":
        scene.hide(slice(0, len(scene)))
    _expect_the_same(scene, random, 8)


def test_a_view_looks_at_what_is_near_its_frustum(assets):
    random = np.random.default_rng(3)
    scene = nc.Scene()
    places = _places(random, 50_000, 30)
    places[:, :, :3] *= 0.1
    scene.add(assets[0], places)
    assert _expect_the_same(scene, random, 12) < 0.95
    camera = nc.Camera.look_at((0, 0, 0), (0, 0, -1), fov_y=3)
    renderer = nc.Renderer(300, 300)
    _, stats = renderer.cull(scene, camera)
    assert 0 < stats["visible_instances"] < stats["tested_instances"] < 0.5 * len(scene)
    for _ in range(20):  # drift is cheap: the same tree for many frames
        places[:, :, 3] += random.normal(size=(len(places), 3)) * 1e-3
        scene.update(0, places)
        _, stats = renderer.cull(scene, camera)
        assert stats["tested_instances"] < 0.5 * len(scene)


def test_one_by_one_and_all_at_once_give_the_same_bits(assets):
    """Eight lanes or one: spheres, inverses and singular values do not depend on the slice."""
    random = np.random.default_rng(4)
    places = _places(random, 37, 5)
    places[5, :, :3] = np.diag([1, -2, 3])
    whole, single = nc.Scene(), nc.Scene()
    whole.add(assets[1], places)
    for place in places:
        single.add(assets[1], place)
    single.hide(slice(3, 9))
    single.hide(slice(3, 9), False)
    camera = nc.Camera.look_at((9, 5, 7))
    frames = [nc.Renderer(200, 150).render(scene, camera) for scene in (whole, single)]
    for name in ("visibility", "normal", "visible_clusters"):
        assert np.array_equal(*(getattr(frame, name) for frame in frames))
    assert np.array_equal(whole.transforms, single.transforms)
