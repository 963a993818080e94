"""One process, or several that torchrun has started: rank, size, device, and sums over all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class World:
    """Who this process is among `size`."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes; in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all processes with those of the first one."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name; "auto" takes CUDA where there is one.

    Raises ValueError for a name that is no device, RuntimeError for CUDA where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"device {name!r} was asked for, but torch {torch.__version__} sees no CUDA device; "
            "cure: --device cpu, or a CUDA build of torch on a machine with a driver"
        )
    return device


@contextlib.contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join torchrun's process group, if RANK and WORLD_SIZE say so; leave it at the end."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = pick_device(device)
    if chosen.type == "cuda" and size > 1:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    started = False
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        started = True
    try:
        yield World(rank, size, chosen)
    finally:
        if started:
            dist.destroy_process_group()
