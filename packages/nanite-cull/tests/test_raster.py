"""The picture: exact against the definition, and the same on every path."""

import os
import subprocess
import sys

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import _C, meshes, reference
from nanite_cull.asset import NONE

pytestmark = pytest.mark.native


def _same(a, b):
    return (
        np.array_equal(a.depth, b.depth)
        and np.array_equal(a.triangle, b.triangle)
        and np.array_equal(a.instance, b.instance)
    )


def _matrix(camera, width, height):
    scene_view = camera._core(width, height, 1.0)
    scene = nc.Scene(nc.build([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]))
    return _C.object_to_clip(scene_view, scene._core, 0)


def _brute(positions, faces, camera, width, height, **options):
    core, raster_options = _C.Frame(), _C.RasterOptions()
    for name, value in options.items():
        setattr(raster_options, name, value)
    core.raster_triangles(
        np.ascontiguousarray(positions), np.ascontiguousarray(faces, dtype=np.uint32),
        _matrix(camera, width, height), raster_options, width, height,
    )  # fmt: skip
    return core.depth, np.where(core.depth > 0, core.id, NONE)


def test_random_triangles_are_the_definition():
    """Slivers, specks and giants against the numpy raster: depth bits and ids."""
    random = np.random.default_rng(1)
    size = np.exp(random.uniform(-6, 1.5, (400, 1, 1)))
    positions = (
        random.uniform(-1.5, 1.5, (400, 1, 3)) + size * random.normal(size=(400, 3, 3))
    ).astype(np.float32)
    positions[:, :, 2] = np.minimum(positions[:, :, 2], 1.5)
    positions = positions.reshape(-1, 3)
    faces = np.arange(1200, dtype=np.uint32).reshape(-1, 3)
    camera = nc.Camera.look_at((0, 0, 3), near=0.05)
    depth, ids = reference.raster(positions, faces, _matrix(camera, 160, 120), 160, 120)
    found_depth, found_ids = _brute(positions, faces, camera, 160, 120)
    assert (ids >= 0).mean() > 0.5
    assert np.array_equal(found_depth, depth)
    assert np.array_equal(found_ids.astype(np.int64), np.where(ids < 0, NONE, ids))


def test_shared_edges_are_drawn_once():
    """A fan through pixel centres: every pixel of the square belongs to exactly one triangle."""
    corners = [(-1, -1), (0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0)]
    vertices = np.array([(0, 0, 0), *[(x, y, 0) for x, y in corners]], np.float32)
    faces = np.array([(0, i + 1, (i + 1) % 8 + 1) for i in range(8)])
    camera = nc.Camera.look_at((0, 0, 1), fov_y=None, height=4, near=0.5, far=2)
    renderer = nc.Renderer(64, 64, threshold=0, overdraw=True)
    frame = renderer.render(nc.Scene(nc.build(vertices, faces)), camera)
    assert frame.overdraw.max() == 1
    assert frame.coverage.sum() == 32 * 32


@pytest.mark.parametrize("name", ["planet_asset", "field_asset"])
def test_one_thread_and_many_draw_the_same(name, request, random_camera):
    scene, random = nc.Scene(request.getfixturevalue(name)), np.random.default_rng(2)
    for _ in range(10):
        camera = random_camera(random)
        one, many = (nc.Renderer(700, 300, threads=t).render(scene, camera) for t in (1, 4))
        assert np.array_equal(one.visibility, many.visibility)


def test_small_and_large_paths_draw_the_same(planet_asset, random_camera):
    scene, random = nc.Scene(planet_asset), np.random.default_rng(3)
    for _ in range(20):
        camera = random_camera(random)
        both, large = (
            nc.Renderer(321, 243, threshold=3, large_path_only=path).render(scene, camera)
            for path in (False, True)
        )
        assert np.array_equal(both.visibility, large.visibility)


