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


@pytest.mark.parametrize("traversal", ["instances", "levels", "persistent"])
def test_each_view_hides_behind_its_own_last_frame(scene, traversal):
    """Cameras that move on, change places, come and go; instances that move: depths stay right."""
    moving = nc.Scene()
    for number, asset in enumerate(scene.assets):
        moving.add(asset, scene.transforms[scene.asset_of == number])
    hiding = nc.Renderer(160, 100, occlusion=True, traversal=traversal)
    plain = nc.Renderer(160, 100)
    hidden = []
    for frame in range(5):
        cameras = _cameras(4 + frame % 2, seed=3)
        if frame == 3:
            cameras = cameras[::-1]  # every history is another camera's
        if frame:
            places = moving.transforms[500 * frame : 500 * frame + 400]
            places[:, :, 3] += 0.3
            moving.update(500 * frame, places)
        depths = hiding.render_depths(moving, cameras)
        assert np.array_equal(depths, plain.render_depths(moving, cameras)), frame
        hidden.append(hiding.stats["culled"]["occlusion"])
    assert hidden[0] == 0  # nothing was known
    assert all(count > 100 for count in hidden[1:])


def test_shadows_with_occlusion_are_those_without(scene):
    lights = [nc.Sun((0.2, 1, 0.1), cascades=2), nc.Lamp((0, 12, 0))]
    renderers = [
        nc.Renderer(160, 100, lights=lights, occlusion=o, shadow_size=128) for o in (False, True)
    ]
    for shift in (0.0, 0.1):
        camera = nc.Camera.look_at((30 + shift, 10, 20), fov_y=50, near=0.05)
        frames = [renderer.render(scene, camera) for renderer in renderers]
        assert frames[0].lit.any()
        assert np.array_equal(frames[0].lit, frames[1].lit)


def test_renderers_of_one_scene_each_remember_their_own_last_frame(torus_asset):
    """One renderer draws every frame, the other every third: velocities are since its own last."""

    def place(x):
        out = np.eye(4)
        out[0, 3] = x
        return out

    scene, camera = nc.Scene(), nc.Camera.look_at((0, 1, 4), near=0.05)
    scene.add(torus_asset, place(0))
    often, seldom = (nc.Renderer(160, 100, velocity=True, occlusion=o) for o in (True, False))
    places = {"often": 0.0, "seldom": 0.0}
    for frame in range(7):
        x = 0.03 * frame**2
        scene.update(0, place(x))
        turns = {"often": often} | ({"seldom": seldom} if frame % 3 == 0 else {})
        for name, renderer in turns.items():
            drawn = renderer.render(scene, camera)
            alone, expected = nc.Scene(), nc.Renderer(160, 100, velocity=True)
            alone.add(torus_asset, place(places[name]))
            expected.render(alone, camera)
            alone.update(0, place(x))
            truth = expected.render(alone, camera).velocity
            if frame:
                assert np.array_equal(drawn.velocity, truth), (frame, name)
            places[name] = x


def test_room_for_other_pixels_is_refused(scene):
    renderer, core = nc.Renderer(20, 15), _C.Frame()
    views = [camera._core(20, 15, 1.0) for camera in _cameras(3)]

    def draw(views, out):
        core.draw_views(
            scene._core, views, renderer._cull, renderer._raster, renderer._streamer, out
        )

    for shape in ((2, 15, 20), (3, 15, 19), (3, 20, 15), (900,)):
        with pytest.raises(ValueError, match=r"out must have shape \(3, 15, 20\), got \("):
            draw(views, np.empty(shape, np.float32))
    other = _cameras(1)[0]._core(20, 16, 1.0)
    with pytest.raises(ValueError, match="views must be of one size, got 20 x 15 and 20 x 16"):
        draw([*views, other], np.empty((4, 15, 20), np.float32))
    with pytest.raises(ValueError, match="views must not be empty"):
        draw([], np.empty((0, 15, 20), np.float32))
    draw(views, np.empty((3, 15, 20), np.float32))


@pytest.mark.parametrize(
    "plane", ["id", "uv", "albedo", "unproject", "lens", "share", "direct", "shade"]
)
def test_planes_for_another_image_are_refused(plane, scene):
    frame = nc.Renderer(20, 15, lights=[nc.Sun()]).render(scene, _cameras(1)[0])
    core, lens = frame._core, frame._lens()
    other = nc.Renderer(20, 16).render(scene, _cameras(1)[0])._lens()
    ids, values = np.empty((15, 19), np.uint32), np.empty((15, 19, 2), np.float32)
    wrong = np.empty((15, 20, 2), np.uint8)
    none = (None,) * 4
    background = np.zeros((15, 3), np.float32)
    lamp, ramp = np.zeros(3, np.float32), np.zeros((2, 3), np.float32)
    calls = {
        "id": lambda: core.resolve(frame._view, ids, *none, *none, 0),
        "uv": lambda: core.resolve(frame._view, *none, None, None, values, None, None, 0),
        "albedo": lambda: core.resolve_albedo(frame._view, values, 0),
        "unproject": lambda: core.unproject(lens, values, 0),
        "lens": lambda: core.unproject(other, np.empty((15, 20, 3), np.float32), 0),
        "share": lambda: frame._find_light(share=np.empty((2, 15, 20), np.float32)),
        "direct": lambda: frame._find_light(direct=np.empty((20, 15), np.float32)),
        "shade": lambda: core.shade(
            lens, _C.Base.plain, lamp, 0, ramp, 1, background, None, wrong, 0
        ),
    }
    with pytest.raises(ValueError, match=r"must have shape \(.*15, 20.*\), got \("):
        calls[plane]()
