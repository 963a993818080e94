"""Materials: what a surface looks like, as data, in the core and in files."""

import io
import json
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np

from nanite_cull import _C  # type: ignore[attr-defined]

WRAPS = ("repeat", "mirror", "clamp")
FILTERS = ("nearest", "linear")
MIP_FILTERS = ("off", "nearest", "linear")
ALPHA_MODES = ("opaque", "mask", "blend")
COLORS = ("linear", "display")
TEXTURES = ("albedo", "normal")
MOST_TEXELS = 16384  # in a direction


def display(light: np.ndarray) -> np.ndarray:
    """Linear light as a display is sent it, both 0 to 1 (IEC 61966-2-1)."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@dataclass(frozen=True, eq=False)
class Material:
    """What a surface looks like.

    Drawn are the albedo texture (`Frame.albedo`, pictures), the holes of alpha_mode "mask" (also in
    depth and shadows) and two sides; metallic, roughness and the normal texture are kept as data.
    base_color is in the vertices' colours of whatever `load` or `build` made.

    vertex_colors: what the numbers of the vertices' colours and of base_color are: "linear" light,
    as in glTF, or what a "display" is sent (sRGB), as in scans; alpha is linear in both.
    base_color: rgba, 0 to 1. albedo, normal: (height, width, 4) or (height, width, 3) uint8
    textures, rows from the top, at most 16384 in a direction, or None; colours of albedo in sRGB.
    They are kept, not copied: give a changed picture as a new array.
    wrap: beyond a texture's edges along u and v, "repeat", "mirror" or "clamp". magnify, minify:
    between texels, "nearest" or "linear"; mip: between the levels of the texture's pyramid, "off"
    (no levels), "nearest" or "linear". uv_transform: (2, 3), from texture coordinates to the
    picture's with v downwards (KHR_texture_transform); None: as they are.

    alpha_mode: "opaque": the texture's alpha is ignored; "mask": where alpha, of texture and vertex
    colours, is below alpha_cutoff there is a hole; "blend" is drawn as opaque. double_sided:
    `Renderer(cull_back=True)` leaves out no side of it. Raises ValueError for other values.
    """

    name: str = ""
    base_color: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    metallic: float = 1.0
    roughness: float = 1.0
    albedo: np.ndarray | None = None
    normal: np.ndarray | None = None
    wrap: tuple[str, str] = ("repeat", "repeat")
    magnify: str = "linear"
    minify: str = "linear"
    mip: str = "linear"
    uv_transform: np.ndarray | None = None
    alpha_mode: str = "opaque"
    alpha_cutoff: float = 0.5
    double_sided: bool = False
    vertex_colors: str = "linear"

    def __post_init__(self) -> None:
        for field, allowed in (
            ("magnify", FILTERS),
            ("minify", FILTERS),
            ("mip", MIP_FILTERS),
            ("alpha_mode", ALPHA_MODES),
            ("vertex_colors", COLORS),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"Material: {field} must be one of {', '.join(allowed)}, "
                    f"got {getattr(self, field)!r}"
                )
        base = np.asarray(self.base_color, float)
        if base.shape != (4,) or not ((base >= 0) & (base <= 1)).all():
            raise ValueError(
                f"Material: base_color must be rgba, 0 to 1 each, got {self.base_color!r}"
            )
        if len(self.wrap) != 2 or not set(self.wrap) <= set(WRAPS):
            raise ValueError(
                f"Material: wrap must be two of {', '.join(WRAPS)}, for u and v, got {self.wrap!r}"
            )
        for field in TEXTURES:
            texture = getattr(self, field)
            if texture is not None and not (
                isinstance(texture, np.ndarray)
                and texture.dtype == np.uint8
                and texture.ndim == 3
                and texture.shape[2] in (3, 4)
                and texture.size
            ):
                kind = getattr(texture, "dtype", type(texture).__name__)
                raise ValueError(
                    f"Material: {field} must be a uint8 array of shape (height, width, 3 or 4), "
                    f"got {kind} {getattr(texture, 'shape', '')}"
                )
            if texture is not None and max(texture.shape) > MOST_TEXELS:
                raise ValueError(
                    f"Material: {field} must have at most {MOST_TEXELS} texels in each direction, "
                    f"got {texture.shape}; resize it first"
                )
        if self.uv_transform is not None:
            matrix = np.asarray(self.uv_transform, float)
            if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
                raise ValueError(
                    f"Material: uv_transform must be finite, of shape (2, 3), got {matrix}"
                )
        for field in ("metallic", "roughness", "alpha_cutoff"):
            value = getattr(self, field)
            if not isinstance(value, Real) or not 0 <= value < np.inf:
                raise ValueError(f"Material: {field} must be zero or positive, got {value!r}")
            object.__setattr__(self, field, float(value))  # plain numbers, as files keep them
        object.__setattr__(self, "base_color", tuple(base.tolist()))
        object.__setattr__(self, "wrap", tuple(self.wrap))
        object.__setattr__(self, "double_sided", bool(self.double_sided))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From a pickle; in older ones, without vertex_colors, pictures took a display's."""
        self.__dict__.update({"vertex_colors": "display", **state})

    @property
    def _is_plain(self) -> bool:
        """The core has nothing to do for it."""
        return (
            self.albedo is None
            and self.alpha_mode != "mask"
            and not self.double_sided
            and self.vertex_colors == "display"
        )


