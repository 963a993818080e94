"""Mesh files (glTF, GLB, OBJ, PLY, STL) through trimesh, an optional extra."""

from pathlib import Path
from typing import Any

import numpy as np

from nanite_cull.asset import Asset, build


def read_mesh(path: str | Path) -> dict[str, Any]:
    """The triangles of a file as arguments for `build`: vertices, faces and what attributes all
    parts have.

    Raises FileNotFoundError, ValueError for a file without triangles or that cannot be read,
    ImportError when trimesh is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load: {path} does not exist")
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            "load: reading mesh files needs trimesh: pip install 'nanite-cull[io]'"
        ) from error
    try:
        loaded = trimesh.load(path, process=False)
    except Exception as error:
        raise ValueError(f"load: {path} cannot be read as a mesh: {error}") from error
    parts = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
    parts = [p for p in np.atleast_1d(parts) if isinstance(p, trimesh.Trimesh) and len(p.faces)]
    if not parts:
        raise ValueError(f"load: {path} has no triangles")

    offsets = np.cumsum([0] + [len(p.vertices) for p in parts])
    mesh: dict[str, Any] = {
        "vertices": np.concatenate([p.vertices for p in parts]).astype(np.float32),
        "faces": np.concatenate([p.faces + o for p, o in zip(parts, offsets, strict=False)]),
    }
    if all("vertex_normals" in p._cache for p in parts):
        mesh["normals"] = np.concatenate([p.vertex_normals for p in parts]).astype(np.float32)
    uvs = [getattr(p.visual, "uv", None) for p in parts]
    if all(uv is not None and len(uv) == len(p.vertices) for uv, p in zip(uvs, parts, strict=True)):
        mesh["uvs"] = np.concatenate(uvs).astype(np.float32)
    if all(p.visual.kind == "vertex" for p in parts):
        mesh["colors"] = np.concatenate([p.visual.vertex_colors for p in parts]) / np.float32(255)
    if len(parts) > 1:
        mesh["material_ids"] = np.repeat(np.arange(len(parts)), [len(p.faces) for p in parts])
    return mesh


def load(path: str | Path, **options: Any) -> Asset:
    """Reads an .ncl file, or a mesh file (glTF, GLB, OBJ, PLY, STL) and builds it.

    `options` go to `build`; for an .ncl file only `threads` has a meaning.
    """
    if Path(path).suffix == ".ncl":
        from nanite_cull import ncl

        return ncl.read(path, threads=options.get("threads", 0))
    return build(**read_mesh(path), **options)
