"""Linear layers cut over the tensor axis, by output features (column) or input features (row).

Shoeybi et al., 2019, arXiv 1909.08053, section 3. The weight is [out_features, in_features] as in
torch.nn.Linear; Megatron counts the transpose, hence "column" for a cut of out_features. The
backward pass starts the sum of the input gradient first and computes the weight gradient while it
travels.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from ..grid.axis import Axis, Done, Pending
from ..grid.context import ParallelContext
from ..grid.mappings import (
    gather_from_region,
    reduce_from_region,
    reduce_scatter_to_region,
    scatter_to_region,
)
from ..grid.weight_gradients import weight_gradient
from .layout import Layout, change_layout, copy_into, layouts_of, set_layout, whole_over_data
from .precision import product_dtype
from .sharding import (
    Init,
    Shard,
    clear_padding,
    constant,
    drawn,
    gather_full,
    normal,
    split,
)

SEQUENCE_DIM = 1  # of a [batch, sequence, hidden] activation


class _Linear(torch.autograd.Function):
    """y = x W^T for a copied or, with `sequence`, a sequence-split x and a W cut by output
    features.
    """

    @staticmethod
    def forward(ctx, x, weight, axis, sequence, deferred, label, dtype):
        ctx.axis, ctx.sequence, ctx.deferred, ctx.label = axis, sequence, deferred, label
        ctx.parameter = weight  # unpacked saved tensors are not the parameter under recomputation
        x, cast = x.to(dtype or x.dtype), weight.to(dtype or weight.dtype)
        ctx.save_for_backward(x, weight)
        whole = axis.all_gather(x, SEQUENCE_DIM, label=label) if sequence else x
        return F.linear(whole, cast)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x: torch.Tensor | None = None
        pending: Pending | Done = Done()
        if ctx.needs_input_grad[0]:
            grad_x = grad.matmul(weight.to(grad.dtype))
            if ctx.sequence:
                grad_x = ctx.axis.reduce_scatter(grad_x, SEQUENCE_DIM, label=ctx.label)
            elif ctx.axis.size > 1:
                grad_x = grad_x.contiguous()
                pending = ctx.axis.all_reduce_async(grad_x, label=ctx.label)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            whole = x
            if ctx.sequence:  # gathered again: keeping it would undo the saving
                whole = ctx.axis.all_gather(x, SEQUENCE_DIM, label=ctx.label)
            grad_weight = weight_gradient(grad, whole, ctx.parameter, ctx.deferred)
        pending.wait()
        return grad_x, grad_weight, None, None, None, None, None


class _RowLinear(torch.autograd.Function):
    """y = x W^T as torch's, with a weight gradient that can be put off."""

    @staticmethod
    def forward(ctx, x, weight, deferred, dtype):
        ctx.deferred, ctx.parameter = deferred, weight
        x, cast = x.to(dtype or x.dtype), weight.to(dtype or weight.dtype)
        ctx.save_for_backward(x, weight)
        return F.linear(x, cast)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x = grad.matmul(weight.to(grad.dtype)) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(grad, x, ctx.parameter, ctx.deferred)
        return grad_x, grad_weight, None, None


def parallel_linear(
    x: torch.Tensor, weight: torch.Tensor, context: ParallelContext, sequence: bool, label: str
) -> torch.Tensor:
    """x W^T for a W cut by output features over the tensor axis; the gradient of x is summed over
    it.

    `sequence`: x is cut over the sequence and gathered here.
    """
    sequence = sequence and context.tp.size > 1
    return _Linear.apply(
        x, weight, context.tp, sequence, context.weight_gradients, label, product_dtype(x)
    )


