"""Derivatives of a registered operator: what torch.library.register_autograd does, and forward mode
and torch.func beside it (where an operator without a tangent of its own gives zeros, without a
message)."""

from __future__ import annotations

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
        inputs, output = _saved(ctx, formula)
        none = [None] * len(inputs)
        if grad is None:
            return tuple(none)
        grads = formula.backward(inputs, output, ctx.needs_input_grad, grad)
        return (*grads, *none[len(grads) :])

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


def differentiable(
    lib: torch.library.Library, name: str, op: Callable[..., Tensor], formula: Formula
) -> Callable[..., Tensor]:
    """Registers the derivatives of `op`, and gives the function to call in its place: it works
    under torch.func, too, where the bare operator raises."""
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
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            return under.apply(*args)
        return op(*args)

    call.__name__ = call.__qualname__ = name
    return call
