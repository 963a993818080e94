"""Two-pass occlusion: the picture without it, bit for bit, whatever the last frame was."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nanite_cull as nc
from nanite_cull import _C, meshes

pytestmark = pytest.mark.native

SIZES = ((1, 1), (2, 1), (1, 37), (161, 97), (160, 96), (513, 31), (64, 64), (257, 255))
PLANES = ("depth", "instance", "cluster", "triangle")


def _placements(random, count, spread=4.0):
    """Turned, mirrored and stretched, some large, many behind others."""
    out = np.tile(np.eye(4), (count, 1, 1))
    q, _ = np.linalg.qr(random.normal(size=(count, 3, 3)))
    out[:, :3, :3] = q * np.exp(random.uniform(-2, 1, (count, 1, 3)))
    out[:, :3, 3] = random.uniform(-spread, spread, (count, 3))
    return out


def _town(assets, random, count=60):
    scene = nc.Scene()
    for asset in assets:
        scene.add(asset, _placements(random, count))
    return scene


@pytest.fixture(scope="module")
def assets(torus_asset):
    return nc.build(*meshes.planet(4)), torus_asset, nc.build(*meshes.heightfield(32))


def _camera(random):
    eye = random.normal(size=3) * random.choice([0.2, 2.0, 6.0, 12.0])  # often inside something
    camera = nc.Camera.look_at(
        eye, random.normal(size=3), up=random.normal(size=3), fov_y=float(random.uniform(10, 120)),
        near=float(10 ** random.uniform(-4, 0)),
    )  # fmt: skip
    if random.random() < 0.25:
        return camera.moved(fov_y=None, height=float(random.uniform(0.5, 12)), near=0.1, far=40.0)
    return camera


def _expect_same(frame, plain):
    for name in PLANES:
        assert np.array_equal(getattr(frame, name), getattr(plain, name)), name


def _depths(random, height, width):
    """Depths of a history that no renderer would have left."""
    kind = random.integers(6)
    if kind == 0:
        return random.random((height, width))
    if kind == 1:
        return np.full((height, width), random.choice([0.0, 1.0, np.inf, -np.inf, np.nan, 1e-30]))
    if kind == 2:
        return np.where(random.random((height, width)) < 0.5, 0.0, np.inf)
    if kind == 3:
        return random.choice([0.0, 0.5, 1.0, np.nan, np.inf, -1.0], (height, width))
    if kind == 4:  # a wall with a hole
        out = np.full((height, width), 1e9)
        out[: height // 2, : width // 2] = 0
        return out
    return random.standard_normal((height, width)) ** 3


def _hostile(random, scene):
    """A history made up of any depths, sizes and views."""
    width, height = SIZES[random.integers(len(SIZES))]
    history = _C.History()
    view = _camera(random)._core(width, height, 1.0)
    history.set(scene._core, view, _depths(random, height, width).astype(np.float32))
    if random.random() < 0.5:  # no pyramid at all: levels that do not fit each other
        texels = history.texels
        texels[:] = _depths(random, 1, len(texels))[0]
    return history


@pytest.mark.parametrize("size", SIZES)
def test_the_picture_is_the_same_whatever_the_history(assets, size):
    random = np.random.default_rng(size)
    drawn_later = hidden = 0
    for round_ in range(12):
        scene = _town(assets, random, 12)
        options = {"threshold": float(random.choice([0.0, 1.0, 8.0])), "cull_back": round_ % 3 == 0}
        plain = nc.Renderer(*size, **options)
        renderer = nc.Renderer(*size, occlusion=True, threads=(1, 2, 8)[round_ % 3], **options)
        for _ in range(3):
            camera = _camera(random)
            if random.random() < 0.8:
                renderer._history = _hostile(random, scene)
            frame = renderer.render(scene, camera)
            _expect_same(frame, plain.render(scene, camera))
            drawn_later += frame.stats["post_clusters"]
            hidden += frame.stats["occluded_clusters"] + frame.stats["occluded_instances"]
    if min(size) > 30:
        assert drawn_later > 100
        assert hidden > 100


@pytest.mark.once
def test_a_flight_through_a_scene_that_changes(assets):
    """Instances move, come, go, hide and show between frames; now and then the camera jumps."""
    random = np.random.default_rng(3)
    scene = _town(assets, random)
    plain = nc.Renderer(320, 180, threads=1)
    renderers = [nc.Renderer(320, 180, occlusion=True, threads=n) for n in (1, 2, 8)]
    kept = [[] for _ in renderers]
    hidden = 0
    for step in range(60):
        a = step / 10
        camera = nc.Camera.look_at((5 * np.cos(a), 1.5, 5 * np.sin(a)), near=0.02)
        if step % 13 == 12:
            camera = _camera(random)
        if step % 20 == 19:
            for renderer in renderers:
                renderer.forget()
        change = step % 6
        first = int(random.integers(len(scene) - 8))
        if change == 1:
            scene.update(first, _placements(random, 8))
        elif change == 2:
            scene.remove(slice(first, first + 3))
        elif change == 3:
            scene.add(assets[step % 3], _placements(random, 4))
        elif change == 4:
            scene.hide(slice(first, first + 5), step % 12 < 6)
        elif change == 5:
            moved = scene.transforms
            moved[:, :, 3] += random.normal(size=(len(moved), 3)) * 0.05
            scene.update(0, moved)
        expected = plain.render(scene, camera)
        for renderer, frames in zip(renderers, kept, strict=True):
            frame = renderer.render(scene, camera)
            _expect_same(frame, expected)
            frames.append(frame.visible_clusters)
            hidden += frame.stats["occluded_instances"] + frame.stats["occluded_clusters"]
    assert hidden > 1000
    # two renderers of one scene end each other's epochs, so they need not draw the same clusters;
    # the same one, for any number of threads, does: below


def test_the_clusters_are_the_same_for_any_number_of_threads_with_and_without_the_tree(assets):
    def flight(**options):
        random = np.random.default_rng(8)
        scene, renderer = (
            _town(assets, random, 100),
            nc.Renderer(200, 113, occlusion=True, **options),
        )
        found, later = [], 0
        for step in range(12):
            scene.update(step * 10, _placements(random, 10))
            camera = nc.Camera.look_at((6 * np.cos(step / 9), 1, 6 * np.sin(step / 9)), near=0.05)
            frame = renderer.render(scene, camera)
            found.append(frame.visible_clusters)
            later += frame.stats["post_clusters"]
        assert later > 0
        return found

    one = flight(threads=1)
    for options in ({"threads": 2}, {"threads": 8}, {"hierarchy": False}):
        for found, expected in zip(flight(**options), one, strict=True):
            assert np.array_equal(found, expected)


FLIGHT = """
import hashlib, numpy as np, nanite_cull as nc
from nanite_cull import meshes
random = np.random.default_rng(1)
scene, asset = nc.Scene(), nc.build(*meshes.planet(4))
places = np.tile(np.eye(4), (400, 1, 1))
places[:, :3, 3] = random.uniform(-6, 6, (400, 3))
scene.add(asset, places)
renderer, digest = nc.Renderer(150, 101, occlusion=True), hashlib.sha256()
for step in range(10):
    places[:50, :3, 3] += random.normal(size=(50, 3)) * 0.1
    scene.update(0, places)
    frame = renderer.render(scene, nc.Camera.look_at((8 - step, 1, 6 - step / 2), near=0.05))
    digest.update(frame.visible_clusters.tobytes() + frame.visibility.tobytes())
