"""ZeRO-2 and ZeRO-3: torch's FSDP2 over the data axis, beside tp and pp.

Rajbhandari et al., 2020, arXiv 1910.02054, stages 2 and 3; Zhao et al., 2023, arXiv 2304.11277.
Each data rank keeps its share of every parameter, gradient and optimizer state; a layer's
parameters are gathered while it runs. `finish_gradients`, `gradient_norm`, `AdamW`, `gather_full`
and checkpoints know such parameters.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..grid.context import ParallelContext


def shard_over_data(model: nn.Module, context: ParallelContext, **options: Any) -> nn.Module:
    """Shares the parameters of a model (or stage) out over dp, each transformer layer a unit.

    options: of `torch.distributed.fsdp.fully_shard`, e.g. `reshard_after_forward=False` (ZeRO-2)
        or `mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)`
        over a float32 model.

    Returns `model`, changed in place; without a data axis as it is. Gradients are summed over dp,
    as everywhere in this library (`fully_shard` alone gives their mean). Not for schedules that
    split the backward pass. Synchronises all ranks the first time.
    """
    if context.dp.size == 1:
        return model
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = context.mesh()["dp"]
    for layer in getattr(model, "layers", nn.ModuleDict()).values():
        fully_shard(layer, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other for float32
    return model
