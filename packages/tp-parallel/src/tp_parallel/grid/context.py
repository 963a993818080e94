"""The process grid: who shares a layer, who holds which stage, who sees which data.

World ranks form a grid with the axes data (dp), pipeline (pp) and tensor (tp), as in Megatron-LM
(Narayanan et al., 2021, arXiv 2104.04473, section 3). A `ParallelContext` is an ordinary object:
layers are handed one, no module keeps one, and a process may hold several.
"""

from __future__ import annotations

import datetime
import itertools
import math
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from .axis import Axis, Traffic
from .ending import close_at_exit, living
from .errors import CollectiveError, MismatchError
from .faults import Monitor
from .launcher import read_launcher
from .rng import RngTracker
from .weight_gradients import WeightGradients

DEFAULT_TIMEOUT = 120.0  # seconds; a hung rank ends the others after at most this long
_AXES = ("dp", "pp", "tp")


class ParallelContext:
    """This process's place in the grid, the collectives along each axis and its random streams.

    Args:
        tp, pp: tensor and pipeline sizes.
        dp: data size; None takes what remains of the world.
        cp: context size: each `cp` consecutive ranks of the data axis hold parts of the same
            sequences (`layers.context_parallel`). Parameters are copies on them as on all data
            ranks, and gradients are summed over the data axis as before.
        order: axes from fastest to slowest changing rank, e.g. "tp-dp-pp" (Megatron's).
        ranks: instead of `order`, the world ranks themselves as nested lists [dp][pp][tp].
        device: where parameters and activations live; None takes CUDA device LOCAL_RANK if CUDA
            answers, else the CPU.
        seed: root of every random stream; equal on all ranks.
        timeout: seconds after which a collective that makes no progress raises.
        check_shapes: compare operation, shape and dtype across ranks before each payload; None
            means yes on gloo (where a mismatch would kill the process), no on NCCL.

        monitor: let ranks leave signs of life, so that an error names the rank that died, hangs or
            raised; None means yes where this context starts the process group.

    Without a launcher (no process group, no RANK in the environment) it is a grid of one process.
    With torchrun's, srun's or mpirun's environment it starts the default process group and ends it
    in `close()`.

    Raises ValueError if tp * pp * dp is not the world size, MismatchError (a RuntimeError) on every
    rank, naming rank and value, if ranks ask for different grids. Synchronises all ranks.
    """

    def __init__(
        self,
        tp: int = 1,
        pp: int = 1,
        dp: int | None = None,
        *,
        cp: int = 1,
        order: str = "tp-dp-pp",
        ranks: Sequence[Sequence[Sequence[int]]] | None = None,
        device: torch.device | str | None = None,
        seed: int = 1234,
        timeout: float = DEFAULT_TIMEOUT,
        check_shapes: bool | None = None,
        monitor: bool | None = None,
    ) -> None:
        self.timeout = float(timeout)
        if not 0 < self.timeout < math.inf or isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(
                "ParallelContext: timeout must be above 0 and finite, seed a whole number, got "
                f"{timeout!r} and {seed!r}"
            )
        self._owns_world = _start_world_if_launched(self.timeout)
        self._distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self._distributed else 0
        self.world_size = dist.get_world_size() if self._distributed else 1
        self.device = _pick_device(device)
        self.step = 0
        self.traffic = Traffic()
        self.planned = self._distributed and dist.get_backend() == dist.Backend.FAKE
        on_gloo = self.device.type == "cpu" and not self.planned
        self.check_shapes = on_gloo if check_shapes is None else check_shapes
        self._doing: str | None = None
        self._monitor: Monitor | None = None
        self._mesh: dist.device_mesh.DeviceMesh | None = None
        self._tp_mesh: dist.device_mesh.DeviceMesh | None = None

        wish = {"tp": tp, "pp": pp, "dp": dp, "cp": cp, "order": order, "ranks": ranks,
                "seed": seed, "check_shapes": self.check_shapes}  # fmt: skip
        self.check_equal("ParallelContext", wish)
        self._wish = {**wish, "device": self.device.type, "timeout": self.timeout}
        grid = _grid(tp, pp, dp, order, ranks, self.world_size)
        self.grid = grid
        place = (grid == self.rank).nonzero()[0].tolist()
        self._place = dict(zip(_AXES, place, strict=True))
        self.dp = self._axis("dp", grid, 0)
        self.pp = self._axis("pp", grid, 1)
        self.tp = self._axis("tp", grid, 2)
        self.cp = self._context_axis(grid, cp)
        self.ends = self._ends_axis(grid)
        self.world = Axis("world", tuple(range(self.world_size)), self.rank,
                          dist.group.WORLD if self._distributed else None, self)  # fmt: skip
        if self.world_size > 1 and (self._owns_world if monitor is None else monitor):
            self._monitor = Monitor(self.rank, self.world_size)
        self.seed = seed
        self.weight_gradients = WeightGradients()
        self._names = itertools.count()
        self.rng = RngTracker(seed, dp=self.dp.rank, pp=self.pp.rank, tp=self.tp.rank,
                              device=self.device)  # fmt: skip
        self._token = uuid.uuid4().hex
        living.add(self)
        if self.world_size > 1:
            close_at_exit()

    def __deepcopy__(self, memo: dict) -> ParallelContext:
        return self  # a copied model lives in the same grid

    def __reduce__(self) -> tuple:
        return _same_context, (self._token, self._wish)

    @classmethod
    def from_mesh(cls, mesh: dist.device_mesh.DeviceMesh, **options: Any) -> ParallelContext:
        """A context over the ranks of a DeviceMesh with dimensions named dp, pp and tp (any
        subset).

        Raises ValueError for other dimension names.
        """
        names = mesh.mesh_dim_names or ()
        if not names or any(name not in _AXES for name in names):
            raise ValueError(
                f"ParallelContext.from_mesh: mesh_dim_names must be among {_AXES}, got "
                f"{names or None}"
            )
        ranks = mesh.mesh
        missing = [name for name in _AXES if name not in names]
        ranks = ranks.reshape(*ranks.shape, *[1] * len(missing))
        ranks = ranks.permute([(*names, *missing).index(axis) for axis in _AXES])
        dp, pp, tp = ranks.shape
        options.setdefault("device", None if mesh.device_type == "cuda" else mesh.device_type)
        return cls(tp=tp, pp=pp, dp=dp, ranks=ranks.tolist(), **options)

    def mesh(self) -> dist.device_mesh.DeviceMesh:
        """The grid as a torch DeviceMesh (dp, pp, tp), for FSDP2 or DTensor beside this library."""
        self._need_world("ParallelContext.mesh")
        if self._mesh is None:
            self._mesh = dist.device_mesh.DeviceMesh(
                self.device.type, self.grid, mesh_dim_names=_AXES
            )
        return self._mesh

    def tp_mesh(self) -> dist.device_mesh.DeviceMesh:
        """This rank's tensor axis as a one-dimensional DeviceMesh over the group that exists."""
        self._need_world("ParallelContext.tp_mesh")
        if self._tp_mesh is None:
            self._tp_mesh = dist.device_mesh.DeviceMesh.from_group(
                self.tp.group, self.device.type, mesh_dim_names=("tp",)
            )
        return self._tp_mesh

    @property
    def first_stage(self) -> bool:
        return self.pp.rank == 0

    @property
    def last_stage(self) -> bool:
        return self.pp.rank == self.pp.size - 1

    def coordinates(self) -> str:
        """This process's place for messages: "dp 0, pp 1, tp 0"."""
        return ", ".join(f"{axis} {self._place[axis]}" for axis in _AXES)

    def next_name(self) -> str:
        """A name for a parameter that no model names: equal on ranks that build the same layers."""
        return f"layer {next(self._names)}"

    def check_equal(self, name: str, value: Any) -> None:
        """Raises MismatchError on every rank if `value` differs between ranks; names who differs.

        `value` is anything picklable; dictionaries are compared key by key. Synchronises all ranks.
        """
        if self.world_size == 1 or self.planned:
            return
        every: list[Any] = [None] * self.world_size
        dist.all_gather_object(every, value)
        differing = [rank for rank, other in enumerate(every) if other != every[0]]
        if not differing:
            return
        rank = differing[0]
        if isinstance(value, dict) and isinstance(every[0], dict):
            keys = [k for k in {**every[0], **every[rank]} if every[0].get(k) != every[rank].get(k)]
            fact = "; ".join(
                f"{key} is {every[0].get(key)!r} on rank 0 and {every[rank].get(key)!r} on "
                f"rank {rank}"
                for key in keys
            )
        else:
            fact = f"rank 0 has {every[0]!r}, rank {rank} has {every[rank]!r}"
        raise MismatchError(
            f"{name}: every rank must pass the same values, but {fact} "
            f"(differing from rank 0: ranks {differing}); start all ranks with the same arguments"
        )

    def close(self) -> None:
        """Ends the groups that this context made, their threads with them, and the default group
        if it started that. The context is of no use afterwards.
        """
        if self._monitor is not None:
            self._monitor.stop()
            self._monitor = None
        living.discard(self)
        self._mesh = self._tp_mesh = None
        groups = [axis.release() for axis in (self.tp, self.pp, self.dp, self.cp, self.ends)]
        world = self.world.release()
        if not dist.is_initialized() or dist.group.WORLD is not world:
            return  # ended by others, or begun anew
        if self._owns_world:
            self._owns_world = False
            dist.destroy_process_group()  # all groups there are
            return
        for group in filter(None, groups):
            dist.destroy_process_group(group)

    def __enter__(self) -> ParallelContext:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.report(error)
        self.close()

    def report(self, error: BaseException) -> None:
        """Leaves `error` for the other ranks, whose own errors will then name it.

        `with context:` and `pretrain` do this by themselves.
        """
        if self._monitor is not None:
            self._monitor.report(error, victim=isinstance(error, CollectiveError))

    # -- for Axis ---------------------------------------------------------------------------------

    def enter(self, what: str) -> None:
        self._doing = what
        if self._monitor is not None:
            self._monitor.enter(what, self.step)

    def leave(self) -> None:
        self._doing = None
        if self._monitor is not None:
            self._monitor.leave(self.step)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Marks an operation under way that is not one of an `Axis`."""
        self.enter(what)
        try:
            yield
        finally:
            self.leave()

    def diagnose(self, ranks: tuple[int, ...], error: BaseException) -> str:
        """Which of `ranks` caused `error`, as a sentence, or an empty string."""
        return "" if self._monitor is None else self._monitor.diagnose(ranks, error)

    # -- groups -----------------------------------------------------------------------------------

    def _need_world(self, who: str) -> None:
        if not self._distributed:
            raise RuntimeError(
                f"{who}: needs a process group, but this is a single process without a launcher; "
                "start it with torchrun, or call torch.distributed.init_process_group first"
            )

    def _axis(self, name: str, grid: torch.Tensor, dim: int) -> Axis:
        lines = grid.movedim(dim, -1).reshape(-1, grid.shape[dim]).tolist()
        return self._group_of(name, lines)

    def _context_axis(self, grid: torch.Tensor, size: int) -> Axis:
        """The `size` neighbours on the data axis that hold parts of the same sequences."""
        data = grid.shape[0]
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or data % size:
            raise ValueError(
                f"ParallelContext: cp must divide the data size {data}, got {size!r}; it is how "
                "many ranks of the data axis share a sequence"
            )
        if size == 1:
            return Axis("cp", (self.rank,), 0, None, self)
        lines = grid.movedim(0, -1).reshape(-1, size)
        return self._group_of("cp", lines.tolist())

    def _ends_axis(self, grid: torch.Tensor) -> Axis:
        """First and last pipeline stage: they hold the two copies of a tied embedding."""
        lines = grid.movedim(1, -1).reshape(-1, grid.shape[1])
        return self._group_of("ends", lines[:, [0, -1]].tolist() if lines.shape[1] > 1 else
                              lines.tolist())  # fmt: skip

    def _group_of(self, name: str, lines: list[list[int]]) -> Axis:
        """Every rank creates every group, in the same order, as torch.distributed demands."""
        found: Axis | None = None
        limit = datetime.timedelta(seconds=self.timeout)
        for line in lines:
            if self.planned and self.rank not in line:
                continue  # nobody else is there
            group = dist.new_group(line, timeout=limit) if len(line) > 1 else None
            if self.rank in line:
                found = Axis(name, tuple(line), line.index(self.rank), group, self)
        return found or Axis(name, (self.rank,), 0, None, self)


@contextmanager
def planned_grid(rank: int, tp: int, pp: int, dp: int, **options: Any) -> Iterator[ParallelContext]:
    """The context of one rank of a grid of which no process runs, for plans and dry runs.

    torch's "fake" process group stands for the others: collectives return at once and leave what
    they were given; give them fake or meta tensors. Raises RuntimeError where a process group is
    there already.
    """
    if dist.is_initialized():
        raise RuntimeError("planned_grid: a process group is there; plan in a process of its own")
    hook = sys.excepthook  # torch's names the rank in front of every line
    dist.init_process_group("fake", rank=rank, world_size=tp * pp * dp)
    try:
        context = ParallelContext(tp, pp, dp, device="cpu", monitor=False, **options)
        yield context
        context.close()
    finally:
        dist.destroy_process_group()
        sys.excepthook = hook


def _same_context(token: str, wish: dict[str, Any]) -> ParallelContext:
    """For pickle: the very context if it lives here, else one made by the same arguments."""
    world = dist.group.WORLD if dist.is_available() and dist.is_initialized() else None
    alike = [c for c in living if c._wish == wish and c.world.group is world]
    for context in sorted(alike, key=lambda c: c._token != token):
        return context
    return ParallelContext(**wish)


def _start_world_if_launched(timeout: float) -> bool:
    """Starts the default process group from torchrun's environment; True if it did."""
    if not dist.is_available() or dist.is_initialized() or not read_launcher():
        return False
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    limit = datetime.timedelta(seconds=timeout)
    store = _store_of_this_attempt(limit)
    if store is None:
        dist.init_process_group(backend, timeout=limit)
    else:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    return True


