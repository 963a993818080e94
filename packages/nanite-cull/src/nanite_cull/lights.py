"""A sun and lamps, and the cameras of their shadow maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from nanite_cull import _C  # type: ignore[attr-defined]
from nanite_cull._numbers import real, unit, whole
from nanite_cull.camera import LARGEST, Camera

MARGIN = 4  # texels around what a map must hold: the filter's, and a point's lift off its surface
NEAR = 1e-15  # of a lamp's reach: reversed Z in floats is as exact however near a map begins
UNIFORM = 0.25  # share of equal slices in the cascades' split; the rest is logarithmic


def _vector(value: Any, what: str) -> tuple[float, ...]:
    asked = f"{what} must be three finite numbers (x, y, z), got {value!r}"
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError):
        raise TypeError(asked) from None
    if array.shape != (3,) or not np.isfinite(array).all():
        raise ValueError(asked)
    return tuple(array.tolist())


def _check(light: "Sun | Lamp") -> None:
    name = type(light).__name__
    for field in ("strength", "bias"):
        number = real(getattr(light, field), name, field)
        if not 0 <= number <= LARGEST:
            raise ValueError(
                f"{name}: {field} must be zero or positive, up to {LARGEST:g}, got {number}"
            )
        object.__setattr__(light, field, number)  # of arrays too: lights can be hashed


@dataclass(frozen=True)
class Sun:
    """Light from one direction, with shadows.

    direction: (3,), world, towards the sun. strength: what it adds where it falls straight onto a
    surface. cascades: shadow maps, 1 to 8, one behind the other along the view, nearer ones finer.
    bias: how far a point is lifted off its surface before its shadow is looked up, in texels of
    the map (or pixels of the image, where those are larger): 3 is what the filter reaches, so that
    no plane shades itself; less brings shadows closer to what casts them. Raises ValueError for
    other values, TypeError for other kinds.
    """

    direction: Any = (0.45, 0.75, 0.5)
    strength: float = 0.72
    cascades: int = 4
    bias: float = 3.0

    def __post_init__(self) -> None:
        _check(self)
        direction = _vector(self.direction, "Sun: direction")
        object.__setattr__(self, "direction", direction)  # of arrays too: suns can be compared
        if not any(direction):
            raise ValueError(f"Sun: direction must not be zero, got {self.direction!r}")
        object.__setattr__(self, "cascades", whole(self.cascades, "Sun", "cascades"))
        if not 1 <= self.cascades <= 8:
            raise ValueError(f"Sun: cascades must be 1 to 8, got {self.cascades}")

    @property
    def _maps(self) -> int:
        return self.cascades

    @property
    def _towards(self) -> np.ndarray:
        """`direction` at length one."""
        return unit(np.asarray(self.direction, float))

    def _core(self, first: int, maps: int) -> _C.Light:
        return _C.Light(True, self._towards.tolist(), self.strength, self.bias, first, maps)

    def _cameras(
        self, camera: Camera, seen: tuple[float, float], box: np.ndarray, image: tuple[int, int],
        size: int,
    ) -> list[Camera]:  # fmt: skip
        """Orthographic cameras around slices of what `camera` sees at distances `seen`."""
        frame = _frame(self._towards, np.asarray(camera.view, float)[2, :3])
        scene = _box_corners(box) @ frame.T
        ends = _split(*seen, self.cascades, even=camera.orthographic)
        out = []
        for near, far in pairwise(ends):
            corners = _frustum_corners(camera, near, far, *image) @ frame.T
            lo = np.maximum(corners.min(0), scene.min(0))
            hi = np.minimum(corners.max(0), scene.max(0))
            side = max((hi - lo)[:2].max(), 1e-6 * np.ptp(corners, axis=0).max(), 1e-29)
            side *= size / (size - 2 * MARGIN)
            # along the light from the scene's end, for what lies between sun and slice casts a
            # shadow, to that of the slice: depths are as exact there as they are near zero
            eye = np.array([*((lo + hi) / 2)[:2], scene[:, 2].max() + side])
            length = eye[2] - lo[2]
            view = np.eye(4)
            view[:3, :3], view[:3, 3] = frame, -eye
            out.append(Camera(view, None, height=side, near=side / 2, far=float(length + side)))
        return out


@dataclass(frozen=True)
class Lamp:
    """Light from one place in all directions, with shadows.

    position: (3,), world. strength, bias: as a Sun's. near: what is nearer to the lamp casts no
    shadow, as the glass around a bulb; None: 1e-15 of the way to the scene's farthest corner, which
    leaves nothing out. fade: the distance at which the light has its strength, from where it falls
    by the inverse square; None: it does not fade. range: the distance from which on a lamp that
    fades gives no light, reached smoothly (KHR_lights_punctual); None: none. Raises ValueError for
    other values, TypeError for other kinds.
    """

    position: Any
    strength: float = 0.72
    bias: float = 3.0
    near: float | None = None
    fade: float | None = None
    range: float | None = None

    def __post_init__(self) -> None:
        _check(self)
        object.__setattr__(self, "position", _vector(self.position, "Lamp: position"))
        if np.abs(self.position).max() > LARGEST:
            raise ValueError(
                f"Lamp: position must lie within {LARGEST:g} of the origin, got {self.position}"
            )
        for field in ("near", "fade", "range"):
            if getattr(self, field) is None:
                continue
            number = real(getattr(self, field), "Lamp", field)
            if not 1 / LARGEST <= number <= LARGEST:
                raise ValueError(
                    f"Lamp: {field} must be positive, {1 / LARGEST:g} to {LARGEST:g}, got {number}"
                )
            object.__setattr__(self, field, number)
        if self.range is not None and self.fade is None:
            raise ValueError("Lamp: range needs fade, the distance at which it has its strength")

    @property
    def _maps(self) -> int:
        return 6

    def _core(self, first: int, maps: int) -> _C.Light:
        at = np.asarray(self.position, float)
        fading = self.fade or 0.0, self.range or 0.0
        return _C.Light(False, at.tolist(), self.strength, self.bias, first, maps, *fading)

    def _cameras(
        self, camera: Camera, seen: tuple[float, float], box: np.ndarray, image: tuple[int, int],
        size: int,
    ) -> list[Camera]:  # fmt: skip
        """One camera for each side of a cube, a few texels wider than a right angle."""
        at = np.asarray(self.position, float)
        reach = np.linalg.norm(_box_corners(box) - at, axis=1).max()
        near = self.near or max(NEAR * float(reach), 1e-30)
        fov = float(np.degrees(2 * np.arctan(size / (size - 2 * MARGIN))))
        return [
            Camera.look_at(at, at + side * reach, up, fov_y=fov, near=near)
            for axis, up in zip(np.eye(3), np.roll(np.eye(3), 1, 0), strict=True)
            for side in (axis, -axis)
        ]


def _frame(towards: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Rows right, up, towards of a sun's maps; turned so that the view runs along them."""
    up = axis - (axis @ towards) * towards
    if np.linalg.norm(up) < 1e-3 * np.linalg.norm(axis):
        up = np.eye(3)[np.abs(towards).argmin()]
        up = up - (up @ towards) * towards
    up = up / np.linalg.norm(up)
    return np.stack([np.cross(up, towards), up, towards])


