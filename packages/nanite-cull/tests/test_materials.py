"""Textures, holes and sides: what materials say of pixels, against a reference and rays."""

import io
import json
import pickle
import struct
import zipfile
from dataclasses import fields, replace

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import materials, meshes, ncl, reference

pytestmark = pytest.mark.native

TILTED = nc.Camera.look_at((0.3, 0.9, 1.3), (0, 0, 0.1), near=0.05)
RANDOM = np.random.default_rng(5)
NOISE = RANDOM.integers(0, 256, (37, 64, 4), np.uint8)


def _leaves(size=64):
    """Blobs of alpha on coloured noise."""
    x = np.linspace(0, 6 * np.pi, size)
    alpha = np.clip(128 + 200 * np.sin(x) * np.sin(x)[:, None], 0, 255)
    texture = RANDOM.integers(0, 256, (size, size, 4), np.uint8)
    texture[..., 3] = alpha.astype(np.uint8)
    return texture


def _plane(cells=8, repeat=3.0):
    """A square of side 2 at height 0, its texture repeated: vertices, faces, uvs."""
    side = np.linspace(-1, 1, cells + 1)
    x, z = np.meshgrid(side, side)
    vertices = np.stack([x, 0 * x, z], -1).reshape(-1, 3)
    i = np.arange(cells * (cells + 1)).reshape(cells, -1)[:, :-1].ravel()
    n = cells + 1
    faces = np.concatenate([np.stack([i, i + n, i + 1], 1), np.stack([i + 1, i + n, i + n + 1], 1)])
    return vertices, faces, vertices[:, [0, 2]] * [repeat / 2, -repeat / 2] + [0.3, 0.8]


def _plane_asset(*materials, ids=None, **options):
    vertices, faces, uvs = _plane()
    return nc.build(
        vertices, faces, uvs=uvs, materials=materials, material_ids=ids, progress=False, **options
    )


def _seen_on_plane(camera, width, height, repeat=3.0):
    """(height, width, 2) float64: where rays meet the plane, in the picture (v downwards)."""

    def at(dx, dy):
        x, y = camera.rays(width, height)
        step_x, step_y = (x[1] - x[0]) * dx, (y[1] - y[0]) * dy
        grid = np.stack([*np.meshgrid(x + step_x, y + step_y), -np.ones((height, width))], -1)
        way = grid @ np.asarray(camera.view, float)[:3, :3]
        point = camera.eye - way * (camera.eye[1] / way[..., 1])[..., None]
        uv = point[..., [0, 2]] * [repeat / 2, -repeat / 2] + [0.3, 0.8]
        return uv * [1, -1] + [0, 1]

    here, small = at(0, 0), 1e-4
    return here, (at(small, 0) - here) / small, (at(0, small) - here) / small


def _expected(material, camera, width, height):
    albedo = material.albedo.copy()
    if material.alpha_mode == "opaque":
        albedo[..., 3] = 255
    texture = reference.texture_levels(albedo)
    uv, right, below = (a.reshape(-1, 2) for a in _seen_on_plane(camera, width, height))
    if material.uv_transform is not None:
        m = np.asarray(material.uv_transform)
        uv = uv @ m[:, :2].T + m[:, 2]
        right, below = right @ m[:, :2].T, below @ m[:, :2].T
    return reference.texture_at(texture, uv, right, below, material).reshape(height, width, 4)


SAMPLERS = [
    {},
    {"wrap": ("mirror", "clamp")},
    {"wrap": ("clamp", "mirror"), "mip": "nearest"},
    {"mip": "off", "minify": "nearest", "magnify": "nearest"},
    {"minify": "nearest"},
    {"uv_transform": [[0.5, 1.7, 0.2], [-0.9, 0.3, 0.1]]},
]


@pytest.mark.parametrize("options", SAMPLERS, ids=str)
def test_albedo_is_the_texture_that_the_definition_reads(options):
    material = nc.Material(albedo=NOISE, **options)
    scene = nc.Scene(_plane_asset(material))
    for camera in (TILTED, nc.Camera.look_at((0, 3, 4.5), near=0.05)):
        frame = nc.Renderer(200, 150).render(scene, camera)
        expected = _expected(material, camera, 200, 150)
        off = np.abs(frame.albedo - expected)[frame.coverage].max(1)
        assert len(off) > 1000
        # levels are bytes in the core; between nearest texels or levels rounding may choose another
        smooth = material.mip == "linear" and material.minify == "linear"
        assert np.quantile(off, 1 if smooth else 0.985) < 0.012, np.quantile(off, [0.5, 0.99, 1])
        assert (frame.albedo[~frame.coverage] == 0).all()


