"""Instances: exact far away, changed while others render, hidden, removed, pickled."""

import copy
import pickle
import threading
import time

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import meshes, reference

pytestmark = pytest.mark.native


def _shift(*xyz):
    out = np.eye(4)
    out[:3, 3] = xyz
    return out


def _turn(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    out = np.eye(4)
    out[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    return out


@pytest.mark.parametrize("at", [(5000000.3, 0, 0), (-4.2e6, 5.4e6, 300.7), (0, 1e8, 0)])
def test_an_instance_far_away_is_drawn_as_one_at_the_origin(planet_asset, at):
    at = np.array(at)
    near = nc.Renderer(200, 200).render(
        nc.Scene(planet_asset), nc.Camera.look_at((0, 0, 3), (0, 0, 0))
    )
    scene = nc.Scene()
    scene.add(planet_asset, _shift(*at))
    far = nc.Renderer(200, 200).render(scene, nc.Camera.look_at(at + np.array([0, 0, 3]), at))
    assert near.coverage.sum() > 10_000
    assert np.array_equal(far.coverage, near.coverage)
    assert np.array_equal(far.cluster, near.cluster)


def test_a_frame_is_of_the_scene_as_it_was(torus_asset):
    scene, camera = nc.Scene(torus_asset), nc.Camera.around(torus_asset)
    planes = ("normal", "uv", "color", "instance", "cluster", "triangle", "level", "position")
    before = nc.Renderer(160, 120).render(scene, camera)
    expected = {name: getattr(before, name).copy() for name in planes}
    picture = before.picture("shaded")

    def change(what):
        frame = nc.Renderer(160, 120).render(scene, camera)
        what()
        for name in planes:
            assert np.array_equal(getattr(frame, name), expected[name], equal_nan=True), name
        assert np.array_equal(frame.picture("shaded"), picture)

    def turn():
        scene.update(0, _turn(90))

    change(turn)
    scene.update(0, np.eye(4))
    change(lambda: scene.add(nc.build(*meshes.planet(2))))
    scene.remove(1)
    change(lambda: scene.add(torus_asset, np.tile(np.eye(4), (5000, 1, 1))))
    scene.remove(slice(1, 5001))
    change(lambda: scene.hide(0))
    scene.hide(0, False)
    change(lambda: scene.remove(0))


def test_threads_may_cull_and_draw_while_one_changes_the_scene(planet_asset):
    asset, scene = nc.build(*meshes.planet(3)), nc.Scene()
    camera = nc.Camera.look_at((0, 0, 900), near=0.1)
    transforms = np.tile(np.eye(4, dtype=np.float32), (60_000, 1, 1))
    transforms[:, :3, 3] = np.random.default_rng(0).uniform(-500, 500, (60_000, 3))
    scene.add(asset, transforms)
    renderer = nc.Renderer(160, 120, threads=1, max_visible_clusters=1 << 20)
    stop, problems, frames = threading.Event(), [], []

    def work():
        try:
            while not stop.is_set():
                renderer.cull(scene, camera)
                frames.append(renderer.render(scene, camera).picture("instance").sum())
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    end = time.time() + 4
    while time.time() < end:
        scene.add(asset, transforms[:5000])
        scene.update(100, transforms[:2000] + 0.0)
        scene.hide(slice(0, 50), bool(len(frames) % 2))
        scene.remove(slice(len(scene) - 5000, len(scene)))
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(frames) > 0


def test_mirrored_instances_keep_their_facing(planet_asset):
    mirror = np.diag([-1.0, 1, 1, 1])
    scene = nc.Scene()
    scene.add(planet_asset, mirror)
    camera = nc.Camera.look_at((0, 0.3, 3))
    both = nc.Renderer(200, 200).render(scene, camera)
    front = nc.Renderer(200, 200, cull_back=True).render(scene, camera)
    assert both.coverage.sum() > 5000
    assert np.array_equal(both.depth, front.depth)
    assert np.array_equal(both.triangle, front.triangle)


def test_hidden_instances_are_not_drawn_and_come_back(planet_asset):
    scene = nc.Scene()
    scene.add(planet_asset, np.stack([_shift(2.5 * i, 0, 0) for i in range(20)]))
    camera = nc.Camera.look_at((24, 0, 60))
    for options in (
        {},
        {"frustum": False},
        {"hierarchy": False},
        {"frustum": False, "hierarchy": False},
    ):
        renderer = nc.Renderer(300, 60, **options)
        everything = renderer.render(scene, camera)
        scene.hide(slice(3, 15))
        some = renderer.render(scene, camera)
        assert set(np.unique(some.instance[some.coverage])) == {0, 1, 2, *range(15, 20)}
        scene.update(4, _shift(10, 0, 0))  # stays hidden
        assert 4 not in some.instance
        scene.hide(slice(3, 15), False)
        again = renderer.render(scene, camera)
        assert np.array_equal(again.depth, everything.depth)


def test_removed_instances_are_gone_and_the_others_move_down(planet_asset, field_asset):
    scene = nc.Scene()
    scene.add(planet_asset, np.stack([_shift(2.5 * i, 0, 0) for i in range(5)]))
    scene.add(field_asset, _shift(0, -3, 0))
    scene.remove(slice(1, 4))
    assert len(scene) == 3
    assert scene.asset_of.tolist() == [0, 0, 1]
    assert scene.transforms[:, 0, 3].tolist() == [0, 10, 0]
    with pytest.raises(ValueError, match="instance 3 does not exist; the scene has 3"):
        scene.remove(3)


def test_transforms_are_what_was_given():
    vertices, faces = meshes.planet(2)
    asset = nc.build(vertices.astype(float) + np.array([500000.0, 5400000, 300]), faces)
    assert asset.origin.any()
    given = _turn(30) @ _shift(1e6, 2, 3)
    scene = nc.Scene()
    scene.add(asset, given)
    assert np.allclose(scene.transforms[0], given[:3], rtol=1e-12, atol=1e-6)


def test_assets_and_scenes_are_pickled_and_copied(torus_asset, planet_asset, tmp_path):
    import torch

    scene = nc.Scene(torus_asset)
    scene.add(planet_asset, np.stack([_shift(3 * i, 0, 0) for i in range(1, 4)]))
    scene.hide(2)
    camera = nc.Camera.look_at((5, 1, 14))
    renderer = nc.Renderer(200, 100)
    expected = renderer.render(scene, camera)
    torch.save(scene, tmp_path / "scene.pt")
    loaded = torch.load(tmp_path / "scene.pt", weights_only=False)
    for other in (
        pickle.loads(pickle.dumps(scene)),
        copy.deepcopy(scene),
        copy.copy(scene),
        loaded,
    ):
        frame = copy.deepcopy(renderer).render(other, pickle.loads(pickle.dumps(camera)))
        assert np.array_equal(frame.visibility, expected.visibility)
        assert np.array_equal(frame.normal, expected.normal)
    assert len(copy.deepcopy(nc.Scene())) == len(pickle.loads(pickle.dumps(nc.Scene()))) == 0
    other = pickle.loads(pickle.dumps(planet_asset))
    assert np.array_equal(other.leaf_source, planet_asset.leaf_source)
    assert copy.deepcopy(planet_asset) is planet_asset


class NamedScene(nc.Scene):
    """A scene with something of its own."""

    def __init__(self, *assets):
        super().__init__(*assets)
        self.name = "town"


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
def test_a_copy_of_a_subclass_has_what_the_subclass_added(copied, planet_asset):
    other = copied(NamedScene(planet_asset))
    assert (type(other), other.name, len(other)) == (NamedScene, "town", 1)


@pytest.mark.parametrize("bad", [0.0, 1.5, "0", None, [0, 1], np.zeros(2, bool), np.arange(2)])
def test_instances_are_named_by_whole_numbers_and_slices(bad, planet_asset):
    scene = nc.Scene(planet_asset, planet_asset)
    for change in (scene.hide, scene.remove):
        with pytest.raises(TypeError, match=r"instances must be a whole number or a slice, got"):
            change(bad)
    assert len(scene) == 2


@pytest.mark.parametrize("kind", [complex, str])
def test_transforms_are_real_numbers(kind, planet_asset):
    with pytest.raises(TypeError, match="transforms must be real numbers"):
        nc.Scene().add(planet_asset, np.eye(4).astype(kind))


def test_a_transform_that_is_refused_changes_nothing(planet_asset):
    scene = nc.Scene(planet_asset)
    bad = np.tile(np.eye(4), (3, 1, 1))
    bad[2, 0, 0] = np.nan
    with pytest.raises(ValueError, match="finite and invertible, instance 3"):
        scene.add(planet_asset, bad)
    assert len(scene) == 1
    scene.add(planet_asset, np.stack([_shift(3, 0, 0), _shift(6, 0, 0), _shift(9, 0, 0)]))
    with pytest.raises(ValueError, match="finite and invertible, instance 3"):
        scene.update(1, bad)
    assert scene.transforms[1:, 0, 3].tolist() == [3, 6, 9]


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_an_instance_is_drawn_at_any_size_that_is_taken(size, planet_asset):
    shown = []
    for s in (1.0, size):
        scene = nc.Scene()
        scene.add(planet_asset, np.diag([s, s, s, 1]))
        camera = nc.Camera.look_at((0, 0, 3 * s), near=0.01 * s)
        shown.append(nc.Renderer(64, 48).render(scene, camera).coverage)
    assert (shown[0] == shown[1]).mean() > 0.99
    assert shown[0].mean() > 0.2


@pytest.mark.parametrize(
    "bad",
    [
        np.diag([1e40, 1e40, 1e40, 1]),
        np.diag([1e-40, 1e-40, 1e-40, 1]),
        np.diag([1e-22, 1e-22, 1e-33, 1]),
        _shift(1e39, 0, 0),
        _shift(0, -1e33, 0),
        np.diag([4e31, 4e31, 4e31, 1]),  # the asset reaches farther than one
    ],
)
def test_what_single_precision_does_not_hold_is_refused(bad, planet, planet_asset):
    scene = nc.Scene(planet_asset)
    large = nc.build(planet[0] * 1e15, planet[1], progress=False)
    scene.add(large, np.diag([1e12, 1e12, 1e12, 1]))
    with pytest.raises(
        ValueError, match=r"well within 1e32 of the world's .*; instance 3 lies beyond"
    ):
        scene.add(planet_asset, np.stack([np.eye(4), bad]))
    with pytest.raises(ValueError, match=r"scale of 1e-32 or more; instance 0 lies beyond or"):
        scene.update(0, bad)
    assert len(scene) == 2
    scene.update(0, np.diag([1e28, 1e28, 1e28, 1]))  # too far for the other asset
    with pytest.raises(ValueError, match="instance 1 lies beyond"):
        scene.update(1, np.diag([1e28, 1e28, 1e28, 1]))


def test_an_asset_of_refused_instances_is_not_in_the_scene(planet_asset, torus_asset, field_asset):
    scene, camera = nc.Scene(planet_asset), nc.Camera.around(planet_asset)
    with pytest.raises(ValueError, match="finite and invertible, instance 1"):
        scene.add(torus_asset, np.zeros((3, 4)))
    assert scene.assets == [planet_asset]
    assert nc.Renderer(64, 48).render(scene, camera).source_triangle.shape == (48, 64)
    scene.add(field_asset, _shift(3, 0, 0))
    assert scene.assets == [planet_asset, field_asset]
    assert scene.asset_of.tolist() == [0, 1]
    assert len(pickle.loads(pickle.dumps(scene)).assets) == 2


def test_a_copy_of_a_renderer_is_as_the_renderer_is_now(planet_asset):
    renderer = nc.Renderer(64, 48, threshold=1)
    renderer.threshold, renderer.width = 40.0, 32
    for other in (copy.copy(renderer), pickle.loads(pickle.dumps(renderer))):
        assert (other.threshold, other.width, other.height) == (40.0, 32, 48)
        frames = [r.render(nc.Scene(planet_asset), nc.Camera.around(planet_asset))
                  for r in (renderer, other)]  # fmt: skip
        assert np.array_equal(frames[0].visibility, frames[1].visibility)


COLOURS = {
    "uint8": np.uint8([200, 30, 30]),
    "uint8 with alpha": np.uint8([200, 30, 30, 255]),
    "int64": np.int64([200, 30, 30]),
    "uint16": np.uint16([51400, 7710, 7710]),
    "float32": np.float32([200, 30, 30]) / np.float32(255),
    "float64": np.array([200, 30, 30]) / 255,
}


@pytest.mark.parametrize("kind", COLOURS)
def test_colours_of_every_kind_are_drawn_as_given(kind):
    vertices, faces = meshes.planet(3)
    asset = nc.build(vertices, faces, colors=np.tile(COLOURS[kind], (len(vertices), 1)))
    frame = nc.Renderer(64, 64).render(nc.Scene(asset), nc.Camera.around(asset))
    assert np.allclose(frame.color[32, 32], [200 / 255, 30 / 255, 30 / 255, 1], atol=1e-6)


def test_colours_out_of_range_are_refused():
    vertices, faces = meshes.planet(1)
    for bad, top in ((200.0, 1), (np.int32(300), 255), (-0.5, 1)):
        with pytest.raises(ValueError, match=f"must be 0 to {top}"):
            nc.build(vertices, faces, colors=np.full((len(vertices), 3), bad))


def test_an_asset_without_colours_is_white_beside_one_with():
    vertices, faces = meshes.planet(3)
    scene = nc.Scene(nc.build(vertices, faces, colors=np.tile([1.0, 0.5, 0.1], (len(vertices), 1))))
    scene.add(nc.build(vertices, faces), _shift(2.5, 0, 0))
    for order in (scene, None):
        if order is None:  # the plain one first
            order = nc.Scene(scene.assets[1])
            order.add(scene.assets[0], _shift(2.5, 0, 0))
        frame = nc.Renderer(400, 200).render(order, nc.Camera.look_at((1.25, 0, 5), (1.25, 0, 0)))
        plain = [len(order.assets[a].colors) == 0 for a in order.asset_of].index(True)
        assert (frame.color[frame.instance == plain] == 1).all()
        assert frame.picture()[frame.instance == plain].mean() > 60
        assert np.allclose(frame.color[frame.instance == 1 - plain], [1, 0.5, 0.1, 1], atol=2e-3)


@pytest.mark.parametrize("kind", ["shaded", "cluster", "level", "triangle", "instance"])
def test_a_picture_is_that_of_the_reference(kind):
    """Fused in the core; one step of 255 where float and double round apart."""
    vertices, faces = meshes.planet(4)
    assets = (
        nc.build(vertices, faces, colors=np.clip(np.abs(vertices), 0, 1)),
        nc.build(
            vertices, faces, colors=np.clip(np.abs(vertices), 0, 1), materials=[nc.Material()]
        ),
        nc.build(*meshes.heightfield(50)),
    )
    for asset in assets:
        scene = nc.Scene(asset)
        for camera in (
            nc.Camera.around(asset, 30, 40),
            nc.Camera.around(asset, 10, -20, 0.6),
            nc.Camera.around(asset, 80, 0).moved(fov_y=None, height=2.5, far=20.0),
        ):
            frame = nc.Renderer(151, 97).render(scene, camera)
            ours, reference_ = frame.picture(kind), reference.picture(frame, kind)
            assert frame.coverage.sum() > 500
            assert np.abs(ours.astype(int) - reference_).max() <= 1
            assert (ours != reference_).mean() < 1e-3
    frame = nc.Renderer(530, 140).render(scene, camera)  # several tiles, and squares across them
    off = np.abs(frame.picture(kind).astype(int) - reference.picture(frame, kind))
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3
    one = nc.Renderer(151, 97, threads=1).render(scene, camera).picture(kind)
    assert np.array_equal(one, nc.Renderer(151, 97, threads=3).render(scene, camera).picture(kind))
