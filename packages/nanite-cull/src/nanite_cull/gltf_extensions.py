"""Which extensions of glTF are read, and what is said of the others."""

import itertools
import warnings
from pathlib import Path
from typing import Any

INSTANCES = "EXT_mesh_gpu_instancing"
READ = (
    INSTANCES,
    "EXT_texture_webp",
    "KHR_lights_punctual",  # by load_lights
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_mesh_quantization",
    "KHR_texture_transform",
)
# of nodes, meshes and primitives, which change nothing of the triangles
BESIDE = (
    "EXT_instance_features", "EXT_mesh_features", "EXT_structural_metadata",
    "KHR_materials_variants", "KHR_xmp_json_ld",
)  # fmt: skip
LOOK = (
    "KHR_materials_"  # of how a surface looks (unlit, sheen, ...): its triangles and colours stay
)
# whose geometry trimesh cannot decode: it would read nothing, or noise
COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")
TOOL = "decompress the file first (gltf-transform copy, or gltfpack -noq without -c)"


def _of_geometry(header: dict[str, Any]) -> set[str]:
    """The extensions that nodes, meshes and primitives have."""
    meshes = header.get("meshes", [])
    primitives = itertools.chain.from_iterable(mesh.get("primitives", []) for mesh in meshes)
    found: set[str] = set()
    for part in itertools.chain(header.get("nodes", []), meshes, primitives):
        found.update(part.get("extensions", {}))
    return found


def require_read(header: dict[str, Any], path: Path) -> None:
    """Raises ValueError for a glTF file of another version than 2, or that needs an extension which
    is not read; warns (RuntimeWarning) of one that is not read of its nodes, meshes and primitives,
    and of a look that the file requires and that is not drawn."""
    try:
        version = str(header.get("asset", {}).get("version", "2.0"))
        required, used = (set(header.get(f"extensions{n}", ())) for n in ("Required", "Used"))
        of_geometry = _of_geometry(header)
    except (AttributeError, TypeError):
        return  # damaged: who reads the rest says where
    if version.split(".")[0] != "2":
        raise ValueError(
            f"load: {path} is glTF {version}, and 2.0 is read; convert it (gltf-pipeline, Blender)"
        )
    for name in COMPRESSED:
        if name in used | required:
            raise ValueError(f"load: {path} is compressed with {name}, which is not read; {TOOL}")
    unread = required - {*READ, *BESIDE}
    looks = {name for name in unread if name.startswith(LOOK)}
    if needed := sorted(unread - looks):
        raise ValueError(
            f"load: {path} requires {', '.join(needed)}, which is not read; export it without, or "
            f"with those that are: {', '.join(READ)}"
        )
    if ignored := sorted((of_geometry - {*READ, *BESIDE}) | looks):
        warnings.warn(
            f"load: {path} has {', '.join(ignored)} at its nodes, meshes or materials, which is "
            "not read: what is drawn may lack it",
            RuntimeWarning,
            stacklevel=4,
        )
