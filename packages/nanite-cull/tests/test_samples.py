"""Anti-aliasing by sub-pixel samples: the picture that many finer pixels average to."""

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import meshes

pytestmark = pytest.mark.native

CAMERA = nc.Camera.look_at((0.4, 1, 4), (0, 0, 0), fov_y=40, near=0.01)
CAMERAS = {
    "perspective": CAMERA,
    "orthographic": CAMERA.moved(fov_y=None, height=2.8, near=0.1, far=20.0),
    "scaled": CAMERA.moved(view=np.diag([3.0, 3, 3, 1]) @ CAMERA.view),
    "off centre": nc.Camera.from_intrinsics(
        200, 190, 70, 50, 128, 96, np.linalg.inv(CAMERA.view), convention="opengl"
    ),
}


@pytest.fixture(scope="module")
def scene():
    asset = nc.build(*meshes.planet(4), progress=False)
    scene, random = nc.Scene(), np.random.default_rng(0)
    places = np.tile(np.eye(4), (30, 1, 1))
    places[:, :3, :3] *= 0.2
    places[:, :3, 3] = random.normal(size=(30, 3)) * 0.7
    scene.add(asset, places)
    return scene


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("kind", ["instance", "normal", "shaded"])
def test_samples_come_close_to_a_finer_picture_averaged(scene, camera, kind):
    """Against pixels of four by four finer ones: near it, and nearer with more samples."""
    fine = nc.Renderer(4 * 128, 4 * 96, threshold=4).render(scene, CAMERAS[camera])
    mean = fine.picture(kind).reshape(96, 4, 128, 4, 3).mean((1, 3))
    off = []
    for samples in (1, 4, 16):
        picture = nc.Renderer(128, 96, samples=samples).render(scene, CAMERAS[camera]).picture(kind)
        off.append(np.sqrt(((picture - mean) ** 2).mean()))
    assert off[1] < 0.75 * off[0]
    assert off[2] < 0.5 * off[0]


def test_pictures_with_samples_are_the_same_every_time(scene):
    lights = (nc.Sun(cascades=2),)
    expected = nc.Renderer(96, 72, samples=5, lights=lights, threads=1).render(scene, CAMERA)
    for options in ({"threads": 3}, {"occlusion": True}, {"velocity": True}):
        renderer = nc.Renderer(96, 72, samples=5, lights=lights, **options)
        for _ in range(2):
            frame = renderer.render(scene, CAMERA)
            assert np.array_equal(frame.picture(), expected.picture())
            if "velocity" in options:
                assert not frame.velocity.any()
    assert "samples" in renderer.stats["ms"]


def test_planes_are_those_of_one_sample(scene):
    many = nc.Renderer(96, 72, samples=6).render(scene, CAMERA)
    one = nc.Renderer(96, 72).render(scene, CAMERA)
    assert np.array_equal(many.visibility, one.visibility)
    assert np.array_equal(many.normal, one.normal)
    assert not np.array_equal(many.picture(), one.picture())


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_shifted_camera_sees_pixels_moved(scene, camera):
    """By whole pixels its image is the other one, moved."""
    still = nc.Renderer(96, 72, threshold=0).render(scene, CAMERAS[camera])
    moved = nc.Renderer(96, 72, threshold=0).render(scene, CAMERAS[camera].shifted(3, 5, 96, 72))
    same = still.instance[5:, 3:] == moved.instance[:-5, :-3]
    assert same.mean() > 0.995
    unmoved = still.instance[5:, 3:] == moved.instance[5:, 3:]
    assert unmoved.mean() < 0.97


@pytest.mark.parametrize("samples", [0, 257])
def test_a_count_of_samples_that_makes_no_sense_is_refused(samples):
    with pytest.raises(ValueError, match=f"samples must be 1 to 256, got {samples}"):
        nc.Renderer(samples=samples)