def test_far_coordinates_of_a_clamped_texture_are_its_edges():
    vertices, faces, uvs = _plane()
    paint = np.zeros((4, 4, 3), np.uint8)
    paint[:, -1] = 255
    material = nc.Material(albedo=paint, wrap=("clamp", "clamp"))
    for far, shade in ((5e6, 1), (-5e6, 0)):
        asset = nc.build(vertices, faces, uvs=0 * uvs + [far, 0.5], materials=[material])
        frame = nc.Renderer(40, 30).render(nc.Scene(asset), TILTED)
        assert (frame.albedo[frame.coverage][:, :3] == shade).all()


def test_colours_of_vertices_and_materials_multiply_the_texture():
    vertices, faces, uvs = _plane()
    tint = nc.Material(albedo=NOISE, base_color=(0.5, 1.0, 0.25, 1.0))
    colors = RANDOM.random((len(vertices), 4)).astype(np.float32)
    plain = nc.build(vertices, faces, uvs=uvs, materials=[nc.Material(albedo=NOISE)])
    both = nc.build(vertices, faces, uvs=uvs, colors=colors, materials=[tint])
    frames = [nc.Renderer(160, 120).render(nc.Scene(a), TILTED) for a in (plain, both)]
    assert np.allclose(frames[1].albedo, frames[0].albedo * frames[1].color, atol=1e-6)
    seen = frames[1].color[frames[1].coverage]
    assert seen[:, 2].max() <= 0.25 + 1e-6
    assert seen[:, 1].max() > 0.9


def test_a_picture_shows_linear_colours_as_a_texture_of_that_light():
    """Of 0.2016, which is byte 124 of a texture: given by it, by the material, by the vertices."""
    vertices, faces, uvs = _plane()
    light = reference.linear_light(124)
    grey = np.full((4, 4, 3), 124, np.uint8)
    tint = (light, light, light, 1.0)
    colors = np.full((len(vertices), 3), light, np.float32)
    display = nc.Material(vertex_colors="display")
    assets = [
        nc.build(vertices, faces, uvs=uvs, materials=[nc.Material(albedo=grey)]),
        nc.build(vertices, faces, uvs=uvs, materials=[nc.Material(base_color=tint)]),
        nc.build(vertices, faces, colors=colors, materials=[nc.Material()]),
        nc.build(vertices, faces, colors=np.full((len(vertices), 3), 124, np.uint8)),
        nc.build(vertices, faces, colors=colors * 0 + 124 / 255, materials=[display]),
    ]
    frames = [nc.Renderer(160, 120).render(nc.Scene(asset), TILTED) for asset in assets]
    seen = frames[0].coverage
    for frame in frames:  # colours of vertices have 255 steps
        assert np.abs(frame.albedo[seen][:, :3] - light).max() < 0.003
        off = frame.picture().astype(int) - frames[0].picture()
        assert np.abs(off).max() <= 1


def test_colours_of_files_that_do_not_say_are_those_of_a_display():
    data = materials.pack([nc.Material(base_color=(0.2, 0.2, 0.2, 1.0))])
    assert materials.unpack(data)[0].vertex_colors == "linear"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        table = json.loads(archive.read("materials.json"))
    del table[0]["vertex_colors"]
    older = io.BytesIO()
    with zipfile.ZipFile(older, "w") as archive:
        archive.writestr("materials.json", json.dumps(table))
    assert materials.unpack(older.getvalue())[0].vertex_colors == "display"


def test_materials_pickled_before_colours_had_a_space_are_those_of_a_display():
    assert pickle.loads(pickle.dumps(nc.Material())).vertex_colors == "linear"
    older = nc.Material(name="scan")
    del older.__dict__["vertex_colors"]
    (again,) = pickle.loads(pickle.dumps([older]))
    assert again.vertex_colors == "display"
    (kept,) = materials.unpack(materials.pack([again]))
    assert (kept.name, kept.vertex_colors) == ("scan", "display")


