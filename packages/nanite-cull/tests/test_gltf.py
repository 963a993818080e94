"""glTF files as the specification allows them: every way to store an array or a picture."""

import io
import json
import struct
import zlib

import numpy as np
import pytest

import nanite_cull as nc

pytestmark = pytest.mark.native
pytest.importorskip("trimesh")

CORNERS = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
UVS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)  # v downwards
INDICES = np.array([0, 1, 2, 0, 2, 3], np.uint16)
CODES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
PAINT = np.repeat(np.repeat(np.eye(4, dtype=np.uint8)[:, :3].reshape(2, 2, 3) * 255, 8, 0), 8, 1)


class Glb:
    """A GLB file with one square."""

    def __init__(self):
        self.data = b""
        self.header = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}], "bufferViews": [], "accessors": [],
        }  # fmt: skip
        self.square = {
            "attributes": {"POSITION": self.array(CORNERS), "TEXCOORD_0": self.array(UVS)},
            "indices": self.array(INDICES),
        }
        self.header["meshes"] = [{"primitives": [self.square]}]

    def view(self, data, **fields):
        self.data += b"\0" * (-len(self.data) % 4)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data), **fields}
        self.header["bufferViews"].append(view)
        self.data += data
        return len(self.header["bufferViews"]) - 1

    def array(self, values, **fields):
        width = values.shape[1] if values.ndim > 1 else 1
        # rows begin at multiples of four bytes, as the specification asks
        rows = np.zeros((len(values), -(-values.dtype.itemsize * width // 4) * 4), np.uint8)
        raw = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
        strided = width > 1
        rows[:, : raw.shape[1]] = raw
        stride = {"byteStride": rows.shape[1]} if strided else {}
        self.header["accessors"].append({
            "bufferView": self.view((rows if strided else raw).tobytes(), **stride),
            "componentType": CODES[values.dtype.str[1:]], "count": len(values),
            "type": ["", "SCALAR", "VEC2", "VEC3", "VEC4"][width], **fields,
        })  # fmt: skip
        return len(self.header["accessors"]) - 1

    def texture(self, picture=PAINT, **info):
        """Gives the square a material with a picture: an array, or the bytes of a file."""
        from PIL import Image

        if not isinstance(picture, bytes):
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            picture = file.getvalue()
        self.header["images"] = [{"bufferView": self.view(picture), "mimeType": "image/png"}]
        self.header["textures"] = [{"source": 0}]
        self.header["materials"] = [
            {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, **info}}}
        ]
        self.square["material"] = 0
        return self

    def load(self, path):
        return nc.load(self.save(path), progress=False)

    def save(self, path):
        self.header["buffers"] = [{"byteLength": len(self.data)}]
        text = json.dumps(self.header).encode()
        text += b" " * (-len(text) % 4)
        data = self.data + b"\0" * (-len(self.data) % 4)
        size = 28 + len(text) + len(data)
        head = struct.pack("<4sIII4s", b"glTF", 2, size, len(text), b"JSON")
        path = path / "a.glb"
        path.write_bytes(head + text + struct.pack("<I4s", len(data), b"BIN\0") + data)
        return path


def _seen(asset):
    """The linear colours in the four quarters of the square: (4, 4)."""
    camera = nc.Camera.look_at((0, 0, 2.2), (0, 0, 0), fov_y=50)
    albedo = nc.Renderer(64, 64).render(nc.Scene(asset), camera).albedo
    return albedo[[14, 14, 49, 49], [14, 49, 14, 49]]


PAINTED = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]], np.float32)


def _sorted_uvs(asset):
    return asset.uvs[np.lexsort(asset.positions.T)]


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_texture_coordinates_may_be_normalised_integers(kind, tmp_path):
    glb = Glb().texture()
    most = np.iinfo(kind).max
    glb.square["attributes"]["TEXCOORD_0"] = glb.array((UVS * most).astype(kind), normalized=True)
    assert np.allclose(_seen(glb.load(tmp_path)), PAINTED)


@pytest.mark.parametrize("kind", ["i1", "i2"])
def test_positions_may_be_normalised_integers(kind, tmp_path):
    glb = Glb()
    most = np.iinfo(kind).max
    quantised = glb.array((CORNERS * most).astype(kind), normalized=True)
    glb.square["attributes"]["POSITION"] = quantised
    glb.header["extensionsRequired"] = ["KHR_mesh_quantization"]
    assert np.allclose(glb.load(tmp_path).box, [[-1, -1, 0], [1, 1, 0]])


