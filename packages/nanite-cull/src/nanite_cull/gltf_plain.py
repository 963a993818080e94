"""glTF files made plain for trimesh, which reads accessors as they lie: sparse ones, normalised
integers, other sets of texture coordinates and fans become floats and lists of triangles, instances
(EXT_mesh_gpu_instancing) become nodes."""

import base64
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import trimesh

from nanite_cull.gltf import albedo_texture, require_trees
from nanite_cull.gltf_extensions import INSTANCES

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
CODES = {"<u4": 5125, "<f4": 5126}  # of what is added
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
READ = ("POSITION", "NORMAL", "TEXCOORD_0", "COLOR_0")  # by trimesh
TRIANGLES, FAN = 4, 6
MOST_ZEROS = 256  # of accessors without values, for each byte of the buffers
FEW_ZEROS = 1 << 16
BINARY = "binary chunk"  # the name of a GLB file's own buffer


class _Files(trimesh.resolvers.FilePathResolver):  # type: ignore[misc]
    """Files beside a glTF, by their percent-encoded names, and buffers in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.held: dict[str, bytes] = {}

    def get(self, name: str) -> bytes:
        if name in self.held:
            return self.held[name]
        try:
            return super().get(unquote(name))
        except (FileNotFoundError, ValueError):  # some write names as they are
            return super().get(name)


class _Accessors:
    """The arrays of a glTF header, read and added to."""

    def __init__(self, header: dict[str, Any], files: _Files, path: Path) -> None:
        self.header, self._files, self._path = header, files, path
        self._plain: dict[int, int] = {}
        self._buffers: dict[int, bytes] = {}

    def _buffer(self, number: int) -> bytes:
        if number not in self._buffers:
            uri = self.header["buffers"][number].get("uri")
            if uri is None:
                data = _binary_chunk(self._path)
            elif uri.startswith("data:"):
                data = base64.b64decode(uri.partition("base64,")[2])
            else:
                data = self._files.get(uri)
            self._buffers[number] = data
        return self._buffers[number]

    def _rows(self, where: dict[str, Any], code: int, count: int, width: int) -> np.ndarray:
        """(count, width) at an accessor's `bufferView` and `byteOffset`."""
        view, dtype = self.header["bufferViews"][where["bufferView"]], np.dtype(COMPONENTS[code])
        stride = view.get("byteStride", width * dtype.itemsize)
        start, first = view.get("byteOffset", 0), where.get("byteOffset", 0)
        data = self._buffer(view["buffer"])[start : start + view["byteLength"]]
        if len(data) != view["byteLength"]:
            raise ValueError(f"bufferView {where['bufferView']} reaches beyond its buffer")
        strides = (stride, dtype.itemsize)
        return np.ndarray((count, width), dtype, data, first, strides)

    def require_sizes(self) -> None:
        """Raises ValueError for accessors of more values than there are bytes for."""
        views, zeros = self.header.get("bufferViews", []), 0
        for number, accessor in enumerate(self.header.get("accessors", [])):
            count, view = accessor["count"], accessor.get("bufferView")
            most = None if view is None else views[view]["byteLength"]
            if type(count) is not int or count < 0 or (most is not None and count > most):
                raise ValueError(f"accessor {number}: count must fit its bytes, got {count!r}")
            zeros += count if view is None else 0
        if zeros > FEW_ZEROS:
            numbers = range(len(self.header.get("buffers", [])))
            most = MOST_ZEROS * sum(len(self._buffer(number)) for number in numbers)
            if zeros > most:
                raise ValueError(f"accessors without a bufferView have {zeros} values in all")

    def read(self, number: int) -> np.ndarray:
        """(count, width): sparse values in their places, normalised integers as float32."""
        accessor = self.header["accessors"][number]
        code, count, width = accessor["componentType"], accessor["count"], WIDTHS[accessor["type"]]
        if "bufferView" in accessor:
            out = self._rows(accessor, code, count, width)
        else:
            out = np.zeros((count, width), COMPONENTS[code])
        if (sparse := accessor.get("sparse")) is not None:
            at = sparse["indices"]
            places = self._rows(at, at["componentType"], sparse["count"], 1)[:, 0]
            out = out.copy()
            out[places] = self._rows(sparse["values"], code, sparse["count"], width)
        if accessor.get("normalized") and out.dtype.kind in "iu":
            return np.maximum(out / np.float32(np.iinfo(out.dtype).max), -1).astype(np.float32)
        return out

    def add(self, values: np.ndarray) -> int:
        """The number of a new accessor: floats, or whole numbers as indices."""
        dtype = "<f4" if values.dtype.kind == "f" else "<u4"
        name = f"array {len(self._files.held)}"
        self._files.held[name] = data = values.astype(dtype).tobytes()
        h, kinds = self.header, {width: kind for kind, width in WIDTHS.items()}
        h["buffers"] = [*h.get("buffers", []), {"uri": name, "byteLength": len(data)}]
        view = {"buffer": len(h["buffers"]) - 1, "byteLength": len(data)}
        h["bufferViews"] = [*h.get("bufferViews", []), view]
        h["accessors"].append({
            "bufferView": len(h["bufferViews"]) - 1, "componentType": CODES[dtype],
            "count": len(values), "type": kinds[values.shape[1]],
        })  # fmt: skip
        return len(h["accessors"]) - 1

    def plain(self, number: int, name: str) -> int:
        """An accessor with the values of another that trimesh reads as they are."""
        accessor = self.header["accessors"][number]
        code = accessor["componentType"]
        read_right = code in (5121, 5126) if name == "COLOR_0" else not accessor.get("normalized")
        if name == "TEXCOORD_0":  # trimesh turns them over as the integers they are
            read_right = code == 5126
        if "sparse" not in accessor and (read_right or code == 5126):
            return number
        if number not in self._plain:
            values = self.read(number)
            self._plain[number] = self.add(values if name == "indices" else values * np.float32(1))
        return self._plain[number]


