"""Suns and lamps: what shadow maps say of each pixel is what rays say."""

import json
import pickle

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import meshes, reference

pytestmark = pytest.mark.native


def _place(x, y, z, size=1.0):
    out = np.eye(4)
    out[:3, :3] *= size
    out[:3, 3] = x, y, z
    return out


@pytest.fixture(scope="module")
def scene(torus_asset):
    """Balls and rings above a plain and on it, and a mirrored one."""
    plain, faces = meshes.heightfield(64)
    plain = (plain - plain.mean(0)) * [14 / np.ptp(plain[:, 0]), 0, 14 / np.ptp(plain[:, 2])]
    scene, random = nc.Scene(), np.random.default_rng(3)
    scene.add(nc.build(plain, faces, progress=False))
    places = random.uniform(-4, 4, (14, 3)) * [1, 0, 1] + [0, 0.9, 0]
    ball = nc.build(*meshes.planet(4), progress=False)
    scene.add(ball, [_place(*p, random.uniform(0.2, 0.6)) for p in places])
    rings = [_place(p[0], 2.4, p[2], random.uniform(0.2, 0.6)) for p in places[::2] * [-1, 1, 1]]
    rings[0][:3, 0] *= -1
    scene.add(torus_asset, rings)
    return scene


PERSPECTIVE = nc.Camera.look_at((4, 5, 8), (0, 0.3, 0), fov_y=50, near=0.01)
CAMERAS = {
    "perspective": PERSPECTIVE,
    "orthographic": PERSPECTIVE.moved(fov_y=None, height=7.0, near=0.1, far=40.0),
    "scaled": PERSPECTIVE.moved(view=np.diag([3.0, 3, 3, 1]) @ PERSPECTIVE.view),
    "low": nc.Camera.look_at((-6, 0.8, 1), (0, 0.5, 0), fov_y=70, near=0.01),
    "off centre": nc.Camera.from_intrinsics(
        300, 300, 90, 180, 320, 240, np.linalg.inv(PERSPECTIVE.view), convention="opengl"
    ),
}
LIGHTS = {
    "high": nc.Sun((0.5, 1, 0.3)),
    "low": nc.Sun((-1, 0.25, 0.2)),
    "along the view": nc.Sun(PERSPECTIVE.view[2, :3]),
    "lamp": nc.Lamp((0.5, 3.5, 0.7)),
    "lamp among them": nc.Lamp((0.2, 0.5, -0.3)),
}


def _rays(frame, light):
    """(height, width): 1 where light arrives, 0 in shadow, by Embree through the frame's cut; and
    where the answer hangs on less than a pixel: at shadows' edges, and where light comes flat."""
    pytest.importorskip("embreex")
    trimesh = pytest.importorskip("trimesh")
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    whole = nc.Renderer(frame.width, frame.height, threshold=1, frustum=False)
    mesh = whole.render(frame.scene, frame.camera).cut_mesh()
    rays = RayMeshIntersector(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False))
    at = np.nan_to_num(frame.position.astype(float))
    if isinstance(light, nc.Sun):
        way = np.broadcast_to(np.asarray(light.direction, float), at.shape)
        reach = np.full(at.shape[:2], 1e9)
    else:
        way = np.asarray(light.position, float) - at
        reach = np.linalg.norm(way, axis=-1)
    way = way / np.linalg.norm(way, axis=-1, keepdims=True)
    normal = frame.normal
    towards_eye = np.asarray(frame.camera.eye) - at
    if frame.camera.orthographic:
        towards_eye = np.broadcast_to(frame.camera.view[2, :3], at.shape)
    normal = np.where((normal * towards_eye).sum(-1, keepdims=True) < 0, -normal, normal)
    cosine = (way * normal).sum(-1)
    lifted = at + 0.02 * normal
    _, ray, where = rays.intersects_id(
        lifted.reshape(-1, 3), way.reshape(-1, 3), multiple_hits=False, return_locations=True
    )
    free = np.ones(at[..., 0].size, bool)
    hit = np.linalg.norm(where - lifted.reshape(-1, 3)[ray], axis=1) < reach.ravel()[ray]
    free[ray[hit]] = False
    lit = free.reshape(at.shape[:2]) & (cosine > 0)
    doubtful = np.abs(cosine) < 0.1
    edge = np.zeros_like(lit)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            near = np.roll(lit, (dy, dx), (0, 1)) != lit
            edge |= near | ~np.roll(frame.coverage, (dy, dx), (0, 1))
    return lit, frame.coverage & ~edge & ~doubtful


