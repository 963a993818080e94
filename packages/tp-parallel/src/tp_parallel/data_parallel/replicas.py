"""Data parallelism inside one process, with the contract of torch.nn.DataParallel.

One forward pass is four steps, each a function of its own: copy the module to every device
(`replicate`), cut the inputs along the batch (`scatter`), run the replicas in threads
(`parallel_apply`), and join the outputs (`gather`). The copies are made by autograd, so gradients
add up in the source module by themselves. For many processes and hosts use
`ParallelContext(dp=...)` instead.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Any

import torch
from torch import nn

Device = torch.device | int | str
_NO_CONTAINERS = (str, bytes, Iterator, Set)  # a set has no order in which items correspond


class DataParallel(nn.Module):
    """Runs `module` on several devices at once, each with its share of the batch.

    Args:
        module: its parameters must lie on the first device; it stays reachable as `.module`, and
            state-dict keys start with "module.".
        device_ids: devices to use, CUDA indices or any torch devices (["cpu", "cpu"] in tests);
            None takes all GPUs, and without any the module simply runs where it is.
        output_device: where outputs are joined; None takes the first device.
        dim: dimension of inputs and outputs that counts the batch.

    Gradients of all replicas are summed into the module's parameters. Buffers that a forward pass
    changes are kept from the first replica. Tensors in nested tuples, lists and dicts are cut and
    joined; anything else is handed to every replica. Raises RuntimeError if a parameter is
    elsewhere.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: Sequence[Device] | None = None,
        output_device: Device | None = None,
        dim: int = 0,
    ) -> None:
        super().__init__()
        if device_ids is None:
            device_ids = list(range(torch.cuda.device_count()))
        self.module, self.dim = module, dim
        self.device_ids = [_device(device) for device in device_ids]
        first = self.device_ids[0] if self.device_ids else None
        self.output_device = first if output_device is None else _device(output_device)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        if not self.device_ids:
            return self.module(*inputs, **kwargs)
        self._check_source()
        if len(self.device_ids) == 1:  # as torch: whatever it returns is handed on
            ((args, named),) = scatter((inputs, kwargs), self.device_ids, self.dim)
            return self.module(*args, **named)
        parts = scatter((inputs, kwargs), self.device_ids, self.dim)
        devices = self.device_ids[: len(parts)]
        replicas = replicate(self.module, devices)
        outputs = parallel_apply(
            replicas, [part[0] for part in parts], [part[1] for part in parts], devices
        )
        return gather(outputs, self.output_device or devices[0], self.dim)

    def _check_source(self) -> None:
        for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            if tensor.device != self.device_ids[0]:
                raise RuntimeError(
                    "DataParallel: the module must lie on device_ids[0], "
                    f"{self.device_ids[0]}, but "
                    f"{name} is on {tensor.device}; call module.to({str(self.device_ids[0])!r})"
                )


def replicate(module: nn.Module, devices: Sequence[Device]) -> list[nn.Module]:
    """One copy of `module` a device; parameters are autograd copies of the source's.

    The first replica shares the source's buffers, so that its changes remain; the others hold
    copies; a buffer that requires a gradient is copied as a parameter is. A module may define
    torch's `_replicate_for_data_parallel`. A replica is for one forward pass: its parameters are
    plain tensors. Raises TypeError for a ScriptModule and for what torch.compile returns, whose
    parameters cannot be replaced.
    """
    replicas = []
    for index, device in enumerate(map(_device, devices)):
        memo: dict[int, Any] = {}  # keeps shared modules and tied parameters shared

        def copy_of(tensor: torch.Tensor, buffer: bool, index=index, device=device, memo=memo):
            if id(tensor) not in memo:
                if buffer and not tensor.requires_grad:
                    memo[id(tensor)] = (
                        tensor if index == 0 else tensor.detach().to(device, copy=True)
                    )
                else:
                    memo[id(tensor)] = tensor.to(device) if tensor.device != device else tensor * 1
            return memo[id(tensor)]

        replicas.append(_replica(module, copy_of, memo))
    return replicas