def test_what_newer_files_say_of_a_material_is_passed_over():
    data = materials.pack([nc.Material(name="paint", roughness=0.5)])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        table = json.loads(archive.read("materials.json"))
    newer = io.BytesIO()
    with zipfile.ZipFile(newer, "w") as archive:
        archive.writestr("materials.json", json.dumps([{**table[0], "clearcoat": 0.25}]))
    (found,) = materials.unpack(newer.getvalue())
    assert (found.name, found.roughness) == ("paint", 0.5)


def test_base_colours_of_neighbours_do_not_run_into_each_other():
    paints = [nc.Material(base_color=(1.0, 0, 0, 1)), nc.Material(base_color=(0.0, 0, 1, 1))]
    faces = _plane()[1]
    asset = _plane_asset(*paints, ids=np.arange(len(faces)) % 2, threads=1)
    frame = nc.Renderer(160, 120, threshold=0).render(nc.Scene(asset), TILTED)
    seen = frame.material[frame.coverage]
    expected = np.array([p.base_color for p in paints], np.float32)[seen]
    assert {0, 1} == set(seen.tolist())
    assert np.array_equal(frame.color[frame.coverage], expected)


def test_embree_sees_the_same_texture_through_a_level_of_detail():
    rtcore_scene = pytest.importorskip("embreex.rtcore_scene")
    from embreex.mesh_construction import TriangleMesh

    texture = np.repeat(np.repeat(NOISE[:8, :16], 16, 0), 16, 1)
    texture[..., 3] = 255
    vertices, faces, _normals, uvs = meshes.torus(256, 128)
    material = nc.Material(albedo=texture, mip="off")
    asset = nc.build(vertices, faces, uvs=uvs, materials=[material], progress=False)
    camera, width, height = nc.Camera.look_at((0.4, 1.5, 2.2), near=0.05), 320, 240
    frame = nc.Renderer(width, height).render(nc.Scene(asset), camera)
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, vertices.astype(np.float32), faces.astype(np.int32))
    x, y = camera.rays(width, height)
    grid = np.stack([*np.meshgrid(x, y), -np.ones((height, width))], -1).reshape(-1, 3)
    way = (grid @ np.asarray(camera.view, float)[:3, :3]).astype(np.float32)
    origin = np.broadcast_to(camera.eye.astype(np.float32), way.shape).copy()
    hit = scene.run(origin, way, output=True)
    seen = (hit["primID"] >= 0) & frame.coverage.ravel()
    corners = uvs[faces[hit["primID"][seen]]]
    u, v = hit["u"][seen, None], hit["v"][seen, None]
    uv = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
    level = reference.texture_levels(texture)[:1]
    none = np.zeros_like(uv)
    expected = reference.texture_at(level, uv * [1, -1] + [0, 1], none, none, material)
    off = np.abs(frame.albedo.reshape(-1, 4)[seen] - expected).max(1)
    assert seen.sum() > 15_000
    assert (off < 0.05).mean() > 0.95, np.quantile(off, [0.5, 0.9, 0.95, 0.99])


# -- holes

HOLES = nc.Material(albedo=_leaves(), alpha_mode="mask", alpha_cutoff=0.4)


def test_a_pixel_is_a_hole_where_alpha_is_below_the_cutoff():
    frame = nc.Renderer(200, 150).render(nc.Scene(_plane_asset(HOLES)), TILTED)
    whole = nc.Renderer(200, 150).render(nc.Scene(_plane_asset()), TILTED)
    alpha = _expected(HOLES, TILTED, 200, 150)[..., 3]
    expected = whole.coverage & (alpha >= HOLES.alpha_cutoff)
    assert 0.2 < expected.sum() / whole.coverage.sum() < 0.8
    assert (frame.coverage != expected).sum() <= 0.01 * whole.coverage.sum()
    assert (frame.albedo[frame.coverage][:, 3] >= np.float32(0.4)).all()  # what is drawn, is solid
    assert np.array_equal(frame.depth[frame.coverage], whole.depth[frame.coverage])


