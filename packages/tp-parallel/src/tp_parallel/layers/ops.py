"""The door to the native kernels of what lies between a layer's matrix products: torch.library
operators over the module `_C`, and their autograd functions.

CPU kernels for float32, bfloat16 and float64 that read and write each value once; torch's own
operators do the same elsewhere, and under torch.compile, which fuses them. A gradient that is
differentiated again is computed by torch's operators (`_differentiable`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor

from .. import _C  # type: ignore[attr-defined]
from .rotary import rotate

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
_PLAIN = (torch.Tensor, torch.nn.Parameter, FakeTensor)


def has_kernel(x: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether the native kernels take these tensors, which they want in one dtype; a DTensor and
    other subclasses know torch's operators alone.
    """
    if x.device.type != "cpu" or x.dtype not in DTYPES or torch.compiler.is_compiling():
        return False
    return all(type(t) in _PLAIN and t.dtype == x.dtype for t in (x, *others))


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, shift: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * (weight + shift) over the last dimension, rounded once."""
    if has_kernel(x, weight):
        return _RMSNorm.apply(x, weight, eps, shift)
    return _rms_norm_in_torch(x, weight, eps, shift)


def gate(x: torch.Tensor, gelu: bool) -> torch.Tensor:
    """f(a) * b of the halves a, b of the last dimension; f is SiLU or the tanh form of GELU."""
    return _Gate.apply(x, gelu) if has_kernel(x) else _gate_in_torch(x, gelu)


def split_heads(
    qkv: torch.Tensor, table: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of [batch, sequence, groups, queries + 2, width], each [batch, heads
    or groups, sequence, width]; queries and keys are turned by a `rotary_table`, if there is one.
    Raises ValueError for a table of other tokens.
    """
    if table is not None and not _is_table_of(table, *qkv.shape[:2]):
        raise ValueError(
            f"split_heads: table must be a rotary_table of qkv's tokens, got {tuple(table.shape)} "
            f"for [batch, sequence] {list(qkv.shape[:2])}; make it of their positions"
        )
    if table is not None and has_kernel(qkv):
        return _SplitHeads.apply(qkv, table)
    q, k, v = qkv.split((qkv.shape[-2] - 2, 1, 1), -2)
    q, k, v = (x.flatten(2, 3).transpose(1, 2) for x in (q, k, v))
    return (q, k, v) if table is None else (rotate(q, table), rotate(k, table), v)


def _is_table_of(table: torch.Tensor, batch: int, sequence: int) -> bool:
    batched = table.dim() == 5
    return table.shape[-2] == sequence and (not batched or table.shape[1] in (1, batch))


def _rms_norm_in_torch(x, weight, eps, shift):
    if not shift:
        return F.rms_norm(x, weight.shape, weight, eps)
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.rms_norm(x.to(wide), weight.shape, shift + weight.to(wide), eps).to(x.dtype)


def _gate_in_torch(x, gelu):
    a, b = x.chunk(2, -1)
    return (F.gelu(a, approximate="tanh") if gelu else F.silu(a)) * b


# -- operators ---------------------------------------------------------------------------------

_lib = torch.library.Library("tp_parallel", "FRAGMENT")
for _schema in (
    "rms_norm(Tensor x, Tensor weight, float eps, float shift) -> (Tensor, Tensor)",
    "rms_norm_gradient(Tensor x, Tensor weight, Tensor scale, Tensor grad, float shift) "
    "-> (Tensor, Tensor)",
    "gate(Tensor x, bool gelu) -> Tensor",
    "gate_gradient(Tensor x, Tensor grad, bool gelu) -> Tensor",
    "split_heads(Tensor qkv, Tensor table) -> (Tensor, Tensor, Tensor)",
    "join_heads(Tensor q, Tensor k, Tensor v, Tensor table) -> Tensor",
):
    _lib.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def _norm_memory(x, weight, eps, shift):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=wide)


def _rms_norm(x, weight, eps, shift):
    x, weight = x.contiguous(), weight.contiguous()
    out, scale = _norm_memory(x, weight, eps, shift)
    rows = x.view(-1, x.shape[-1]), weight, eps, shift, out.view(-1, x.shape[-1]), scale.view(-1)
    _C.rms_norm(*rows, torch.get_num_threads())
    return out, scale


def _rms_norm_gradient(x, weight, scale, grad, shift):
    x, grad, weight = x.contiguous(), grad.contiguous(), weight.contiguous()
    out, weight_out = x.new_empty(x.shape), weight.new_empty(weight.shape)
    rows = [t.view(-1, x.shape[-1]) for t in (x, grad, out)]
    _C.rms_norm_gradient(rows[0], weight, scale.view(-1), rows[1], shift, rows[2], weight_out,
                         torch.get_num_threads())  # fmt: skip
    return out, weight_out


