"""Where a picture is taken from."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nanite_cull import _C


@dataclass(frozen=True)
class Camera:
    """A pinhole or an orthographic camera, right-handed, looking along its -z axis.

    view: (4, 4) world to camera. fov_y: vertical angle in degrees, or None for orthographic.
    height: of the orthographic image in world units. near, far: world units; a perspective camera
    has no far plane.
    """

    view: np.ndarray
    fov_y: float | None = 60.0
    height: float = 2.0
    near: float = 0.01
    far: float = 1000.0

    @classmethod
    def look_at(
        cls, eye: Any, target: Any = (0, 0, 0), up: Any = (0, 1, 0), **options: Any
    ) -> "Camera":
        """A camera at `eye`, looking at `target`. Raises ValueError if `up` is along the view."""
        eye, target, up = (np.asarray(a, float) for a in (eye, target, up))
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
    def around(
        cls,
        asset: Any,
        azimuth: float = 30,
        elevation: float = 25,
        distance: float = 1.0,
        **options: Any,
    ) -> "Camera":
        """A camera that sees the whole asset: degrees around y and above ground."""
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
        """(3,) world position."""
        rotation = self.view[:3, :3]
        return -np.linalg.solve(rotation, self.view[:3, 3])

    def moved(self, **changes: Any) -> "Camera":
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def projection(self, width: int, height: int) -> np.ndarray:
        """(4, 4) camera to clip, reversed Z: z / w is 1 at the near plane, towards 0 far away."""
        out = np.zeros((4, 4))
        if self.fov_y is None:
            out[0, 0], out[1, 1] = 2 / (self.height * width / height), 2 / self.height
            out[2, 2] = 1 / (self.far - self.near)
            out[2, 3], out[3, 3] = self.far / (self.far - self.near), 1
            return out
        scale = 1 / np.tan(np.radians(self.fov_y) / 2)
        out[0, 0], out[1, 1] = scale * height / width, scale
        out[2, 3], out[3, 2] = self.near, -1
        return out

    def _core(self, width: int, height: int, threshold: float) -> _C.View:
        if not self.near > 0 or (self.fov_y is None and not self.far > self.near):
            raise ValueError(
                f"Camera: near must be positive and below far, got {self.near} and {self.far}"
            )
        if self.fov_y is not None and not 0 < self.fov_y < 179:
            raise ValueError(f"Camera: fov_y must be 0 to 179 degrees, got {self.fov_y}")
        matrix = np.ascontiguousarray(self.projection(width, height) @ self.view)
        if not np.isfinite(matrix).all():
            raise ValueError("Camera: the view matrix must be finite")
        view = _C.View()
        view.set(matrix, np.ascontiguousarray(self.eye))
        view.near, view.width, view.height, view.threshold = self.near, width, height, threshold
        view.orthographic = self.fov_y is None
        view.pixels_per_unit = (
            height / self.height
            if self.fov_y is None
            else height / 2 / np.tan(np.radians(self.fov_y) / 2)
        )
        return view
