"""What a frame gives to other tools: tensors that share its memory, its cut as a mesh, figures."""

import copy

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import reference

pytestmark = pytest.mark.native

PLANES = ("depth", "distance", "position", "instance", "cluster", "level", "triangle", "material",
          "normal", "uv", "color", "overdraw")  # fmt: skip


@pytest.fixture(scope="module")
def mirrored_scene(planet_asset, torus_asset):
    """Instances that are turned, stretched and mirrored."""
    scene = nc.Scene(planet_asset)
    random = np.random.default_rng(5)
    transforms = np.tile(np.eye(4), (9, 1, 1))
    transforms[:, :3, :3] = random.normal(size=(9, 3, 3))
    transforms[:, :3, 3] = random.normal(size=(9, 3)) * 4 + [0, 0, -6]
    assert (np.linalg.det(transforms[:, :3, :3]) < 0).any()
    scene.add(torus_asset, transforms)
    return scene


CAMERA = nc.Camera.look_at((0, 0, 4), (0, 0, 0), near=0.01)


@pytest.mark.parametrize("plane", PLANES)
def test_tensors_share_the_memory_of_the_planes(plane, mirrored_scene):
    torch = pytest.importorskip("torch")
    frame = nc.Renderer(64, 48, overdraw=True).render(mirrored_scene, CAMERA)
    array = getattr(frame, plane)
    tensor = torch.from_dlpack(array)
    assert tensor.data_ptr() == array.ctypes.data
    assert tensor.shape == array.shape
    assert np.array_equal(tensor.numpy(), array, equal_nan=array.dtype.kind == "f")


def test_a_tensor_outlives_its_frame(mirrored_scene):
    torch = pytest.importorskip("torch")
    renderer = nc.Renderer(64, 48)
    frame = renderer.render(mirrored_scene, CAMERA)
    tensor, kept = torch.from_dlpack(frame.depth), frame.depth.copy()
    del frame
    for _ in range(3):  # buffers that somebody refers to are not taken again
        renderer.render(mirrored_scene, nc.Camera.look_at((9, 0, 4), (0, 0, 0)))
    assert np.array_equal(tensor.numpy(), kept)


def test_the_cut_of_a_closed_mesh_is_closed_and_what_was_drawn(planet_asset):
    for threshold in (0, 1, 20):
        scene = nc.Scene(planet_asset)
        frame = nc.Renderer(320, 200, threshold=threshold, frustum=False).render(scene, CAMERA)
        mesh = frame.cut_mesh()
        assert len(mesh.faces) == frame.stats["triangles"]
        _, ids = np.unique(mesh.vertices, axis=0, return_inverse=True)
        assert len(reference.edge_balance(ids.ravel()[mesh.faces])) == 0
        visible = frame.visible_clusters[:, 1]
        corners = planet_asset.positions[reference.cut_triangles(planet_asset, visible)]
        cut = mesh.vertices[mesh.faces]
        order = [np.lexsort(c.reshape(len(c), 9).T) for c in (corners, cut)]
        assert np.array_equal(corners[order[0]], cut[order[1]])
        assert np.array_equal(np.unique(mesh.cluster), np.unique(visible))


def test_trimesh_sees_a_solid_with_its_normals_outward(mirrored_scene):
    trimesh = pytest.importorskip("trimesh")
    mesh = (
        nc.Renderer(320, 200, threshold=2, frustum=False).render(mirrored_scene, CAMERA).cut_mesh()
    )
    for instance in np.unique(mesh.instance).tolist():
        of = mesh.faces[mesh.instance == instance]
        solid = trimesh.Trimesh(mesh.vertices, of, process=True)
        assert solid.is_watertight
        assert solid.volume > 0


def test_rays_into_the_cut_hit_what_the_frame_shows(mirrored_scene):
    """Embree over the arrays as they are: the same triangle at all but a few pixels."""
    pytest.importorskip("embreex")
    trimesh = pytest.importorskip("trimesh")
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    frame = nc.Renderer(160, 100, threshold=2).render(mirrored_scene, CAMERA)
    mesh = frame.cut_mesh()
    rays = RayMeshIntersector(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False))
    x, y = CAMERA.rays(160, 100)
    towards = np.stack([*np.meshgrid(x, y), np.full((100, 160), -1.0)], -1).reshape(-1, 3)
    towards = towards @ np.asarray(CAMERA.view)[:3, :3]
    hit = rays.intersects_first(np.broadcast_to(CAMERA.eye, towards.shape), towards).reshape(
        100, 160
    )
    assert (frame.coverage != (hit >= 0)).sum() <= 10
    both = frame.coverage & (hit >= 0)
    assert (mesh.instance[hit[both]] == frame.instance[both]).mean() > 0.995
    assert (mesh.cluster[hit[both]] == frame.cluster[both]).mean() > 0.99
    right = both & (mesh.cluster[np.maximum(hit, 0)] == frame.cluster)
    corners = mesh.vertices[mesh.faces[hit[right]]]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    away = np.abs(((frame.position[right] - corners[:, 0]) * normal).sum(1))
    assert np.quantile(away, 0.99) < 0.01


