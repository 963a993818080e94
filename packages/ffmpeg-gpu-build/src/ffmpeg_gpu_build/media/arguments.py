"""What the arguments of frames and transcodes must be, said by name."""

from __future__ import annotations

import math
import numbers
from fractions import Fraction
from typing import Any

# FFmpeg keeps (w + 128)(h + 128) x 8 below 2^31 (libavutil/imgutils.c, av_image_check_size2)
LARGEST = (1 << 28) - 1


class WrongKind(TypeError, ValueError):
    """A value of another kind than an argument takes; also a ValueError, which it was before."""


def whole(where: str, name: str, value: Any, lowest: int) -> int:
    """A whole number of at least `lowest`. TypeError for what is no number, ValueError for 1.5."""
    demand = f"{where}: {name} must be a whole number of at least {lowest}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise WrongKind(demand)
    if not isinstance(value, numbers.Integral) or value < lowest:
        raise ValueError(demand)
    return int(value)


def seconds(where: str, name: str, value: Any) -> Fraction:
    """A time of at least 0, finite."""
    demand = f"{where}: {name} must be at least 0 seconds and finite, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise WrongKind(demand)
    if not math.isfinite(value) or value < 0:
        raise ValueError(demand)
    return Fraction(value) if isinstance(value, numbers.Rational) else Fraction(float(value))


def rate(where: str, name: str, value: Any) -> Fraction:
    """Frames a second: above 0, finite, a ratio that FFmpeg holds."""
    demand = f"{where}: {name} must be a number above 0 and finite, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise WrongKind(demand)
    if not math.isfinite(value) or value <= 0:
        raise ValueError(demand)
    exact = value if isinstance(value, numbers.Rational) else float(value)
    found = Fraction(exact).limit_denominator(100_000)
    if not 0 < found < 1_000_000:
        raise ValueError(demand)
    return found


def size(where: str, value: Any) -> tuple[int, int]:
    """(width, height), both above 0, of a picture that FFmpeg can hold."""
    demand = f"{where}: size must be (width, height), both whole and above 0, got {value!r}"
    try:
        sides = tuple(value)
    except TypeError:
        raise WrongKind(demand) from None
    if isinstance(value, (str, bytes)) or any(not isinstance(s, numbers.Real) for s in sides):
        raise WrongKind(demand)
    if len(sides) != 2 or any(not math.isfinite(s) or s != int(s) or s <= 0 for s in sides):
        raise ValueError(demand)
    width, height = int(sides[0]), int(sides[1])
    if (width + 128) * (height + 128) > LARGEST:
        raise ValueError(
            f"{where}: size must be of a picture of at most about 268 million pixels, which is "
            f"what FFmpeg holds, got {width}x{height}"
        )
    return width, height