@pytest.mark.parametrize("with_material", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
def test_colours_may_be_bytes_words_or_floats(kind, with_material, tmp_path):
    colors = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 0.2]])
    most = 1 if kind == "f4" else np.iinfo(kind).max
    glb = Glb()
    stored = glb.array(np.round(colors * most, 1).astype(kind), normalized=kind != "f4")
    glb.square["attributes"]["COLOR_0"] = stored
    if with_material:
        glb.header["materials"], glb.square["material"] = [{}], 0
    asset = glb.load(tmp_path)
    order = np.lexsort(asset.positions.T)
    assert np.allclose(asset.colors[order], colors[np.lexsort(CORNERS.T)], atol=1 / 255)


@pytest.mark.parametrize("with_base", [False, True])
def test_sparse_values_take_their_places(with_base, tmp_path):
    glb = Glb()
    accessor = glb.header["accessors"][glb.square["attributes"]["POSITION"]]
    moved = np.array([[3, 1, 0], [-1, 3, 2]], np.float32)
    accessor["sparse"] = {
        "count": 2,
        "indices": {"bufferView": glb.view(b"\2\3"), "componentType": 5121},
        "values": {"bufferView": glb.view(moved.tobytes())},
    }
    if not with_base:
        del accessor["bufferView"]
    expected = CORNERS * with_base
    expected[[2, 3]] = moved
    assert np.array_equal(glb.load(tmp_path).box, [expected.min(0), expected.max(0)])


def test_what_lies_outside_a_file_is_an_error(tmp_path):
    for change in ({"count": 9}, {"byteOffset": 4000}, {"bufferView": 99}, {"type": "VEC9"}):
        glb = Glb().texture()
        glb.square["attributes"]["TEXCOORD_0"] = glb.array(
            (UVS * 255).astype("u1"), normalized=True
        )
        glb.header["accessors"][-1].update(change)
        with pytest.raises(ValueError, match="cannot be read as a mesh"):
            glb.load(tmp_path)


@pytest.mark.parametrize("by_transform", [False, True])
def test_a_texture_takes_the_coordinates_it_names(by_transform, tmp_path):
    info = {"texCoord": 1}
    if by_transform:
        info = {"texCoord": 2, "extensions": {"KHR_texture_transform": {"texCoord": 1}}}
    glb = Glb().texture(**info)
    attributes = glb.square["attributes"]
    attributes["TEXCOORD_1"] = attributes["TEXCOORD_0"]
    attributes["TEXCOORD_0"] = glb.array(UVS * 0)
    assert np.allclose(_seen(glb.load(tmp_path)), PAINTED)
    del attributes["TEXCOORD_1"]
    with pytest.warns(RuntimeWarning, match="has no texture coordinates"):
        glb.load(tmp_path)


@pytest.mark.parametrize("indexed", [False, True])
def test_fans_are_triangles(indexed, tmp_path):
    glb = Glb()
    glb.square.update(mode=6, indices=glb.array(np.array([3, 0, 1, 2], np.uint8)))
    if not indexed:
        del glb.square["indices"]
    asset = glb.load(tmp_path)
    assert asset.statistics()["source_triangles"] == 2
    camera = nc.Camera.look_at((0, 0, 2.2), (0, 0, 0), fov_y=50)
    frame = nc.Renderer(32, 32, cull_back=True).render(nc.Scene(asset), camera)
    assert frame.coverage[4:28, 4:28].all()


# -- nodes and extensions

INSTANCES = "EXT_mesh_gpu_instancing"


def _instanced(**attributes):
    """A square at 10 along x, once for each row of the attributes, and once more below its node."""
    glb = Glb()
    extension = {"attributes": {name: glb.array(*value) for name, value in attributes.items()}}
    glb.header["nodes"] = [
        {
            "mesh": 0,
            "translation": [10, 0, 0],
            "children": [1],
            "extensions": {INSTANCES: extension},
        },
        {"mesh": 0, "translation": [0, 5, 0]},
    ]
    glb.header.update(extensionsUsed=[INSTANCES], extensionsRequired=[INSTANCES])
    return glb


