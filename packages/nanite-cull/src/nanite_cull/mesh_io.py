"""Mesh files (glTF, GLB, OBJ, PLY, STL) through trimesh, an optional extra."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nanite_cull._files import existing, reading
from nanite_cull.asset import Asset, build
from nanite_cull.gltf import read_header, samplings
from nanite_cull.gltf_extensions import require_read
from nanite_cull.materials import Material, display, warn_of_blending

HEADER = "nanite_cull_gltf"  # of a loaded scene's metadata


@dataclass
class _Part:
    """One mesh of a file, as arrays; corners of faces with their own colour are apart."""

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None
    uvs: np.ndarray | None
    colors: np.ndarray | None  # (N, 4) float32
    material: Material


def _open(path: Path) -> Any:
    """The file as a trimesh.Scene."""
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            "load: reading mesh files needs trimesh: pip install 'nanite-cull[io]'"
        ) from error
    header = read_header(path)
    require_read(header, path)
    try:
        if header:
            from nanite_cull.gltf_plain import load_scene

            loaded = load_scene(path, header)
        else:
            loaded = trimesh.load(path, process=False)
    except Exception as error:
        raise ValueError(f"load: {path} cannot be read as a mesh: {error}") from error
    if isinstance(loaded, trimesh.Trimesh):
        loaded = trimesh.Scene(loaded)
    if not isinstance(loaded, trimesh.Scene):
        raise ValueError(f"load: {path} has no triangles, it is a {type(loaded).__name__}")
    loaded.metadata[HEADER] = header
    return loaded


def _factor(value: Any, width: int) -> np.ndarray | None:
    """A colour of a material as floats; trimesh keeps bytes or floats."""
    if value is None:
        return None
    value = np.asarray(value)
    scale = 255 if value.dtype.kind in "iu" else 1
    out = np.ones(width, np.float32)
    out[: min(width, value.size)] = value.ravel()[:width] / np.float32(scale)
    return out


def _image(value: Any, seen: dict[int, np.ndarray | None]) -> np.ndarray | None:
    """Pixels of a PIL image, None where it is damaged; materials that share one share the array."""
    if value is None:
        return None
    if id(value) not in seen:
        try:
            if value.mode.startswith("I"):  # 16 bits of grey, which PIL would cut off at 255
                grey = np.asarray(value).astype(np.float64) / 257
                rgba = np.full((*grey.shape, 4), 255, np.uint8)
                rgba[..., :3] = np.rint(grey)[..., None]
            else:
                rgba = np.asarray(value.convert("RGBA"))
            seen[id(value)] = rgba
        except (OSError, ValueError, SyntaxError):  # cut short
            seen[id(value)] = None
    return seen[id(value)]


def _is_placeholder(image: Any, material: Any) -> bool:
    """Whether a picture is the grey one that trimesh makes up for coordinates without a material:
    no file's (those have a format), of a material that nothing is said of."""
    return (
        getattr(image, "format", "") is None
        and image.size == (2, 2)
        and not getattr(material, "kwargs", True)
    )


def _material(
    visual: Any,
    name: str,
    images: dict[int, np.ndarray | None],
    sampling: dict[str, Any],
    colors: str,
) -> Material:
    found = getattr(visual, "material", None)
    albedo = getattr(found, "baseColorTexture", None) or getattr(found, "image", None)
    if _is_placeholder(albedo, found):
        albedo = None
    base = _factor(getattr(found, "baseColorFactor", None), 4)
    # the grey that trimesh gives an .mtl without Kd, and what has none, is no tint
    tinted = "kd" in getattr(found, "kwargs", {})
    if base is None and not hasattr(found, "baseColorFactor") and tinted:
        base = _factor(getattr(found, "diffuse", None), 4)
    if base is not None and colors == "display":  # factors are linear light in every format
        base[:3] = display(base[:3])
    metallic, roughness = (getattr(found, n, None) for n in ("metallicFactor", "roughnessFactor"))
    cutoff = getattr(found, "alphaCutoff", None)
    return Material(
        name=str(getattr(found, "name", None) or name),
        base_color=(1.0, 1.0, 1.0, 1.0) if base is None else tuple(float(x) for x in base),
        metallic=1.0 if metallic is None else float(metallic),
        roughness=1.0 if roughness is None else float(roughness),
        albedo=_image(albedo, images),
        normal=_image(getattr(found, "normalTexture", None), images),
        alpha_mode=str(getattr(found, "alphaMode", None) or "opaque").lower(),
        alpha_cutoff=0.5 if cutoff is None else float(cutoff),
        double_sided=bool(getattr(found, "doubleSided", False)),
        vertex_colors=colors,
        **sampling,
    )


