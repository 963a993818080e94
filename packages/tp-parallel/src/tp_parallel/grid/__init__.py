"""The process grid: who shares what, how they talk, what is drawn, and who failed."""

from .axis import Axis, Message, Traffic
from .context import ParallelContext
from .errors import CheckpointError, CollectiveError, MismatchError
from .mappings import (
    copy_to_region,
    gather_from_region,
    gather_to_split_region,
    reduce_from_region,
    reduce_scatter_to_region,
    scatter_to_region,
)
from .rng import RngTracker, recompute

__all__ = [
    "Axis",
    "CheckpointError",
    "CollectiveError",
    "Message",
    "MismatchError",
    "ParallelContext",
    "RngTracker",
    "Traffic",
    "copy_to_region",
    "gather_from_region",
    "gather_to_split_region",
    "recompute",
    "reduce_from_region",
    "reduce_scatter_to_region",
    "scatter_to_region",
]