def _texture_set(header: dict[str, Any], primitive: dict[str, Any]) -> int:
    """Which texture coordinates the albedo texture of a primitive takes."""
    if "material" not in primitive:
        return 0
    info = albedo_texture(header["materials"][primitive["material"]]) or {}
    transform = info.get("extensions", {}).get("KHR_texture_transform", {})
    return int(transform.get("texCoord", info.get("texCoord", 0)))


def _make_plain(primitive: dict[str, Any], accessors: _Accessors) -> None:
    attributes = primitive["attributes"]
    number = _texture_set(accessors.header, primitive)
    if number > 0:
        attributes.pop("TEXCOORD_0", None)
        if f"TEXCOORD_{number}" in attributes:
            attributes["TEXCOORD_0"] = attributes[f"TEXCOORD_{number}"]
    for name in READ:
        if name in attributes:
            attributes[name] = accessors.plain(attributes[name], name)
    if "indices" in primitive:
        primitive["indices"] = accessors.plain(primitive["indices"], "indices")
    if primitive.get("mode", TRIANGLES) == FAN:
        count = accessors.header["accessors"][attributes["POSITION"]]["count"]
        around = accessors.read(primitive["indices"])[:, 0] if "indices" in primitive else None
        around = np.arange(count) if around is None else around
        hub = np.full(max(len(around) - 2, 0), around[0])
        faces = np.stack([hub, around[1:-1], around[2:]], 1)
        primitive.update(mode=TRIANGLES, indices=accessors.add(faces.reshape(-1, 1)))


def _make_instances_plain(nodes: list[dict[str, Any]], accessors: _Accessors) -> None:
    """Gives each node with instances a child in the place of each; its mesh is drawn there alone.

    Raises ValueError where attributes differ in their number of instances, or there are none.
    """
    for number, node in enumerate(nodes[:]):
        extension = node.get("extensions", {}).get(INSTANCES)
        if extension is None or "mesh" not in node:
            continue
        attributes = extension["attributes"]
        counts = {name: accessors.header["accessors"][a]["count"] for name, a in attributes.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(
                f"{INSTANCES} of node {number}: all attributes must have one count, got {counts}"
            )
        placed = {
            name.lower(): accessors.read(attributes[name]).tolist()
            for name in ("TRANSLATION", "ROTATION", "SCALE")
            if name in attributes
        }
        mesh, first, count = node.pop("mesh"), len(nodes), max(counts.values())
        for i in range(count):
            nodes.append({"mesh": mesh, **{name: rows[i] for name, rows in placed.items()}})
        node["children"] = [*node.get("children", []), *range(first, first + count)]


def _binary_chunk(path: Path) -> bytes:
    """The buffer inside a GLB file."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4], "little")
            if head[4:] == b"BIN\0":
                return file.read(length)
            file.seek(length, 1)
    raise ValueError("a buffer has neither a uri nor a chunk")


def load_scene(path: Path, header: dict[str, Any]) -> Any:
    """What trimesh makes of a glTF or GLB file. `header`, its JSON, is made plain too."""
    require_trees(header)
    files = _Files(path)
    accessors = _Accessors(header, files, path)
    accessors.require_sizes()
    before = json.dumps(header.get("meshes")), len(header.get("nodes", []))
    for mesh in header.get("meshes", []):
        for primitive in mesh["primitives"]:
            _make_plain(primitive, accessors)
    _make_instances_plain(header.get("nodes", []), accessors)
    if (json.dumps(header.get("meshes")), len(header.get("nodes", []))) == before:
        binary = path.suffix.lower() != ".gltf"  # a GLB by any other name (.vrm) too
        return trimesh.load(
            path, file_type="glb" if binary else "gltf", process=False, resolver=files
        )
    for buffer in header["buffers"]:
        if "uri" not in buffer:
            buffer["uri"], files.held[BINARY] = BINARY, _binary_chunk(path)
    text = io.BytesIO(json.dumps(header).encode())
    return trimesh.load(text, file_type="gltf", process=False, resolver=files)