def _arrays(words):
    """Places, a quarter turn about z and sizes of three instances; words: turns as integers."""
    turns = np.array([[0, 0, 0, 1], [0, 0, np.sqrt(0.5), np.sqrt(0.5)], [0, 0, 0, 1]], np.float32)
    return {
        "TRANSLATION": np.array([[0, 0, 0], [0, 0, 4], [1, 2, 3]], np.float32),
        "ROTATION": np.round(turns * 32767).astype(np.int16) if words else turns,
        "SCALE": np.array([[1, 1, 1], [2, 3, 1], [0.5, 0.5, 0.5]], np.float32),
    }


@pytest.mark.parametrize("words", [False, True])
def test_instances_of_a_node_are_instances(words, tmp_path):
    glb = _instanced()
    extension = glb.header["nodes"][0]["extensions"][INSTANCES]
    for name, values in _arrays(words).items():
        normalised = {"normalized": True} if values.dtype == np.int16 else {}
        extension["attributes"][name] = glb.array(values, **normalised)
    path = glb.save(tmp_path)
    scene = nc.load_scene(path, progress=False)
    assert len(scene.assets) == 1
    expected = np.array([
        [[1, 0, 0, 10], [0, 1, 0, 0], [0, 0, 1, 0]],
        [[1, 0, 0, 10], [0, 1, 0, 5], [0, 0, 1, 0]],  # the child, which is no instance
        [[0, -3, 0, 10], [2, 0, 0, 0], [0, 0, 1, 4]],
        [[0.5, 0, 0, 11], [0, 0.5, 0, 2], [0, 0, 0.5, 3]],
    ])  # fmt: skip
    found = np.array(sorted(scene.transforms.tolist(), key=lambda t: [row[3] for row in t]))
    assert np.allclose(found, expected[[0, 2, 1, 3]], atol=1e-4)
    whole = nc.load(path, progress=False)
    assert whole.statistics()["source_triangles"] == 8
    assert np.allclose(whole.box, [[7, -2, 0], [13, 6, 4]], atol=1e-3)


def test_instances_may_have_some_of_their_attributes_or_others(tmp_path):
    places = _arrays(False)["TRANSLATION"]
    scene = nc.load_scene(_instanced(TRANSLATION=(places,)).save(tmp_path), progress=False)
    assert len(scene) == 4
    numbers = np.arange(5, dtype=np.float32)
    scene = nc.load_scene(_instanced(_ID=(numbers,)).save(tmp_path), progress=False)
    assert scene.transforms[:, 1, 3].tolist().count(0) == 5


@pytest.mark.parametrize("rows", [0, 2])
def test_instances_without_one_count_are_refused(rows, tmp_path):
    arrays = _arrays(False)
    both = {"TRANSLATION": (arrays["TRANSLATION"],), "SCALE": (arrays["SCALE"][:2],)}
    glb = _instanced(**both) if rows else _instanced()
    with pytest.raises(ValueError, match=r"a\.glb cannot .* node 0: all attributes must have one"):
        glb.load(tmp_path)


def test_an_extension_that_is_required_and_not_read_is_refused_by_name(tmp_path):
    glb = Glb()
    glb.header["extensionsRequired"] = ["KHR_mesh_quantization", "ACME_shape", "ACME_place"]
    text = r"a\.glb requires ACME_place, ACME_shape, which is not read; .* KHR_texture_transform"
    with pytest.raises(ValueError, match=text):
        glb.load(tmp_path)


def test_a_look_that_is_required_and_not_drawn_is_warned_of(tmp_path):
    glb = Glb()
    glb.header["extensionsRequired"] = ["KHR_materials_unlit", "KHR_materials_variants"]
    with pytest.warns(RuntimeWarning, match=r"a\.glb has KHR_materials_unlit at its"):
        assert len(glb.load(tmp_path).material_table) == 1


def test_an_extension_of_nodes_or_meshes_that_is_not_read_is_warned_of(tmp_path):
    for part in ("nodes", "meshes", "primitives"):
        glb = Glb()
        glb.header["extensionsUsed"] = ["ACME_shape", "ACME_sound"]
        at = glb.square if part == "primitives" else glb.header[part][0]
        at["extensions"] = {"ACME_shape": {}, "EXT_mesh_features": {}}
        with pytest.warns(RuntimeWarning, match=r"a\.glb has ACME_shape at its nodes, meshes"):
            glb.load(tmp_path)


