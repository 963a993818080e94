"""Layer normalisation (Ba et al., 2016) and RMS normalisation (Zhang and Sennrich, 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..grid.context import ParallelContext
from .config import GPTConfig
from .layout import Layout, set_layout
from .ops import rms_norm
from .sharding import Shard, constant


class _Norm(nn.Module):
    """Weights are copies on every rank; under sequence parallelism their gradients are summed."""

    def __init__(
        self, features: int, *, context: ParallelContext, eps: float, with_bias: bool,
        sequence_parallel: bool, initialize: bool, device, dtype, zero_centred: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.features, self.eps, self.zero_centred = features, eps, zero_centred
        device = context.device if device is None else torch.device(device)
        for name, value in (("weight", 0.0 if zero_centred else 1.0), ("bias", 0.0)):
            if name == "bias" and not with_bias:
                self.register_parameter("bias", None)
                continue
            parameter = nn.Parameter(torch.empty(features, device=device, dtype=dtype))
            if initialize and not parameter.is_meta:
                nn.init.constant_(parameter, value)
            self.register_parameter(name, parameter)
            partial = sequence_parallel and context.tp.size > 1
            set_layout(self, name, Layout(Shard((features,)), constant(value), partial))

    def extra_repr(self) -> str:
        return f"{self.features}, eps={self.eps}"


class LayerNorm(_Norm):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension, [...,
    features].
    """

    def __init__(
        self, features: int, *, context: ParallelContext, eps: float = 1e-5,
        sequence_parallel: bool = False, initialize: bool = True, device=None, dtype=None,
    ) -> None:  # fmt: skip
        super().__init__(
            features, context=context, eps=eps, with_bias=True, device=device, dtype=dtype,
            sequence_parallel=sequence_parallel, initialize=initialize,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (self.features,), self.weight, self.bias, self.eps)


class RMSNorm(_Norm):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, [..., features].

    zero_centred: the parameter is the weight less one, as Gemma keeps it.
    """

    def __init__(
        self, features: int, *, context: ParallelContext, eps: float = 1e-5,
        sequence_parallel: bool = False, initialize: bool = True, device=None, dtype=None,
        zero_centred: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            features, context=context, eps=eps, with_bias=False, device=device, dtype=dtype,
            sequence_parallel=sequence_parallel, initialize=initialize, zero_centred=zero_centred,
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps, float(self.zero_centred))


def make_norm(config: GPTConfig, **options) -> LayerNorm | RMSNorm:
    """The norm of `config` over an activation; `options`: context, initialize, device."""
    options |= {"eps": config.norm_eps, "dtype": config.torch_dtype,
                "sequence_parallel": config.sequence_parallel}  # fmt: skip
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden, zero_centred=config.zero_centred_norm, **options)
    return LayerNorm(config.hidden, **options)
