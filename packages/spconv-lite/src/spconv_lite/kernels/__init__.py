"""What computes: the operators of torch.ops.spconv_lite, and the kernels behind them."""

from . import ops
from .table import Kernels, set_kernels

__all__ = ["Kernels", "ops", "set_kernels"]