def _store_of_this_attempt(timeout: datetime.timedelta) -> dist.Store | None:
    """torchrun's store with a prefix for this attempt; None where torch's own choice serves.

    torchrun keeps one store over its restarts, so that a restarted rank may read the address of one
    that is dead. Agents of several hosts count their restarts apart: there is no common prefix.
    """
    one_host = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or not one_host:
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timeout)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"tp_parallel attempt {attempt}", store)


def _pick_device(device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        index = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    return torch.device("cpu")


def _grid(
    tp: int,
    pp: int,
    dp: int | None,
    order: str,
    ranks: Sequence[Sequence[Sequence[int]]] | None,
    world: int,
) -> torch.Tensor:
    """World ranks as an int64 tensor [dp, pp, tp]. Raises ValueError if they are no such grid."""
    for name, value in (("tp", tp), ("pp", pp), ("dp", 1 if dp is None else dp)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"ParallelContext: {name} must be a positive integer, got {value!r}")
    if dp is None:
        dp = max(world // (tp * pp), 1)
    if tp * pp * dp != world:
        raise ValueError(
            f"ParallelContext: tp * pp * dp must be the world size {world}, got "
            f"{tp} * {pp} * {dp} = {tp * pp * dp}; change the sizes, or start "
            f"{tp * pp * dp} processes (torchrun --nproc-per-node {tp * pp * dp} ...)"
        )
    if ranks is not None:
        grid = torch.tensor(ranks, dtype=torch.int64)
        if tuple(grid.shape) != (dp, pp, tp) or sorted(grid.flatten().tolist()) != list(
            range(world)
        ):
            raise ValueError(
                f"ParallelContext: ranks must hold each of 0..{world - 1} once in the shape "
                f"(dp {dp}, pp {pp}, tp {tp}), got shape {tuple(grid.shape)}"
            )
        return grid
    names = order.split("-")
    if sorted(names) != sorted(_AXES):
        allowed = ", ".join("-".join(p) for p in itertools.permutations(("tp", "dp", "pp")))
        raise ValueError(f"ParallelContext: order must be one of {allowed}; got {order!r}")
    sizes = {"tp": tp, "pp": pp, "dp": dp}
    slow_first = names[::-1]
    grid = torch.arange(world).reshape([sizes[name] for name in slow_first])
    return grid.permute([slow_first.index(axis) for axis in _AXES]).contiguous()
