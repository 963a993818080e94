"""Arguments of the wrong kind: named, with what is asked for and what was given."""

import copy
import io
import os

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import meshes, ncl

pytestmark = pytest.mark.native
READERS = {
    "load": nc.load,
    "load_scene": nc.load_scene,
    "open": nc.open,
    "load_lights": nc.load_lights,
    "ncl.read": ncl.read,
    "ncl.open": ncl.open,
    "ncl.version": ncl.version,
}


@pytest.fixture(params=READERS)
def read(request):
    if request.param in ("load", "load_scene"):
        pytest.importorskip("trimesh")
    return READERS[request.param]


@pytest.mark.parametrize("given", [None, 3, b"a.glb", io.BytesIO(b"glTF")])
def test_what_is_no_path_is_named(read, given):
    kind = type(given).__name__
    with pytest.raises(TypeError, match=f"path must be a str or a pathlib.Path, got {kind}; give"):
        read(given)


@pytest.mark.parametrize("name", ["folder", "folder.ncl"])
def test_a_folder_is_none_and_says_so(read, name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match=f"path must be a file, got the folder .*{name};"):
        read(tmp_path / name)


def test_a_pipe_exists_and_is_no_file(read, tmp_path):
    os.mkfifo(tmp_path / "a.ncl")
    with pytest.raises(OSError, match="path must be a file, got the device or pipe"):
        read(tmp_path / "a.ncl")


@pytest.mark.parametrize("number", [64.0, "64", None])
@pytest.mark.parametrize(
    "name",
    ["width", "height", "samples", "shadow_size", "threads", "decode_threads", "max_installs",
     "max_candidate_nodes", "max_candidate_clusters", "max_visible_clusters"],
)  # fmt: skip
def test_whole_numbers_of_a_renderer(name, number):
    with pytest.raises(TypeError, match=f"Renderer: {name} must be a whole number, got {number!r}"):
        nc.Renderer(**{name: number})


def test_numbers_of_a_renderer():
    for name in ("threshold", "budget"):
        for bad in ("1", None, [1, 2]):
            with pytest.raises(TypeError, match=f"Renderer: {name} must be a number, got "):
                nc.Renderer(**{name: bad})
    with pytest.raises(ValueError, match="max_visible_clusters must be 0 to 2147483647, got -1"):
        nc.Renderer(max_visible_clusters=-1)
    with pytest.raises(ValueError, match=r"threads must be .* 2147483647, got 1099511627776"):
        nc.Renderer(threads=2**40)


def test_numbers_of_numpy_are_numbers(planet_asset):
    renderer = nc.Renderer(np.int64(32), np.uint8(24), threshold=np.float32(1), budget=1e9)
    frame = renderer.render(nc.Scene(planet_asset), nc.Camera.around(planet_asset))
    assert frame.coverage.shape == (24, 32)


@pytest.mark.parametrize(
    "name", ["budget", "wait_resident", "decode_threads", "max_installs", "device"]
)
def test_what_a_renderer_is_made_with_stays(name):
    renderer = nc.Renderer(8, 8)
    made = getattr(renderer, name)
    with pytest.raises(AttributeError, match=f"Renderer: {name} is read-only, it is set when"):
        setattr(renderer, name, made)
    assert getattr(renderer, name) == made


@pytest.mark.parametrize(
    ("name", "bad", "error"),
    [
        ("width", 0, ValueError), ("height", 64.5, TypeError), ("samples", 0, ValueError),
        ("threshold", "x", TypeError), ("threads", -1, ValueError), ("shadow_size", 8, ValueError),
        ("lights", nc.Sun(), TypeError), ("on_overflow", "no", ValueError),
        ("occlusion", 1, TypeError), ("velocity", "no", TypeError), ("traversal", "no", ValueError),
        ("max_visible_clusters", -1, ValueError),
    ],
)  # fmt: skip
def test_what_is_set_is_checked_as_what_is_given(name, bad, error):
    renderer = nc.Renderer(8, 8)
    was = getattr(renderer, name)
    with pytest.raises(error, match=f"^Renderer: {name}.* must be "):
        setattr(renderer, name, bad)
    assert getattr(renderer, name) == was


