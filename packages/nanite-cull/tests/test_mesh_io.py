"""Mesh files as people have them: instances, colours, materials, compressed ones by name."""

import json
import struct

import numpy as np
import pytest
import trimesh

import nanite_cull as nc
from nanite_cull import materials, meshes
from nanite_cull.mesh_io import read_mesh

pytestmark = pytest.mark.native


@pytest.fixture
def export(tmp_path):
    def write(mesh, suffix=".glb"):
        path = tmp_path / f"a{suffix}"
        mesh.export(path)
        return path

    return write


def _planet(shift=0.0, **options):
    vertices, faces = meshes.planet(3)
    return trimesh.Trimesh(vertices + np.array([shift, 0, 0]), faces, process=False, **options)


def test_instances_of_one_mesh_stay_one_asset(export):
    scene, mesh = trimesh.Scene(), _planet()
    scene.add_geometry(mesh, geom_name="g", node_name="n0")
    for i in range(1, 200):
        move = trimesh.transformations.translation_matrix([3 * i, 0, 0])
        scene.graph.update(frame_to=f"n{i}", frame_from="world", geometry="g", matrix=move)
    path = export(scene)
    for loaded in (nc.Scene.from_file(path), nc.load_scene(str(path))):
        assert len(loaded) == 200
        assert len(loaded.assets) == 1
        assert loaded.assets[0].statistics()["source_triangles"] == len(mesh.faces)
        assert sorted(loaded.transforms[:, 0, 3].tolist()) == [3.0 * i for i in range(200)]
    assert nc.load(path).statistics()["source_triangles"] == 200 * len(mesh.faces)


def test_an_ncl_file_is_a_scene_of_one_whatever_the_case_of_its_suffix(planet_asset, tmp_path):
    path = planet_asset.save(tmp_path / "A.NCL")
    assert len(nc.Scene.from_file(path)) == 1
    assert np.array_equal(nc.load(path).positions, planet_asset.positions)


def test_mirrored_nodes_keep_their_facing(export):
    scene = trimesh.Scene()
    scene.add_geometry(_planet(), geom_name="g", transform=np.diag([-1.0, 1, 1, 1]))
    path = export(scene)
    whole, instance = nc.Scene(nc.load(path)), nc.Scene.from_file(path)
    camera = nc.Camera.look_at((0, 0.5, 3))
    for loaded in (whole, instance):
        frames = [nc.Renderer(100, 100, cull_back=b).render(loaded, camera) for b in (False, True)]
        assert frames[0].coverage.sum() > 1000
        assert np.array_equal(frames[0].depth, frames[1].depth)


def test_parts_without_colours_are_white_beside_coloured_ones(export):
    red = np.tile(np.uint8([255, 0, 0, 255]), (len(_planet().vertices), 1))
    path = export(trimesh.Scene([_planet(vertex_colors=red), _planet(3)]))
    asset = nc.load(path)
    right = asset.positions[:, 0] > 1.5
    assert (asset.colors[~right] == [1, 0, 0, 1]).all()
    assert (asset.colors[right] == 1).all()


def test_base_colours_are_kept_and_multiply_vertex_colours(export):
    material = trimesh.visual.material.PBRMaterial(
        name="paint", baseColorFactor=[255, 0, 51, 255], metallicFactor=0.25, roughnessFactor=0.5
    )
    mesh = _planet()
    mesh.visual = trimesh.visual.TextureVisuals(material=material)
    path = export(mesh)
    for asset in (nc.load(path), nc.Scene.from_file(path).assets[0]):
        assert np.allclose(asset.colors, [1, 0, 0.2, 1], atol=1e-6)
        (found,) = asset.material_table
        assert (found.name, found.metallic, found.roughness) == ("paint", 0.25, 0.5)
        assert np.allclose(found.base_color, [1, 0, 0.2, 1])


def test_textures_and_texture_coordinates_are_kept(export):
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 16, 3), np.uint8))
    mesh = _planet()
    uv = mesh.vertices[:, :2] * 0.5 + 0.5
    mesh.visual = trimesh.visual.TextureVisuals(
        uv=uv,
        material=trimesh.visual.material.PBRMaterial(baseColorTexture=image, normalTexture=image),
    )
    asset = nc.load(export(mesh))
    assert asset.uvs.shape == (len(asset.positions), 2)
    for texture in (asset.material_table[0].albedo, asset.material_table[0].normal):
        assert np.array_equal(texture[:, :, :3], np.asarray(image))


