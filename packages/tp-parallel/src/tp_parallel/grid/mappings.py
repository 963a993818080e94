"""The conjugate mappings between copied, split and partial activations.

Each is an autograd function whose backward is its conjugate (Shoeybi et al., 2019, arXiv
1909.08053, section 3, f and g; Korthikanti et al., 2022, arXiv 2205.05198, section 4.2, for the
sequence):

    forward                        backward
    copy_to_region       identity  reduce_from_region   all-reduce
    reduce_from_region  all-reduce copy_to_region       identity
    scatter_to_region        slice gather_from_region   all-gather
    gather_from_region  all-gather scatter_to_region    slice
    reduce_scatter_to_region       gather (all-gather)
    gather_to_split_region         reduce-scatter: each rank goes on with other work on the whole

All take the tensor and an `Axis`; those that cut or join take the dimension, the last by default
for features, and 1 for the sequence of a [batch, sequence, hidden] activation.
"""

from __future__ import annotations

import torch

from .axis import Axis


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, axis, label):
        ctx.axis, ctx.label = axis, label
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return _Reduce.apply(grad, ctx.axis, ctx.label), None, None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, axis, label):
        ctx.axis, ctx.label = axis, label
        return axis.all_reduce(x.clone(memory_format=torch.contiguous_format), label=label)

    @staticmethod
    def backward(ctx, grad):
        return _Copy.apply(grad, ctx.axis, ctx.label), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, axis, dim, label):
        ctx.axis, ctx.dim, ctx.label = axis, dim, label
        return local_slice(x, axis, dim, label).clone()

    @staticmethod
    def backward(ctx, grad):
        return _Gather.apply(grad, ctx.axis, ctx.dim, ctx.label), None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, axis, dim, label):
        ctx.axis, ctx.dim, ctx.label = axis, dim, label
        return axis.all_gather(x, dim, label=label)

    @staticmethod
    def backward(ctx, grad):
        return _Scatter.apply(grad, ctx.axis, ctx.dim, ctx.label), None, None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, axis, dim, label):
        ctx.axis, ctx.dim, ctx.label = axis, dim, label
        return axis.reduce_scatter(x, dim, label=label)

    @staticmethod
    def backward(ctx, grad):
        return _GatherToSplit.apply(grad, ctx.axis, ctx.dim, ctx.label), None, None, None


class _GatherToSplit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, axis, dim, label):
        ctx.axis, ctx.dim, ctx.label = axis, dim, label
        return axis.all_gather(x, dim, label=label)

    @staticmethod
    def backward(ctx, grad):
        return _ReduceScatter.apply(grad, ctx.axis, ctx.dim, ctx.label), None, None, None


def local_slice(x: torch.Tensor, axis: Axis, dim: int, label: str) -> torch.Tensor:
    """This rank's equal slice of `x` along `dim`, a view.

    Raises ValueError if the length is no multiple of the axis size.
    """
    length = x.shape[dim]
    if length % axis.size:
        raise ValueError(
            f"{label}: length {length} along dimension {dim} must be a multiple of the {axis.name} "
            f"size {axis.size}; pad the input or change {axis.name}"
        )
    part = length // axis.size
    return x.narrow(dim, axis.rank * part, part)


def copy_to_region(x: torch.Tensor, axis: Axis, label: str = "copy_to_region") -> torch.Tensor:
    """Identity; the gradient is summed over the axis. Before a layer split by output features."""
    return x if axis.size == 1 else _Copy.apply(x, axis, label)


def reduce_from_region(
    x: torch.Tensor, axis: Axis, label: str = "reduce_from_region"
) -> torch.Tensor:
    """Sum over the axis; the gradient passes unchanged. After a layer split by input features."""
    return x if axis.size == 1 else _Reduce.apply(x, axis, label)


def scatter_to_region(
    x: torch.Tensor, axis: Axis, dim: int = -1, label: str = "scatter_to_region"
) -> torch.Tensor:
    """This rank's slice of a copied `x`; the gradient is gathered. ValueError if it does not
    divide.
    """
    return x if axis.size == 1 else _Scatter.apply(x, axis, dim, label)


def gather_from_region(
    x: torch.Tensor, axis: Axis, dim: int = -1, label: str = "gather_from_region"
) -> torch.Tensor:
    """The slices of all ranks joined, for replicated work; the gradient is this rank's slice."""
    return x if axis.size == 1 else _Gather.apply(x, axis, dim, label)


def reduce_scatter_to_region(
    x: torch.Tensor, axis: Axis, dim: int = 1, label: str = "reduce_scatter_to_region"
) -> torch.Tensor:
    """This rank's slice of the sum of partial `x`; the gradient is gathered."""
    return x if axis.size == 1 else _ReduceScatter.apply(x, axis, dim, label)


def gather_to_split_region(
    x: torch.Tensor, axis: Axis, dim: int = 1, label: str = "gather_to_split_region"
) -> torch.Tensor:
    """The slices of all ranks joined, for split work; the gradient is summed and sliced."""
    return x if axis.size == 1 else _GatherToSplit.apply(x, axis, dim, label)