def test_what_is_set_counts_as_what_is_given(planet_asset):
    renderer, camera = nc.Renderer(48, 32), nc.Camera.around(planet_asset)
    scene = nc.Scene(planet_asset)
    scene.add(planet_asset, np.diag([0.5, 0.5, 0.5, 1]))  # hidden by the other
    wanted = {
        "width": np.uint8(64), "threshold": 0.5, "samples": 2, "threads": 1, "overdraw": True,
        "cull_back": True, "lights": [nc.Sun()], "shadow_size": 64, "traversal": "levels",
        "velocity": True, "occlusion": True,
    }  # fmt: skip
    for name, value in wanted.items():
        renderer.render(scene, camera)  # what is kept between frames was made for the value before
        setattr(renderer, name, value)
    made = nc.Renderer(**{"height": 32, **wanted})
    for _ in range(2):
        set_later, expected = (r.render(scene, camera) for r in (renderer, made))
        assert np.array_equal(set_later.visibility, expected.visibility)
        assert np.array_equal(set_later.overdraw, expected.overdraw)
        assert np.array_equal(set_later.picture(), expected.picture())
        assert not set_later.velocity.any()
        hidden = set_later.stats["occluded_clusters"] + set_later.stats["occluded_instances"]
        assert hidden == expected.stats["occluded_clusters"] + expected.stats["occluded_instances"]
    assert hidden > 0
    renderer.velocity = False
    renderer.max_visible_clusters = 1
    with pytest.raises(RuntimeError, match="visible_clusters dropped"):
        renderer.render(scene, camera)


@pytest.mark.parametrize("lights", [nc.Sun(), nc.Lamp((0, 1, 0)), None])
def test_one_light_is_no_list_of_them(lights):
    kind = type(lights).__name__
    with pytest.raises(TypeError, match=f"lights must be a sequence of Sun or Lamp, got {kind};"):
        nc.Renderer(lights=lights)


@pytest.mark.parametrize(
    "name", ["threads", "max_triangles", "group_size", "width", "position_bits"]
)
def test_whole_numbers_of_a_build(name):
    for bad in (1.5, "1", None):
        with pytest.raises(TypeError, match=f"build: {name} must be a whole number, got {bad!r}"):
            nc.build(*meshes.planet(1), **{name: bad})


@pytest.mark.parametrize("step", ["1", [1, 2], b"1"])
def test_the_step_of_a_build_is_a_number(step):
    with pytest.raises(TypeError, match="build: step must be a number, got "):
        nc.build(*meshes.planet(1), step=step)


@pytest.mark.parametrize(
    "name",
    ["cull_back", "overdraw", "frustum", "hierarchy", "occlusion", "velocity", "large_path_only",
     "wait_resident"],
)  # fmt: skip
@pytest.mark.parametrize("bad", ["no", 1, None])
def test_switches_are_true_or_false(name, bad):
    with pytest.raises(TypeError, match=f"Renderer: {name} must be True or False, got {bad!r}"):
        nc.Renderer(**{name: bad})


def test_switches_of_a_build_and_a_scene(planet_asset):
    with pytest.raises(TypeError, match="build: keep_source must be True or False, got 'no'"):
        nc.build(*meshes.planet(1), keep_source="no")
    scene = nc.Scene(planet_asset)
    with pytest.raises(TypeError, match=r"Scene\.hide: hidden must be True or False, got 'no'"):
        scene.hide(0, "no")
    scene.hide(0, np.bool_(False))


@pytest.mark.parametrize("bad", ["a", (1, 2), (1, 2, np.nan), (1, 2, "x"), 3, ((1, 2, 3),)])
def test_the_origin_of_a_build_is_a_point(bad):
    with pytest.raises((TypeError, ValueError), match="build: origin must be 3 finite numbers"):
        nc.build(*meshes.planet(1), origin=bad)


