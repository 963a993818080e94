"""Numbers at the door, checked by name."""

import operator
from typing import Any


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
