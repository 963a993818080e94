"""One rendered frame: what its pixels saw, as arrays and pictures."""

import threading
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from nanite_cull import _C, pictures  # type: ignore[attr-defined]
from nanite_cull.asset import NONE, Asset
from nanite_cull.camera import Camera
from nanite_cull.lights import Lamp, Sun

DEVICE_PLANES = ("depth", "coverage", "visibility", "overdraw", "instance", "cluster", "triangle",
                 "level", "material", "normal", "uv", "color", "albedo", "velocity", "lit",
                 "distance", "position", "visible_clusters")  # fmt: skip
DEVICE_PICTURES = ("shaded", "cluster", "level", "triangle", "instance")


class CutMesh(NamedTuple):
    """The triangles of a cut, in the world: as they are for trimesh, Embree, OptiX.

    Every cluster has vertices of its own; those at one place have the same bits, so merging equal
    ones (trimesh does) closes the surface. Faces are counter-clockwise seen from outside.
    """

    vertices: np.ndarray
    """(V, 3) float64, world."""
    faces: np.ndarray
    """(T, 3) uint32."""
    instance: np.ndarray
    """(T,) uint32: the instance of each triangle."""
    cluster: np.ndarray
    """(T,) uint32: its cluster, of the instance's asset."""


class Shadows(NamedTuple):
    """What a frame's lights see."""

    lights: list[_C.Light]
    views: list[_C.View]
    maps: Any
    """(views, size, size) float32, as `Frame.depth`: an array, or _C.DeviceDepths."""

    def depths(self) -> np.ndarray:
        """The maps on the CPU."""
        return self.maps if isinstance(self.maps, np.ndarray) else self.maps.read_back()