def scatter(inputs: Any, devices: Sequence[Device], dim: int = 0) -> list[Any]:
    """`inputs` cut along `dim` into at most one part a device, nesting kept.

    Parts are those of torch.chunk, so there may be fewer than devices; a part is moved to its
    device. Without any tensor every device gets the inputs as they are. Raises ValueError if two
    tensors give different numbers of parts, or one has no dimension `dim`.
    """
    places = [_device(device) for device in devices]
    counts: set[int] = set()
    _count_parts(inputs, len(places), dim, counts)
    if len(counts) > 1:
        raise ValueError(
            f"scatter: all tensors must have the same length along dimension {dim}, but they fall "
            f"into {sorted(counts)} parts; pass what is no batch as something other than a tensor"
        )
    nothing = isinstance(inputs, (tuple, dict)) and inputs in ((), {}, ((), {}))
    number = counts.pop() if counts else 1 if nothing else len(places)
    return [_part(inputs, i, number, places[i], len(places), dim) for i in range(number)]


def parallel_apply(
    modules: Sequence[nn.Module],
    inputs: Sequence[tuple[Any, ...]],
    kwargs: Sequence[Mapping[str, Any]] | None = None,
    devices: Sequence[Device] | None = None,
) -> list[Any]:
    """`module(*input, **kwargs)` for each, at the same time; results in order.

    An input that is no tuple or list is the only argument. Grad mode, inference mode and autocast
    are those of the caller. If replicas raise, the error of the first one is raised again, with the
    replica's number noted.
    """
    kwargs = kwargs or [{}] * len(modules)
    inputs = [each if isinstance(each, (tuple, list)) else (each,) for each in inputs]
    places = [None if d is None else _device(d) for d in devices or [None] * len(modules)]
    results: list[Any] = [None] * len(modules)
    errors: dict[int, BaseException] = {}
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    casts = {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
             for kind in ("cpu", "cuda")}  # fmt: skip

    def work(index: int) -> None:
        device = places[index]
        try:
            kind = "cpu" if device is None else device.type
            on, dtype = casts.get(kind, (False, torch.float32))
            with (
                torch.inference_mode(inference),
                torch.set_grad_enabled(grad),
                _current(device),
                torch.autocast(kind, dtype=dtype, enabled=on),
            ):
                results[index] = modules[index](*inputs[index], **kwargs[index])
        except BaseException as error:
            errors[index] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, len(modules))]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    for index in sorted(errors):
        where = "" if places[index] is None else f" on {places[index]}"
        if hasattr(errors[index], "add_note"):  # Python 3.11
            errors[index].add_note(f"in replica {index}{where} of parallel_apply")
        raise errors[index]
    return results


def gather(outputs: Sequence[Any], device: Device, dim: int = 0) -> Any:
    """Joins the replicas' outputs along `dim` on `device`, nesting kept; scalars become a vector.

    Tuples, lists, mappings, dataclasses, and other iterables that are made of what they yield, such
    as transformers' caches. `device` -1 is the CPU, as in torch. Raises ValueError if dicts differ
    in their keys or sequences in their lengths, TypeError for outputs that cannot be joined.
    """
    device, first = _device(device), outputs[0]
    kinds = {"Tensor" if isinstance(o, torch.Tensor) else type(o).__name__ for o in outputs}
    if len(kinds) > 1:
        raise TypeError(
            f"gather: every replica must return the same kind, got {' and '.join(sorted(kinds))}"
        )
    if isinstance(first, torch.Tensor):
        moved = [output.to(device) for output in outputs]
        if first.dim() == 0:
            return torch.stack(moved)
        return moved[0] if len(moved) == 1 else torch.cat(moved, dim)
    if first is None:
        return None
    if isinstance(first, Mapping):  # transformers' outputs too, which are dataclasses as well
        if any(output.keys() != first.keys() for output in outputs):
            raise ValueError("gather: every replica must return a dict with the same keys")
        return _maker(first)({k: gather([o[k] for o in outputs], device, dim) for k in first})
    if isinstance(first, (tuple, list)):
        items = _joined(outputs, device, dim)
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    if dataclasses.is_dataclass(first):
        whole = copy.copy(first)  # whatever its __init__ takes
        for each in dataclasses.fields(first):
            value = gather([getattr(o, each.name) for o in outputs], device, dim)
            object.__setattr__(whole, each.name, value)  # frozen ones too
        return whole
    if isinstance(first, Iterable) and not isinstance(first, _NO_CONTAINERS):
        return _maker(first)(_joined(outputs, device, dim))
    raise TypeError(
        f"gather: outputs must be tensors, None, or tuples, lists, dicts and dataclasses of them, "
        f"got {type(first).__name__}"
    )


