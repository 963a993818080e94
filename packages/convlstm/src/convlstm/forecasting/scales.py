"""How the values of recordings become [0, 1], and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRANSFORMS = ("linear", "log")


@dataclass(frozen=True)
class Scale:
    """How the values of a recording become [0, 1].

    It is kept in checkpoints, so that a forecast is of the same quantity as the training. unit
    names the quantity (dBZ, mm/h, "of 255"). transform "linear": (value - low) / (high - low);
    values outside [low, high] are kept as they are. "log": log(value / low) / log(high / low), for
    rain rates; what is below low is 0 and comes back as 0. NaN stays NaN.
    """

    low: float = 0.0
    high: float = 255.0
    unit: str = ""
    transform: str = "linear"

    def __post_init__(self) -> None:
        if not np.isfinite([self.low, self.high]).all() or not self.low < self.high:
            raise ValueError(f"Scale: low must be below high, got {self.low} and {self.high}")
        if self.transform not in TRANSFORMS:
            raise ValueError(
                f"Scale: transform must be one of {', '.join(TRANSFORMS)}, got {self.transform!r}"
            )
        if self.transform == "log" and not self.low > 0:
            raise ValueError(f"Scale: of a logarithm low must be above 0, got {self.low}")

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values in their unit to float32, [low, high] to [0, 1]."""
        if self.transform == "log":
            above = np.maximum(np.asarray(values, np.float64), self.low)
            return (np.log(above / self.low) / np.log(self.high / self.low)).astype(np.float32)
        return ((values - self.low) / (self.high - self.low)).astype(np.float32)

    def undo(self, frames: np.ndarray) -> np.ndarray:
        """float32 frames back in their unit."""
        if self.transform == "log":
            values = self.low * (self.high / self.low) ** np.asarray(frames, np.float64)
            return np.where(np.asarray(frames) <= 0, 0.0, values).astype(np.float32)
        return (frames * (self.high - self.low) + self.low).astype(np.float32)

    @classmethod
    def of(cls, values: np.ndarray) -> Scale:
        """That of whole numbers' type (of 255, of 65535), or from 0 to the largest value of
        others; from the lowest where that is below 0. Raises ValueError for what is not finite."""
        if values.dtype == np.bool_:
            return cls(0, 1)
        if values.dtype.kind == "u":
            most = float(np.iinfo(values.dtype).max)
            return cls(0, most, f"of {most:.0f}")
        finite = values[np.isfinite(values)]
        if not finite.size:
            raise ValueError("Scale: there is no finite value to scale by")
        return cls.between(float(finite.min()), float(finite.max()), values.dtype)

    @classmethod
    def between(cls, low: float, high: float, dtype: np.dtype) -> Scale:
        """That of numbers of this type whose lowest and largest are these."""
        low = min(0.0, low)
        if dtype.kind == "f" and low >= 0 and high <= 1:
            return cls(0, 1)
        return cls(low, high if high > low else low + 1)


# By the units that files name. dBZ as Shi et al. 2017 (arXiv 1706.03458, section 4.2) map it to
# pixels; rain rates by their logarithm above 0.1 mm/h, as pysteps does (Pulkkinen et al. 2019).
SCALES = {
    "dBZ": Scale(-10.0, 60.0, "dBZ"),
    "mm/h": Scale(0.1, 100.0, "mm/h", "log"),
}


def scale_of_unit(unit: str) -> Scale | None:
    """The usual scale of a unit as files spell it ("dBZ", "mm h-1", "mm/hr"); None for others."""
    plain = unit.strip().lower().replace(" ", "").replace("**", "").replace("^", "")
    if plain == "dbz":
        return SCALES["dBZ"]
    if plain in ("mm/h", "mm/hr", "mm/hour", "mmh-1", "mmhr-1"):
        return SCALES["mm/h"]
    return None
