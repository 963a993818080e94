"""Several views in one call: each as if it were alone."""

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import _C, meshes

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def scene(torus_asset):
    random = np.random.default_rng(1)
    scene = nc.Scene()
    for asset in (nc.build(*meshes.planet(4)), torus_asset):
        places = np.tile(np.eye(4)[:3], (2500, 1, 1))
        q, _ = np.linalg.qr(random.normal(size=(2500, 3, 3)))
        places[:, :, :3], places[:, :, 3] = q, random.normal(size=(2500, 3)) * 20
        scene.add(asset, places)
    return scene


def _cameras(count, seed=2):
    random, out = np.random.default_rng(seed), []
    for i in range(count):
        lens = {"fov_y": float(random.uniform(8, 80)), "near": 0.05}
        camera = nc.Camera.look_at(random.normal(size=3) * 30, random.normal(size=3) * 9, **lens)
        out.append(
            camera.moved(fov_y=None, height=12.0, near=0.1, far=90.0) if i % 3 == 2 else camera
        )
    return out


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_each_view_is_what_it_is_alone(scene, threads):
    cameras = [*_cameras(7), nc.Camera.look_at((0, 0, 900), (0, 0, 999))]  # the last sees nothing
    renderer = nc.Renderer(160, 100, threads=threads)
    depths = renderer.render_depths(scene, cameras)
    together = renderer.stats
    assert depths.shape == (8, 100, 160)
    sums = dict.fromkeys(("instances", "candidates", "visited", "visible", "triangles"), 0)
    culled = dict.fromkeys(together["culled"], 0)
    for camera, depth in zip(cameras, depths, strict=True):
        alone = nc.Renderer(160, 100)
        assert np.array_equal(alone.render(scene, camera).depth, depth)
        for name in sums:
            sums[name] += alone.stats[name]
        for cause in culled:
            culled[cause] += alone.stats["culled"][cause]
    assert culled == together["culled"]
    assert sums == {name: together[name] for name in sums}
    assert not depths[-1].any()
    assert depths[0].any()


def test_clusters_are_ordered_by_view(scene):
    cameras, core = _cameras(5), _C.Frame()
    renderer = nc.Renderer(160, 100)
    views = [camera._core(160, 100, 1.0) for camera in cameras]
    out = np.empty((5, 100, 160), np.float32)
    core.draw_views(scene._core, views, renderer._cull, renderer._raster, renderer._streamer, out)
    found, small = core.visible(), core.small
    parts: tuple[list, list] = ([], [])
    for camera in cameras:
        alone = nc.Renderer(160, 100).render(scene, camera)
        ends = np.split(alone.visible_clusters, [alone.stats["visible_small"]])
        for part, end in zip(parts, ends, strict=True):
            part.append(end)
    assert np.array_equal(found[:small], np.concatenate(parts[0]))
    assert np.array_equal(found[small:], np.concatenate(parts[1]))


def test_many_views_none_and_an_empty_scene(scene):
    renderer = nc.Renderer(20, 15)
    cameras = _cameras(255, seed=4)
    depths = renderer.render_depths(scene, cameras)
    for i in (0, 100, 254):
        assert np.array_equal(renderer.render(scene, cameras[i]).depth, depths[i])
    for count in (0, 256):
        with pytest.raises(ValueError, match=f"1 to 255 cameras, got {count}"):
            renderer.render_depths(scene, cameras[:1] * count)
    assert not renderer.render_depths(nc.Scene(), cameras[:3]).any()
    small = nc.Renderer(64, 64, max_visible_clusters=5)
    with pytest.raises(RuntimeError, match="visible_clusters dropped"):
        small.render_depths(scene, cameras[:4])


def test_views_beside_frames_with_occlusion(scene):
    """The calls share a Renderer's buffers, not its history."""
    renderer, plain = nc.Renderer(160, 100, occlusion=True), nc.Renderer(160, 100)
    camera = _cameras(1)[0]
    for _ in range(3):
        frame = renderer.render(scene, camera)
        expected = plain.render(scene, camera)
        for name in ("depth", "instance", "cluster", "triangle"):
            assert np.array_equal(getattr(frame, name), getattr(expected, name))
        del frame
        renderer.render_depths(scene, _cameras(3, seed=9))
