"""Renderer(device="cuda"): refused where there are no kernels; on a GPU the pictures of the CPU."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import _C, meshes
from nanite_cull.frame import DEVICE_PLANES

PLANES = ("depth", "visibility", "instance", "cluster", "triangle")
built = pytest.mark.skipif(not _C.cuda_architectures, reason="a build without CUDA kernels")


@pytest.mark.skipif(bool(_C.cuda_architectures), reason="a build with CUDA kernels")
def test_a_build_without_kernels_says_so():
    with pytest.raises(RuntimeError, match=r"needs a build with CUDA kernels.*GPU=ON"):
        nc.Renderer(device="cuda")


def test_a_machine_without_a_device_says_so(monkeypatch):
    monkeypatch.setattr(_C, "cuda_architectures", "90-real")
    monkeypatch.setattr(_C, "cuda_devices", lambda: 0, raising=False)
    with pytest.raises(RuntimeError, match="needs a CUDA device, and none answers"):
        nc.Renderer(device="cuda")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match=r"device must be one of.*got 'tpu'"):
        nc.Renderer(device="tpu")


@built
@pytest.mark.parametrize(
    "option",
    [{"traversal": "instances"}, {"hierarchy": False}, {"large_path_only": True}],
)
def test_what_a_device_does_not_do_is_refused(option):
    with pytest.raises(
        ValueError, match=rf'{next(iter(option))}=.*is not to be had on device "cuda"'
    ):
        nc.Renderer(device="cuda", **option)


class _Device:
    """Stands for a device that holds one picture."""

    held = True

    def plane(self, core, which):
        return core.depth if self.held and which == "the depth" else None

    def distances(self, core, lens):
        return core.depth if self.held else None

    def shaded(self, core, *arguments):
        return core.depth if self.held else None


def test_arrays_of_a_device_are_its_own_or_refused_by_name(planet_asset, monkeypatch):
    frame = nc.Renderer(32, 24).render(nc.Scene(planet_asset), nc.Camera.around(planet_asset))
    with pytest.raises(ValueError, match=r"plane must be one of depth, .*got 'picture'"):
        frame.device_array("picture")
    with pytest.raises(RuntimeError, match=r"needs a frame of .*cuda.*from_dlpack\(frame.uv\)"):
        frame.device_array("uv")
    planes = SimpleNamespace(depth="the depth", velocity="the velocity")
    monkeypatch.setattr(_C, "Plane", planes, raising=False)
    with pytest.raises(ValueError, match=r"kind must be one of shaded, .*got 'depth'; of a plane"):
        frame.device_picture("depth")
    with pytest.raises(
        RuntimeError, match=r'needs a frame of .*from_dlpack\(frame.picture\("level'
    ):
        frame.device_picture("level")
    with pytest.raises(ValueError, match="light must be a direction"):
        frame.device_picture(light=(0, 0, 0))
    device = _Device()
    frame._device = (device, threading.Lock())
    assert np.shares_memory(frame.device_array("depth"), frame.depth)
    assert np.shares_memory(frame.device_array("distance"), frame.depth)
    assert np.shares_memory(frame.device_picture(), frame.depth)
    for name in ("velocity", "overdraw"):
        with pytest.raises(RuntimeError, match=rf"use Renderer\(..., {name}=True\)"):
            frame.device_array(name)
    device.held = False
    for call in (lambda: frame.device_array("depth"), frame.device_picture):
        with pytest.raises(RuntimeError, match="a later frame or another scene by now"):
            call()


def test_depths_of_a_device_need_one(planet_asset):
    renderer = nc.Renderer(32, 24)
    with pytest.raises(RuntimeError, match=r"device_depths: needs Renderer\(device=.*shares"):
        renderer.device_depths(nc.Scene(planet_asset), [nc.Camera.around(planet_asset)])


@pytest.fixture(scope="module")
def scene():
    """Turned, mirrored and stretched instances of three assets; every tenth is hidden."""
    random, scene = np.random.default_rng(4), nc.Scene()
    vertices, faces, normals, uvs = meshes.torus(128, 64)
    assets = [
        nc.build(*meshes.planet(5)),
        nc.build(vertices, faces, normals=normals, uvs=uvs),
        nc.build(*meshes.heightfield(64)),
    ]
    for i in range(30):
        places = np.tile(np.eye(4), (100, 1, 1))
        q, _ = np.linalg.qr(random.normal(size=(100, 3, 3)))
        places[:, :3, :3] = q * np.exp(random.uniform(-2, 1, (100, 1, 3)))
        places[:, :3, 3] = random.normal(size=(100, 3)) * 12
        first = scene.add(assets[i % 3], places).start
        scene.hide(slice(first, first + 10))
    return scene


@pytest.mark.gpu
@built
@pytest.mark.parametrize("traversal", ["levels", "persistent"])
def test_the_picture_of_a_device_is_that_of_the_cpu(scene, traversal):
    random = np.random.default_rng(5)
    for width, height in ((1920, 1080), (333, 217), (1, 1)):
        for threshold in (0.0, 1.0, 8.0):
            options = {"threshold": threshold, "max_candidate_nodes": 1 << 20}
            cpu = nc.Renderer(width, height, **options)
            cuda = nc.Renderer(width, height, device="cuda", traversal=traversal, **options)
            for distance in (0.5, 15, 60):  # the first crosses near planes
                eye = random.normal(size=3)
                eye *= distance / np.linalg.norm(eye)
                camera = nc.Camera.look_at(eye, random.normal(size=3), near=0.05)
                expected, frame = cpu.render(scene, camera), cuda.render(scene, camera)
                assert np.array_equal(frame.visible_clusters, expected.visible_clusters)
                for plane in PLANES:
                    assert np.array_equal(getattr(frame, plane), getattr(expected, plane)), plane


@pytest.mark.gpu
@built
@pytest.mark.parametrize("traversal", ["levels", "persistent"])
def test_occlusion_on_a_device_leaves_the_picture_as_it_is(scene, traversal):
    cuda = nc.Renderer(801, 451, device="cuda", traversal=traversal, occlusion=True)
    cpu, hidden = nc.Renderer(801, 451), 0
    for step in range(6):
        if step == 4:
            cuda.forget()
        camera = nc.Camera.look_at((0.3 * step, -25, 4), (0, 0, 0))
        expected, frame = cpu.render(scene, camera), cuda.render(scene, camera)
        for plane in ("depth", "instance", "cluster", "triangle"):
            assert np.array_equal(getattr(frame, plane), getattr(expected, plane)), plane
        hidden += sum(
            frame.stats[f"occluded_{what}"] for what in ("instances", "nodes", "clusters")
        )
    assert hidden > 0


@pytest.fixture(scope="module")
def leaves():
    """A heap of leafy rings: a third of the materials with holes, one of two sides, one solid."""
    random, scene = np.random.default_rng(6), nc.Scene()
    picture = random.integers(0, 256, (32, 16, 4), np.uint8)
    vertices, faces, normals, uvs = meshes.torus(64, 32)
    table = [nc.Material(), nc.Material(albedo=picture, alpha_mode="mask", alpha_cutoff=0.4),
             nc.Material(albedo=picture, alpha_mode="mask", double_sided=True)]  # fmt: skip
    ids = np.arange(len(faces)) % 3
    ring = nc.build(
        vertices, faces, normals=normals, uvs=uvs * 5, material_ids=ids, materials=table
    )
    places = np.tile(np.eye(4), (60, 1, 1))
    places[:, :3, :3], _ = np.linalg.qr(random.normal(size=(60, 3, 3)))
    places[:, :3, 3] = random.normal(size=(60, 3)) * 4
    scene.add(ring, places)
    return scene


@pytest.mark.gpu
@built
@pytest.mark.parametrize("cull_back", [False, True])
@pytest.mark.parametrize("occlusion", [False, True])
def test_holes_on_a_device_are_those_of_the_cpu(leaves, cull_back, occlusion):
    options = {"threshold": 0.5, "cull_back": cull_back, "occlusion": occlusion}
    cpu, cuda = (nc.Renderer(640, 360, device=d, **options) for d in ("cpu", "cuda"))
    for distance in (0.5, 4, 15, 16):
        camera = nc.Camera.look_at((0.2, distance, 1), (0, 0, 0), near=0.05)
        expected, frame = cpu.render(leaves, camera), cuda.render(leaves, camera)
        for plane in ("depth", "instance", "cluster", "triangle", "albedo"):
            assert np.array_equal(getattr(frame, plane), getattr(expected, plane)), plane


@pytest.mark.gpu
@built
@pytest.mark.parametrize("occlusion", [False, True])
@pytest.mark.parametrize("traversal", ["levels", "persistent"])
def test_depths_of_views_and_shadows_on_a_device_are_those_of_the_cpu(leaves, traversal, occlusion):
    options = {"lights": [nc.Sun((1, 1, 0.4)), nc.Lamp((-2, 6, 2))], "shadow_size": 256}
    options |= {"occlusion": occlusion, "traversal": traversal}
    cpu, cuda = (nc.Renderer(320, 200, device=d, **options) for d in ("cpu", "cuda"))
    for step in range(3):
        cameras = [nc.Camera.look_at((x + 0.1 * step, 9, 2), (0, 0, 0)) for x in (-5.0, 0.1, 7.0)]
        want = cpu.render_depths(leaves, cameras)
        assert np.array_equal(cuda.render_depths(leaves, cameras), want)
        assert cuda.stats["culled"] == cpu.stats["culled"]
        frames = [renderer.render(leaves, cameras[0]) for renderer in (cpu, cuda)]
        assert np.array_equal(frames[0].lit, frames[1].lit)
        for kind in ("shaded", "cluster", "triangle", "instance", "level"):
            assert np.array_equal(frames[0].picture(kind), frames[1].picture(kind)), kind


@pytest.mark.gpu
@built
@pytest.mark.parametrize("occlusion", [False, True])
def test_overdraw_of_a_device_is_that_of_the_cpu(leaves, occlusion):
    options = {"overdraw": True, "occlusion": occlusion}
    cpu, cuda = (nc.Renderer(320, 200, device=d, **options) for d in ("cpu", "cuda"))
    for x in (0.0, 0.2, 0.4):
        camera = nc.Camera.look_at((x, 2, 1), (0, 0, 0), near=0.05)
        assert np.array_equal(
            cuda.render(leaves, camera).overdraw, cpu.render(leaves, camera).overdraw
        )


@pytest.mark.gpu
@built
def test_what_changes_in_a_scene_changes_on_the_device(scene):
    cpu, cuda = nc.Renderer(400, 300), nc.Renderer(400, 300, device="cuda")
    camera = nc.Camera.look_at((0, -30, 10), (0, 0, 0))
    moved = np.tile(np.eye(4), (50, 1, 1))
    for step in range(4):
        moved[:, 0, 3] = np.linspace(-10, 10, 50) + step
        scene.update(500 * step, moved)
        scene.hide(slice(40 * step, 40 * step + 20), step % 2 == 0)
        if step == 2:
            scene.remove(slice(0, 300))
        expected, frame = cpu.render(scene, camera), cuda.render(scene, camera)
        assert np.array_equal(frame.visibility, expected.visibility)


@pytest.mark.gpu
@built
@pytest.mark.parametrize("occlusion", [False, True])
def test_planes_resolved_on_a_device_are_those_of_the_cpu(leaves, occlusion):
    options = {"velocity": True, "occlusion": occlusion}
    cpu, cuda = (nc.Renderer(640, 360, device=d, **options) for d in ("cpu", "cuda"))
    planes = ("instance", "level", "material", "normal", "uv", "color", "albedo", "velocity")
    moved = np.tile(np.eye(4), (20, 1, 1))
    for step in range(4):
        moved[:, 1, 3] = np.linspace(-4, 4, 20) + step
        leaves.update(10, moved)
        camera = nc.Camera.look_at((0.4 * step, 9, 2), (0, 0, 0))
        frames = [renderer.render(leaves, camera) for renderer in (cpu, cuda)]
        for plane in planes:
            assert np.array_equal(getattr(frames[1], plane), getattr(frames[0], plane)), plane
        assert frames[0].velocity.any() == (step > 0)
    first, second = nc.Renderer(640, 360), nc.Renderer(640, 360, device="cuda")
    frame, expected = second.render(leaves, camera), first.render(leaves, camera)
    second.render(leaves, nc.Camera.look_at((5, 5, 2), (0, 0, 0)))
    assert np.array_equal(frame.normal, expected.normal)  # another picture is on the device


@pytest.mark.gpu
@built
def test_frozen_culling_on_a_device_is_that_of_the_cpu(leaves):
    cpu, cuda = (nc.Renderer(320, 200, device=d, samples=2) for d in ("cpu", "cuda"))
    camera, frozen = (nc.Camera.look_at((x, 9, 2), (0, 0, 0)) for x in (9.0, 0.1))
    frames = [r.render(leaves, camera, cull_camera=frozen) for r in (cpu, cuda)]
    assert np.array_equal(frames[0].visibility, frames[1].visibility)
    assert np.array_equal(frames[0].picture("cluster"), frames[1].picture("cluster"))


@pytest.mark.gpu
@built
def test_tensors_of_a_device_hold_its_planes(leaves):
    torch = pytest.importorskip("torch")
    options = {"lights": [nc.Sun()], "shadow_size": 256, "velocity": True, "overdraw": True}
    renderer = nc.Renderer(320, 200, device="cuda", **options)
    camera = nc.Camera.look_at((0, 9, 2), (0, 0, 0))
    frame = renderer.render(leaves, camera)
    tensors = {n: torch.from_dlpack(frame.device_array(n)) for n in DEVICE_PLANES}
    tensors["picture"] = torch.from_dlpack(frame.device_picture())
    depths = torch.from_dlpack(renderer.device_depths(leaves, [camera]))
    assert np.array_equal(depths.cpu().numpy()[0], frame.depth)
    renderer.render(leaves, nc.Camera.look_at((5, 5, 2), (0, 0, 0)))
    for name, tensor in tensors.items():
        array = frame.picture() if name == "picture" else getattr(frame, name)
        assert tensor.is_cuda
        assert tensor.shape == array.shape
        assert np.array_equal(tensor.cpu().numpy(), array, equal_nan=name == "position"), name
    with pytest.raises(RuntimeError, match="a later frame"):
        frame.device_array("depth")


@pytest.mark.gpu
@built
@pytest.mark.parametrize("occlusion", [False, True])
def test_a_streamed_frame_of_a_device_is_that_of_the_mesh_in_memory(occlusion, tmp_path):
    asset = nc.build(*meshes.planet(6))
    memory, file = nc.Scene(asset), nc.Scene(nc.open(asset.save(tmp_path / "a.ncl")))
    whole = nc.Renderer(320, 200)
    options = {"device": "cuda", "occlusion": occlusion}
    waits = nc.Renderer(320, 200, wait_resident=True, **options)
    comes = nc.Renderer(320, 200, budget=1 << 20, **options)
    for distance in (4.0, 1.6, 1.2, 3.0):
        camera = nc.Camera.look_at((0.1, 0.2, distance), (0, 0, 0), near=0.01)
        expected = whole.render(memory, camera)
        frame = waits.render(file, camera)
        for plane in ("depth", "cluster", "triangle", "normal"):
            assert np.array_equal(getattr(frame, plane), getattr(expected, plane)), plane
        coarse = comes.render(file, camera)
        assert np.abs(coarse.coverage.mean() - expected.coverage.mean()) < 0.02  # no hole
    assert comes.stats["resident_bytes"] <= 1 << 20
