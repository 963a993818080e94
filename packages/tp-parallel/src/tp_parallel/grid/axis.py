"""One axis of the process grid and its collectives.

An `Axis` is the line of ranks that differ in one coordinate only (tensor, pipeline or data). Its
methods are torch.distributed collectives with three additions: every rank's operation, shape and
dtype are compared before the payload moves (gloo kills the process on a size mismatch, NCCL hangs),
a failure names rank, operation, shape and step, and calls and bytes are counted. On an axis of one
rank every method is the identity and nothing is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as dist

from .errors import CollectiveError, MismatchError

# torch 2.13 renamed these two
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

_OPS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "send", "barrier")
_REDUCE = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}
_DTYPES = (
    torch.float64, torch.float32, torch.bfloat16, torch.float16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
_MAX_DIMS = 8
_HEADER = 3 + _MAX_DIMS  # operation, dtype, number of dimensions, dimensions


@dataclass(frozen=True)
class Message:
    """One operation as this process saw it: what, why, and its payload in bytes."""

    op: str
    kind: str
    label: str
    bytes: int


@dataclass
class Traffic:
    """What this process has sent: calls and payload bytes by (operation, kind).

    `log`: set it to a list to have every `Message` appended in order.
    """

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    log: list[Message] | None = None

    def add(self, op: str, kind: str, label: str, tensor: torch.Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        self.calls[op, kind] += 1
        self.bytes[op, kind] += size
        if self.log is not None:
            self.log.append(Message(op, kind, label, size))

    def reset(self) -> None:
        self.calls.clear()
        self.bytes.clear()


class Owner(Protocol):
    """What an axis needs to know about the context it belongs to."""

    rank: int
    step: int
    traffic: Traffic
    check_shapes: bool

    def coordinates(self) -> str: ...
    def diagnose(self, ranks: tuple[int, ...], error: BaseException) -> str: ...
    def enter(self, what: str) -> None: ...
    def leave(self) -> None: ...


class Pending:
    """A collective under way; `wait()` returns when its result may be read."""

    def __init__(
        self, wait: Callable[[], object], finish: Callable[[Callable[[], object]], object]
    ) -> None:
        self._wait, self._finish = wait, finish

    def wait(self) -> None:
        self._finish(self._wait)


class Done:
    """The handle of an operation that needed no communication."""

    def wait(self) -> None:
        return None


class Axis:
    """The ranks along one axis, seen from this process.

    Attributes: `name`; `size`; `rank`, this process's place on the axis; `ranks`, the global ranks
    in order; `group`, the torch process group, or None where size is 1.
    """

    def __init__(
        self,
        name: str,
        ranks: tuple[int, ...],
        rank: int,
        group: dist.ProcessGroup | None,
        owner: Owner,
    ) -> None:
        self.name, self.ranks, self.rank, self.group = name, ranks, rank, group
        self.size = len(ranks)
        self._owner = owner
        self._opened = False

    def __repr__(self) -> str:
        return f"Axis({self.name}: place {self.rank} of {self.size}, ranks {list(self.ranks)})"

    def __deepcopy__(self, memo: dict) -> Axis:
        return self  # a copied layer talks over the same ranks

    def __reduce__(self) -> tuple:
        return getattr, (self._owner, self.name)

    def release(self) -> dist.ProcessGroup | None:
        """Lets go of the group, which is returned; nothing can be said over the axis any more."""
        group, self.group = self.group, None
        return group

    # -- collectives --------------------------------------------------------------------------

    def all_reduce(
        self, tensor: torch.Tensor, op: str = "sum", *, label: str, kind: str = "activation"
    ) -> torch.Tensor:
        """Reduces `tensor` in place over the axis ("sum" or "max") and returns it."""
        self.all_reduce_async(tensor, op, label=label, kind=kind).wait()
        return tensor

    def all_reduce_async(
        self, tensor: torch.Tensor, op: str = "sum", *, label: str, kind: str = "activation"
    ) -> Pending | Done:
        """Like `all_reduce`, but returns a handle; `tensor` is valid after its `wait()`."""
        if self.size == 1:
            return Done()
        if not tensor.is_contiguous():
            raise ValueError(
                f"Axis.all_reduce: tensor must be contiguous, got strides {tensor.stride()} of "
                "shape "
                f"{tuple(tensor.shape)}; pass tensor.contiguous()"
            )
        finish = self._prepare("all_reduce", tensor, label, kind)
        work = finish(lambda: dist.all_reduce(tensor, _REDUCE[op], group=self.group, async_op=True))
        return Pending(work.wait, finish)

    def all_gather(
        self, tensor: torch.Tensor, dim: int, *, label: str, kind: str = "activation"
    ) -> torch.Tensor:
        """Joins every rank's `tensor` along `dim`, in axis order, into a new tensor."""
        if self.size == 1:
            return tensor
        tensor = tensor.contiguous()
        out = tensor.new_empty((self.size, *tensor.shape))
        finish = self._prepare("all_gather", tensor, label, kind)
        finish(lambda: _all_gather(out.view(-1), tensor.view(-1), group=self.group))
        dim %= max(tensor.dim(), 1)
        return out.flatten(0, 1) if dim == 0 else torch.cat(out.unbind(0), dim)

    def reduce_scatter(
        self, tensor: torch.Tensor, dim: int, *, label: str, kind: str = "activation"
    ) -> torch.Tensor:
        """Sums `tensor` over the axis and returns this rank's equal slice of it along `dim`.

        Raises ValueError if the length along `dim` is no multiple of the axis size.
        """
        if self.size == 1:
            return tensor
        if tensor.shape[dim] % self.size:
            raise ValueError(
                f"{label}: length {tensor.shape[dim]} along dimension {dim} must be a multiple of "
                f"the {self.name} size {self.size}; pad the input or change {self.name}"
            )
        stacked = torch.stack(tensor.chunk(self.size, dim))
        out = torch.empty_like(stacked[0])
        finish = self._prepare("reduce_scatter", tensor, label, kind)
        finish(lambda: _reduce_scatter(out.view(-1), stacked.view(-1), group=self.group))
        return out

    def broadcast(
        self, tensor: torch.Tensor, source: int = 0, *, label: str, kind: str = "control"
    ) -> torch.Tensor:
        """Copies `tensor` in place from the rank at place `source` on the axis."""
        if self.size == 1:
            return tensor
        finish = self._prepare("broadcast", tensor, label, kind)
        finish(lambda: dist.broadcast(tensor, self.ranks[source], group=self.group))
        return tensor

    def barrier(self, *, label: str) -> None:
        """Returns when every rank of the axis has called it."""
        self.all_reduce(torch.zeros(1, dtype=torch.int32, device=self._device()), label=label,
                        kind="control")  # fmt: skip

    def guarded(self, label: str, run: Callable[[], object]) -> None:
        """Runs collectives that torch issues by itself; a failure names rank, `label` and step."""
        self._run(f"{label} over {self.name} ranks {list(self.ranks)}", run)

    # -- point to point -------------------------------------------------------------------------

    def send(self, tensor: torch.Tensor, to: int, *, tag: int, label: str) -> Pending:
        """Starts to send `tensor` to the rank at place `to`; keep it unchanged until `wait()`."""
        finish = self._guard("send", tensor, f"{label} to rank {self.ranks[to]}")
        self._owner.traffic.add("send", "pipeline", label, tensor)
        parts = [self._header("send", tensor)] if self._owner.check_shapes else []
        parts.append(tensor)
        first = 2 * tag + 2 - len(parts)
        works = [
            finish(lambda p=part, t=number: dist.isend(p, self.ranks[to], group=self.group, tag=t))
            for number, part in enumerate(parts, start=first)
        ]
        # `parts` must live until the sends are over
        return Pending(lambda: [work.wait() for work, _ in zip(works, parts, strict=True)], finish)

    def receive(self, like: torch.Tensor, source: int, *, tag: int, label: str) -> torch.Tensor:
        """Receives into `like` (shape and dtype agreed before) from the rank at place `source`.

        Raises MismatchError if the sender's shape or dtype differs.
        """
        origin = self.ranks[source]
        finish = self._guard("receive", like, f"{label} from rank {origin}")
        if self._owner.check_shapes:
            header = self._header("send", like)
            finish(lambda: dist.recv(header, origin, group=self.group, tag=2 * tag))
            self._agree(like, header, origin, label)
        finish(lambda: dist.recv(like, origin, group=self.group, tag=2 * tag + 1))
        return like

    def exchange(
        self,
        sends: Sequence[tuple[torch.Tensor, int, int, str]],
        receives: Sequence[tuple[torch.Tensor, int, int, str]],
    ) -> Exchanged:
        """Starts several messages at once. On NCCL they are one group, so that messages of both
        directions cannot wait for each other; on gloo a send waits for nothing.

        Each is (tensor, place of the other rank, tag, label); a tensor to be received gives shape
        and dtype only and may be on "meta". A sent tensor must stay unchanged until what was
        `started` has been waited for.
        With gloo and `check_shapes`, an arrival raises MismatchError if the sender's shape differs.
        """
        if self._device().type == "cuda":
            return self._grouped(sends, receives)
        started = [self.send(t, to, tag=tag, label=label) for t, to, tag, label in sends]
        arrivals = []
        for like, source, tag, label in receives:
            arrival = Arrival(self, like, source, tag, label)
            arrival.start()
            arrivals.append(arrival)
        return Exchanged(started, arrivals)

    def _grouped(self, sends: Sequence, receives: Sequence) -> Exchanged:
        if not self._opened:
            self._opened = True  # NCCL: the first call in a group must be everyone's
            self.barrier(label="first message")
        arrivals = [Arrival(self, *message, checks=False) for message in receives]
        parts = [(dist.isend, tensor, to) for tensor, to, _, _ in sends]
        parts += [(dist.irecv, a.message(), a.source) for a in arrivals]
        for tensor, _, _, label in sends:
            self._owner.traffic.add("send", "pipeline", label, tensor)
        names = ", ".join(label for *_, label in (*sends, *receives))
        what = f"messages {names} over {self.name} ranks {list(self.ranks)}"
        operations = [
            dist.P2POp(kind, tensor, self.ranks[place], group=self.group)
            for kind, tensor, place in parts
        ]
        works = self._run(what, lambda: dist.batch_isend_irecv(operations))
        group = Pending(lambda: [work.wait() for work in works], lambda run: self._run(what, run))
        for arrival in arrivals:
            arrival.pending = group
        return Exchanged([group] if sends else [], arrivals)

    # -- checks and errors ------------------------------------------------------------------------

    def _device(self) -> torch.device:
        return getattr(self._owner, "device", torch.device("cpu"))

    def _where(self) -> str:
        return f"rank {self._owner.rank} ({self._owner.coordinates()}), step {self._owner.step}"

    def _prepare(self, op: str, tensor: torch.Tensor, label: str, kind: str):
        finish = self._guard(op, tensor, label)
        if self._owner.check_shapes:
            self._compare(op, tensor, label, finish)
        self._owner.traffic.add(op, kind, label, tensor)
        return finish

    def _guard(self, op: str, tensor: torch.Tensor, label: str):
        """A function that runs a piece of the operation and names it if that piece fails."""
        what = f"{op} {label!r} of {_text(tensor)} over {self.name} ranks {list(self.ranks)}"
        return lambda run: self._run(what, run)

    def _run(self, what: str, run: Callable[[], object]):
        if self.group is None:
            raise RuntimeError(
                f"{what}: the ParallelContext is closed; close it after its last use"
            )
        self._owner.enter(what)
        try:
            return run()
        except CollectiveError:
            raise
        except RuntimeError as error:
            raise CollectiveError(
                f"{self._where()}: {what} failed. {self._owner.diagnose(self.ranks, error)}"
                f"Cause: {str(error).strip().splitlines()[0]}"
            ) from error
        finally:
            self._owner.leave()

    def _header(
        self, op: str, tensor: torch.Tensor, device: torch.device | None = None
    ) -> torch.Tensor:
        if tensor.dim() > _MAX_DIMS:
            raise ValueError(f"Axis.{op}: at most {_MAX_DIMS} dimensions, got {tensor.dim()}")
        values = [_OPS.index(op), _DTYPES.index(tensor.dtype), tensor.dim(), *tensor.shape]
        values += [0] * (_HEADER - len(values))
        return torch.tensor(values, dtype=torch.int64, device=device or tensor.device)

    def _agree(self, like: torch.Tensor, header: torch.Tensor, origin: int, label: str) -> None:
        mine = self._header("send", like, header.device)
        if not torch.equal(mine, header):
            raise MismatchError(
                f"{self._where()}: receive {label!r} expects {_describe(mine)} but rank "
                f"{origin} sends {_describe(header)}; build both stages from the same config"
            )

    def _compare(self, op: str, tensor: torch.Tensor, label: str, finish) -> None:
        mine = self._header(op, tensor)
        every = mine.new_empty(self.size * _HEADER)
        finish(lambda: _all_gather(every, mine, group=self.group))
        rows = every.view(self.size, _HEADER)
        if bool((rows == rows[0]).all()):
            return
        listed = "; ".join(
            f"rank {rank}: {_describe(row)}" for rank, row in zip(self.ranks, rows, strict=True)
        )
        raise MismatchError(
            f"{self._where()}: {op} {label!r} over {self.name} ranks {list(self.ranks)} needs the "
            f"same operation and shape on every rank, got {listed}; nothing was exchanged"
        )