def test_vertex_colours_make_holes_too():
    vertices, faces, _uvs = _plane()
    colors = np.ones((len(vertices), 4), np.float32)
    colors[:, 3] = vertices[:, 0] > 0
    material = nc.Material(alpha_mode="mask")
    asset = nc.build(vertices, faces, colors=colors, materials=[material])
    frame = nc.Renderer(160, 120).render(nc.Scene(asset), TILTED)
    assert frame.coverage.sum() > 1000
    assert (frame.color[frame.coverage][:, 3] >= 0.5).all()
    assert frame.position[frame.coverage][:, 0].min() > -0.2


@pytest.fixture(scope="module")
def foliage():
    """Many crossing planes with holes, some solid balls behind and among them."""
    leaves = _plane_asset(HOLES)
    random = np.random.default_rng(1)
    scene = nc.Scene()
    places = np.tile(np.eye(4), (60, 1, 1))
    for place in places:
        turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
        place[:3, :3] = turn * random.uniform(0.3, 0.8)
        place[:3, 3] = random.uniform(-2, 2, 3)
    scene.add(leaves, places)
    scene.add(nc.build(*meshes.planet(3), progress=False), places[::4])
    return scene


FOLIAGE = nc.Camera.look_at((1.5, 1.0, 4.5), near=0.05)


def test_holes_are_the_same_by_every_way_to_draw(foliage):
    truth = nc.Renderer(220, 160, threads=1).render(foliage, FOLIAGE)
    assert truth.coverage.mean() > 0.3
    for options in (
        {"threads": 2}, {"large_path_only": True}, {"traversal": "levels"},
        {"traversal": "persistent"}, {"hierarchy": False}, {"occlusion": True},
    ):  # fmt: skip
        renderer = nc.Renderer(220, 160, **options)
        renderer.render(foliage, FOLIAGE.moved(view=nc.Camera.look_at((1, 1, 4.2)).view))
        frame = renderer.render(foliage, FOLIAGE)
        for plane in ("depth", "instance", "cluster", "triangle", "albedo"):
            assert np.array_equal(getattr(frame, plane), getattr(truth, plane)), (options, plane)
    (depth,) = nc.Renderer(220, 160).render_depths(foliage, [FOLIAGE])
    assert np.array_equal(depth, truth.depth)


def test_light_falls_through_holes():
    vertices, faces, _uvs = _plane()
    scene = nc.Scene(nc.build(vertices * 3, faces, progress=False))
    roof = np.eye(4)
    roof[1, 3] = 1.0
    scene.add(_plane_asset(HOLES), roof)
    frame = nc.Renderer(200, 150, lights=[nc.Sun((0, 1, 0))], shadow_size=512).render(
        scene, nc.Camera.look_at((0, 0.9, 3.2), (0, 0, 0), near=0.05)
    )
    place = frame.position
    under = (frame.instance == 0) & (np.abs(place[..., [0, 2]]) < 0.95).all(-1)
    uv = (place[under][:, [0, 2]] * [1.5, -1.5] + [0.3, 0.8]) * [1, -1] + [0, 1]
    level = reference.texture_levels(HOLES.albedo)
    none = np.zeros_like(uv)
    alpha = reference.texture_at(level, uv, none, none, HOLES)[:, 3]
    sure = np.abs(alpha - HOLES.alpha_cutoff) > 0.25
    open_sky = alpha < HOLES.alpha_cutoff
    lit = frame.lit[0][under]
    assert sure.sum() > 500
    assert ((lit > 0.5) == open_sky)[sure].mean() > 0.97


def test_two_sided_materials_keep_both_sides():
    above_and_below = TILTED, nc.Camera.look_at((0.3, -0.9, 1.3), (0, 0, 0.1), near=0.05)
    for two_sided, seen in ((False, [True, False]), (True, [True, True])):
        scene = nc.Scene(_plane_asset(nc.Material(double_sided=two_sided)))
        renderer = nc.Renderer(100, 80, cull_back=True)
        assert [renderer.render(scene, c).coverage.any() for c in above_and_below] == seen