def _gate_memory(x, gelu):
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


def _gate(x, gelu):
    out = _gate_memory(x, gelu)
    rows = x.contiguous().view(-1, x.shape[-1]), gelu, out.view(-1, out.shape[-1])
    _C.gate(*rows, torch.get_num_threads())
    return out


def _gate_gradient(x, grad, gelu):
    x, grad = x.contiguous(), grad.contiguous()
    out = x.new_empty(x.shape)
    rows = x.view(-1, x.shape[-1]), grad.view(-1, grad.shape[-1]), gelu, out.view(-1, x.shape[-1])
    _C.gate_gradient(*rows, torch.get_num_threads())
    return out


def _head_memory(qkv, table):
    batch, sequence, groups, parts, width = qkv.shape
    shapes = [(batch, sequence, groups * n, width) for n in (parts - 2, 1, 1)]
    return tuple(qkv.new_empty(shape).transpose(1, 2) for shape in shapes)


def _split_heads(qkv, table):
    out = _head_memory(qkv, table)
    _C.split_heads(*_tokens(qkv.contiguous(), table, *out), torch.get_num_threads())
    return out


def _join_memory(q, k, v, table):
    batch, heads, sequence, width = q.shape
    groups = k.shape[1]
    return q.new_empty((batch, sequence, groups, heads // groups + 2, width))


def _join_heads(q, k, v, table):
    out = _join_memory(q, k, v, table)
    qkv, table, *parts = _tokens(out, table, q, k, v)
    _C.join_heads(*parts, table, qkv, torch.get_num_threads())
    return out


def _tokens(qkv, table, q, k, v):
    """These as the kernels want them, token by token."""
    q, k, v = (x.transpose(1, 2).contiguous().flatten(0, 1) for x in (q, k, v))
    table = table.to(qkv.dtype).contiguous().view(2, -1, table.shape[-1])
    return qkv.flatten(0, 1), table, q.unflatten(1, (k.shape[1], -1)), k, v


for _name, _run, _fake in (
    ("rms_norm", _rms_norm, _norm_memory),
    ("rms_norm_gradient", _rms_norm_gradient,
     lambda x, weight, *_: (x.new_empty(x.shape), weight.new_empty(weight.shape))),
    ("gate", _gate, _gate_memory),
    ("gate_gradient", _gate_gradient, lambda x, *_: x.new_empty(x.shape)),
    ("split_heads", _split_heads, _head_memory),
    ("join_heads", _join_heads, _join_memory),
):  # fmt: skip
    _lib.impl(_name, _run, "CPU")
    torch.library.register_fake(f"tp_parallel::{_name}", _fake, lib=_lib)
operators = torch.ops.tp_parallel


# -- gradients ---------------------------------------------------------------------------------


def _differentiable(function: Callable, inputs: tuple, settings: tuple, grads: tuple) -> tuple:
    """Gradients of `function(*inputs, *settings)` that can be differentiated again."""
    wanted = [x for x in inputs if x.requires_grad]
    with torch.enable_grad():
        out = function(*inputs, *settings)
    found = iter(torch.autograd.grad(out, wanted, grads, create_graph=True, allow_unused=True))
    return tuple(next(found) if x.requires_grad else None for x in inputs)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps, shift):
        out, scale = operators.rms_norm(x, weight, eps, shift)
        ctx.save_for_backward(x, weight, scale)
        ctx.settings = eps, shift
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        if torch.is_grad_enabled():
            both = _differentiable(_rms_norm_in_torch, (x, weight), ctx.settings, (grad,))
        else:
            both = operators.rms_norm_gradient(x, weight, scale, grad, ctx.settings[1])
        return *both, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gelu):
        ctx.save_for_backward(x)
        ctx.gelu = gelu
        return operators.gate(x, gelu)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_differentiable(_gate_in_torch, (x,), (ctx.gelu,), (grad,)), None
        return operators.gate_gradient(x, grad, ctx.gelu), None


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, table):
        ctx.save_for_backward(table)
        return operators.split_heads(qkv, table)

    @staticmethod
    def backward(ctx, q, k, v):
        (table,) = ctx.saved_tensors
        return _JoinHeads.apply(q, k, v, table), None


class _JoinHeads(torch.autograd.Function):
    """Linear, and the conjugate of `_SplitHeads`: each is the other's gradient."""

    @staticmethod
    def forward(ctx, q, k, v, table):
        ctx.save_for_backward(table)
        return operators.join_heads(q, k, v, table)

    @staticmethod
    def backward(ctx, qkv):
        (table,) = ctx.saved_tensors
        return *_SplitHeads.apply(qkv, table), None
