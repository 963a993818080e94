"""What every split model can do: fill its parameters, take and give unsplit tensors."""

from __future__ import annotations

import torch
from torch import nn

from ..grid.context import ParallelContext
from .config import GPTConfig
from .layout import Placed, copy_into, placed_parameters, whole_over_data
from .sharding import drawn, gather_full, split


class MegatronModule(nn.Module):
    """Base of models whose parameters are cut over the tensor axis and whose layers over stages."""

    def __init__(self, config: GPTConfig, context: ParallelContext) -> None:
        super().__init__()
        self.config, self.context = config, context

    def placed(self) -> list[Placed]:
        """Its parameters with names and layouts."""
        return list(placed_parameters([self], self.context))

    @torch.no_grad()
    def initialize_parameters(self, mode: str = "whole", seed: int | None = None) -> None:
        """Fills every parameter by its `init`, from streams derived from seed and parameter name.

        `mode`: "whole" or "local", see `sharding.drawn`. Raises ValueError for a parameter without
        an `init`.
        """
        seed = self.context.seed if seed is None else seed
        for placed in self.placed():
            name, parameter, layout = placed
            if layout.init is None:
                raise ValueError(
                    f"initialize_parameters: nothing says what fills {name!r}; give `init` to "
                    "tp_parallel.declare, or fill it yourself"
                )
            value = drawn(
                parameter, layout.shard, layout.init, placed.source, seed, self.context.tp, mode
            )
            copy_into(parameter, value)

    def materialize(
        self, device: torch.device | str | None = None, mode: str = "whole"
    ) -> MegatronModule:
        """Gives memory to a model built on "meta" and fills it. Returns the model."""
        self.to_empty(device=self.context.device if device is None else device)
        self.initialize_parameters(mode)
        return self

    @torch.no_grad()
    def load_full(self, state: dict[str, torch.Tensor]) -> None:
        """Takes the unsplit model's tensors by name and keeps this rank's parts.

        Raises KeyError for a name that is missing, or that belongs to no stage of the model;
        ValueError for a wrong shape.
        """
        axis = self.context.tp
        every = self.placed()
        own = {placed.source for placed in every}
        foreign = [name for name in state if name not in own and not self.elsewhere(name)]
        if foreign:
            raise KeyError(
                f"MegatronModule.load_full: no stage of the model has {', '.join(foreign[:5])}; "
                f"this one has {', '.join(sorted(own)[:5])}, ..."
            )
        for placed in every:
            if placed.source not in state:
                raise KeyError(
                    f"MegatronModule.load_full: {placed.source!r} is not in the given state"
                )
            full = state[placed.source].to(placed.parameter.device, placed.parameter.dtype)
            copy_into(placed.parameter, split(full, placed.layout.shard, axis.rank, axis.size))

    def elsewhere(self, name: str) -> bool:
        """Whether the parameter `name` may belong to another stage; here: there is no other."""
        return False

    def gather_full(self, gradients: bool = False) -> dict[str, torch.Tensor]:
        """The unsplit tensors (or gradients) of this stage by name, on every rank of the tensor
        axis.
        """
        out = {}
        for name, parameter, layout in self.placed():
            value = parameter.grad if gradients else parameter
            if layout.tied_to is None and value is not None:
                value = whole_over_data(value.detach())
                out[name] = gather_full(value, layout.shard, self.context.tp)
        return out