def _render(scene, camera, *lights, **options):
    frame = nc.Renderer(320, 240, lights=lights, **options).render(scene, camera)
    frame.scene = scene
    return frame


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("camera", CAMERAS)
def test_light_and_shadow_are_where_rays_find_them(scene, camera, light):
    frame = _render(scene, CAMERAS[camera], LIGHTS[light])
    lit, sure = _rays(frame, LIGHTS[light])
    assert sure.sum() > 0.4 * frame.coverage.sum() > 1000
    agree = (frame.lit[0] > 0.5) == lit
    assert agree[sure].mean() >= 0.99
    shadow = sure & ~lit
    assert (frame.lit[0][shadow] < 0.5).sum() >= 0.97 * shadow.sum()  # also where there is little


def test_shadows_have_soft_edges_and_fade_over_texels(scene):
    """Percentage-closer filtering: shares between none and all, near edges alone."""
    frame = _render(scene, PERSPECTIVE, LIGHTS["high"], shadow_size=256)
    soft = (frame.lit[0] > 0.02) & (frame.lit[0] < 0.98)
    finer = _render(scene, PERSPECTIVE, LIGHTS["high"], shadow_size=2048).lit[0]
    assert 0.01 < soft.mean() < 0.3
    assert ((finer > 0.02) & (finer < 0.98)).mean() < 0.5 * soft.mean()
    steps = np.unique(np.round(frame.lit[0][soft], 3))
    assert len(steps) > 50


def test_a_plain_under_a_flat_sun_does_not_shade_itself():
    """From nearly grazing to straight down, near and far: no acne."""
    plain, faces = meshes.heightfield(64)
    scene = nc.Scene(nc.build((plain - plain.mean(0)) * [40, 0, 40], faces, progress=False))
    camera = nc.Camera.look_at((0, 2, 15), (0, 0, -5), near=0.01)
    for height in (0.02, 0.1, 0.5, 3):
        for light in (nc.Sun((1, height, 0.3)), nc.Lamp((5, 5 * height, 2))):
            frame = _render(scene, camera, light, shadow_size=512)
            assert frame.lit[0][frame.coverage].min() == 1


def test_cascades_are_finer_near_the_eye(scene):
    """A shadow near the eye is sharper with cascades than with one map over all."""
    camera = nc.Camera.look_at((1, 0.7, 3.2), (0, 0.3, 0), near=0.01)
    soft = []
    for cascades in (1, 4):
        lit = _render(scene, camera, nc.Sun((0.5, 1, 0.3), cascades=cascades), shadow_size=256).lit
        soft.append(((lit > 0.02) & (lit < 0.98)).sum())
    assert soft[1] < 0.7 * soft[0]


@pytest.mark.parametrize("far", [1e4, -1e8, 1e9])
def test_what_is_parked_far_away_takes_no_shadows(scene, far):
    """A lamp's maps begin near it and a sun's end behind what is seen, however large the scene."""
    lit, lights = [], (LIGHTS["lamp among them"], LIGHTS["high"])
    for places in ([], [_place(far, 0, 0)]):
        other = pickle.loads(pickle.dumps(scene))
        other.add(other.assets[1], np.reshape(places, (-1, 4, 4)))
        lit.append(_render(other, PERSPECTIVE, *lights).lit)
    assert ((lit[0] == 0).mean((1, 2)) > 0.2).all()
    assert ((np.abs(lit[0] - lit[1]) > 1e-3).mean((1, 2)) < 1e-3).all()


def test_a_lit_picture_is_that_of_the_reference(scene):
    for camera in ("perspective", "orthographic", "scaled"):
        lights = (nc.Sun((0.5, 1, 0.3), strength=0.5), nc.Lamp((0.5, 3.5, 0.7), strength=0.3))
        frame = _render(scene, CAMERAS[camera], *lights)
        assert frame.lit.shape == (2, 240, 320)
        for kind in ("shaded", "instance"):
            off = np.abs(frame.picture(kind).astype(int) - reference.picture(frame, kind))
            assert off.max() <= 1
            assert (off > 0).mean() < 2e-3
        plain = _render(scene, CAMERAS[camera])
        assert np.array_equal(frame.picture(light=(1, 2, 3)), plain.picture(light=(1, 2, 3)))
        assert np.array_equal(frame.depth, plain.depth)
        assert (frame.picture() != plain.picture()).any()