@pytest.mark.once
def test_culling_does_not_change_the_picture(planet_asset, field_asset, random_camera):
    """Frustum culling on and off, tree on and off: the same depth bits and the same ids."""
    random = np.random.default_rng(4)
    scene = nc.Scene(planet_asset)
    moved = np.tile(np.eye(4), (6, 1, 1))
    moved[:, :3, 3] = random.normal(size=(6, 3)) * 2
    moved[:, :3, :3] *= np.array([0.3, 1, 2, 0.1, 1.5, 0.7])[:, None, None]
    scene.add(field_asset, moved)
    drawn = 0
    for i in range(40):
        camera = random_camera(random)
        threshold = float(random.choice([0, 1, 10]))
        with_culling = nc.Renderer(320, 200, threshold=threshold).render(scene, camera)
        without = nc.Renderer(
            320, 200, threshold=threshold, frustum=False, hierarchy=i % 2 == 0
        ).render(scene, camera)
        assert _same(with_culling, without)
        drawn += with_culling.coverage.any()
    assert drawn > 20


@pytest.mark.parametrize("name", ["planet", "field"])
def test_at_threshold_zero_the_source_mesh_is_drawn_exactly(name, request, random_camera):
    """Depth bits of the source drawn by brute force, and its ids through the leaf map."""
    vertices, faces = request.getfixturevalue(name)
    asset = request.getfixturevalue(name + "_asset")
    snapped = (np.rint(vertices / asset.step) * asset.step).astype(np.float32)
    border = np.unique(reference.edge_balance(faces))  # keeps its floats
    snapped[border] = vertices[border]
    random = np.random.default_rng(5)
    scene, compared = nc.Scene(asset), 0
    for _ in range(20):
        camera = random_camera(random)
        frame = nc.Renderer(400, 300, threshold=0).render(scene, camera)
        depth, ids = _brute(snapped, faces, camera, 400, 300)
        assert np.array_equal(frame.depth, depth)
        # two faces at one depth in one pixel (touching at a silhouette) may be told apart either
        # way
        differ = frame.source_triangle[frame.coverage] != ids[frame.coverage]
        assert differ.sum() <= 2
        compared += frame.coverage.sum()
    assert compared > 100_000


def test_the_near_plane_cuts_cleanly(field_asset):
    """A camera inside the landscape: clipped triangles, the same on every path and thread count."""
    scene = nc.Scene(field_asset)
    camera = nc.Camera.look_at((0, 0.02, 0.1), (0.3, 0, -1), near=0.05, fov_y=100)
    frames = [
        nc.Renderer(500, 300, threads=t, large_path_only=large).render(scene, camera)
        for t, large in ((1, False), (3, False), (2, True))
    ]
    assert frames[0].stats["clipped_triangles"] > 0
    assert frames[0].depth.max() <= 1
    for other in frames[1:]:
        assert np.array_equal(frames[0].visibility, other.visibility)
    flat = nc.Renderer(500, 300, frustum=False, hierarchy=False).render(scene, camera)
    assert _same(frames[0], flat)


