"""Sparse convolution on tensor cores by Triton: chosen by set_kernels("cuda", "triton"), never a
default. Compiled and interpreted, never run on a device.

Triton comes with every CUDA build of torch and is imported here only; nothing else of the package
needs it.
"""

from .books import build, padded_pairs, turn
from .operators import (
    MERGES,
    conv,
    conv_input_grad,
    conv_norm,
    conv_weight_grad,
    max_pool,
    require_kernels,
    select_sum,
)
from .tiles import list_words as mask_words
from .traced import VISIBLE

WAITS = frozenset({"get_indice_pairs", "subm_rulebook", "rulebook", "max_pool", "select_sum"})

__all__ = [
    "MERGES",
    "VISIBLE",
    "WAITS",
    "build",
    "conv",
    "conv_input_grad",
    "conv_norm",
    "conv_weight_grad",
    "mask_words",
    "max_pool",
    "padded_pairs",
    "require_kernels",
    "select_sum",
    "turn",
]
