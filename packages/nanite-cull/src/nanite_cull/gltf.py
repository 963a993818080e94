"""What trimesh does not keep of a glTF file: samplers, texture transforms, lights."""

import graphlib
import json
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from nanite_cull._files import existing, reading
from nanite_cull.lights import Lamp, Sun

LIGHTS = "KHR_lights_punctual"
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear red, green, blue

WRAP = {10497: "repeat", 33648: "mirror", 33071: "clamp"}
# between texels, between levels
MINIFY = {
    9728: ("nearest", "off"), 9729: ("linear", "off"), 9984: ("nearest", "nearest"),
    9985: ("linear", "nearest"), 9986: ("nearest", "linear"), 9987: ("linear", "linear"),
}  # fmt: skip
DRAWN_MODES = (0, 1, 4, 5)  # of primitives: those that trimesh reads


class _NoNumber(ValueError):
    """NaN or an infinity where a number belongs."""


def read_header(path: Path) -> dict[str, Any]:
    """The JSON of a glTF or GLB file; empty for what is none. Raises ValueError for numbers that
    JSON has not, which Python and trimesh would read."""

    def refuse(word: str) -> None:
        raise _NoNumber(f"load: {path} cannot be read: {word} is no number of JSON")

    try:
        with path.open("rb") as file:
            head = file.read(20)
            if head[:4] == b"glTF":
                (length,) = struct.unpack("<I", head[12:16])
                length = min(length, path.stat().st_size)  # no memory for what is not there
                header = json.loads(file.read(length), parse_constant=refuse)
            elif path.suffix.lower() == ".gltf":
                header = json.loads(head + file.read(), parse_constant=refuse)
            else:
                return {}
    except _NoNumber:
        raise
    except (ValueError, struct.error, RecursionError):
        return {}  # trimesh says what is wrong
    return header if isinstance(header, dict) else {}


def _transform(extension: dict[str, Any]) -> np.ndarray:
    """(2, 3) of KHR_texture_transform: scaled, then turned, then moved."""
    (x, y), turn = extension.get("offset", (0, 0)), float(extension.get("rotation", 0))
    sx, sy = extension.get("scale", (1, 1))
    cos, sin = np.cos(turn), np.sin(turn)
    return np.array([[cos * sx, sin * sy, x], [-sin * sx, cos * sy, y]], float)


def albedo_texture(material: dict[str, Any]) -> dict[str, Any] | None:
    """The textureInfo of a material's albedo; None where it has none."""
    gloss = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {})
    info = gloss.get("diffuseTexture")  # which trimesh takes where both are there
    return info or material.get("pbrMetallicRoughness", {}).get("baseColorTexture")


def _sampling(header: dict[str, Any], material: dict[str, Any]) -> dict[str, Any]:
    """How a material's albedo texture is read, as fields of a Material."""
    info = albedo_texture(material)
    if info is None:
        return {}
    texture = header["textures"][info["index"]]
    sampler = header["samplers"][texture["sampler"]] if "sampler" in texture else {}
    minify, mip = MINIFY[sampler.get("minFilter", 9987)]
    out: dict[str, Any] = {
        "wrap": (WRAP[sampler.get("wrapS", 10497)], WRAP[sampler.get("wrapT", 10497)]),
        "magnify": MINIFY[sampler.get("magFilter", 9729)][0],
        "minify": minify,
        "mip": mip,
    }
    extension = info.get("extensions", {}).get("KHR_texture_transform", {})
    if extension:
        out["uv_transform"] = _transform(extension)
    return out


def samplings(header: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How the albedo texture of each of trimesh's geometries is read, as fields of a Material.

    Raises ValueError for a header that names what is not there.
    """
    from trimesh.util import unique_name

    out: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    materials = header.get("materials", [])
    try:
        for mesh in header.get("meshes", []):
            for primitive in mesh["primitives"]:
                name = unique_name(mesh.get("name", "GLTF"), out, counts=counts)
                if primitive.get("mode", 4) in DRAWN_MODES:
                    used = primitive.get("material")
                    out[name] = {} if used is None else _sampling(header, materials[used])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"load: the glTF's materials are damaged: {error!r}") from error
    return out


def _local(node: dict[str, Any]) -> np.ndarray:
    """(4, 4) of a node, to its parent."""
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, :3] *= node.get("scale", (1, 1, 1))
    out[:3, 3] = node.get("translation", (0, 0, 0))
    return out


def require_trees(header: dict[str, Any]) -> None:
    """Raises ValueError for nodes that are in a circle, or below two others."""
    children = {i: node.get("children", ()) for i, node in enumerate(header.get("nodes", ()))}
    try:
        graphlib.TopologicalSorter(children).prepare()
    except graphlib.CycleError as error:
        circle = " > ".join(map(str, error.args[1][::-1]))  # parents first
        raise ValueError(
            f"its nodes are in a circle ({circle}), and must be trees; take a child out there"
        ) from None
    parent_of: dict[int, int] = {}
    for parent, below in children.items():
        for child in below:
            if parent_of.setdefault(child, parent) != parent or below.count(child) > 1:
                raise ValueError(
                    f"its node {child} is a child of {parent_of[child]} and of {parent}, and must "
                    "have one parent; make a second node with the same mesh"
                )


def load_lights(path: str | Path, *, scale: float = 1.0) -> tuple[Sun | Lamp, ...]:
    """The lights of a glTF or GLB file (KHR_lights_punctual), for `Renderer(lights=...)`.

    Directional ones become suns, point ones lamps that fade by the inverse square. Strengths are
    `scale` times the luminance that intensity and colour give: files count in lux and candela, a
    picture is fully lit at one. Spot lights are left out with a warning (RuntimeWarning). Raises
    FileNotFoundError, IsADirectoryError, TypeError for what is no path, ValueError for a damaged
    header.
    """
    path = existing(path, "load_lights")
    header = read_header(path)
    out: list[Sun | Lamp] = []

    def add(light: dict[str, Any], to_world: np.ndarray) -> None:
        color = np.array(light.get("color", (1, 1, 1)), float)
        strength = scale * float(light.get("intensity", 1)) * float(color @ LUMINANCE)
        if light["type"] == "directional":
            out.append(Sun(tuple(to_world[:3, 2].tolist()), strength))
        elif light["type"] == "point":
            place, reach = tuple(to_world[:3, 3].tolist()), light.get("range")
            out.append(Lamp(place, strength, fade=1.0, range=reach))
        else:
            warnings.warn(
                f"load_lights: {light.get('name', 'a light')!r} is of type {light['type']}, which "
                "is left out",
                RuntimeWarning,
                stacklevel=4,
            )

    with reading(path, "load_lights", Exception):
        nodes = header.get("nodes", [])
        lights = header.get("extensions", {}).get(LIGHTS, {}).get("lights", [])
        scenes = header.get("scenes", [])
        roots = scenes[header.get("scene", 0)].get("nodes", []) if scenes else []
        require_trees(header)
        waiting = [(root, np.eye(4)) for root in roots]
        while waiting:
            number, above = waiting.pop()
            node, to_world = nodes[number], above @ _local(nodes[number])
            used = node.get("extensions", {}).get(LIGHTS)
            if used is not None:
                add(lights[used["light"]], to_world)
            waiting += [(child, to_world) for child in node.get("children", [])]
    return tuple(out)