def test_plain_loops_and_vector_loops_draw_the_same(tmp_path):
    """NATIVE_ISA=baseline takes the scalar forms of culling and raster: the same bytes come out."""
    script = tmp_path / "draw.py"
    script.write_text(
        "import hashlib, sys, nanite_cull as nc\n"
        "from nanite_cull import meshes, _C\n"
        "scene = nc.Scene(nc.build(*meshes.planet(4)), nc.build(*meshes.heightfield(64)))\n"
        "h = hashlib.sha256()\n"
        "for eye in ((2, 1, 2), (0.2, 0.1, 1.1), (0, 0.1, 0.3), (9, 9, 9)):\n"
        "    for large in (False, True):\n"
        "        r = nc.Renderer(333, 222, threshold=0.7, large_path_only=large)\n"
        "        frame = r.render(scene, nc.Camera.look_at(eye, (0, 0, 0.01)))\n"
        "        h.update(frame.visibility.tobytes() + frame.picture().tobytes())\n"
        "print(_C.instruction_set(), h.hexdigest())\n"
    )
    out = [
        subprocess.run(
            [sys.executable, script],
            env={**os.environ, **extra},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for extra in ({}, {"NATIVE_ISA": "baseline"})
    ]
    assert out[1][0] == "baseline"
    assert out[0][1] == out[1][1]


def test_ids_normals_and_distance_mean_what_they_say(planet_asset):
    scene = nc.Scene()
    shift = np.eye(4)
    shift[:3, 3] = 5, 0, 0
    scene.add(planet_asset, np.stack([np.eye(4), shift]))
    camera = nc.Camera.look_at((5, 0, 4), (5, 0, 0))
    frame = nc.Renderer(201, 201).render(scene, camera)
    middle = (100, 100)
    assert frame.instance[middle] == 1
    assert frame.instance[0, 0] == NONE
    assert frame.normal[middle] @ (0, 0, 1) > 0.8
    assert 2.8 < frame.distance[middle] < 3.2
    assert np.isinf(frame.distance[0, 0])
    assert frame.level[middle] == planet_asset.clusters["level"][frame.cluster[middle]]
    cluster = planet_asset.clusters[frame.cluster[middle]]
    offset = frame.triangle[middle] - cluster["triangle_begin"]
    assert 0 <= offset < cluster["triangle_count"]


def test_attributes_are_interpolated_in_perspective(torus_asset):
    frame = nc.Renderer(300, 300, threshold=0).render(
        nc.Scene(torus_asset), nc.Camera.look_at((0, 2.5, 2), (0, 0, 0))
    )
    lo, hi = torus_asset.uvs.min(), torus_asset.uvs.max()
    inside = frame.uv[frame.coverage]
    assert inside.min() >= lo - 1e-6
    assert inside.max() <= hi + 1e-6
    assert inside.std(0).min() > 0.1
    # the torus knows its normals: they are those of its tube
    cos_b = np.cos(2 * np.pi * frame.uv[..., 1])
    tilt = np.hypot(frame.normal[..., 0], frame.normal[..., 2])
    assert np.abs(tilt - np.abs(cos_b))[frame.coverage].max() < 0.02


def test_back_faces_can_be_left_out(planet_asset):
    scene, camera = nc.Scene(planet_asset), nc.Camera.look_at((0, 0, 3))
    both = nc.Renderer(200, 200, overdraw=True).render(scene, camera)
    front = nc.Renderer(200, 200, overdraw=True, cull_back=True).render(scene, camera)
    assert np.array_equal(both.depth, front.depth)
    assert front.overdraw.sum() < 0.7 * both.overdraw.sum()


def test_frames_stay_as_they_are_while_someone_holds_them(planet_asset):
    scene, renderer = nc.Scene(planet_asset), nc.Renderer(64, 64)
    first = renderer.render(scene, nc.Camera.look_at((0, 0, 3)))
    depth, copy = first.depth, first.depth.copy()
    del first
    renderer.render(scene, nc.Camera.look_at((3, 0, 0)))
    renderer.render(scene, nc.Camera.look_at((0, 9, 1)))
    assert np.array_equal(depth, copy)


def test_an_empty_view_is_an_empty_picture(planet_asset, tmp_path):
    frame = nc.Renderer(32, 16).render(
        nc.Scene(planet_asset), nc.Camera.look_at((0, 0, 3), (0, 0, 9))
    )
    assert not frame.coverage.any()
    assert frame.stats["visible_instances"] == 0
    assert (frame.cluster == NONE).all()
    assert frame.save(tmp_path / "empty.png").stat().st_size > 0


@pytest.mark.parametrize(
    "kind", ["shaded", "cluster", "level", "triangle", "instance", "normal", "depth", "overdraw"]
)
def test_every_picture_is_saved_and_coloured(kind, planet_asset, tmp_path):
    from PIL import Image

    renderer = nc.Renderer(160, 90, overdraw=True)
    path = renderer.render(nc.Scene(planet_asset), nc.Camera.around(planet_asset)).save(
        tmp_path / f"{kind}.png", kind
    )
    image = np.asarray(Image.open(path))
    assert image.shape == (90, 160, 3)
    assert image.std() > 5
    assert [p.name for p in tmp_path.iterdir()] == [f"{kind}.png"]


def test_an_unknown_picture_is_refused(planet_asset):
    frame = nc.Renderer(8, 8).render(nc.Scene(planet_asset), nc.Camera.around(planet_asset))
    with pytest.raises(ValueError, match=r"kind must be one of shaded, cluster.*got 'wireframe'"):
        frame.picture("wireframe")
    with pytest.raises(RuntimeError, match="overdraw=True"):
        _ = frame.overdraw


@pytest.mark.once
def test_the_silhouette_moves_by_about_the_threshold():
    """At one pixel of error the coverage differs from the source's only along the outline."""
    scene, camera = nc.Scene(nc.build(*meshes.planet(7))), nc.Camera.look_at((0, 0.4, 2.4))
    exact, cut = (nc.Renderer(600, 600, threshold=t).render(scene, camera) for t in (0, 1))
    assert cut.stats["triangles"] < 0.7 * exact.stats["triangles"]
    differ = exact.coverage != cut.coverage
    outline = 4 * np.sqrt(exact.coverage.sum())
    assert differ.sum() < 2 * outline
    both = exact.coverage & cut.coverage
    relative = np.abs(exact.distance[both] - cut.distance[both]) / exact.distance[both]
    assert np.quantile(relative, 0.99) < 5e-3


def test_meshes_are_what_they_are_called():
    vertices, faces = meshes.icosphere(3)
    assert len(faces) == 20 * 4**3
    assert np.allclose(np.linalg.norm(vertices, axis=1), 1, atol=1e-6)
    assert len(meshes.heightfield(10)[1]) == 2 * 9**2


def test_the_gyroid_is_open_only_at_the_sides_of_its_cube_and_turned_outward():
    vertices, faces = meshes.gyroid(32)
    border = vertices[reference.edge_balance(faces)]
    assert (np.abs(border).max(2) > 1 - 2.5 / 32).all()
    x, y, z = (vertices[faces].mean(1) * np.pi * 4).T
    cos, sin = np.cos, np.sin
    slope = [cos(x) * cos(y) - sin(z) * sin(x), cos(y) * cos(z) - sin(x) * sin(y),
             cos(z) * cos(x) - sin(y) * sin(z)]  # fmt: skip
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    assert (np.einsum("fa,af->f", np.cross(b - a, c - a), slope) < 0).all()


def test_colours_and_materials_reach_the_picture_through_a_file(field, tmp_path):
    """Halves of a landscape, red and blue, of materials 3 and 8: built, stored, read, drawn."""
    vertices, faces = field
    right = vertices[:, 0] > 0
    colors = np.where(right[:, None], np.float32([1, 0, 0]), np.float32([0, 0, 1]))
    material = np.where(right[faces[:, 0]], 8, 3)
    asset = nc.build(vertices, faces, colors=colors, material_ids=material)
    again = nc.load(asset.save(tmp_path / "field.ncl"))
    scene, camera = nc.Scene(again), nc.Camera.look_at((0, 2.2, 0.6))
    for threshold in (0, 4):
        frame = nc.Renderer(400, 300, threshold=threshold).render(scene, camera)
        seen = frame.coverage
        assert set(np.unique(frame.material[seen])) == {3, 8}
        assert np.abs(frame.color[seen].sum(1) - 2).max() < 1e-5  # one channel and alpha
        red = frame.color[..., 0] > 0.5
        assert (red == (frame.material == 8))[seen].mean() > 0.97
        image = frame.picture().astype(int)
        assert (image[..., 0] > image[..., 2])[seen & red].all()
        assert (image[..., 2] > image[..., 0])[seen & ~red].all()


@pytest.mark.parametrize("orthographic", [False, True])
def test_positions_lie_in_the_source_triangles_that_are_seen(
    planet, planet_asset, orthographic, random_camera
):
    """In an oblong picture, with any lens, at any angle: within a 256th of a pixel."""
    vertices, faces = planet
    snapped = np.rint(vertices / planet_asset.step) * planet_asset.step
    renderer, random = nc.Renderer(160, 100, threshold=0), np.random.default_rng(21)
    compared = 0
    for _ in range(20):
        camera = random_camera(random)
        if orthographic:
            camera = camera.moved(fov_y=None, height=float(random.uniform(0.5, 3)), far=50.0)
        frame = renderer.render(nc.Scene(planet_asset), camera)
        seen = frame.coverage
        assert frame.position.shape == (100, 160, 3)
        assert frame.position.dtype == np.float32
        assert np.array_equal(np.isnan(frame.position).any(-1), ~seen)
        assert np.isnan(frame.position[~seen]).all()
        a, b, c = (snapped[faces[frame.source_triangle[seen], i]] for i in range(3))
        point = frame.position[seen].astype(np.float64)
        distance = frame.distance[seen]
        if orthographic:
            tolerance = camera.height / 100 / 256 + 1e-6 * camera.far
        else:
            pixel = 2 * np.tan(np.radians(camera.fov_y) / 2) * distance / 100
            tolerance = pixel / 256 + 1e-6 * distance
        normal = np.cross(b - a, c - a)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        off = np.abs(np.einsum("na,na->n", point - a, normal))
        assert (off < tolerance).all()
        compared += seen.sum()
    assert compared > 20_000


@pytest.mark.parametrize("lens", [{"fov_y": 50}, {"fov_y": None, "height": 3, "far": 8}])
def test_positions_of_a_sphere_and_of_a_plane_lie_on_them(lens):
    sphere = meshes.icosphere(5)
    plane = (np.float32([[-3, -3, 0.5], [3, -3, 0], [3, 3, 1], [-3, 3, 1.5]]),
             np.array([[0, 1, 2], [0, 2, 3]]))  # fmt: skip
    camera = nc.Camera.look_at((1, 2, 3), (0.2, 0.1, 0), up=(0.3, 1, 0), near=0.5, **lens)
    renderer = nc.Renderer(200, 120, threshold=0)
    for (vertices, faces), height in (
        (sphere, lambda p: np.linalg.norm(p, axis=1) - 1),
        (plane, lambda p: p[:, 2] - (0.75 - p[:, 0] / 12 + p[:, 1] / 6)),
    ):
        frame = renderer.render(nc.Scene(nc.build(vertices, faces)), camera)
        off = height(frame.position[frame.coverage].astype(np.float64))
        assert len(off) > 4000
        pixel = 4 / 120  # about, in the middle of either picture
        assert off.max() < pixel / 256
        assert off.min() > (-1e-3 if faces is sphere[1] else -pixel / 256)  # chords lie inside


def test_every_output_is_a_torch_tensor_without_a_copy(torus_asset):
    torch = pytest.importorskip("torch")
    renderer = nc.Renderer(64, 48, overdraw=True)
    frame = renderer.render(nc.Scene(torus_asset), nc.Camera.around(torus_asset))
    for name in ("depth", "instance", "cluster", "level", "triangle", "material", "normal", "uv",
                 "color", "overdraw", "position"):  # fmt: skip
        array = getattr(frame, name)
        tensor = torch.from_dlpack(array)
        assert tensor.shape == array.shape
        assert tensor.data_ptr() == array.ctypes.data