@dataclass
class Exchanged:
    """A group of messages under way; what was `started` is waited for before a sent tensor may be
    changed or let go."""

    started: list[Pending]
    arrivals: list[Arrival]


class Arrival:
    """A message to be received; with `checks` its header comes first, and memory only after it."""

    def __init__(
        self, axis: Axis, like: torch.Tensor, source: int, tag: int, label: str,
        checks: bool | None = None,
    ) -> None:  # fmt: skip
        self.axis, self.like, self.source, self.tag, self.label = axis, like, source, tag, label
        self.checks = axis._owner.check_shapes if checks is None else checks
        self.origin = axis.ranks[source]
        self.guard = axis._guard("receive", like, f"{label} from rank {self.origin}")
        self.header: torch.Tensor | None = None
        self.buffer: torch.Tensor | None = None
        self.pending: Pending | None = None

    def message(self) -> torch.Tensor:
        """The memory it comes into."""
        if self.buffer is None:
            self.buffer = torch.empty_like(self.like, device=self.axis._device())
        return self.buffer

    def start(self) -> None:
        """Posts the receive of the header or, unchecked, of the message."""
        if self.checks:
            first = self.header = self.axis._header("send", self.like, self.axis._device())
        else:
            first = self.message()
        tag = 2 * self.tag + (not self.checks)
        group = self.axis.group
        work = self.guard(lambda: dist.irecv(first, self.origin, group=group, tag=tag))
        self.pending = Pending(work.wait, self.guard)

    def wait(self) -> torch.Tensor:
        """The received tensor."""
        assert self.pending is not None
        self.pending.wait()
        buffer = self.message()
        if self.header is not None:
            self.axis._agree(self.like, self.header, self.origin, self.label)
            group, tag = self.axis.group, 2 * self.tag + 1
            self.guard(lambda: dist.recv(buffer, self.origin, group=group, tag=tag))
        return buffer


def _text(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _describe(header: torch.Tensor) -> str:
    op, dtype, dims, *shape = header.tolist()
    name = str(_DTYPES[dtype]).removeprefix("torch.")
    return f"{_OPS[op]} {name} {tuple(shape[:dims])}"
