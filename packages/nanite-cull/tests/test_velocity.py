"""Velocities: what a frame shows, projected where it was in the frame before."""

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import meshes

pytestmark = pytest.mark.native

START = nc.Camera.look_at((0, 1, 9), (0, 0, 0), fov_y=50, near=0.01)


def _places(seed, count=40):
    random = np.random.default_rng(seed)
    places = np.tile(np.eye(4), (count, 1, 1))
    places[:, :3, :3] = random.normal(size=(count, 3, 3)) * 0.4
    places[:, :3, 3] = random.normal(size=(count, 3)) * 2
    return places


def _moved(places, seed, amount=0.05):
    out = places.copy()
    random = np.random.default_rng(seed)
    out[:, :3, :] += random.normal(size=out[:, :3, :].shape) * amount
    return out


def _pixels(camera, points, width, height):
    clip = (
        np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1)
        @ (camera.projection(width, height) @ camera.view).T
    )
    ndc = clip[..., :2] / clip[..., 3:]
    return np.stack([(ndc[..., 0] + 1) / 2 * width, (1 - ndc[..., 1]) / 2 * height], -1)


def _by_hand(frame, now, before, camera_before):
    """Positions taken back into each instance, out of it where it was, and projected."""
    size = frame.width, frame.height
    here = np.nan_to_num(frame.position.astype(float))
    instance = np.where(frame.coverage, frame.instance, 0)
    back = before[instance] @ np.linalg.inv(now)[instance]
    there = (back[..., :3, :3] @ here[..., None])[..., 0] + back[..., :3, 3]
    out = _pixels(frame.camera, here, *size) - _pixels(camera_before, there, *size)
    return np.where(frame.coverage[..., None], out, 0)


@pytest.fixture(scope="module")
def asset():
    return nc.build(*meshes.planet(4), progress=False)


CAMERAS = {
    "still": START,
    "moved": nc.Camera.look_at((0.2, 1.1, 8.7), (0.1, 0, 0), fov_y=50, near=0.01),
    "zoomed": START.moved(fov_y=47.0),
    "scaled": START.moved(view=np.diag([2.0, 2, 2, 1]) @ START.view),
}


@pytest.mark.parametrize("occlusion", [False, True])
@pytest.mark.parametrize("camera", CAMERAS)
def test_velocities_are_those_of_positions_projected_by_hand(asset, camera, occlusion):
    before = _places(1)
    now = _moved(before, 2)
    now[::4] = before[::4]
    scene = nc.Scene()
    scene.add(asset, before)
    renderer = nc.Renderer(200, 150, velocity=True, occlusion=occlusion)
    first = renderer.render(scene, START)
    assert not first.velocity.any()
    scene.update(0, now)
    frame = renderer.render(scene, CAMERAS[camera])
    off = np.abs(frame.velocity - _by_hand(frame, now, before, START)).max(-1)
    assert np.linalg.norm(frame.velocity, axis=-1).max() > 3
    assert np.quantile(off, 0.999) < 0.02  # of positions that are exact to a 256th of a pixel
    assert off.max() < 0.1
    if camera == "still":
        assert not frame.velocity[frame.instance % 4 == 0].any()
    later = renderer.render(scene, CAMERAS[camera])
    assert not later.velocity.any()


def test_an_orthographic_camera(asset):
    before, flat = _places(4), START.moved(fov_y=None, height=8.0, near=0.1, far=40.0)
    now = _moved(before, 5)
    scene, renderer = nc.Scene(), nc.Renderer(200, 150, velocity=True)
    scene.add(asset, before)
    renderer.render(scene, flat)
    scene.update(0, now)
    turned = flat.moved(view=nc.Camera.look_at((0.3, 1, 9)).view, height=7.7)
    frame = renderer.render(scene, turned)
    assert np.abs(frame.velocity - _by_hand(frame, now, before, flat)).max() < 0.02


def test_several_updates_between_frames_count_as_one(asset):
    before, scene = _places(6), nc.Scene()
    scene.add(asset, before)
    renderer = nc.Renderer(120, 90, velocity=True)
    renderer.render(scene, START)
    for seed in (7, 8, 9):
        scene.update(3, _moved(before, seed)[3:20])
    now = before.copy()
    now[3:20] = _moved(before, 9)[3:20]
    frame = renderer.render(scene, START)
    assert np.abs(frame.velocity - _by_hand(frame, now, before, START)).max() < 0.02


def test_added_and_removed_instances(asset):
    before, scene = _places(10), nc.Scene()
    scene.add(asset, before[:30])
    renderer = nc.Renderer(120, 90, velocity=True)
    renderer.render(scene, START)
    now = _moved(before[:30], 11)
    scene.update(0, now)
    scene.remove(slice(5, 15))  # numbers move down
    scene.add(asset, before[30:])  # stands still
    now = np.concatenate([np.delete(now, slice(5, 15), 0), before[30:]])
    then = np.concatenate([np.delete(before[:30], slice(5, 15), 0), before[30:]])
    frame = renderer.render(scene, CAMERAS["moved"])
    assert np.abs(frame.velocity - _by_hand(frame, now, then, START)).max() < 0.02


def test_what_has_no_frame_before_has_no_velocity(asset):
    scene, renderer = nc.Scene(), nc.Renderer(64, 48, velocity=True)
    scene.add(asset, _places(12))
    renderer.render(scene, START)
    renderer.forget()
    assert not renderer.render(scene, CAMERAS["moved"]).velocity.any()
    other = nc.Scene(asset)
    assert not renderer.render(other, START).velocity.any()
    frame = renderer.render(other, CAMERAS["moved"])
    assert frame.velocity.any()
    assert not frame.velocity[~frame.coverage].any()
    away = nc.Camera.look_at((0, 0, 9), (0, 0, 99), near=0.01)  # all is behind its back
    renderer.render(other, away)
    assert not renderer.render(other, START).velocity.any()
    with pytest.raises(RuntimeError, match=r"use Renderer\(\.\.\., velocity=True\)"):
        _ = nc.Renderer(64, 48).render(scene, START).velocity


def test_a_streamed_frame_that_waits_has_the_same_velocity(asset, tmp_path):
    frames = []
    for a in (asset, nc.open(asset.save(tmp_path / "a.ncl"))):
        scene, renderer = nc.Scene(a), nc.Renderer(96, 72, velocity=True, wait_resident=True)
        renderer.render(scene, START)
        moved = np.eye(4)
        moved[0, 3] = 0.2
        scene.update(0, moved)
        near = nc.Camera.look_at((0, 1, 3), (0, 0, 0), fov_y=50, near=0.01)  # asks for more pages
        frames.append(renderer.render(scene, near))
    assert frames[0].velocity.any()
    assert np.array_equal(frames[0].velocity, frames[1].velocity)


def test_planes_are_the_same_with_and_without(asset):
    scene = nc.Scene()
    scene.add(asset, _places(13))
    plain = nc.Renderer(96, 72).render(scene, START)
    for threads in (1, 3):
        renderer = nc.Renderer(96, 72, velocity=True, threads=threads)
        for _ in range(2):
            frame = renderer.render(scene, START)
            assert np.array_equal(frame.visibility, plain.visibility)
