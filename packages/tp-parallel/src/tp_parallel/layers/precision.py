"""In which dtype a product is computed and a gradient is kept.

`torch.autocast` cannot see into an autograd function, so the split layers ask it themselves.
Gradients of low-precision parameters are float32: added up and summed over ranks as such.
A bfloat16 sum over many micro-batches loses the small ones (Megatron-LM keeps a float32
`main_grad` for this); torch's `Tensor.grad_dtype` lets `parameter.grad` itself be float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch._subclasses.fake_tensor import FakeTensor

from .layout import is_sharded

_LOW = (torch.bfloat16, torch.float16)


# The operators that say whether oneDNN has products of a dtype on this processor.
_ONEDNN = {
    torch.bfloat16: "_is_mkldnn_bf16_supported",
    torch.float16: "_is_mkldnn_fp16_supported",
}


def product_dtype(x: torch.Tensor) -> torch.dtype | None:
    """The dtype in which `torch.autocast` wants a matrix product with `x`; None: as it comes."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(kind):
        return None
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def computed_dtype(dtype: torch.dtype, x: torch.Tensor) -> torch.dtype:
    """The dtype in which a product of `x` in `dtype` is made: float32 where torch is slow in it.

    On a processor without AVX-512 torch multiplies bfloat16 in loops of its own, tens of times
    slower than float32. What is only planned (a fake tensor) is planned for a device.
    """
    if dtype not in _ONEDNN or x.device.type != "cpu" or isinstance(x, FakeTensor):
        return dtype
    fast = torch.backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, _ONEDNN[dtype])()
    return dtype if fast else torch.float32


def gradient_dtype(parameter: torch.Tensor) -> torch.dtype:
    """The dtype in which the gradient of `parameter` is kept."""
    return torch.float32 if parameter.dtype in _LOW else parameter.dtype


def widen_gradients(parameters: Iterable[torch.Tensor]) -> None:
    """Makes autograd keep the gradients of bfloat16 and float16 parameters in float32.

    Parameters that FSDP2 has cut are left to its `MixedPrecisionPolicy(reduce_dtype=...)`. A
    gradient that is there already is converted.
    """
    for parameter in parameters:
        wanted = gradient_dtype(parameter)
        if not parameter.requires_grad or is_sharded(parameter) or parameter.grad_dtype == wanted:
            continue
        grad, parameter.grad = parameter.grad, None
        parameter.grad_dtype = wanted
        if grad is not None:
            parameter.grad = grad.to(wanted)
