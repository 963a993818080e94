"""What computes: the operators of torch.ops.spconv_lite, and the kernels behind them."""

from . import flops as flops
from . import ops
from .table import ConvAlgo, Kernels, set_kernels

__all__ = ["ConvAlgo", "Kernels", "ops", "set_kernels"]