def test_colours_of_faces_are_kept(export):
    mesh = _planet()
    colors = np.random.default_rng(0).integers(0, 255, (len(mesh.faces), 4), np.uint8)
    colors[:, 3] = 255
    mesh.visual.face_colors = colors
    asset = nc.load(export(mesh, ".ply"))
    assert asset.statistics()["source_triangles"] == len(mesh.faces)
    leaves = np.flatnonzero(asset.clusters["level"] == 0)
    drawn = np.concatenate([asset.faces(int(c)) for c in leaves])
    expected = colors[asset.leaf_source[: len(drawn)]] / 255
    assert np.allclose(asset.colors[drawn], expected[:, None], atol=1e-6)


GIVEN = np.uint8([[255, 0, 0], [0, 255, 0], [0, 0, 51]])
PLACES = ["0 0 0", "1 0 0", "0 1 0"]
COORDINATES = ["0 0", "1 0", "0 1"]


def _triangle(path, *, uv=True, colors=True, mtl=None):
    """A file of one triangle, of what PLY or OBJ say of it."""
    if path.suffix == ".ply":
        columns = [PLACES, COORDINATES, [" ".join(map(str, c)) for c in GIVEN]]
        names = "float x,float y,float z,float s,float t,uchar red,uchar green,uchar blue"
        lines = ["ply", "format ascii 1.0", "element vertex 3"]
        lines += [f"property {name}" for name in names.split(",")]
        lines += ["element face 1", "property list uchar int vertex_indices", "end_header"]
        lines += [" ".join(row) for row in zip(*columns, strict=True)] + ["3 0 1 2"]
    else:
        tints = [" ".join(map(str, c / 255)) if colors else "" for c in GIVEN]
        lines = [f"v {v} {c}" for v, c in zip(PLACES, tints, strict=True)]
        lines += [f"vt {t}" for t in COORDINATES] if uv else []
        if mtl is not None:
            path.with_name("a.mtl").write_text(f"newmtl a\n{mtl}\n")
            lines = ["mtllib a.mtl", *lines, "usemtl a"]
        lines.append("f 1/1 2/2 3/3" if uv else "f 1 2 3")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".ply", {}),
        (".obj", {}),
        (".obj", {"uv": False}),
        (".obj", {"mtl": "Ks 0 0 0"}),
        (".obj", {"mtl": "Ks 0 0 0", "uv": False}),
    ],
)
def test_colours_of_vertices_beside_coordinates_and_materials_are_a_displays(
    suffix, options, tmp_path
):
    mesh = read_mesh(_triangle(tmp_path / f"a{suffix}", **options))
    assert np.allclose(mesh["colors"], np.c_[GIVEN / 255, np.ones(3)], atol=1e-6)
    assert mesh.get("uvs") is not None or not options.get("uv", True)
    (material,) = mesh["materials"]
    assert (material.albedo, material.base_color) == (None, (1.0, 1, 1, 1))
    assert material.vertex_colors == "display"


@pytest.mark.parametrize(("mtl", "tint"), [("Kd 0.6 0.2 1", (0.6, 0.2, 1)), ("Ks 0 0 0", (1,) * 3)])
def test_a_material_file_tints_by_its_kd_alone(mtl, tint, tmp_path):
    (material,) = read_mesh(_triangle(tmp_path / "a.obj", colors=False, mtl=mtl))["materials"]
    assert np.allclose(material.base_color, (*tint, 1), atol=1e-6)
    assert material.vertex_colors == "linear"