def _require_width(values: Any, what: str, *widths: int) -> None:
    """Raises ValueError for numbers of a vertex, where there are any, that are not so many."""
    if values is not None and (np.ndim(values) != 2 or np.shape(values)[1] not in widths):
        needed = " or ".join(map(str, widths))
        raise ValueError(f"{what} must be {needed} numbers a vertex, got {np.shape(values)}")


def _part(
    mesh: Any,
    name: str,
    images: dict[int, np.ndarray | None],
    sampling: dict[str, Any],
    is_gltf: bool,
) -> _Part:
    visual = mesh.visual
    vertices, faces = np.asarray(mesh.vertices, float), np.asarray(mesh.faces)
    normals = mesh.vertex_normals if "vertex_normals" in mesh._cache else None
    uvs = getattr(visual, "uv", None)
    if uvs is not None and len(uvs) != len(vertices):
        uvs = None
    _require_width(uvs, "texture coordinates", 2)
    colors = None
    if visual.kind == "vertex":
        colors = np.asarray(visual.vertex_colors)
    elif visual.kind == "face":  # every triangle has corners of its own
        colors = np.repeat(np.asarray(visual.face_colors), 3, 0)
        corners = faces.ravel()
        vertices, faces = vertices[corners], np.arange(len(corners)).reshape(-1, 3)
        normals = None if normals is None else normals[corners]
        uvs = None if uvs is None else uvs[corners]
    elif visual.kind == "texture":
        for attributes in (visual.vertex_attributes, mesh.vertex_attributes):  # of glTF; OBJ, PLY
            own = attributes.get("color")
            if own is not None and len(own) == len(vertices):
                colors = np.asarray(own)
    _require_width(colors, "colours", 3, 4)
    if colors is not None:
        colors = colors.astype(np.float32) / (255 if colors.dtype.kind in "iu" else 1)
        if colors.shape[1] == 3:
            colors = np.concatenate([colors, np.ones((len(colors), 1), np.float32)], 1)
    space = "linear" if is_gltf or colors is None else "display"
    material = _material(visual, name, images, sampling, space)
    found = getattr(visual, "material", None)
    image = getattr(found, "image", None)
    named = bool(sampling) or (image is not None and not _is_placeholder(image, found))
    missing = ""
    if material.albedo is None and named:
        missing = "cannot be read"
    elif material.albedo is not None and uvs is None:
        missing = "has no texture coordinates"
        material = replace(material, albedo=None)
    if missing:
        warnings.warn(
            f"load: the albedo texture of material {material.name!r} {missing}: it is drawn "
            "without",
            RuntimeWarning,
            stacklevel=4,
        )
    return _Part(vertices, faces, normals, uvs, colors, material)


def _parts(scene: Any, path: str | Path) -> dict[str, _Part]:
    import trimesh

    images: dict[int, np.ndarray | None] = {}
    header = scene.metadata.get(HEADER, {})
    sampling_of, is_gltf = samplings(header), bool(header)
    parts = {
        name: _part(mesh, name, images, sampling_of.get(name, {}), is_gltf)
        for name, mesh in scene.geometry.items()
        if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces)
    }
    if not parts:
        raise ValueError(f"load: {path} has no triangles")
    warn_of_blending([part.material for part in parts.values()])
    return parts


def _placed(scene: Any, parts: dict[str, _Part]) -> list[tuple[str, np.ndarray]]:
    """Geometry and transform of every node that draws something. Raises ValueError for a transform
    that is not affine."""
    placed = []
    for node in scene.graph.nodes_geometry:
        found, name = scene.graph[node]
        if name not in parts:
            continue
        transform = np.array(found, float)
        if not np.isfinite(transform).all() or not np.allclose(transform[3], (0, 0, 0, 1)):
            raise ValueError(
                f"the transform of node {node!r} must be finite and affine, its last row "
                f"(0, 0, 0, 1), got {transform.tolist()}"
            )
        transform[3] = (0, 0, 0, 1)
        placed.append((name, transform))
    return placed