def test_the_cut_of_a_streamed_asset_is_that_of_the_mesh_in_memory(torus_asset, tmp_path):
    streamed = nc.open(torus_asset.save(tmp_path / "a.ncl"))
    cuts = [
        nc.Renderer(160, 100, wait_resident=True).render(nc.Scene(a), CAMERA).cut_mesh()
        for a in (torus_asset, streamed)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*cuts, strict=True))


def test_an_empty_cut_is_empty(planet_asset):
    frame = nc.Renderer(16, 16).render(
        nc.Scene(planet_asset), nc.Camera.look_at((0, 0, 9), (0, 0, 99))
    )
    mesh = frame.cut_mesh()
    assert mesh.vertices.shape == mesh.faces.shape == (0, 3)


def test_stats_say_what_a_frame_took(mirrored_scene):
    renderer, scene = nc.Renderer(160, 100), copy.deepcopy(mirrored_scene)
    scene.hide(3)
    assert renderer.stats == {}
    frame = renderer.render(scene, CAMERA)
    stats = renderer.stats
    assert stats["instances"] == 10
    assert stats["visible"] == len(frame.visible_clusters)
    assert stats["candidates"] == stats["visible"] + stats["culled"]["detail"]
    assert stats["triangles"] == len(frame.cut_mesh().faces)
    assert stats["visited"] > 0
    assert not any(stats["overflow"].values())
    assert stats["culled"]["frustum"] == 10 - frame.stats["visible_instances"] == 1
    assert set(stats["ms"]) == {"stream", "cull", "raster"}
    assert min(stats["ms"].values()) >= 0
    assert "resident_pages" not in stats
    small = nc.Renderer(160, 100, max_visible_clusters=8, on_overflow="warn")
    with pytest.warns(RuntimeWarning, match="geometry is missing"):
        small.render(scene, CAMERA)
    assert small.stats["overflow"]["visible_clusters"] == stats["visible"] - 8
    hidden = nc.Renderer(160, 100, occlusion=True)
    for _ in range(2):
        hidden.render(mirrored_scene, CAMERA)
    assert hidden.stats["culled"]["occlusion"] > 0


def test_stats_of_a_streamed_scene_name_its_pages(planet_asset, tmp_path):
    renderer = nc.Renderer(64, 48, wait_resident=True)
    renderer.render(nc.Scene(nc.open(planet_asset.save(tmp_path / "a.ncl"))), CAMERA)
    stats = renderer.stats
    assert stats["resident_pages"] == stats["wanted_pages"] > 0
    assert stats["missing_pages"] == 0
    assert stats["resident_bytes"] <= renderer.budget
    assert stats["threshold"] == 1


def test_culling_is_frozen_while_the_camera_moves_on(planet_asset, mirrored_scene):
    """The cut of one camera, drawn from another: its clusters, at the other's places."""
    renderer = nc.Renderer(160, 100)
    near = nc.Camera.look_at((0, 0, 1.2), (0, 1, 0), near=0.01)
    there = renderer.render(mirrored_scene, near)
    frozen = renderer.render(mirrored_scene, CAMERA, cull_camera=near)
    assert np.array_equal(frozen.visible_clusters, there.visible_clusters)
    shown = np.unique(frozen.cluster[frozen.instance == 0])
    seen = frozen.visible_clusters
    assert set(shown.tolist()) <= set(seen[seen[:, 0] == 0, 1].tolist())
    own = renderer.render(mirrored_scene, CAMERA)
    assert not np.array_equal(frozen.visible_clusters, own.visible_clusters)
    assert np.array_equal(
        renderer.render(mirrored_scene, CAMERA, cull_camera=CAMERA).depth, own.depth
    )
    # what both show lies where it should
    same = (frozen.triangle == own.triangle) & (frozen.instance == own.instance) & own.coverage
    assert same.sum() > 50
    assert np.array_equal(frozen.depth[same], own.depth[same])


def test_scenes_are_updated_by_slices_between_frames(planet_asset):
    scene = nc.Scene()
    transforms = np.tile(np.eye(4), (5, 1, 1))
    transforms[:, 0, 3] = np.arange(5) * 3
    scene.add(planet_asset, transforms)
    camera = nc.Camera.look_at((6, 0, 12), (6, 0, 0))
    renderer = nc.Renderer(160, 60)
    before = renderer.render(scene, camera).instance.copy()
    transforms[2:4, 1, 3] = 1
    scene.update(2, transforms[2:4])
    after = renderer.render(scene, camera).instance
    changed = {int(i) for i in np.unique(before[before != after])} - {2**32 - 1}
    assert changed == {2, 3}