FIELDS = tuple(field.name for field in fields(Material))

# those who share a texture have one pyramid of it; by its id, and whether its alpha is ignored
_chains: WeakValueDictionary[tuple[int, bool], _C.MipChain] = WeakValueDictionary()
_sources: WeakKeyDictionary[_C.MipChain, np.ndarray] = (
    WeakKeyDictionary()
)  # so that ids stay theirs


def _chain(texture: np.ndarray, *, opaque: bool) -> _C.MipChain:
    """The pyramid of a texture, whose alpha weighs its colours unless it is `opaque`."""
    key = id(texture), opaque
    chain = _chains.get(key)
    if chain is None:
        rgba = texture
        if opaque or texture.shape[2] == 3:
            rgba = np.full((*texture.shape[:2], 4), 255, np.uint8)
            rgba[..., :3] = texture[..., :3]
        chain = _chains[key] = _C.MipChain(np.ascontiguousarray(rgba))
        _sources[chain] = texture
    return chain


def surfaces(materials: Sequence[Material], *, textured: bool = True) -> _C.Surfaces | None:
    """Materials as the core draws them, with their textures or not; None where all are plain."""
    if all(material._is_plain for material in materials):
        return None
    out = _C.Surfaces()
    for m in materials:
        matrix = np.eye(3)[:2] if m.uv_transform is None else np.asarray(m.uv_transform, float)
        out.add(
            None if m.albedo is None or not textured
            else _chain(m.albedo, opaque=m.alpha_mode == "opaque"),
            [getattr(_C.Wrap, mode) for mode in m.wrap],
            getattr(_C.Filter, m.magnify), getattr(_C.Filter, m.minify),
            getattr(_C.MipFilter, m.mip), matrix.ravel().tolist(),
            m.alpha_mode == "mask", float(m.alpha_cutoff), bool(m.double_sided),
            m.vertex_colors == "linear",
        )  # fmt: skip
    return out


def warn_of_blending(materials: Sequence[Material]) -> None:
    """Says which materials are drawn as opaque though they are not."""
    names = [repr(m.name) for m in materials if m.alpha_mode == "blend"]
    if names:
        warnings.warn(
            f"load: {len(names)} of the materials blend ({', '.join(names[:3])}), which is not "
            "done: they are drawn as opaque",
            RuntimeWarning,
            stacklevel=4,
        )


def pack(materials: Sequence[Material]) -> bytes:
    """Materials as bytes for an .ncl file: a ZIP archive of materials.json and the textures as PNG;
    empty for none."""
    from PIL import Image

    if not materials:
        return b""
    names: dict[int, str] = {}
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        table = []
        for material in materials:
            row = {field: getattr(material, field) for field in FIELDS}
            for kind in TEXTURES:
                texture = row[kind]
                if texture is None:
                    continue
                if id(texture) not in names:
                    names[id(texture)] = f"{len(names)}.png"
                    image = io.BytesIO()
                    Image.fromarray(texture).save(image, "PNG")
                    archive.writestr(zipfile.ZipInfo(names[id(texture)]), image.getvalue())
                row[kind] = names[id(texture)]
            if row["uv_transform"] is not None:
                row["uv_transform"] = np.asarray(row["uv_transform"], float).tolist()
            table.append(row)
        archive.writestr(zipfile.ZipInfo("materials.json"), json.dumps(table))
    return data.getvalue()


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive, stored as `pack` does it: what is packed could grow without end."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(name)


def _decoded(png: bytes) -> np.ndarray:
    """A picture of any size that a Material takes; Image.open refuses large ones."""
    from PIL.PngImagePlugin import PngImageFile

    image = PngImageFile(io.BytesIO(png))
    if max(image.size) > MOST_TEXELS:
        raise ValueError(f"a texture of {image.size} texels")
    return np.asarray(image)


def unpack(data: bytes) -> tuple[Material, ...]:
    """What `pack` made. Raises ValueError for anything else."""
    if not data:
        return ()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            textures = {
                name: _decoded(_unpacked(archive, name))
                for name in archive.namelist()
                if name.endswith(".png")
            }
            table: list[dict[str, Any]] = json.loads(_unpacked(archive, "materials.json"))
        out = []
        for row in table:
            for kind in TEXTURES:
                if row[kind] is not None:
                    row[kind] = textures[row[kind]]
            if row["uv_transform"] is not None:
                row["uv_transform"] = np.array(row["uv_transform"])
            row["base_color"], row["wrap"] = (
                tuple(row["base_color"]),
                tuple(row["wrap"]),
            )
            row.setdefault("vertex_colors", "display")  # as pictures took them before it was said
            # newer files may say more of a material than is known here
            out.append(Material(**{k: v for k, v in row.items() if k in FIELDS}))
    except Exception as error:
        raise ValueError(f"read_ncl: the materials are damaged: {error}") from error
    return tuple(out)