def test_threads_are_none_below_zero(planet_asset, tmp_path):
    path = planet_asset.save(tmp_path / "a.ncl", threads=1)
    for name, use in {
        "build": lambda n: nc.build(*meshes.planet(1), threads=n),
        "Renderer": lambda n: nc.Renderer(threads=n),
        "save": lambda n: planet_asset.save(tmp_path / "b.ncl", threads=n),
        "load": lambda n: ncl.read(path, threads=n),
        "ncl.open": lambda n: ncl.open(path, threads=n),
        "Scene.add": lambda n: nc.Scene().add(planet_asset, threads=n),
        "Scene.update": lambda n: nc.Scene(planet_asset).update(0, np.eye(4), threads=n),
    }.items():
        with pytest.raises(ValueError, match=f"{name}: threads must be 0 to 2147483647, got -1"):
            use(-1)
        with pytest.raises(TypeError, match=f"{name}: threads must be a whole number, got '1'"):
            use("1")


@pytest.mark.parametrize("bad", [None, 1, "x"])
def test_what_is_no_camera_is_named(planet_asset, bad):
    renderer, camera, scene = nc.Renderer(8, 8), nc.Camera.around(planet_asset), nc.Scene()
    kind = type(bad).__name__
    for use in (
        lambda: renderer.render(scene, bad),
        lambda: renderer.cull(scene, bad),
        lambda: renderer.render_depths(scene, [camera, bad]),
        lambda: renderer.render(scene, camera, cull_camera=bad or 1),
    ):
        with pytest.raises(TypeError, match=f"camera must be a Camera, got ({kind}|int)"):
            use()
    with pytest.raises(TypeError, match="scene must be a Scene, got Camera"):
        renderer.render(camera, scene)
    with pytest.raises(TypeError, match="cameras must be a sequence of Camera, got Camera; put"):
        renderer.render_depths(scene, camera)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"lens": (0, 50, 32, 24, 64, 48)}, ValueError, "fx, fy, width and height positive"),
        ({"lens": (-50, 50, 32, 24, 64, 48)}, ValueError, "fx, fy, width and height positive"),
        ({"lens": (50, 50, 32, 24, 0, 48)}, ValueError, "fx, fy, width and height positive"),
        ({"lens": (50, 50, np.nan, 24, 64, 48)}, ValueError, "lens must be finite"),
        ({"lens": (50, 50, 32)}, ValueError, r"lens must be finite, of shape \(6,\)"),
        ({"lens": (1e40, 1e40, 32, 24, 64, 48)}, ValueError, "focal lengths of 1e-12 to 1e.12 im"),
        ({"lens": (50, 50, -1e39, 24, 64, 48)}, ValueError, "and its centre as near, got"),
        ({"fov_y": 1e-40}, ValueError, "fov_y must be 1e-9 to 179 degrees, got 1e-40"),
        (
            {"near": 1e-40},
            ValueError,
            "near must be 1e-34 to 1e.34, got 1e-40; choose another unit",
        ),
        ({"fov_y": None, "height": 1e-40}, ValueError, "height must be 1e-34 to 1e.34, got 1e-40"),
        ({"fov_y": None, "far": 1e39}, ValueError, "far must be 1e-34 to 1e.34, got 1e.39"),
        ({"view": np.diag([1e-40, 1e-40, 1e-40, 1])}, ValueError, "scale of view must be 1e-34 to"),
        (
            {"view": [[1, 0, 0, 1e39], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]},
            ValueError,
            "eye o",
        ),
        ({"fov_y": "60"}, TypeError, "fov_y must be a number, got '60'"),
        ({"near": None}, TypeError, "near must be a number, got None"),
        ({"fov_y": None, "height": "2"}, TypeError, "height must be a number, got '2'"),
        ({"view": "no"}, TypeError, "view must be an array"),
        ({"view": [["a"]]}, TypeError, "view must be numbers"),
        ({"view": np.eye(4) * 1j}, TypeError, "view must be numbers"),
    ],
)
def test_a_camera_of_wrong_numbers_is_refused(planet_asset, changes, error, text):
    camera = nc.Camera.around(planet_asset)
    with pytest.raises(error, match=f"Camera.*{text}"):
        nc.Renderer(8, 8).render(nc.Scene(planet_asset), camera.moved(**changes))