def _joined(outputs: Sequence[Iterable[Any]], device: torch.device, dim: int) -> list[Any]:
    """What the outputs yield, item by item."""
    rows = [list(output) for output in outputs]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise ValueError(f"gather: every replica must return as many items, got {lengths}")
    return [gather(column, device, dim) for column in zip(*rows, strict=True)]


def _maker(like: Any) -> Any:
    """What makes a container of the kind of `like` from its items."""
    if isinstance(like, defaultdict):
        return partial(type(like), like.default_factory)
    return type(like)


def _replica(module: nn.Module, copy_of, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            "replicate: a ScriptModule keeps its parameters; hand over the module it was made from"
        )
    if hasattr(module, "_orig_mod"):  # torch.compile's wrapper calls the source it has compiled
        raise TypeError(
            "replicate: a compiled module keeps its parameters; hand over the module it was made "
            "from, and compile the DataParallel"
        )
    replica: Any = module._replicate_for_data_parallel()  # RNNs renew their flat weights there
    memo[id(module)] = replica
    replica._parameters = {name: None for name, p in module._parameters.items() if p is None}
    replica._buffers = {
        name: None if buffer is None else copy_of(buffer, True)
        for name, buffer in module._buffers.items()
    }
    replica._modules = {
        name: None if child is None else _replica(child, copy_of, memo)
        for name, child in module._modules.items()
    }
    for name, parameter in module._parameters.items():
        if parameter is not None:
            setattr(replica, name, copy_of(parameter, False))
    return replica


def _count_parts(item: Any, devices: int, dim: int, counts: set[int]) -> None:
    if isinstance(item, torch.Tensor):
        if not -item.dim() <= dim < item.dim():
            raise ValueError(
                f"scatter: every tensor must have a dimension {dim}, got the shape "
                f"{tuple(item.shape)}; pass what is no batch as something other than a tensor"
            )
        counts.add(len(item.chunk(devices, dim)))
    elif isinstance(item, Mapping):
        for value in item.values():
            _count_parts(value, devices, dim, counts)
    elif isinstance(item, (tuple, list)):
        for value in item:
            _count_parts(value, devices, dim, counts)


def _part(item: Any, index: int, number: int, device: torch.device, devices: int, dim: int) -> Any:
    if isinstance(item, torch.Tensor):
        return item.chunk(devices, dim)[index].to(device)
    if isinstance(item, Mapping):
        parts = {k: _part(v, index, number, device, devices, dim) for k, v in item.items()}
        return _maker(item)(parts)
    if isinstance(item, (tuple, list)):
        made = [_part(v, index, number, device, devices, dim) for v in item]
        return type(item)(*made) if hasattr(item, "_fields") else type(item)(made)
    return item


def _current(device: torch.device | None):
    """Makes a CUDA device the thread's current one; nothing for others."""
    on_cuda = device is not None and device.type == "cuda"
    return torch.cuda.device(device if on_cuda else -1)


def _device(device: Device) -> torch.device:
    if device == -1:
        return torch.device("cpu")
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
