"""Derivatives of a registered operator: what torch.library.register_autograd does, and forward mode
and torch.func beside it (where an operator without a tangent of its own gives zeros, without a
message)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad


class Formula(NamedTuple):
    """backward(inputs, output, needs, grad): gradients of the leading inputs. tangent(inputs,
    output, tangents): that of the output; a tangent is None where the input has none. `output` is
    None unless keeps_output."""

    backward: Callable[[Sequence[Any], Any, Sequence[bool], Tensor], Sequence[Tensor | None]]
    tangent: Callable[[Sequence[Any], Any, Sequence[Tensor | None]], Tensor]
    keeps_output: bool = False


def _save(ctx: Any, formula: Formula, inputs: Sequence[Any], output: Tensor) -> None:
    tensors = [a for a in inputs if isinstance(a, Tensor)]
    if formula.keeps_output:
        tensors.append(output)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.is_tensor = [isinstance(a, Tensor) for a in inputs]
    ctx.others = [None if isinstance(a, Tensor) else a for a in inputs]
    ctx.set_materialize_grads(False)


def _saved(ctx: Any, formula: Formula) -> tuple[list[Any], Any]:
    tensors = list(ctx.saved_tensors)
    output = tensors.pop() if formula.keeps_output else None
    left = iter(tensors)
    pairs = zip(ctx.is_tensor, ctx.others, strict=True)
    return [next(left) if is_tensor else other for is_tensor, other in pairs], output


def _make_functions(
    name: str, op: Callable[..., Tensor], formula: Formula
) -> tuple[type[torch.autograd.Function], type[torch.autograd.Function]]:
    """For use outside and under torch.func; the latter wants setup_context apart from forward, at
    tens of microseconds a call."""

    def forward(*args: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    def forward_and_save(ctx: Any, *args: Any) -> Tensor:
        output = forward(*args)
        _save(ctx, formula, args, output)
        return output

    def setup_context(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
        _save(ctx, formula, inputs, output)

    def backward(ctx: Any, grad: Tensor | None) -> Any:
        return _backward(formula, ctx, grad)

    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        inputs, output = _saved(ctx, formula)
        return formula.tangent(inputs, output, tangents)

    def vmap(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
        outputs = []
        for i in range(info.batch_size):
            dims = zip(args, in_dims, strict=True)
            outputs.append(under.apply(*(a if d is None else a.select(d, i) for a, d in dims)))
        return torch.stack(outputs), 0

    def make(**methods: Any) -> Any:
        members = {key: staticmethod(method) for key, method in methods.items()}
        return type(f"{name}_function", (torch.autograd.Function,), members)

    outside = make(forward=forward_and_save, backward=backward, jvp=jvp)
    under = make(
        forward=forward, setup_context=setup_context, backward=backward, jvp=jvp, vmap=vmap
    )
    return outside, under


class Bilinear(NamedTuple):
    """Formulas of a convolution and its gradients."""

    conv: Formula
    conv_input_grad: Formula
    conv_weight_grad: Formula


def bilinear(
    conv: Callable[..., Tensor],
    conv_input_grad: Callable[..., Tensor],
    conv_weight_grad: Callable[..., Tensor],
) -> Bilinear:
    """The derivatives of three operators by each other: conv is linear in its features and in its
    weight, and so are its gradients in what they are given."""

    def of_conv(inputs, output, needs, grad):
        features, weight, bias, *book, _, groups, symmetric = inputs
        settings = groups, symmetric
        return (
            conv_input_grad(grad, weight, *book, features.shape[0], *settings)
            if needs[0]
            else None,
            conv_weight_grad(features, grad, *book, weight.shape, *settings) if needs[1] else None,
            grad.sum(0) if bias is not None and needs[2] else None,
        )

    def tangent_of_conv(inputs, output, tangents):
        features, weight, _, *rest = inputs
        x, w, b, *_ = tangents
        parts = [] if x is None else [conv(x, weight, None, *rest)]
        parts += [] if w is None else [conv(features, w, None, *rest)]
        total = sum(parts[1:], parts[0]) if parts else b.expand(rest[3], -1)
        return total + b if parts and b is not None else total

    def of_input_grad(inputs, output, needs, turned):
        grad, weight, *book, _, groups, symmetric = inputs
        settings = groups, symmetric
        return (
            conv(turned, weight, None, *book, grad.shape[0], *settings) if needs[0] else None,
            conv_weight_grad(turned, grad, *book, weight.shape, *settings) if needs[1] else None,
        )

    def of_weight_grad(inputs, output, needs, turned):
        features, grad, *book, _, groups, symmetric = inputs
        settings = groups, symmetric
        return (
            conv_input_grad(grad, turned, *book, features.shape[0], *settings)
            if needs[0]
            else None,
            conv(features, turned, None, *book, grad.shape[0], *settings) if needs[1] else None,
        )

    def tangent_of(call):
        def tangent(inputs, output, tangents):
            first, second, *rest = inputs
            parts = [] if tangents[0] is None else [call(tangents[0], second, *rest)]
            parts += [] if tangents[1] is None else [call(first, tangents[1], *rest)]
            return sum(parts[1:], parts[0])

        return tangent

    return Bilinear(
        Formula(of_conv, tangent_of_conv),
        Formula(of_input_grad, tangent_of(conv_input_grad)),
        Formula(of_weight_grad, tangent_of(conv_weight_grad)),
    )


def register(op: torch.library.CustomOpDef, formula: Formula) -> None:
    """The gradients of an operator that torch.library.custom_op or triton_op made."""

    def setup_context(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
        _save(ctx, formula, inputs, output)

    op.register_autograd(functools.partial(_backward, formula), setup_context=setup_context)


def _backward(formula: Formula, ctx: Any, grad: Tensor | None) -> Any:
    inputs, output = _saved(ctx, formula)
    none = [None] * len(inputs)
    if grad is None:
        return tuple(none)
    grads = formula.backward(inputs, output, ctx.needs_input_grad, grad)
    return (*grads, *none[len(grads) :])


def differentiable(
    lib: torch.library.Library,
    name: str,
    op: Callable[..., Tensor],
    formula: Formula,
    traced: Callable[[Tensor], Callable[..., Tensor] | None],
) -> Callable[..., Tensor]:
    """Registers the derivatives of `op`, and gives the function to call in its place: it works
    under torch.func, too, where the bare operator raises. `traced`: what stands for it in a graph,
    by the first argument, where there is such."""
    outside, under = _make_functions(name, op, formula)

    def impl(*args: Any) -> Tensor:
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise NotImplementedError(
                f"torch.ops.spconv_lite.{name}: call spconv_lite.ops.{name} under torch.func"
            )
        tensors = [a for a in args[:3] if isinstance(a, Tensor)]
        dual = any(forward_ad.unpack_dual(a).tangent is not None for a in tensors)
        if dual or (torch.is_grad_enabled() and any(a.requires_grad for a in tensors)):
            return outside.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    lib.impl(name, impl, "Autograd")

    def call(*args: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return (traced(args[0]) or op)(*args)
        if torch._C._are_functorch_transforms_active():
            return under.apply(*args)
        return op(*args)

    call.__name__ = call.__qualname__ = name
    return call