def test_light_far_from_the_origin_is_that_at_it(planet_asset):
    """Places are seen from the eye: float32 loses nothing there."""
    lit = []
    for far in (0, 3e7):
        scene = nc.Scene(planet_asset)
        scene.add(planet_asset, [_place(far, 1.8, 0, 0.4)])
        scene.update(0, _place(far, 0, 0))
        camera = nc.Camera.look_at((far + 2, 3, 3), (far, 0.3, 0))
        lights = nc.Sun((0.5, 1, 0.3)), nc.Lamp((far + 1, 3, 1), fade=2.0)
        lit.append(_render(scene, camera, *lights).lit)
    assert np.abs(lit[0] - lit[1]).max() < 0.05
    assert np.abs(lit[0] - lit[1]).mean() < 1e-4
    assert 0.05 < lit[0].mean() < 0.9


def test_threads_and_copies_give_the_same_light(scene):
    lights = (LIGHTS["high"], LIGHTS["lamp"])
    one = nc.Renderer(160, 120, lights=lights, threads=1)
    expected = one.render(scene, PERSPECTIVE)
    assert set(one.stats["ms"]) == {"stream", "cull", "raster", "shadows"}
    others = [
        nc.Renderer(160, 120, lights=lights, **o) for o in ({"threads": 4}, {"occlusion": True})
    ]
    for renderer in (*others, pickle.loads(pickle.dumps(one))):
        for _ in range(2):
            frame = renderer.render(scene, PERSPECTIVE)
            assert np.array_equal(frame.lit, expected.lit)
            assert np.array_equal(frame.picture(), expected.picture())


def test_shadows_are_of_the_scene_as_it_was(planet_asset):
    scene = nc.Scene(planet_asset)
    scene.add(planet_asset, _place(0, 9, 0, 0.5))
    renderer = nc.Renderer(96, 72, lights=[nc.Sun((0, 1, 0))])
    camera = nc.Camera.look_at((0, 5, 2), (0, 0, 0), fov_y=40)
    before = renderer.render(scene, camera)
    scene.hide(1)
    after = renderer.render(scene, camera)
    below = before.coverage & (before.instance == 0)
    assert after.lit[0][below].sum() > before.lit[0][below].sum() + 50
    scene.hide(0)
    assert not renderer.render(scene, camera).lit.any()


def test_shadows_of_a_streamed_scene(torus_asset, tmp_path):
    streamed = nc.open(torus_asset.save(tmp_path / "a.ncl"))
    camera = nc.Camera.around(torus_asset)
    lit = [
        nc.Renderer(96, 72, lights=[nc.Sun()], wait_resident=True)
        .render(nc.Scene(asset), camera).lit
        for asset in (torus_asset, streamed)
    ]  # fmt: skip
    assert np.array_equal(*lit)
    assert 0 < lit[0].mean() < 1