class ParallelLayer(nn.Module):
    """What the split layers share: a weight, perhaps a bias, and the way to and from unsplit
    ones.
    """

    def __init__(self, context: ParallelContext) -> None:
        super().__init__()
        self.context = context
        self.axis: Axis = context.tp

    def add(
        self, name: str, shard: Shard, init: Init, device, dtype, initialize: bool
    ) -> nn.Parameter:
        """Adds the parameter `name`, this rank's part of `shard`, and fills it if asked."""
        shape = shard.local_shape(self.axis.size)
        device = self.context.device if device is None else torch.device(device)
        parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.register_parameter(name, parameter)
        set_layout(self, name, Layout(shard, init))
        if not parameter.is_meta:
            clear_padding(parameter, shard, self.axis)
            if initialize:
                number, seed = self.context.next_name(), self.context.seed
                with torch.no_grad():
                    parameter.copy_(drawn(parameter, shard, init, number, seed, self.axis))
        return parameter

    @torch.no_grad()
    def load_full(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Takes the unsplit weight (and bias) and keeps this rank's part.

        Raises ValueError for a wrong shape or a bias where the layer has none.
        """
        for name, full in (("weight", weight), ("bias", bias)):
            own = getattr(self, name, None)
            if full is None:
                continue
            if own is None:
                raise ValueError(
                    f"{type(self).__name__}.load_full: {name} was given, but the layer has none; "
                    f"build it with bias=True or leave {name} out"
                )
            shard = layouts_of(self)[name].shard
            copy_into(own, split(full.to(own.device), shard, self.axis.rank, self.axis.size))

    def gather_full(self, tensor: torch.Tensor) -> torch.Tensor:
        """The unsplit form, on every rank, of a tensor shaped like this rank's weight or bias.

        Use it on the parameter itself or on its gradient. Synchronises the tensor axis. Raises
        ValueError if no parameter has that shape.
        """
        shards = [layout.shard for layout in layouts_of(self).values()]
        shapes = [shard.local_shape(self.axis.size) for shard in shards]
        if tuple(tensor.shape) in shapes:
            shard = shards[shapes.index(tuple(tensor.shape))]
            return gather_full(whole_over_data(tensor), shard, self.axis)
        raise ValueError(
            f"{type(self).__name__}.gather_full: tensor must have the shape of a local parameter, "
            f"one of {shapes}, got {tuple(tensor.shape)}"
        )


class ColumnParallelLinear(ParallelLayer):
    """Linear layer cut by output features: each rank computes its slice of the output.

    Args:
        in_features, out_features: of the unsplit layer; the tensor size must divide
            out_features / blocks.
        bias: whether it adds one; cut like the output.
        gather_output: return the whole output on every rank instead of this rank's slice.
        skip_bias_add: return (output, bias) for the caller to fuse, as Megatron's layers do.
        sequence_parallel: the input is split over the sequence and is gathered here.
        blocks: out_features is this many stacked matrices, each cut alone (2 for gate and up).
        shard: how the weight is cut, where it is not by equal rows.
        init_method: fills (tensor, generator); default N(0, 0.02^2).
        initialize: False leaves the values undefined until `initialize_parameters` or `load_full`.

    Input [..., in_features] (with sequence_parallel [batch, sequence / tp, in_features]); output
    [..., out_features / tp], or [..., out_features] with gather_output.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        context: ParallelContext,
        bias: bool = True,
        gather_output: bool = False,
        skip_bias_add: bool = False,
        sequence_parallel: bool = False,
        blocks: int = 1,
        shard: Shard | None = None,
        init_method: Init | None = None,
        initialize: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(context)
        if shard is None:
            _check_divides("ColumnParallelLinear", "out_features", out_features, self.axis, blocks)
            shard = Shard((out_features, in_features), 0, blocks)
        if gather_output and blocks > 1:
            raise ValueError("ColumnParallelLinear: gather_output needs blocks=1; gather later")
        self.in_features, self.out_features = in_features, out_features
        self.gather_output, self.skip_bias_add = gather_output, skip_bias_add
        self.sequence_parallel = sequence_parallel and self.axis.size > 1
        init = init_method or normal(0.02)
        self.add("weight", shard, init, device, dtype, initialize)
        if bias:
            rows = dataclasses.replace(shard, shape=(out_features,))
            self.add("bias", rows, constant(0.0), device, dtype, initialize)
        else:
            self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor):
        _check_features("ColumnParallelLinear", x, self.in_features)
        label = "ColumnParallelLinear"
        y = parallel_linear(x, self.weight, self.context, self.sequence_parallel, label)
        if self.bias is not None and not self.skip_bias_add:
            y = y + self.bias.to(y.dtype)  # not wider under autocast
        if self.gather_output:
            y = gather_from_region(y, self.axis, -1, label)
        return (y, self.bias) if self.skip_bias_add else y

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features} over tp {self.axis.size}"


class RowParallelLinear(ParallelLayer):
    """Linear layer cut by input features: each rank computes a partial output, then all are summed.

    Args:
        in_features, out_features: of the unsplit layer; the tensor size must divide in_features.
        bias: whether it adds one, once, after the sum; every rank holds a copy.
        input_is_parallel: the input is already this rank's slice (after a ColumnParallelLinear);
            False cuts the whole input here.
        skip_bias_add: return (output, bias) for the caller to fuse.
        sequence_parallel: leave the output split over the sequence (reduce-scatter, not
            all-reduce).
        init_method, initialize: as for ColumnParallelLinear.

    Input [..., in_features / tp] (or [..., in_features]); output [..., out_features], with
    sequence_parallel [batch, sequence / tp, out_features].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        context: ParallelContext,
        bias: bool = True,
        input_is_parallel: bool = True,
        skip_bias_add: bool = False,
        sequence_parallel: bool = False,
        init_method: Init | None = None,
        initialize: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(context)
        _check_divides("RowParallelLinear", "in_features", in_features, self.axis, 1)
        self.in_features, self.out_features = in_features, out_features
        self.input_is_parallel, self.skip_bias_add = input_is_parallel, skip_bias_add
        self.sequence_parallel = sequence_parallel and self.axis.size > 1
        init = init_method or normal(0.02)
        self.add("weight", Shard((out_features, in_features), 1), init, device, dtype, initialize)
        if bias:
            self.add("bias", Shard((out_features,)), constant(0.0), device, dtype, initialize)
            # applied to a slice of the sequence, so its gradient must be summed over tp
            change_layout(self, "bias", partial_gradient=self.sequence_parallel)
        else:
            self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor):
        label = "RowParallelLinear"
        if not self.input_is_parallel:
            _check_features(label, x, self.in_features)
            x = scatter_to_region(x, self.axis, -1, label)
        _check_features(label, x, self.in_features // self.axis.size)
        y = _RowLinear.apply(x, self.weight, self.context.weight_gradients, product_dtype(x))
        if self.sequence_parallel:
            y = reduce_scatter_to_region(y, self.axis, SEQUENCE_DIM, label)
        else:
            y = reduce_from_region(y, self.axis, label)
        if self.skip_bias_add:
            return y, self.bias
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features} over tp {self.axis.size}"


def _check_divides(layer: str, name: str, length: int, axis: Axis, blocks: int) -> None:
    if length % (axis.size * blocks):
        of = f" times blocks {blocks}" if blocks > 1 else ""
        raise ValueError(
            f"{layer}: {name} must be a multiple of the tensor-parallel size {axis.size}{of}, "
            f"got {length}; choose another width or another tp"
        )


def _check_features(layer: str, x: torch.Tensor, features: int) -> None:
    if x.shape[-1] != features:
        raise ValueError(
            f"{layer}: the input's last dimension must be {features}, got shape {tuple(x.shape)}"
        )
