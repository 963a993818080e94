"""Where a picture is taken from."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from nanite_cull import _C  # type: ignore[attr-defined]
from nanite_cull._arrays import as_numpy
from nanite_cull._numbers import real

LARGEST = 1e34  # of lengths, whose least is its inverse: single precision holds their products
LARGEST_LENS = 1e12  # of focal lengths, in images


def _reals(value: Any) -> np.ndarray:
    """float64. Raises TypeError, ValueError for what is not: the imaginary part is not dropped."""
    if np.iscomplexobj(value):
        raise TypeError("complex")
    return np.asarray(value, float)


def _numbers(function: str, name: str, value: Any, *shapes: tuple[int, ...]) -> np.ndarray:
    """A finite float64 array of one of the shapes. Raises ValueError, TypeError by name."""
    try:
        array = _reals(value)
    except (TypeError, ValueError):
        raise TypeError(f"Camera.{function}: {name} must be numbers, got {value!r}") from None
    if array.shape not in shapes or not np.isfinite(array).all():
        raise ValueError(
            f"Camera.{function}: {name} must be finite, of shape "
            f"{' or '.join(map(str, shapes))}, got {array.tolist()}"
        )
    return array


def _require_affine(what: str, matrix: np.ndarray) -> None:
    """Hold a (4, 4) matrix to its last row: a transposed one would be another camera."""
    if not np.allclose(matrix[3], [0, 0, 0, 1], rtol=0, atol=1e-6):
        raise ValueError(
            f"{what}: the last row must be (0, 0, 0, 1), got {matrix[3].tolist()}; transpose a "
            "matrix that has its shift there"
        )


def _require_held(name: str, *sizes: float) -> None:
    """Hold lengths to what single precision does not lose."""
    for size in sizes:
        if not 1 / LARGEST <= size <= LARGEST:
            raise ValueError(
                f"Camera: {name} must be {1 / LARGEST:g} to {LARGEST:g}, got {size:g}; choose "
                "another unit of length"
            )


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole or an orthographic camera, right-handed, looking along its -z axis.

    view: (4, 4) world to camera: a rotation and a shift, and perhaps one scale. fov_y: vertical
    angle in degrees, or None for orthographic. height: of the orthographic image in the camera's
    units. near, far: the camera's units (world units times the scale of `view`); a perspective
    camera has no far plane. lens: fx, fy, cx, cy, width, height in pixels where the camera comes
    from intrinsics (`from_intrinsics`); fov_y then does not count. Frames refuse what single
    precision loses: a fov_y below 1e-9, a focal length or principal point of more than 1e12 images
    (or less than 1e-12), a scale, height, near or far beyond 1e-34 to 1e34, an eye beyond 1e34; in
    perspective they show nothing farther than 1e37 times near. A camera equals itself alone. It
    keeps a copy of `view`, which cannot be written to: `moved` makes another camera.
    """

    view: np.ndarray
    fov_y: float | None = 60.0
    height: float = 2.0
    near: float = 0.01
    far: float = 1000.0
    lens: tuple[float, float, float, float, float, float] | None = None

    def __post_init__(self) -> None:
        given = as_numpy(self.view, "Camera", "view")
        try:
            view = _reals(given).copy()
        except (TypeError, ValueError):
            raise TypeError(f"Camera: view must be numbers, got {self.view!r}") from None
        view.setflags(write=False)  # frames ask their camera long after they were drawn
        object.__setattr__(self, "view", view)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @classmethod
    def look_at(
        cls, eye: Any, target: Any = (0, 0, 0), up: Any = (0, 1, 0), **options: Any
    ) -> "Camera":
        """A camera at `eye`, looking at `target`. Raises ValueError if `up` is along the view."""
        eye, target, up = (
            _numbers("look_at", name, value, (3,))
            for name, value in (("eye", eye), ("target", target), ("up", up))
        )
        back = eye - target
        right = np.cross(up, back)
        if not (np.linalg.norm(back) > 0 and np.linalg.norm(right) > 0):
            raise ValueError(
                "Camera.look_at: eye, target and up must span a plane; choose another up"
            )
        back /= np.linalg.norm(back)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(back, right), back])
        view = np.eye(4)
        view[:3, :3], view[:3, 3] = rotation, -rotation @ eye
        return cls(view, **options)

    @classmethod
    def from_intrinsics(
        cls,
        fx: float,
        fy: float,
        cx: float,
        cy: float,
        width: int,
        height: int,
        pose: Any = None,
        *,
        convention: str = "opencv",
        **options: Any,
    ) -> "Camera":
        """A calibrated pinhole camera.

        fx, fy: focal lengths in pixels; cx, cy: the principal point in pixels from the image's
        upper left corner (OpenCV's own count starts in the middle of the first pixel: add 0.5);
        width, height: of the image they belong to; other sizes are rendered as that image scaled.
        pose: (4, 4) or (3, 4) camera to world; None: at the origin. convention: how the pose's
        camera looks: "opencv" (x right, y down, z forward), "opengl" and "blender" (x right, y up,
        z backward). The world may have any axis up. Raises ValueError for what is no camera.
        """
        flips = {"opencv": [1.0, -1, -1], "opengl": [1.0, 1, 1], "blender": [1.0, 1, 1]}
        if convention not in flips:
            raise ValueError(
                f"Camera.from_intrinsics: convention must be one of {', '.join(flips)}, "
                f"got {convention!r}"
            )
        sides = {"fx": fx, "fy": fy, "width": width, "height": height}
        for name, side in sides.items():
            real(side, "Camera.from_intrinsics", name)
        if not all(0 < side < np.inf for side in (fx, fy, width, height)):
            raise ValueError(
                "Camera.from_intrinsics: fx, fy, width and height must be positive and finite, "
                f"got {fx}, {fy}, {width}, {height}"
            )
        _numbers("from_intrinsics", "cx, cy", (cx, cy), (2,))
        to_world = np.eye(4)
        if pose is not None:
            pose = _numbers("from_intrinsics", "pose", pose, (4, 4), (3, 4))
            to_world[: len(pose)] = pose
            _require_affine("Camera.from_intrinsics: pose", to_world)
            if not np.linalg.det(to_world[:3, :3]):
                raise ValueError(
                    "Camera.from_intrinsics: pose must hold a rotation, got the singular "
                    f"{to_world[:3, :3].tolist()}"
                )
        to_world[:3, :3] *= flips[convention]
        rotation = np.linalg.inv(to_world[:3, :3])
        view = np.eye(4)
        view[:3, :3], view[:3, 3] = rotation, -rotation @ to_world[:3, 3]
        lens = (float(fx), float(fy), float(cx), float(cy), float(width), float(height))
        fov_y = float(np.degrees(2 * np.arctan(height / 2 / fy)))
        return cls(view, **{"fov_y": fov_y, **options, "lens": lens})

    @classmethod
    def around(
        cls,
        asset: Any,
        azimuth: float = 30,
        elevation: float = 25,
        distance: float = 1.0,
        **options: Any,
    ) -> "Camera":
        """A camera that sees the whole asset: degrees around y and above ground.

        distance: 1 shows the whole asset, 0.5 is twice as near. Raises ValueError unless it is
        positive, TypeError for other kinds.
        """
        azimuth, elevation = (
            real(angle, "Camera.around", name)
            for name, angle in (("azimuth", azimuth), ("elevation", elevation))
        )
        if not 0 < real(distance, "Camera.around", "distance") < np.inf:
            raise ValueError(f"Camera.around: distance must be positive, got {distance}")
        lo, hi = asset.box
        centre, radius = (lo + hi) / 2, asset.radius
        a, e = np.radians(azimuth), np.radians(elevation)
        ray = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        fov = options.get("fov_y", 40.0) or 40.0
        far = radius / np.sin(np.radians(fov) / 2) * distance
        defaults = {
            "fov_y": 40.0,
            "near": far * 1e-3,
            "far": far * 3,
            "height": 2 * radius * distance,
        }
        return cls.look_at(centre + ray * far, centre, **{**defaults, **options})

    @property
    def eye(self) -> np.ndarray:
        """(3,) float64 world position."""
        view = np.asarray(self.view, float)
        return -np.linalg.solve(view[:3, :3], view[:3, 3])

    @property
    def orthographic(self) -> bool:
        """No perspective."""
        return self.fov_y is None and self.lens is None

    @property
    def scale(self) -> float:
        """Camera units of one world unit: the scale of `view`, one unless it was scaled."""
        return float(np.cbrt(abs(np.linalg.det(np.asarray(self.view, float)[:3, :3]))))

    def moved(self, **changes: Any) -> "Camera":
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def shifted(self, x: float, y: float, width: int, height: int) -> "Camera":
        """The camera whose image of (width, height) pixels has every pixel's centre moved by x to
        the right and y down."""
        if self.orthographic:
            pixel = self.height / height
            view = np.array(self.view, float)
            view[:2, 3] += -x * pixel, y * pixel
            return replace(self, view=view)
        scale_x, scale_y, shift_x, shift_y = self._window(width, height)
        centre = (1 + shift_x) * width / 2 - x, (1 - shift_y) * height / 2 - y
        lens = (scale_x * width / 2, scale_y * height / 2, *centre, float(width), float(height))
        return replace(self, lens=lens)

    def _window(self, width: int, height: int) -> tuple[float, float, float, float]:
        """What one unit at distance one spans and where the axis meets the image: scale x and y,
        shift x and y, in halves of the image (y up)."""
        if self.lens is not None:
            fx, fy, cx, cy, w, h = self.lens
            return 2 * fx / w, 2 * fy / h, 2 * cx / w - 1, 1 - 2 * cy / h
        if self.fov_y is None:
            return 2 / (self.height * width / height), 2 / self.height, 0.0, 0.0
        scale = 1 / np.tan(np.radians(self.fov_y) / 2)
        return scale * height / width, scale, 0.0, 0.0

    def projection(self, width: int, height: int) -> np.ndarray:
        """(4, 4) camera to clip, reversed Z: z / w is 1 at the near plane, towards 0 far away."""
        out = np.zeros((4, 4))
        out[0, 0], out[1, 1], shift_x, shift_y = self._window(width, height)
        if self.orthographic:
            out[2, 2] = 1 / (self.far - self.near)
            out[2, 3], out[3, 3] = self.far / (self.far - self.near), 1
            return out
        out[0, 2], out[1, 2] = -shift_x, -shift_y
        out[2, 3], out[3, 2] = self.near, -1
        return out

    def rays(self, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """x (width,) and y (height,) of the rays through the pixels' centres, at distance one in
        front of the camera; of orthographic cameras where the rays start."""
        scale_x, scale_y, shift_x, shift_y = self._window(width, height)
        x = (np.arange(width) + 0.5) * 2 / width - 1
        y = 1 - (np.arange(height) + 0.5) * 2 / height
        return (x - shift_x) / scale_x, (y - shift_y) / scale_y

    def distances(self, depth: np.ndarray) -> np.ndarray:
        """float32: world units along the axis of a frame's depths; infinite where depth is 0."""
        if self.orthographic:
            inside = self.far - depth * (self.far - self.near)
        else:
            with np.errstate(divide="ignore"):
                inside = np.float32(self.near) / depth
        inside = np.where(depth > 0, inside, np.inf).astype(np.float32)
        return inside / np.float32(self.scale)

    def _check(self) -> np.ndarray:
        """The view in double precision. Raises ValueError, TypeError for what is no camera."""
        view = np.ascontiguousarray(self.view, dtype=np.float64)
        for name in ("near", "far", "height", "fov_y"):
            if name != "fov_y" or self.fov_y is not None:
                real(getattr(self, name), "Camera", name)
        if self.lens is not None:
            fx, fy, cx, cy, width, height = _numbers("lens", "lens", self.lens, (6,)).tolist()
            if not min(fx, fy, width, height) > 0:
                raise ValueError(
                    "Camera: lens must be fx, fy, cx, cy, width, height with fx, fy, width and "
                    f"height positive, got {self.lens}"
                )
            focal, centre = (fx / width, fy / height), (cx / width, cy / height)
            if not (
                min(focal) >= 1 / LARGEST_LENS and max(map(abs, focal + centre)) <= LARGEST_LENS
            ):
                raise ValueError(
                    f"Camera: lens must have focal lengths of {1 / LARGEST_LENS:g} to "
                    f"{LARGEST_LENS:g} images and its centre as near, got {self.lens}"
                )
        if view.shape != (4, 4) or not np.isfinite(view).all():
            raise ValueError("Camera: the view matrix must be finite, of shape (4, 4)")
        _require_affine("Camera: view", view)
        gram, scale = view[:3, :3] @ view[:3, :3].T, self.scale
        if not np.linalg.det(view[:3, :3]) > 0 or not np.allclose(
            gram, scale**2 * np.eye(3), atol=1e-3 * scale**2
        ):
            raise ValueError(
                "Camera: view must be a rotation, a shift and one scale (no mirror, no shear); "
                "put other changes into the transforms of the scene"
            )
        last = self.far if self.orthographic else np.inf
        if not 0 < self.near < last or (self.orthographic and not np.isfinite(last)):
            raise ValueError(
                "Camera: near must be positive, finite and below far, which is finite in an "
                f"orthographic camera, got {self.near} and {self.far}"
            )
        if self.orthographic and not (self.height > 0 and np.isfinite(self.height)):
            raise ValueError(f"Camera: height must be positive, got {self.height}")
        if self.fov_y is not None and self.lens is None and not 1e-9 <= self.fov_y < 179:
            raise ValueError(f"Camera: fov_y must be 1e-9 to 179 degrees, got {self.fov_y}")
        _require_held("the scale of view", scale)
        _require_held("near", self.near, self.near / scale)
        if self.orthographic:
            _require_held("height", self.height)
            _require_held("far", self.far)
        if np.abs(view[:3, 3]).max() > LARGEST * scale:
            raise ValueError(
                f"Camera: the eye of view must lie within {LARGEST:g} of the world's origin, got "
                f"{self.eye.tolist()}; choose another unit of length"
            )
        return view

    def _core(self, width: int, height: int, threshold: float) -> _C.View:
        relative = self._check().copy()
        relative[:3, 3] = 0
        matrix = np.ascontiguousarray(self.projection(width, height) @ relative)
        scale_x, scale_y, _, _ = self._window(width, height)
        view = _C.View()
        view.set(matrix, np.ascontiguousarray(self.eye))
        view.near, view.width, view.height = self.near / self.scale, width, height
        view.threshold, view.orthographic = threshold, self.orthographic
        view.pixels_per_unit = max(scale_x * width, scale_y * height) / 2
        if self.orthographic:
            view.pixels_per_unit *= self.scale
        return view
