"""Inference: a model made fast, exported, or run over folders of pictures."""

from .optimization import (
    ENGINES,
    EQUAL,
    LEVELS,
    TOLERANCE,
    Optimized,
    Report,
    Trial,
    optimize,
)

__all__ = [
    "ENGINES",
    "EQUAL",
    "LEVELS",
    "TOLERANCE",
    "Optimized",
    "Report",
    "Trial",
    "optimize",
]
