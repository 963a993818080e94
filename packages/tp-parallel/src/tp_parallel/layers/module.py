"""What every split model can do: fill its parameters, finish its gradients, know what to count.

A parameter may carry: `shard`, how it is cut; `init`, what fills it; `sequence_parallel`, its
gradient is a partial sum over tp; `tied_to`, the name of the parameter on the first stage that it
copies; `tied_from`, on that parameter, the name of the copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from ..grid.context import ParallelContext
from .config import GPTConfig
from .sharding import fill, gather_full, shard_of, split


class MegatronModule(nn.Module):
    """Base of models whose parameters are cut over the tensor axis and whose layers over stages."""

    def __init__(self, config: GPTConfig, context: ParallelContext) -> None:
        super().__init__()
        self.config, self.context = config, context

    def initialize_parameters(self, mode: str = "whole", seed: int | None = None) -> None:
        """Fills every parameter by its `init`, from streams derived from seed and parameter
        name.
        """
        seed = self.context.seed if seed is None else seed
        for name, parameter in self.named_parameters():
            fill(parameter, getattr(parameter, "tied_to", name), seed, self.context.tp, mode)

    def materialize(
        self, device: torch.device | str | None = None, mode: str = "whole"
    ) -> MegatronModule:
        """Gives memory to a model built on "meta" and fills it. Returns the model."""
        kept = {name: dict(vars(p)) for name, p in self.named_parameters()}
        self.to_empty(device=self.context.device if device is None else device)
        for name, parameter in self.named_parameters():
            vars(parameter).update(kept[name])
        self.initialize_parameters(mode)
        return self

    @torch.no_grad()
    def load_full(self, state: dict[str, torch.Tensor]) -> None:
        """Takes the unsplit model's tensors by name and keeps this rank's parts.

        Raises KeyError for a name that is missing, or that belongs to no stage of the model;
        ValueError for a wrong shape.
        """
        axis = self.context.tp
        own = {getattr(p, "tied_to", name) for name, p in self.named_parameters()}
        foreign = [name for name in state if name not in own and not self.elsewhere(name)]
        if foreign:
            raise KeyError(
                f"MegatronModule.load_full: no stage of the model has {', '.join(foreign[:5])}; "
                f"this one has {', '.join(sorted(own)[:5])}, ..."
            )
        for name, parameter in self.named_parameters():
            source = getattr(parameter, "tied_to", name)
            if source not in state:
                raise KeyError(f"MegatronModule.load_full: {source!r} is not in the given state")
            full = state[source].to(parameter.device, parameter.dtype)
            parameter.copy_(split(full, shard_of(parameter), axis.rank, axis.size))

    def elsewhere(self, name: str) -> bool:
        """Whether the parameter `name` may belong to another stage; here: there is no other."""
        return False

    def gather_full(self, gradients: bool = False) -> dict[str, torch.Tensor]:
        """The unsplit tensors (or gradients) of this stage by name, on every rank of the tensor
        axis.
        """
        out = {}
        for name, parameter in self.named_parameters():
            if hasattr(parameter, "tied_to"):
                continue
            value = parameter.grad if gradients else parameter
            if value is not None:
                out[name] = gather_full(value, shard_of(parameter), self.context.tp)
        return out


def named_parameters(models: Iterable[nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of all stages this rank holds."""
    for model in models:
        yield from model.named_parameters()


def counts_here(parameter: nn.Parameter, context: ParallelContext) -> bool:
    """Whether this rank counts the parameter in a sum over the model: once for each distinct
    value.
    """
    if hasattr(parameter, "tied_to"):
        return False
    return shard_of(parameter).dim is not None or context.tp.rank == 0