@pytest.mark.parametrize("again", [lambda c: c, copy.deepcopy, lambda c: c.moved(near=0.02)])
def test_a_camera_keeps_its_view(planet_asset, again):
    view = nc.Camera.around(planet_asset).view.copy()
    camera = again(nc.Camera(view, fov_y=40))
    frame = nc.Renderer(64, 48).render(nc.Scene(planet_asset), camera)
    expected = nc.Renderer(64, 48).render(nc.Scene(planet_asset), camera).position.copy()
    view[:3, 3] += 5  # the loop goes on with its matrix; what was drawn is of the old one
    assert np.array_equal(frame.position, expected, equal_nan=True)
    with pytest.raises(ValueError, match="read-only"):
        camera.view[0, 3] = 1


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda a: nc.Camera.around(a, distance=0), ValueError, "around: distance must be positi"),
        (lambda a: nc.Camera.around(a, distance=-1), ValueError, "around: distance must be positi"),
        (
            lambda a: nc.Camera.around(a, "x"),
            TypeError,
            "around: azimuth must be a number, got 'x'",
        ),
        (lambda a: nc.Camera.look_at(np.array([0, 1j, 3])), TypeError, "eye must be numbers"),
        (lambda a: nc.Camera.from_intrinsics("9", 9, 4, 4, 8, 8), TypeError, "fx must be a number"),
        (lambda a: nc.Camera.from_intrinsics(9, [9], 4, 4, 8, 8), TypeError, "fy must be a number"),
    ],
)
def test_where_a_camera_is_made_its_numbers_are_named(planet_asset, make, error, text):
    with pytest.raises(error, match=text):
        make(planet_asset)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nc.Sun(strength=1e39), "Sun: strength must be zero or positive, up to 1e.34"),
        (lambda: nc.Sun(bias=1e39), "Sun: bias must be zero or positive, up to 1e.34"),
        (lambda: nc.Lamp((1e39, 0, 0)), "Lamp: position must lie within 1e.34 of the origin"),
        (lambda: nc.Lamp((0, 0, 0), fade=1e-50), "Lamp: fade must be positive, 1e-34 to 1e.34"),
        (lambda: nc.Lamp((0, 0, 0), fade=1, range=1e39), "Lamp: range must be positive, 1e-34"),
        (lambda: nc.Lamp((0, 0, 0), near=1e-50), "Lamp: near must be positive, 1e-34 to 1e.34"),
    ],
)
def test_lights_that_single_precision_does_not_hold_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_colours_of_the_other_byte_order_are_the_same():
    vertices, faces = meshes.planet(1)
    dark = np.full((len(vertices), 3), 200, np.uint16)
    built = [nc.build(vertices, faces, colors=c).colors for c in (dark, dark.astype(">u2"))]
    assert np.array_equal(*built)
    assert built[0][:, :3].max() < 0.01


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nc.Sun(cascades=2.5), "Sun: cascades must be a whole number, got 2.5"),
        (lambda: nc.Sun(strength="1"), "Sun: strength must be a number, got '1'"),
        (lambda: nc.Sun("up"), "Sun: direction must be three finite numbers"),
        (lambda: nc.Lamp((0, 0, 0), near="1"), "Lamp: near must be a number, got '1'"),
        (lambda: nc.Lamp((0, 0, 0), bias=[3]), "Lamp: bias must be a number"),
    ],
)
def test_numbers_of_lights(make, text):
    with pytest.raises(TypeError, match=text):
        make()


def test_a_device_is_named_by_torch_too():
    torch = pytest.importorskip("torch")
    assert nc.Renderer(8, 8, device=torch.device("cpu")).device == "cpu"
    with pytest.raises(ValueError, match=r"device must be one of .*, got 'cuda:1'; of several"):
        nc.Renderer(8, 8, device="cuda:1")


def test_cameras_and_lights_are_compared_and_hashed():
    camera = nc.Camera.look_at((0, 0, 3))
    assert camera == camera
    assert {camera: 1}[camera] == 1
    assert camera not in [nc.Camera.look_at((0, 0, 3))]
    for make in (nc.Sun, nc.Lamp):
        lists, arrays = make([1, 2, 3]), make(np.array([1.0, 2, 3]))
        assert lists == arrays
        assert hash(lists) == hash(arrays)
        assert make((1, 2, 4)) not in {lists, arrays}
        assert hash(make([1, 2, 3], np.array(0.5))) == hash(make([1, 2, 3], 0.5))
