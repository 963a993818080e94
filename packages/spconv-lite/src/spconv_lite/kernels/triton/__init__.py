"""Sparse convolution on tensor cores by Triton: chosen by set_kernels("cuda", "triton"), never a
default. Compiled and interpreted, never run on a device.

Triton comes with every CUDA build of torch and is imported here only; nothing else of the package
needs it.
"""

from .operators import (
    WAITS,
    build,
    conv,
    conv_input_grad,
    conv_weight_grad,
    max_pool,
    padded_pairs,
    require_kernels,
    select_sum,
    turn,
)
from .tiles import list_words as mask_words

__all__ = [
    "WAITS",
    "build",
    "conv",
    "conv_input_grad",
    "conv_weight_grad",
    "mask_words",
    "max_pool",
    "padded_pairs",
    "require_kernels",
    "select_sum",
    "turn",
]
