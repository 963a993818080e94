"""Numbers at the door, checked by name."""

import math
import operator
from typing import Any

import numpy as np


def whole(value: Any, function: str, name: str, least: int = -(2**31)) -> int:
    """`value` as an int of 32 bits, at least `least`. Raises TypeError, ValueError by name."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{function}: {name} must be a whole number, got {value!r}; convert it by int()"
        ) from None
    if not least <= number < 2**31:
        raise ValueError(f"{function}: {name} must be {least} to {2**31 - 1}, got {number}")
    return number


def real(value: Any, function: str, name: str) -> float:
    """`value` as a float. Raises TypeError by name."""
    if not isinstance(value, str | bytes):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{function}: {name} must be a number, got {value!r}; convert it by float()")


def flag(value: Any, function: str, name: str) -> bool:
    """`value` as a bool, also numpy's. Raises TypeError by name: "no" would be true."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{function}: {name} must be True or False, got {value!r}")


def unit(vector: np.ndarray) -> np.ndarray:
    """A vector at length one, however tiny or huge it is: scaled by a power of two first, which
    changes no bit of what comes out."""
    scaled = np.ldexp(vector, -np.frexp(np.abs(vector).max())[1])
    return scaled / np.linalg.norm(scaled)


def point(value: Any, function: str, name: str) -> tuple[float, float, float]:
    """`value` as three finite floats. Raises TypeError, ValueError by name."""
    asked = f"{function}: {name} must be 3 finite numbers (x, y, z)"
    if isinstance(value, str | bytes):
        raise TypeError(f"{asked}, got {value!r}")
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError):
        raise TypeError(f"{asked}, got {value!r}") from None
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{asked}, got {value!r}")
    return numbers[0], numbers[1], numbers[2]
