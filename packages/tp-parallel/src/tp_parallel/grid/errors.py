"""The errors of distributed work: each one names the rank, the operation and the step."""

from __future__ import annotations


class CollectiveError(RuntimeError):
    """A collective operation did not complete: a peer died, hung past the time-out or disagreed."""


class MismatchError(CollectiveError):
    """Ranks came to the same point with different operations, shapes, dtypes or settings."""


class CheckpointError(RuntimeError):
    """A checkpoint is incomplete, damaged or belongs to another model."""