def test_pictures_show_textures_under_light():
    lines = np.zeros((8, 8, 4), np.uint8)
    lines[..., 3] = 255
    lines[:, ::2, :3] = 200
    scene = nc.Scene(_plane_asset(nc.Material(albedo=lines, magnify="nearest")))
    near = nc.Camera.look_at((0.1, 0.5, 0.01), (0.1, 0, 0), near=0.01)
    frame = nc.Renderer(100, 80).render(scene, near)
    dark = frame.albedo[..., 0] < 0.01
    picture = frame.picture()
    assert 0.2 < dark.mean() < 0.8
    assert (picture[dark] == 0).all()
    assert (picture[frame.albedo[..., 0] > 0.5] > 100).all()


# -- files


def test_files_keep_materials(tmp_path):
    materials = [
        replace(HOLES, name="leaf", double_sided=True),
        nc.Material(
            "stone", (1.0, 0.5, 0.5, 1.0), 0.25, 0.75, albedo=NOISE[..., :3], normal=NOISE,
            wrap=("clamp", "mirror"), magnify="nearest", minify="nearest", mip="off",
            uv_transform=np.array([[2.0, 0, 0.5], [0, 3, 0]]),
        ),
    ]  # fmt: skip
    asset = _plane_asset(*materials, ids=np.arange(len(_plane()[1])) // 64)
    path = asset.save(tmp_path / "a.ncl")
    assert ncl.version(path) == 4
    assert ncl.version(_plane_asset().save(tmp_path / "plain.ncl")) == 3  # older readers take it
    truth = nc.Renderer(120, 90).render(nc.Scene(asset), TILTED)
    for other in (
        nc.load(path),
        nc.open(path),
        ncl.open(path).load(),
        pickle.loads(pickle.dumps(asset)),
    ):
        for kept, material in zip(other.material_table, materials, strict=True):
            for field in fields(nc.Material):
                value = getattr(kept, field.name)
                assert np.array_equal(value, getattr(material, field.name)), field.name
        frame = nc.Renderer(120, 90, wait_resident=True).render(nc.Scene(other), TILTED)
        for plane in ("depth", "albedo", "material"):
            assert np.array_equal(getattr(frame, plane), getattr(truth, plane))
    data = path.read_bytes()
    for at in (-20, -40, -200):
        broken = bytearray(data)
        broken[at] ^= 1
        path.write_bytes(bytes(broken))
        for read in (nc.load, nc.open):
            with pytest.raises(ValueError, match=r"materials|damaged"):
                read(path)


def test_numbers_of_numpy_are_kept_as_plain_ones():
    material = nc.Material(
        base_color=np.float32([1, 0.5, 0.25, 1]), metallic=np.float32(0.5), roughness=np.int64(1),
        alpha_cutoff=np.float16(0.25), double_sided=np.bool_(True), wrap=["clamp", "repeat"],
        uv_transform=[[2, 0, 0], [0, 2, 0]],
    )  # fmt: skip
    (kept,) = materials.unpack(materials.pack([material]))
    for field in fields(nc.Material):
        value = getattr(material, field.name)
        assert np.array_equal(getattr(kept, field.name), value), field.name


def test_a_texture_that_pillow_finds_too_large_comes_back(monkeypatch):
    from PIL import Image

    data = materials.pack([nc.Material(albedo=NOISE)])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert np.array_equal(materials.unpack(data)[0].albedo, NOISE)


def test_packed_archives_are_refused():
    zeros = io.BytesIO()
    with zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", bytes(1 << 20))
        archive.writestr("materials.json", "[]")
    with pytest.raises(ValueError, match="png is compressed"):
        materials.unpack(zeros.getvalue())


def _with_header(path, change):
    """Rewrites the JSON of a .glb."""
    data = path.read_bytes()
    (length,) = struct.unpack("<I", data[12:16])
    header = json.loads(data[20 : 20 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    size = 20 + len(text) + len(rest)
    head = b"glTF" + struct.pack("<IIII", 2, size, len(text), 0x4E4F534A)
    path.write_bytes(head + text + rest)


def _exported(path, **options):
    trimesh = pytest.importorskip("trimesh")
    from PIL import Image

    vertices, faces, uvs = _plane()
    visual = trimesh.visual.TextureVisuals(
        uv=uvs,
        material=trimesh.visual.material.PBRMaterial(
            baseColorTexture=Image.fromarray(NOISE), **options
        ),
    )
    mesh = trimesh.Trimesh(vertices, faces, visual=visual, process=False)
    mesh.export(path)
    return path


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])  # textures inside, textures beside
def test_textures_of_gltf_are_drawn_as_those_of_arrays(suffix, tmp_path):
    loaded = nc.load(_exported(tmp_path / f"a{suffix}", alphaMode="MASK", alphaCutoff=0.3,
                               doubleSided=True))  # fmt: skip
    material = loaded.material_table[0]
    assert (material.alpha_mode, material.alpha_cutoff, material.double_sided) == (
        "mask",
        0.3,
        True,
    )
    made = _plane_asset(nc.Material(albedo=NOISE, alpha_mode="mask", alpha_cutoff=0.3))
    frames = [nc.Renderer(120, 90).render(nc.Scene(a), TILTED) for a in (loaded, made)]
    assert np.array_equal(frames[0].depth, frames[1].depth)
    assert np.allclose(frames[0].albedo, frames[1].albedo, atol=1e-4)


def test_samplers_and_transforms_of_gltf_are_read(tmp_path):
    path = _exported(tmp_path / "a.glb")

    def change(header):
        header["samplers"] = [
            {"wrapS": 33648, "wrapT": 33071, "magFilter": 9728, "minFilter": 9985}
        ]
        header["textures"][0]["sampler"] = 0
        info = header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
        info["extensions"] = {
            "KHR_texture_transform": {"offset": [0.5, 0.25], "rotation": np.pi / 2, "scale": [2, 3]}
        }

    _with_header(path, change)
    for asset in (nc.load(path), nc.Scene.from_file(path).assets[0]):
        (m,) = asset.material_table
        assert (m.wrap, m.magnify, m.minify, m.mip) == (
            ("mirror", "clamp"), "nearest", "linear", "nearest")  # fmt: skip
        assert np.allclose(m.uv_transform, [[0, 3, 0.5], [-2, 0, 0.25]])


def test_what_is_not_drawn_is_said(tmp_path):
    with pytest.warns(RuntimeWarning, match="drawn as opaque"):
        nc.load(_exported(tmp_path / "a.glb", alphaMode="BLEND"))
    path = _exported(tmp_path / "c.glb")

    def broken_sampler(header):
        header["textures"][0]["sampler"] = 7

    _with_header(path, broken_sampler)
    with pytest.raises(ValueError, match="materials are damaged"):
        nc.load(path)


def test_wrong_materials_are_named():
    for options, text in (
        ({"wrap": ("repeat", "turn")}, "wrap must be two of"),
        ({"mip": "cubic"}, "mip must be one of"),
        ({"alpha_mode": "add"}, "alpha_mode must be one of"),
        ({"base_color": (1, 1, 1)}, "base_color must be rgba"),
        ({"base_color": (2, 1, 1, 1)}, "base_color must be rgba"),
        ({"metallic": "much"}, "metallic must be"),
        ({"albedo": np.zeros((1, 16385, 4), np.uint8)}, "albedo must have at most 16384 texels"),
        ({"alpha_cutoff": -1}, "alpha_cutoff must be"),
        ({"albedo": np.zeros((4, 4), np.uint8)}, "albedo must be a uint8 array"),
        ({"albedo": np.zeros((4, 4, 3))}, "albedo must be a uint8 array"),
        ({"uv_transform": np.eye(3)}, "uv_transform must be"),
    ):
        with pytest.raises(ValueError, match=text):
            nc.Material(**options)
    with pytest.raises(ValueError, match="material_ids must be 0 to 0"):
        _plane_asset(nc.Material(), ids=np.ones(len(_plane()[1]), int))
    with pytest.raises(TypeError, match="must be a sequence of Material"):
        _plane_asset("stone")


def test_a_shared_texture_is_kept_once():
    texture = RANDOM.integers(0, 256, (16, 16, 4), np.uint8)
    assets = [_plane_asset(nc.Material(albedo=texture), nc.Material(albedo=texture)) for _ in "ab"]
    before = len(materials._chains)
    assert (id(texture), True) in materials._chains
    del assets
    assert len(materials._chains) == before - 1