def _box_corners(box: np.ndarray) -> np.ndarray:
    """(8, 3) of a box (2, 3)."""
    return np.stack(np.meshgrid(*box.T), -1).reshape(8, 3)


def _frustum_corners(
    camera: Camera, near: float, far: float, width: int, height: int
) -> np.ndarray:
    """(8, 3) world: the corners of what a camera sees between two distances in world units."""
    scale_x, scale_y, shift_x, shift_y = camera._window(width, height)
    x, y, along = np.meshgrid(
        (np.array([-1, 1]) - shift_x) / scale_x,
        (np.array([-1, 1]) - shift_y) / scale_y,
        np.array([near, far]) * camera.scale,
    )
    across = 1 if camera.orthographic else along
    points = np.stack([x * across, y * across, -along], -1).reshape(8, 3)
    view = np.asarray(camera.view, float)
    return np.linalg.solve(view[:3, :3], (points - view[:3, 3]).T).T


def _split(near: float, far: float, count: int, *, even: bool) -> np.ndarray:
    """(count + 1,) distances: the practical split of Zhang, Sun, Xu and Lun, "Parallel-Split Shadow
    Maps for Large-Scale Virtual Environments", 2006."""
    near, far = near * (1 - 1e-5), far * (1 + 1e-5)
    part = np.linspace(0, 1, count + 1)
    equal = near + (far - near) * part
    return equal if even else UNIFORM * equal + (1 - UNIFORM) * near * (far / near) ** part


def shadow_cameras(
    lights: Sequence[Sun | Lamp],
    camera: Camera,
    seen: tuple[float, float],
    box: np.ndarray,
    image: tuple[int, int],
    size: int,
) -> tuple[list[Camera], list[_C.Light]]:
    """The cameras of all shadow maps, and the lights that know which are theirs.

    seen: the nearest and the farthest distance that `camera` drew in an image of (width, height)
    `image`. box: (2, 3), around the scene; it is not finite where the scene has lost all that the
    frame drew: then nothing casts a shadow. size: pixels of a map, in width and height.
    """
    if not np.isfinite(box).all():
        corners = _frustum_corners(camera, *seen, *image)
        box = np.stack([corners.min(0), corners.max(0)])
    cameras: list[Camera] = []
    of: list[_C.Light] = []
    for light in lights:
        added = light._cameras(camera, seen, box, image, size)
        of.append(light._core(len(cameras), len(added)))
        cameras += added
    return cameras, of
