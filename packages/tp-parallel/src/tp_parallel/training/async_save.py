"""Checkpoints that are written while training goes on.

A save copies what it is about (parameters, moments, streams) to host memory and returns;
torch.distributed.checkpoint's `async_save` writes the copies from a thread. Its collectives run on
a group of their own, so that they never meet those of the training. Another thread then hashes and
commits, as `checkpoint.save` does.
"""

from __future__ import annotations

import datetime
import os
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..data_parallel.optimizer import AdamW
from ..grid.context import ParallelContext
from ..grid.errors import CheckpointError
from . import checkpoint
from .parts import cloned


class _Copies:
    """The staging that `async_save` asks for: values as they are now, in host memory."""

    should_synchronize_after_execute = False

    def stage(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: cloned(value) for name, value in state.items()}

    def close(self) -> None:
        """Nothing is kept."""


class AsyncSaver:
    """Saves in the background, one checkpoint at a time.

    Made on every rank at the same time (it creates a process group). `save` waits for the save
    before it; call `wait` before the process ends. What went wrong is raised by the next `save` or
    `wait`, on every rank; whatever was committed before stays as it was.
    """

    def __init__(self, context: ParallelContext) -> None:
        self.context = context
        several = context.world_size > 1
        limit = datetime.timedelta(seconds=context.timeout)
        self._group = dist.new_group(backend="gloo", timeout=limit) if several else None
        if not several:  # what torch says of a single process, from its thread
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._path: Path | None = None

    def save(
        self,
        root: str | os.PathLike[str],
        step: int,
        models: Iterable[nn.Module],
        optimizer: AdamW | None,
        *,
        extra: dict[str, Any] | None = None,
        keep: int | None = None,
        aside: Path | None = None,
    ) -> None:
        """Begins to write a checkpoint; arguments as for `checkpoint.save`. Returns once parameters
        may change.
        """
        import torch.distributed.checkpoint as dcp

        self.wait()
        models, final = list(models), Path(root) / f"step_{step:08d}"
        part = checkpoint.begin(final, self.context, aside, self._group)
        state = checkpoint.state_of(models, optimizer, self.context)
        manifest = checkpoint.describe(step, models, extra, self.context)
        alone = not dist.is_initialized()
        with checkpoint.quiet_alone():
            written = dcp.async_save(
                state, storage_writer=dcp.FileSystemWriter(part), process_group=self._group,
                async_stager=_Copies(), no_dist=alone,
            )  # fmt: skip

        def finish() -> None:
            try:
                written.result()
                checkpoint.complete(part, final, manifest, self.context, keep, self._group)
                self._path = final
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=finish, name="tp_parallel save")
        self._thread.start()

    def wait(self) -> Path | None:
        """Returns when nothing is being written; the checkpoint that was committed last. Raises
        CheckpointError if it could not be, on every rank.
        """
        if self._thread is None:
            return self._path
        self._thread.join()
        self._thread = None
        problem = None if self._error is None else f"{type(self._error).__name__}: {self._error}"
        self._error = None
        problems: list[Any] = [problem]
        if self._group is not None:
            problems = [None] * self.context.world_size
            dist.all_gather_object(problems, problem, group=self._group)
        for rank, found in enumerate(problems):
            if found:
                raise CheckpointError(
                    f"AsyncSaver: rank {rank} could not write the checkpoint: {found}; the last "
                    "committed checkpoint is as it was"
                )
        return self._path