def test_a_kd_tints_white_vertices_as_it_tints_a_mesh_without_colours(tmp_path):
    """Kd is linear light, the vertices' colours of an OBJ are a display's."""
    assets = []
    for name, tint in (("plain", ""), ("white", " 1 1 1"), ("grey", " 0.6 0.6 0.6")):
        path = tmp_path / f"{name}.obj"
        corners = "".join(f"v {place}{tint}\n" for place in PLACES)
        path.write_text(f"mtllib a.mtl\n{corners}usemtl a\nf 1 2 3\n")
        (tmp_path / "a.mtl").write_text("newmtl a\nKd 0.2 0.4 0.8\n")
        assets.append(nc.load(path, progress=False))
    assert [a.material_table[0].vertex_colors for a in assets] == ["linear", "display", "display"]
    camera = nc.Camera.look_at((0.3, 0.3, 2), (0.3, 0.3, 0))
    plain, white, grey = (nc.Renderer(80, 60).render(nc.Scene(a), camera) for a in assets)
    seen = plain.coverage
    assert np.allclose(plain.albedo[seen][:, :3], (0.2, 0.4, 0.8), atol=0.002)
    assert np.allclose(white.albedo[seen], plain.albedo[seen], atol=0.004)  # bytes of two
    assert np.abs(white.picture().astype(int) - plain.picture()).max() <= 1
    expected = materials.display(np.array([0.2, 0.4, 0.8])) * 0.6
    assert np.allclose(grey.color[seen][:, :3], expected, atol=0.003)


def _glb(path, colors, *, painted):
    """One triangle with COLOR_0 of bytes, 16 bits or floats."""
    parts = [np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0]]), colors]
    data = b"".join(part.tobytes() for part in parts)
    component = {"uint8": 5121, "uint16": 5123, "float32": 5126}[colors.dtype.name]
    color = {"componentType": component, "normalized": component != 5126, "type": "VEC4"}
    place = {"componentType": 5126, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 0]}
    primitive = {"attributes": {"POSITION": 0, "COLOR_0": 1}}
    header = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": [{**a, "bufferView": i, "count": 3} for i, a in enumerate((place, color))],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": len(data) - 36},
        ],
        "buffers": [{"byteLength": len(data)}],
    }
    if painted:
        primitive["material"] = 0
        header["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [1, 1, 0, 1]}}]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    size = 28 + len(text) + len(data)
    head = struct.pack("<4sIIII", b"glTF", 2, size, len(text), 0x4E4F534A)
    path.write_bytes(head + text + struct.pack("<I4s", len(data), b"BIN\0") + data)
    return path


@pytest.mark.parametrize("suffix", [".glb", ".vrm"])
@pytest.mark.parametrize("painted", [False, True])
@pytest.mark.parametrize(("dtype", "most"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_colours_of_gltf_are_linear_light(dtype, most, painted, suffix, tmp_path):
    given = np.c_[GIVEN / 255, np.ones(3)]
    colors = np.round(given * most, 6).astype(dtype)
    mesh = read_mesh(_glb(tmp_path / f"a{suffix}", colors, painted=painted))
    assert np.allclose(mesh["colors"], given, atol=1e-5)
    (material,) = mesh["materials"]
    assert material.vertex_colors == "linear"
    assert material.base_color == ((1.0, 1, 0, 1) if painted else (1.0, 1, 1, 1))


def test_quads_are_triangulated(tmp_path):
    path = tmp_path / "cube.obj"
    corners = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    quads = [(1, 2, 4, 3), (5, 7, 8, 6), (1, 5, 6, 2), (3, 4, 8, 7), (1, 3, 7, 5), (2, 6, 8, 4)]
    path.write_text(
        "".join(f"v {x} {y} {z}\n" for x, y, z in corners)
        + "".join(f"f {' '.join(map(str, q))}\n" for q in quads)
    )
    assert nc.load(path).statistics()["source_triangles"] == 12


@pytest.mark.parametrize("name", ["KHR_draco_mesh_compression", "EXT_meshopt_compression"])
@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
def test_compressed_files_are_refused_by_name(name, suffix, tmp_path):
    header = json.dumps({"asset": {"version": "2.0"}, "extensionsUsed": [name],
                         "extensionsRequired": [name]}).encode()  # fmt: skip
    header += b" " * (-len(header) % 4)
    path = tmp_path / f"a{suffix}"
    if suffix == ".glb":
        header = (
            struct.pack("<4sIIII", b"glTF", 2, 20 + len(header), len(header), 0x4E4F534A) + header
        )
    path.write_bytes(header)
    with pytest.raises(ValueError, match=f"compressed with {name}, which is not read; decompress"):
        nc.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"glTF", b"glTF" + b"\xff" * 40, b"{", b"solid\n", b"ply\n"]
)
@pytest.mark.parametrize("suffix", [".glb", ".gltf", ".obj", ".ply", ".stl", ".xyz"])
def test_files_that_are_no_mesh_say_so(content, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"load: .* (cannot be read as a mesh|has no triangles)"):
        nc.load(path)
