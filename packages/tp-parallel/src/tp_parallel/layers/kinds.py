"""Whether the fields of a dataclass hold what their annotations say."""

from __future__ import annotations

from dataclasses import fields
from numbers import Integral, Real
from typing import Any

_KINDS = {"bool": (bool, "True or False"), "int": (Integral, "a whole number"),
          "float": (Real, "a number"), "str": (str, "text")}  # fmt: skip


def check_kinds(who: str, values: Any) -> None:
    """Raises TypeError, naming the field, where a bool, int, float or str (or None, if its
    annotation allows it) is of another kind. True is no number; NumPy's numbers are numbers.
    """
    for each in fields(values):
        value, kind = getattr(values, each.name), str(each.type).removesuffix(" | None")
        if kind not in _KINDS or (value is None and kind != each.type):
            continue
        type_, words = _KINDS[kind]
        if not isinstance(value, type_) or (isinstance(value, bool) and type_ is not bool):
            raise TypeError(f"{who}: {each.name} must be {words}, got {value!r}")
