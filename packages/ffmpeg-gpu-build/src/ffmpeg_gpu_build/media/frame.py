"""A picture as an array that knows its time."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np


class Frame(np.ndarray):
    """A frame as an array that knows its time.

    pts         Fraction, seconds: the presentation time that the container gives, as PyAV and
                ffprobe say it; None where there is none (a raw stream)
    time        float, seconds after the first frame of the stream: the clock of `start` and of
                `Video.at`
    index       which frame of this reading it is, from 0
    key         whether it was coded by itself
    interlaced  whether it is made of two fields
    """

    pts: Fraction | None
    time: float
    index: int
    key: bool
    interlaced: bool

    def __array_finalize__(self, other: Any) -> None:
        for name, default in (
            ("pts", None), ("time", 0.0), ("index", 0), ("key", False), ("interlaced", False),
        ):  # fmt: skip
            setattr(self, name, getattr(other, name, default))

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """A sum or a mean of a frame is a number and has no time."""
        if array.ndim == 0:
            return np.asarray(array)[()]
        return super().__array_wrap__(array, context)

    def __reduce__(self) -> Any:
        """Its time goes along to another process."""
        reduced: Any = super().__reduce__()
        build, arguments, state = reduced
        return build, arguments, (state, self.__dict__)

    def __setstate__(self, state: Any) -> None:
        array, facts = state
        super().__setstate__(array)
        self.__dict__.update(facts)