def _arguments(parts: list[_Part]) -> dict[str, Any]:
    """Parts as one mesh, as arguments for `build`. Parts without colours are white beside others,
    those without texture coordinates have zeros beside textures; else coordinates, as normals,
    stay where all parts have them."""
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts])
    mesh: dict[str, Any] = {
        "vertices": np.concatenate([p.vertices for p in parts]),
        "faces": np.concatenate([p.faces + o for p, o in zip(parts, offsets, strict=False)]),
    }
    textured = any(p.material.albedo is not None for p in parts)
    for name in ("normals", "uvs"):
        values = [getattr(p, name) for p in parts]
        if name == "uvs" and textured:
            values = [np.zeros((len(p.vertices), 2)) if p.uvs is None else p.uvs for p in parts]
        if all(v is not None for v in values):
            mesh[name] = np.concatenate(values).astype(np.float32)
    if any(p.colors is not None for p in parts):
        mesh["colors"] = np.concatenate(
            [
                np.ones((len(p.vertices), 4), np.float32) if p.colors is None else p.colors
                for p in parts
            ]
        )
    mesh["materials"] = tuple(p.material for p in parts)
    if len(parts) > 1:
        mesh["material_ids"] = np.repeat(np.arange(len(parts)), [len(p.faces) for p in parts])
    return mesh


def _moved(part: _Part, transform: np.ndarray) -> _Part:
    linear = transform[:3, :3]
    faces = part.faces if np.linalg.det(linear) > 0 else part.faces[:, ::-1]
    normals = part.normals
    if normals is not None:
        normals = normals @ np.linalg.pinv(linear)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = normals / np.where(length > 0, length, 1)
    return _Part(part.vertices @ linear.T + transform[:3, 3], faces, normals, part.uvs, part.colors,
                 part.material)  # fmt: skip


def _read(path: Path) -> list[_Part]:
    with reading(path, "load", Exception):
        scene = _open(path)
        parts = _parts(scene, path)
        placed = _placed(scene, parts)
        if not placed:
            raise ValueError(f"load: no node of {path} draws a triangle")
        return [_moved(parts[name], transform) for name, transform in placed]


def read_mesh(path: str | Path) -> dict[str, Any]:
    """The triangles of a file, every node's, as arguments for `build`: vertices, faces and what
    attributes there are. The materials say what space colours are in: glTF's are linear, those of
    other files' vertices and faces a display's, as `build` takes them without materials.

    Raises FileNotFoundError, IsADirectoryError, TypeError for what is no path, ValueError for a
    file without triangles, that cannot be read or that requires a glTF extension which is not read,
    ImportError when trimesh is not installed.
    """
    return _arguments(_read(existing(path, "load")))


def load(path: str | Path, **options: Any) -> Asset:
    """Reads an .ncl file, or a mesh file (glTF, GLB, OBJ, PLY, STL) and builds it as one asset.

    Nodes that share a mesh become copies; `Scene.from_file` keeps them instances. `options` go to
    `build`, where triangles too small for the mesh grid are left out with a warning unless
    `vanishing` says otherwise; for an .ncl file only `threads` has a meaning. Raises what
    `read_mesh` and `build` do.
    """
    path = existing(path, "load")
    if path.suffix.lower() == ".ncl":
        from nanite_cull import ncl

        return ncl.read(path, threads=options.get("threads", 0))
    mesh = _arguments(_read(path))
    with reading(path, "load"):
        return build(**mesh, **{"vanishing": "warn", **options})


def load_instances(path: str | Path, **options: Any) -> list[tuple[Asset, np.ndarray]]:
    """Every mesh of a file as an asset, with the (N, 4, 4) transforms of the nodes that use it.

    Nodes with a singular transform draw nothing and are left out. Raises what `load` does.
    """
    path = existing(path, "load")
    if path.suffix.lower() == ".ncl":
        return [(load(path, **options), np.eye(4)[None])]
    placed: dict[str, list[np.ndarray]] = {}
    with reading(path, "load", Exception):
        source = _open(path)
        parts = _parts(source, path)
        for name, transform in _placed(source, parts):
            if abs(np.linalg.det(transform[:3, :3])) > 1e-12 * np.abs(transform[:3, :3]).max() ** 3:
                placed.setdefault(name, []).append(transform)
    if not placed:
        raise ValueError(f"load: no node of {path} draws a triangle")
    out = []
    with reading(path, "load"):
        for name, transforms in placed.items():
            asset = build(**_arguments([parts[name]]), **{"vanishing": "warn", **options})
            out.append((asset, np.stack(transforms)))
    return out