@pytest.mark.parametrize("size", [1e-200, 1e200, 3.0])
def test_a_direction_is_none_the_less_for_its_length(planet_asset, size):
    scene, camera = nc.Scene(planet_asset), nc.Camera.around(planet_asset)
    way = np.array([0.5, 1.0, 0.25])
    frames = [
        nc.Renderer(64, 48, lights=[nc.Sun(w)]).render(scene, camera) for w in (way, size * way)
    ]
    assert 0 < frames[0].lit.mean() < 1
    assert np.allclose(frames[0].lit, frames[1].lit, atol=1e-3)
    pictures = [frames[0].picture(light=w).astype(int) for w in (way, size * way)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.parametrize("light", [nc.Sun(), nc.Lamp((3, 3, 3))])
def test_a_scene_may_lose_what_a_frame_drew_before_its_shadows(planet_asset, light):
    """As another thread hides it, between the frame and its maps: then nothing casts a shadow."""

    class Late(nc.Renderer):
        def _draw_shadows(self, scene, *others):
            scene.hide(slice(None))
            return super()._draw_shadows(scene, *others)

    camera = nc.Camera.around(planet_asset)
    frame = Late(64, 48, lights=[light]).render(nc.Scene(planet_asset), camera)
    assert frame.coverage.any()
    assert set(np.unique(frame.lit)) == {0, 1}  # 0: behind, and around it
    assert frame.picture().shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nc.Sun((0, 0, 0)), "direction must not be zero"),
        (lambda: nc.Sun((0, np.nan, 1)), "direction must be three finite numbers"),
        (lambda: nc.Sun(cascades=9), "cascades must be 1 to 8, got 9"),
        (lambda: nc.Sun(strength=-1), "strength must be zero or positive"),
        (lambda: nc.Lamp((1, 2)), "position must be three finite numbers"),
        (lambda: nc.Lamp((1, 2, 3), near=0), "near must be positive"),
        (lambda: nc.Lamp((1, 2, 3), bias=np.inf), "bias must be zero or positive"),
        (
            lambda: nc.Renderer(lights=[nc.Lamp((0, 0, 0))] * 43),
            "255 shadow maps together, got 258",
        ),
        (lambda: nc.Renderer(shadow_size=8), "shadow_size must be 16 to 8192, got 8"),
    ],
)
def test_lights_that_make_no_sense_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
    with pytest.raises(TypeError, match="lights must be Sun or Lamp, got tuple"):
        nc.Renderer(lights=[(1, 2, 3)])


def test_a_lamp_that_fades_falls_by_the_inverse_square_to_nothing_at_its_range():
    plain, faces = meshes.heightfield(32)
    plain = (plain - plain.mean(0)) * [8 / np.ptp(plain[:, 0]), 0, 8 / np.ptp(plain[:, 2])]
    scene = nc.Scene(nc.build(plain, faces, progress=False))
    camera = nc.Camera.look_at((0, 6, 5), near=0.05)
    at = np.array([0.3, 1.2, 0.1])
    for fade, reach in ((None, None), (1.0, None), (2.0, 3.0)):
        lamp = nc.Lamp(at, 0.5, fade=fade, range=reach)
        frame = nc.Renderer(120, 90, lights=[lamp]).render(scene, camera)
        way = at - frame.position[frame.coverage].astype(float)
        distance = np.linalg.norm(way, axis=1)
        expected = 0.5 * way[:, 1] / distance
        if fade is not None:
            expected *= (fade / distance) ** 2
        if reach is not None:
            expected *= np.clip(1 - (distance / reach) ** 4, 0, 1)
            assert (distance > reach).any()
        assert np.allclose(frame._direct[frame.coverage], expected, atol=2e-4)
    for wrong in ({"fade": -1}, {"range": 3.0}, {"fade": 1.0, "range": 0.0}):
        with pytest.raises(ValueError, match="Lamp: "):
            nc.Lamp(at, **wrong)


def test_lights_of_a_gltf_file(tmp_path):
    turn = [0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)]  # a quarter about y: z becomes x
    header = {
        "scenes": [{"nodes": [0]}],
        "nodes": [
            {"children": [1, 2, 3], "translation": [1, 2, 3]},
            {"translation": [0, 1, 0], "extensions": {"KHR_lights_punctual": {"light": 0}}},
            {"rotation": turn, "extensions": {"KHR_lights_punctual": {"light": 1}}},
            {"extensions": {"KHR_lights_punctual": {"light": 2}}},
        ],
        "extensions": {
            "KHR_lights_punctual": {
                "lights": [
                    {"type": "point", "intensity": 40, "range": 5, "color": [0, 1, 0]},
                    {"type": "directional", "intensity": 2},
                    {"type": "spot", "name": "torch", "spot": {}},
                ]
            }
        },
    }
    path = tmp_path / "a.gltf"
    path.write_text(json.dumps(header))
    with pytest.warns(RuntimeWarning, match="'torch' is of type spot"):
        lights = nc.load_lights(path, scale=0.5)
    lamp, sun = sorted(lights, key=lambda light: type(light).__name__)
    assert (lamp.position, lamp.fade, lamp.range) == ((1, 3, 3), 1.0, 5)
    assert lamp.strength == pytest.approx(20 * 0.7152)
    assert np.allclose(sun.direction, (1, 0, 0))
    assert sun.strength == pytest.approx(1.0)
    header["nodes"][0]["children"] = [0]
    path.write_text(json.dumps(header))
    with pytest.raises(ValueError, match="circle"):
        nc.load_lights(path)
