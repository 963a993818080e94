"""Traps of building FFmpeg with GPU parts: how a log shows them, and the way out.

Each was met. Some end configure or make with an error; the worst end nothing and leave a part out,
which is why `build` asserts every requested part after configure. The table is data/messages.toml.
"""

from __future__ import annotations

from .failures import Diagnosis, find, load

TRAPS = load("build")


def recognise(log: str) -> Diagnosis | None:
    """The first known trap in the output of apt, configure, make or fate; None if there is none."""
    return find(TRAPS, log)