print(digest.hexdigest())
"""


def test_every_instruction_set_finds_the_same():
    """The loops of eight and the plain ones: the same clusters and pixels."""
    seen = set()
    for level in ("baseline", "avx2"):
        done = subprocess.run(
            [sys.executable, "-c", FLIGHT], capture_output=True, text=True,
            env=os.environ | {"NATIVE_ISA": level},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        seen.add(done.stdout)
    assert len(seen) == 1


def test_a_frame_that_repeats_has_nothing_for_the_second_pass(assets):
    scene, camera = _town(assets, np.random.default_rng(5)), nc.Camera.look_at((9, 2, 5), near=0.05)
    renderer = nc.Renderer(320, 240, occlusion=True)
    first, again = renderer.render(scene, camera), renderer.render(scene, camera)
    _expect_same(again, first)
    assert len(again.visible_clusters) < 0.7 * len(first.visible_clusters)
    assert again.stats["post_clusters"] == 0
    hidden = {tuple(row) for row in first.visible_clusters.tolist()}
    hidden -= {tuple(row) for row in again.visible_clusters.tolist()}
    seen = first.coverage
    pairs = np.stack([first.instance[seen], first.cluster[seen]], 1)
    assert hidden.isdisjoint(map(tuple, pairs.tolist()))


def test_what_moves_is_looked_for_where_it_was(assets):
    """A ball behind a wall steps out: the first pass leaves it out, the second brings it."""
    ball = assets[0]
    scene = nc.Scene()
    wall, behind = np.diag([8.0, 8, 0.2, 1]), np.eye(4)
    behind[2, 3] = -4
    scene.add(ball, np.stack([wall, behind]))
    camera = nc.Camera.look_at((0, 0, 6), fov_y=70)
    renderer, plain = nc.Renderer(300, 200, occlusion=True), nc.Renderer(300, 200)
    for _ in range(2):
        frame = renderer.render(scene, camera)
    assert frame.stats["occluded_instances"] == 1
    assert frame.stats["post_clusters"] == 0
    assert not (frame.instance == 1).any()
    out = behind.copy()
    out[2, 3] = 2.5  # before the wall
    scene.update(1, out)
    frame = renderer.render(scene, camera)
    assert frame.stats["post_clusters"] > 0
    assert (frame.instance == 1).any()
    _expect_same(frame, plain.render(scene, camera))
    # where it is now it was seen, so the next frame's first pass draws it, moved or not
    out[0, 3] = 0.3
    scene.update(1, out)
    frame = renderer.render(scene, camera)
    _expect_same(frame, plain.render(scene, camera))
    assert frame.stats["post_clusters"] <= 3


def test_equal_depths_are_decided_as_in_one_pass(assets):
    """A hidden ball moves onto a visible one: the passes draw one each, at the same depths."""
    ball, scene = assets[0], nc.Scene()
    hidden, wall, seen = np.eye(4), np.diag([8.0, 8, 0.2, 1]), np.eye(4)
    hidden[2, 3], seen[2, 3] = -4, 2.5
    camera = nc.Camera.look_at((0, 0, 6), fov_y=70)
    for order in ([hidden, wall, seen], [seen, wall, hidden]):
        scene = nc.Scene()
        scene.add(ball, np.stack(order))
        renderer, plain = nc.Renderer(300, 200, occlusion=True), nc.Renderer(300, 200)
        for _ in range(2):
            renderer.render(scene, camera)
        scene.update(0, np.stack([seen, wall, seen]))
        frame = renderer.render(scene, camera)
        assert frame.stats["post_clusters"] > 0
        _expect_same(frame, plain.render(scene, camera))


@pytest.mark.parametrize("size", [*SIZES, (1279, 3), (999, 721)])
def test_a_texel_of_the_pyramid_is_the_farthest_of_the_pixels_below_it(size):
    width, height = size
    depth = np.random.default_rng(size).random((height, width)).astype(np.float32)
    history = _C.History()
    camera = nc.Camera.look_at((0, 0, 3))
    history.set(nc.Scene()._core, camera._core(width, height, 1.0), depth)
    texels, at, level = history.texels, 0, 0
    while True:
        step = 2 << level
        rows, columns = -(-height // step), -(-width // step)
        expected = np.full((rows * step, columns * step), np.inf, np.float32)
        expected[:height, :width] = depth
        expected = expected.reshape(rows, step, columns, step).min((1, 3))
        assert np.array_equal(texels[at : at + rows * columns].reshape(rows, columns), expected)
        at, level = at + rows * columns, level + 1
        if rows * columns == 1:
            break
    assert at == len(texels)


def test_another_scene_another_size_and_a_copy_start_anew(assets):
    import pickle

    random = np.random.default_rng(9)
    renderer = nc.Renderer(120, 90, occlusion=True)
    for scene in (_town(assets, random, 9), _town(assets, random, 5), nc.Scene()):
        for _ in range(2):
            camera = _camera(random)
            size = (renderer.width, renderer.height)
            _expect_same(renderer.render(scene, camera), nc.Renderer(*size).render(scene, camera))
            renderer.width, renderer.height = renderer.height, renderer.width + 1
    copy = pickle.loads(pickle.dumps(renderer))
    assert copy.occlusion
    assert not hasattr(copy, "_history")


def test_what_does_not_fit_is_an_error_in_either_pass(assets):
    scene = _town(assets, np.random.default_rng(2))
    camera = nc.Camera.look_at((9, 2, 5), near=0.05)
    small = nc.Renderer(320, 240, occlusion=True, max_visible_clusters=8)
    with pytest.raises(RuntimeError, match=r"visible_clusters dropped \d+ at capacity 8"):
        small.render(scene, camera)
    loud = nc.Renderer(320, 240, occlusion=True, max_visible_clusters=8, on_overflow="warn")
    loud._history = _C.History()
    view = camera._core(320, 240, 1.0)
    loud._history.set(
        scene._core, view, np.full((240, 320), np.inf, np.float32)
    )  # all to the second
    with pytest.warns(RuntimeWarning, match="visible_clusters dropped"):
        assert len(loud.render(scene, camera).visible_clusters) == 8


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
       count=st.integers(1, 30), history=st.sampled_from(["hostile", "own", "none"]))  # fmt: skip
def test_any_scene_any_camera_any_history(assets, seed, size, count, history):
    random = np.random.default_rng(seed)
    scene = nc.Scene()
    for asset in assets[: random.integers(1, 4)]:
        scene.add(asset, _placements(random, count, spread=float(random.choice([0.5, 3, 50]))))
    renderer, plain = nc.Renderer(*size, occlusion=True), nc.Renderer(*size)
    for _ in range(2):
        camera = _camera(random)
        if history == "hostile":
            renderer._history = _hostile(random, scene)
        elif history == "none":
            renderer.forget()
        _expect_same(renderer.render(scene, camera), plain.render(scene, camera))
        scene.update(0, _placements(random, 1))
