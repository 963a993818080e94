"""Which whole tensor each parameter is a part of: one table a module, keyed by parameter name.

torch replaces Parameters at will: deepcopy, pickle, `to_empty`, `load_state_dict(assign=True)`,
FSDP2 and parametrizations all make new ones. So nothing that must last hangs on a Parameter: it
stands in the `layouts` of the module that owns it. Every walk over a model's parameters is
`placed_parameters`, which refuses a parameter of a split model that no table knows, since a part
taken for the whole is wrong in silence (norms, sums, checkpoints).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from ..grid.context import ParallelContext
from .sharding import GroupShard, Init, Shard

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")  # torch.compile, activation checkpoints


@dataclass(frozen=True)
class Layout:
    """What a parameter is: `shard`, the whole tensor and its cut over tp; `init` fills it;
    `partial_gradient`: each tp rank's gradient is a share of a sum (sequence parallelism);
    `tied_to`: name of the parameter on the first pipeline stage that it copies; `tied_from`: on
    that one, the name of the copy.
    """

    shard: Shard
    init: Init | None = None
    partial_gradient: bool = False
    tied_to: str | None = None
    tied_from: str | None = None

    @property
    def tied(self) -> bool:
        return self.tied_to is not None or self.tied_from is not None


class Placed(NamedTuple):
    """A parameter with its name in the model and its layout."""

    name: str
    parameter: nn.Parameter
    layout: Layout

    @property
    def source(self) -> str:
        """Name of the parameter that holds the value: another one for a tied copy."""
        return self.layout.tied_to or self.name

    def counted(self, tensor: torch.Tensor, context: ParallelContext) -> list[torch.Tensor]:
        """The parts of `tensor` (the parameter or its gradient) that this process holds and counts
        in a sum over tp and pp: each distinct value once.
        """
        shard, axis = self.layout.shard, context.tp
        if self.layout.tied_to is not None or (shard.dim is None and axis.rank):
            return []
        mine = held(tensor)
        if not isinstance(shard, GroupShard):
            return [mine]
        start = held_offsets(tensor)[shard.dim]
        pieces = [p for p in shard.pieces(axis.rank, axis.size) if not p.copy]
        spans = [(max(0, p.local - start), min(len(mine), p.local + p.length - start))
                 for p in pieces]  # fmt: skip
        return [mine.narrow(shard.dim, low, high - low) for low, high in spans if high > low]


def declare(
    module: nn.Module, name: str, shard: Shard, *, init: Init | None = None,
    partial_gradient: bool = False,
) -> None:  # fmt: skip
    """Says how the parameter `name` of `module` itself (not of a child) is cut over tp.

    For parameters that this library did not make, such as an adapter's:
    `declare(lora_b, "weight", Shard((out_features, rank), 0))`. Raises KeyError if there is none.
    """
    if name not in module._parameters:
        raise KeyError(f"declare: {type(module).__name__} has no parameter {name!r} of its own")
    set_layout(module, name, Layout(shard, init, partial_gradient))


def declare_replicated(module: nn.Module) -> nn.Module:
    """Says that all parameters under `module` that no table knows are the same on every tp rank,
    values and gradients; returns `module`.
    """
    for owner in module.modules():
        if _parametrized(owner):
            continue
        for name, parameter in owner._parameters.items():
            if parameter is not None and name not in layouts_of(owner):
                set_layout(owner, name, Layout(Shard(tuple(parameter.shape))))
    return module


def set_layout(module: nn.Module, name: str, layout: Layout) -> None:
    """Enters a parameter of `module` into its table."""
    module.__dict__.setdefault("layouts", {})[name] = layout


def change_layout(module: nn.Module, name: str, **changes: Any) -> None:
    """Changes fields of an entry."""
    set_layout(module, name, dataclasses.replace(layouts_of(module)[name], **changes))


def layouts_of(module: nn.Module) -> dict[str, Layout]:
    """The table of `module`'s own parameters; empty where it has none."""
    return module.__dict__.get("layouts", {})


def placed_parameters(models: Iterable[nn.Module], context: ParallelContext) -> Iterator[Placed]:
    """Every parameter of the stages this rank holds, once, in the order of `named_parameters`.

    Raises ValueError where tp is above 1 for a parameter that no table knows, and for one whose
    shape is not what its table says.
    """
    for model in models:
        seen: set[int] = set()
        modules = dict(model.named_modules())
        for prefix, module in modules.items():
            for own, parameter in module._parameters.items():
                if parameter is None or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                owner, key, name = module, own, f"{prefix}.{own}" if prefix else own
                if _parametrized(module):  # up.parametrizations.weight.original is up.weight
                    parent, _, key = f".{prefix}".rpartition(".parametrizations.")
                    parent = parent.lstrip(".")
                    owner = modules[parent] if own == "original" else module
                    if own == "original":
                        name = f"{parent}.{key}" if parent else key
                layout = layouts_of(owner).get(key)
                for wrapper in _WRAPPERS:
                    name = name.replace(wrapper, "")
                yield Placed(name, parameter, _checked(name, parameter, layout, context.tp.size))


def _parametrized(module: nn.Module) -> bool:
    return isinstance(module, ParametrizationList)


def _checked(name: str, parameter: nn.Parameter, layout: Layout | None, size: int) -> Layout:
    shape = tuple(parameter.shape)
    if layout is None:
        if size == 1:
            return Layout(Shard(shape))
        raise ValueError(
            f"placed_parameters: no table says how parameter {name!r} of shape {shape} is cut over "
            f"tp {size}, and a part must not be taken for the whole; say it with "
            "tp_parallel.declare(module, name, Shard(...)) or, if every rank of the tensor axis "
            "holds the same, tp_parallel.declare_replicated(module)"
        )
    if shape != layout.shard.local_shape(size):
        raise ValueError(
            f"placed_parameters: {name!r} must have the shape {layout.shard.local_shape(size)}, "
            f"its part of {layout.shard.shape} over tp {size}, got {shape}"
        )
    return layout


# -- parameters that FSDP2 has cut once more, over the data axis


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether `tensor` is a DTensor: FSDP2 made it so, over data ranks."""
    module = sys.modules.get("torch.distributed.tensor")  # without it there is no DTensor
    return module is not None and isinstance(tensor, module.DTensor)


def held(tensor: torch.Tensor) -> torch.Tensor:
    """The values of `tensor` that this process holds, sharing memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def held_offsets(tensor: torch.Tensor) -> tuple[int, ...]:
    """Where `held(tensor)` begins in `tensor`, along each dimension."""
    if not is_sharded(tensor):
        return (0,) * tensor.dim()
    return tuple(tensor.__create_chunk_list__()[0].offsets)  # type: ignore[attr-defined]


def whole_over_data(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` with all data ranks' shares; synchronises them if there are several."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def copy_into(parameter: torch.Tensor, value: torch.Tensor) -> None:
    """Copies this process's share of `value`, [shape of parameter], into `parameter`."""
    mine = held(parameter)
    for dim, (start, length) in enumerate(zip(held_offsets(parameter), mine.shape, strict=True)):
        value = value.narrow(dim, start, length)
    mine.copy_(value)