class Frame:
    """One rendered frame. Arrays have shape (height, width) and are computed when first asked for.

    They stay as they are as long as the frame or one of its arrays is referred to, whatever happens
    to the scene; a Renderer reuses the memory of a frame that nobody holds any more.
    """

    def __init__(
        self,
        core: _C.Frame,
        assets: list[Asset],
        camera: Camera,
        view: _C.View,
        threads: int,
        stats: dict[str, Any],
        lights: tuple[Sun | Lamp, ...] = (),
        shadows: Shadows | None = None,
        has_velocity: bool = False,
        device: tuple[Any, threading.Lock] | None = None,
    ) -> None:
        self._core, self._assets, self._view, self._threads = core, assets, view, threads
        self.lights, self._shadows, self._has_velocity = lights, shadows, has_velocity
        self._device = device
        self.camera, self.stats = camera, stats
        self.width, self.height = view.width, view.height
        self._samples: list[Frame] = []

    @property
    def depth(self) -> np.ndarray:
        """float32, reversed Z: near / distance in perspective, 0 where nothing was drawn."""
        return self._core.depth

    @property
    def coverage(self) -> np.ndarray:
        """bool: something was drawn."""
        return self.depth > 0

    @property
    def visibility(self) -> np.ndarray:
        """uint64: depth bits << 32 | visible cluster << 7 | triangle of the cluster."""
        return self.depth.view(np.uint32).astype(np.uint64) << np.uint64(32) | self._core.id

    @property
    def visible_clusters(self) -> np.ndarray:
        """(n, 2) uint32: instance and cluster of every cluster that was drawn."""
        return self._core.visible()

    def cut_mesh(self) -> CutMesh:
        """What was drawn, as triangles: every visible cluster of every visible instance.

        Raises ValueError for a cut of more than 2**32 - 2 vertices.
        """
        return CutMesh(*self._core.cut_mesh(self._threads))

    @property
    def overdraw(self) -> np.ndarray:
        """uint32: fragments tested at each pixel. Needs Renderer(overdraw=True)."""
        self._check_overdraw()
        return self._core.overdraw

    def _check_overdraw(self) -> None:
        if self._core.overdraw.size == 0:
            raise RuntimeError("Frame.overdraw: was not counted; use Renderer(..., overdraw=True)")

    def _resolve(self, **targets: np.ndarray) -> None:
        names = ("instance", "cluster", "triangle", "level", "material", "normal", "uv", "color",
                 "velocity")  # fmt: skip
        planes = [targets.get(name) for name in names]
        if not self._on_device("resolve", *planes):
            self._core.resolve(self._view, *planes, self._threads)

    def _on_device(self, function: str, *arguments: Any) -> bool:
        """Has planes or a picture made on the device that drew this frame, while it holds it;
        whether it does. The core's are the same bits."""
        if self._device is None:
            return False
        device, drawing = self._device
        with drawing:
            return bool(getattr(device, function)(self._core, *arguments))

    def device_array(self, plane: str) -> Any:
        """A plane as it is on the device that drew this frame: no copy, nothing comes to the CPU.

        plane: the name of an attribute (depth, coverage, visibility, overdraw, instance, cluster,
        triangle, level, material, normal, uv, color, albedo, velocity, lit, distance, position,
        visible_clusters), of its shape and dtype. Returns an object of the DLPack protocol,
        `torch.from_dlpack(frame.device_array("normal"))`, in memory of its own, complete for any
        stream; when the last tensor of it has gone, the Renderer's next plane takes its place.
        Raises ValueError for another name; RuntimeError for a frame of the CPU
        (`torch.from_dlpack(frame.normal)` shares memory there), for one after which its Renderer
        drew another, and for velocities and overdraw that were not kept track of.
        """
        if plane not in DEVICE_PLANES:
            raise ValueError(
                f"Frame.device_array: plane must be one of {', '.join(DEVICE_PLANES)}, "
                f"got {plane!r}"
            )
        self._need_device("device_array", plane)
        if plane == "velocity":
            self._check_velocity()
        if plane == "overdraw":
            self._check_overdraw()
        if plane == "lit":
            return self._from_device(plane, "light", self._lens(), *self._maps_of_device())
        if plane in ("distance", "position"):
            function = "distances" if plane == "distance" else "places"
            return self._from_device(plane, function, self._lens())
        return self._from_device(plane, "plane", getattr(_C.Plane, plane))

    def device_picture(self, kind: str = "shaded", *, light: Any = None) -> Any:
        """(height, width, 3) uint8: `picture` on the device that drew this frame, as device_array.

        kind: "shaded", "cluster", "level", "triangle" or "instance"; the others are colours of one
        plane. Raises as device_array does, and ValueError as `picture`; of samples of a pixel the
        device holds the last one, so that Renderer(samples=...) needs `picture`.
        """
        if kind not in DEVICE_PICTURES:
            raise ValueError(
                f"Frame.device_picture: kind must be one of {', '.join(DEVICE_PICTURES)}, "
                f"got {kind!r}; of a plane take frame.device_array"
            )
        towards = None if light is None else pictures.direction(light)
        self._need_device("device_picture", f'picture("{kind}")')
        lights: tuple[Any, ...] = (None, [], None)
        if self._shadows is not None and light is None:
            lights = self._maps_of_device()
        name, shading = f'picture("{kind}")', self._shading(kind, towards)
        return self._from_device(name, "shaded", *shading, *lights)

    def _maps_of_device(self) -> tuple[list[_C.Light], list[_C.View], Any]:
        """Lights, views and maps; where the frame shows nothing, lights that nobody reads."""
        if self._shadows is not None:
            return tuple(self._shadows)
        dark = _C.Light(True, [0.0, 0.0, 1.0], 0.0, 0.0, 0, 0)
        return [dark] * len(self.lights), [], _C.DeviceDepths()

    def _need_device(self, caller: str, name: str) -> None:
        if self._device is None:
            raise RuntimeError(
                f'Frame.{caller}: needs a frame of Renderer(device="cuda"); on the CPU '
                f"torch.from_dlpack(frame.{name}) shares the memory of the array"
            )

    def _from_device(self, name: str, function: str, *arguments: Any) -> Any:
        assert self._device is not None
        device, drawing = self._device
        with drawing:
            array = getattr(device, function)(self._core, *arguments)
        if array is None:
            caller = "device_picture" if function == "shaded" else "device_array"
            raise RuntimeError(
                f"Frame.{caller}: the device holds a later frame or another scene by now; take "
                f"arrays before the next render, or frame.{name} from the CPU"
            )
        return array

    @cached_property
    def _ids(self) -> dict[str, np.ndarray]:
        shape = (self.height, self.width)
        out = {
            n: np.empty(shape, np.uint32)
            for n in ("instance", "cluster", "triangle", "level", "material")
        }
        self._resolve(**out)
        return out

    @property
    def instance(self) -> np.ndarray:
        """uint32: the instance seen; 2**32 - 1 where nothing was drawn, as in the other ids."""
        return self._ids["instance"]

    @property
    def cluster(self) -> np.ndarray:
        """uint32: the cluster of the instance's asset."""
        return self._ids["cluster"]

    @property
    def triangle(self) -> np.ndarray:
        """uint32: the triangle, counted over all clusters of the instance's asset."""
        return self._ids["triangle"]

    @property
    def level(self) -> np.ndarray:
        """uint32: the level of detail of the cluster; 0 is the source mesh."""
        return self._ids["level"]

    @property
    def material(self) -> np.ndarray:
        """uint32: the triangle's material."""
        return self._ids["material"]

    def _plane(self, name: str, width: int) -> np.ndarray:
        out = np.empty((self.height, self.width, width), np.float32)
        self._resolve(**{name: out})
        return out

    @cached_property
    def normal(self) -> np.ndarray:
        """(height, width, 3) float32: unit world normals; zero where nothing was drawn."""
        return self._plane("normal", 3)

    @cached_property
    def uv(self) -> np.ndarray:
        """(height, width, 2) float32 texture coordinates."""
        return self._plane("uv", 2)

    @cached_property
    def color(self) -> np.ndarray:
        """(height, width, 4) float32 vertex colours as they are kept, in the space that
        `Material.vertex_colors` says; white where an asset has none."""
        return self._plane("color", 4)

    @cached_property
    def albedo(self) -> np.ndarray:
        """(height, width, 4) float32, linear: the material's texture, filtered for the pixel, times
        `color` as linear light; zero where nothing was drawn. Pictures show it by sRGB's curve
        where colours are linear; a display's colours multiply there what is displayed."""
        out = np.empty((self.height, self.width, 4), np.float32)
        if not self._on_device("resolve_albedo", out):
            self._core.resolve_albedo(self._view, out, self._threads)
        return out

    @cached_property
    def velocity(self) -> np.ndarray:
        """(height, width, 2) float32: pixels to the right and down that what is seen has moved by
        since the frame before, by its own motion and the camera's.

        Zero in a first frame (and after `Renderer.forget`, of another scene, with a cull_camera),
        where nothing was drawn, and for what lay behind the eye then; what was added since counts
        as standing still. Needs Renderer(velocity=True).
        """
        self._check_velocity()
        return self._plane("velocity", 2)

    def _check_velocity(self) -> None:
        if not self._has_velocity:
            raise RuntimeError(
                "Frame.velocity: was not kept track of; use Renderer(..., velocity=True)"
            )

    @property
    def has_colors(self) -> bool:
        """Whether any asset of the scene has vertex colours."""
        return any(asset.has_colors for asset in self._assets)

    @property
    def has_textures(self) -> bool:
        """Whether any asset of the scene has albedo textures."""
        return any(asset.has_textures for asset in self._assets)

    @property
    def top_level(self) -> int:
        """The coarsest level of detail of the scene's assets."""
        return max((len(asset.levels()) - 1 for asset in self._assets), default=0)

    @property
    def source_triangle(self) -> np.ndarray:
        """int64: the input face, where a leaf cluster of a single-asset scene is seen; else -1."""
        if len(self._assets) != 1:
            raise RuntimeError("Frame.source_triangle: needs a scene of one asset")
        source = self._assets[0].leaf_source
        if not len(source):
            raise RuntimeError(
                "Frame.source_triangle: the asset was built or stored without its source"
            )
        out = np.full(self.triangle.shape, -1, np.int64)
        hit = self.triangle < len(source)
        out[hit] = source[self.triangle[hit]]
        out[out == NONE] = -1
        return out

    @cached_property
    def lit(self) -> np.ndarray:
        """(lights, height, width) float32: the share of each of the Renderer's lights that reaches
        a pixel, 0 to 1; 0 where the surface turns away from it and where nothing was drawn."""
        out = np.zeros((len(self.lights), self.height, self.width), np.float32)
        self._find_light(share=out)
        return out

    @cached_property
    def _direct(self) -> np.ndarray:
        """(height, width) float32: what all lights add."""
        out = np.zeros((self.height, self.width), np.float32)
        self._find_light(direct=out)
        return out

    def _find_light(
        self, share: np.ndarray | None = None, direct: np.ndarray | None = None
    ) -> None:
        if self._shadows is not None:
            lens, targets = self._lens(), (share, direct)
            if not self._on_device("find_light", lens, *self._shadows, *targets):
                lights, views, depths = (
                    self._shadows.lights,
                    self._shadows.views,
                    self._shadows.depths(),
                )
                self._core.find_light(lens, lights, views, depths, *targets, self._threads)

    @property
    def distance(self) -> np.ndarray:
        """float32: world units along the view axis; infinite where nothing was drawn."""
        return self.camera.distances(self.depth)

    @cached_property
    def position(self) -> np.ndarray:
        """(height, width, 3) float32: world positions of what is seen at the pixels' centres.

        NaN where nothing was drawn. Computed from `distance` and the camera, and as exact as the
        raster: the drawn surface lies within a 256th of a pixel, plus 1e-6 of the distance (of far
        for an orthographic camera) for the depth's rounding.
        """
        out = np.empty((self.height, self.width, 3), np.float32)
        self._core.unproject(self._lens(), out, self._threads)
        return out

    def _lens(self) -> _C.Lens:
        camera = self.camera
        linear = np.ascontiguousarray(np.asarray(camera.view, float)[:3, :3])
        rays = (np.ascontiguousarray(axis) for axis in camera.rays(self.width, self.height))
        scale = camera.scale
        pixel = 2 / (camera._window(self.width, self.height)[1] * self.height * scale)
        return _C.Lens(
            linear, np.ascontiguousarray(np.linalg.inv(linear)),
            np.ascontiguousarray(camera.eye, float), *rays, camera.orthographic, camera.near,
            camera.far, scale, pixel,
        )  # fmt: skip

    def _shade(self, kind: str, light: np.ndarray | None) -> np.ndarray:
        """(height, width, 3) uint8: the lit picture of a kind, `reference.picture`."""
        shadows = self._shadows if light is None else None
        out = np.empty((self.height, self.width, 3), np.uint8)
        shading = self._shading(kind, light)
        if not self._on_device("shade", *shading, *(shadows or (None, [], None)), out):
            direct = None if shadows is None else self._direct
            self._core.shade(*shading, direct, out, self._threads)
        return out

    def _shading(self, kind: str, light: np.ndarray | None) -> tuple[Any, ...]:
        """What a lit picture is made by, but for lights; `light`: unit, or None."""
        lamp = (pictures.LIGHT if light is None else light).astype(np.float32)
        colored = self.has_colors or self.has_textures
        base = kind if kind != "shaded" else "color" if colored else "plain"
        return (
            self._lens(), getattr(_C.Base, base), lamp, pictures.RELIEF, pictures.LEVEL_RAMP,
            self.top_level, pictures.background(self.height),
        )  # fmt: skip

    def picture(self, kind: str = "shaded", *, light: Any = None) -> np.ndarray:
        """(height, width, 3) uint8. kind: one of nanite_cull.pictures.KINDS. light: (3,), world,
        towards a lamp without shadows; None: the Renderer's lights, or one like that. Raises
        ValueError for another kind, and for a light without direction."""
        picture = pictures.picture(cast(pictures.Frame, self), kind, light)
        if not self._samples:
            return picture
        total = picture.astype(np.uint32)
        for sample in self._samples:
            total += sample.picture(kind, light=light)
        count = 1 + len(self._samples)
        return ((total + count // 2) // count).astype(np.uint8)

    def save(self, path: str | Path, kind: str = "shaded", *, light: Any = None) -> Path:
        """Writes a picture (PNG or what the suffix says), aside and then renamed."""
        return pictures.save(self.picture(kind, light=light), path)