@pytest.mark.parametrize("version", ["1.0", "3.1"])
def test_another_version_is_named(version, tmp_path):
    glb = Glb()
    glb.header["asset"]["version"] = version
    with pytest.raises(ValueError, match=rf"a\.glb is glTF {version}, and 2\.0 is read; convert"):
        glb.load(tmp_path)


@pytest.mark.parametrize("read", [nc.load, nc.load_scene, nc.load_lights])
def test_a_node_below_two_others_is_an_error(read, tmp_path):
    glb = Glb()
    glb.header["nodes"] = [{"children": [2]}, {"children": [2]}, {"mesh": 0}]
    with pytest.raises(ValueError, match="its node 2 is a child of 0 and of 1, and must have one"):
        read(glb.save(tmp_path))


@pytest.mark.parametrize("read", [nc.load, nc.load_scene, nc.load_lights])
def test_nodes_in_a_circle_are_an_error_that_names_the_file(read, tmp_path):
    glb = Glb()
    glb.header["nodes"] = [{"children": [1]}, {"children": [2], "mesh": 0}, {"children": [1]}]
    path = glb.save(tmp_path)
    with pytest.raises(ValueError, match=r"a\.glb .*in a circle \((1 > 2 > 1|2 > 1 > 2)\)"):
        read(path)


# -- pictures


def test_sixteen_bits_of_grey_keep_their_tones(tmp_path):
    grey = np.repeat(np.repeat(np.array([[0, 20000], [40000, 65535]], np.uint16), 8, 0), 8, 1)
    loaded = Glb().texture(grey).load(tmp_path).material_table[0].albedo
    assert np.array_equal(loaded[::8, ::8, 0].ravel(), [0, 78, 156, 255])
    assert (loaded[..., 3] == 255).all()


def test_a_damaged_picture_is_said_and_left_out(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    from PIL import Image

    Image.fromarray(noise).save(file, "PNG")
    for broken in (file.getvalue()[:3000], b"no picture", zlib.compress(b"nor this")):
        with pytest.warns(RuntimeWarning, match="cannot be read"):
            asset = Glb().texture(broken).load(tmp_path)
        assert asset.material_table[0].albedo is None


def test_names_of_pictures_are_percent_encoded(tmp_path):
    from PIL import Image

    for name, uri in (("a pic é.png", "a%20pic%20%C3%A9.png"), ("b%20.png", "b%20.png")):
        glb = Glb().texture()
        Image.fromarray(PAINT).save(tmp_path / name)
        glb.header["images"] = [{"uri": uri}]
        assert np.allclose(_seen(glb.load(tmp_path)), PAINTED)


def test_alpha_of_an_opaque_material_changes_no_colour(tmp_path):
    paint = np.full((16, 16, 4), 255, np.uint8)
    paint[:8], paint[8:] = [255, 0, 0, 0], [0, 0, 255, 255]
    far = {"extensions": {"KHR_texture_transform": {"scale": [512, 512]}}}
    glb = Glb().texture(paint, **far)
    assert np.allclose(_seen(glb.load(tmp_path)), [0.5, 0, 0.5, 1], atol=5e-3)
    glb.header["materials"][0].update(alphaMode="MASK", alphaCutoff=0.2)
    assert np.allclose(_seen(glb.load(tmp_path)), [0, 0, 1, 0.5], atol=5e-3)


def test_a_texture_of_an_obj_is_not_tinted_where_nothing_says_so(tmp_path):
    from PIL import Image

    Image.fromarray(PAINT).save(tmp_path / "t.png")
    (tmp_path / "a.obj").write_text(
        "mtllib a.mtl\nv -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
        "usemtl a\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
    )
    for lines, tint in (("", 1), ("Kd 0.4 0.4 0.4\n", 0.4)):
        (tmp_path / "a.mtl").write_text(f"newmtl a\n{lines}map_Kd t.png\n")
        seen = _seen(nc.load(tmp_path / "a.obj", progress=False))
        assert np.allclose(seen, PAINTED * [tint, tint, tint, 1], atol=1e-6)
