"""The one door to the computation of sequences: plans, and the operators of torch.library.

`torch.ops.convlstm.sequence` is the fused sequence with autograd, fake tensors and a backward
operator of its own; a second differentiation goes through `reference.sequence`. Its tensors are
time first and channels last, (T, B, size..., C), see problem.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from . import extended, fused, plain_loop, reference, scanned
from .activations import NATIVE_ACTIVATIONS, NATIVE_CODES, NATIVE_RECURRENT
from .gates import cuda_dtypes, uses_triton
from .reference import CellExtras
from .spec import CellSpec

PLANS = ("auto", "fused", "loop", "scan")
_NAMES = {code: name for name, code in NATIVE_CODES.items()}
_LOW = (torch.float16, torch.bfloat16)

_lib = torch.library.Library("convlstm", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag,)
_PROBLEM = (
    "Tensor x, Tensor h0, Tensor c0, Tensor weight_ih, Tensor weight_hh, Tensor? bias, "
    "Tensor? peephole, Tensor? valid, SymInt[] stride, SymInt[] dilation, bool same, "
    "int activation, int recurrent"
)
_lib.define(
    f"sequence({_PROBLEM}, int keep, bool last_only) -> (Tensor, Tensor, Tensor, Tensor)",
    tags=_TAGS,
)
_lib.define(
    f"sequence_backward(Tensor? d_hs, Tensor? d_c, {_PROBLEM}, Tensor hs, Tensor cs, Tensor gates, "
    "bool need_x) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=_TAGS,
)


def _spec(weight: Tensor, stride, dilation, same, activation, recurrent) -> CellSpec:
    kernel = tuple(weight.shape[2:])
    return CellSpec(
        len(kernel), weight.shape[0] // 4, kernel, tuple(stride), tuple(dilation),
        "same" if same else "valid", _NAMES[activation], _NAMES[recurrent],
    )  # fmt: skip


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def _problem(x, h0, c0, w_ih, w_hh, bias, peephole, valid, *options) -> fused.Problem:
    spec = _spec(w_ih, *options)
    tensors = map(_contiguous, (x, h0, c0, w_ih, w_hh, bias, peephole, valid))
    return fused.Problem(*tensors, spec)


def _without_autocast(kind: str) -> contextlib.AbstractContextManager:
    """(Where it is off already, to enter it is a part of a small sequence's time.)"""
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


def _forward(*args) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *problem, keep, last_only = args
    with _without_autocast(problem[0].device.type):
        kept = fused.forward(_problem(*problem), keep, last_only)
    return kept.hs, kept.c, kept.cs, kept.gates


def _backward_op(d_hs, d_c, *args) -> tuple[Tensor, ...]:
    *problem, hs, cs, gates, need_x = args
    p = _problem(*problem)
    with _without_autocast(p.x.device.type):
        kept = fused.Kept(hs, p.c0, cs, gates)
        g = fused.backward(p, kept, _contiguous(d_hs), _contiguous(d_c), need_x)
    none = p.x.new_empty(0)
    every = (g.x, g.h0, g.c0, g.weight_ih, g.weight_hh, g.bias, g.peephole)
    return tuple(none if t is None else t for t in every)


def _forward_fake(*args) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, _, c0 = args[:3]
    keep, last_only = args[-2:]
    steps, shape = x.shape[0], c0.shape
    p = fused.Problem(*args[:8], None)
    return (
        x.new_empty(1 if last_only else steps, *shape),
        c0.new_empty(shape),
        c0.new_empty(p.cells_kept(keep), *shape),
        p.gates_like.new_empty(
            steps if keep == fused.KEEP_GATES else 0, *shape[:-1], 4 * shape[-1]
        ),
    )


def _backward_fake(d_hs, d_c, *args) -> tuple[Tensor, ...]:
    x, h0, c0, w_ih, w_hh, bias, peephole = args[:7]
    need_x = args[-1]

    def like(t: Tensor | None, wanted: bool = True) -> Tensor:
        return x.new_empty(0) if t is None or not wanted else t.new_empty(t.shape)

    return like(x, need_x), like(h0), like(c0), like(w_ih), like(w_hh), like(bias), like(peephole)


for _device in ("CPU", "CUDA"):
    _lib.impl("sequence", _forward, _device)
    _lib.impl("sequence_backward", _backward_op, _device)
torch.library.register_fake("convlstm::sequence", _forward_fake, lib=_lib)
torch.library.register_fake("convlstm::sequence_backward", _backward_fake, lib=_lib)


def _setup(ctx, inputs, output) -> None:
    hs, _, cs, gates = output
    ctx.save_for_backward(*inputs[:8], hs, cs, gates)
    ctx.options = inputs[8:13]
    ctx.kept = inputs[13] != fused.KEEP_NOTHING
    ctx.mark_non_differentiable(cs, gates)
    ctx.set_materialize_grads(False)


def _backward(ctx, d_hs, d_c, _cs, _gates):
    *problem, hs, cs, gates = ctx.saved_tensors
    if not ctx.kept:
        raise RuntimeError(
            "convlstm::sequence: gradients need keep to be 1 or 2 (it was 0: keep nothing)"
        )
    needs = ctx.needs_input_grad[:7]
    if torch.is_grad_enabled():
        gradients = _reference_gradients(problem, ctx.options, d_hs, d_c, needs)
    else:
        backward = _backward_op if _is_eager((d_hs, d_c, *problem)) else _sequence_backward
        found = backward(d_hs, d_c, *problem, *ctx.options, hs, cs, gates, bool(needs[0]))
        gradients = [g if need else None for g, need in zip(found, needs, strict=True)]
    return (*gradients, *(None,) * 8)


def _reference_gradients(problem, options, d_hs, d_c, needs) -> list[Tensor | None]:
    """Gradients that can be differentiated again."""
    # Views end the way back: input or state may follow from the weights, and what the weights get
    # through them is not this operator's.
    *problem, valid = (None if t is None else t.view_as(t) for t in problem)
    x, h0, c0, w_ih, w_hh, bias, peephole = problem
    spec = _spec(w_ih, *options)
    extras = CellExtras(
        None if peephole is None else peephole.view(*peephole.shape, *(1,) * spec.rank)
    )
    with torch.autocast(x.device.type, enabled=False):
        hs, _, c = reference.sequence(
            x.movedim(-1, 2).transpose(0, 1), h0.movedim(-1, 1), c0.movedim(-1, 1), w_ih, w_hh,
            bias, spec, None if valid is None else valid.T, extras,
        )  # fmt: skip
    outputs, seeds = [], []
    if d_hs is not None:
        outputs.append(hs.transpose(0, 1).movedim(2, -1))
        seeds.append(d_hs)
    if d_c is not None:
        outputs.append(c.movedim(1, -1))
        seeds.append(d_c)
    wanted = [t for t, need in zip(problem, needs, strict=True) if need]
    found = iter(torch.autograd.grad(outputs, wanted, seeds, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in needs]


torch.library.register_autograd("convlstm::sequence", _backward, setup_context=_setup, lib=_lib)
_sequence = torch.ops.convlstm.sequence.default
_sequence_backward = torch.ops.convlstm.sequence_backward.default


class _Eager(torch.autograd.Function):
    """The operator without the dispatcher, whose generated wrapper costs 0.1 ms a call in torch
    2.13: as much as a small sequence itself. One method, since torch reads the signature of a
    forward with a setup_context at each call."""

    @staticmethod
    def forward(ctx, *inputs):
        output = _forward(*inputs)
        _setup(ctx, inputs, output)
        return output

    backward = staticmethod(_backward)


# A private name of torch; where it is gone, every call takes the dispatcher's way.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", None)


def _is_eager(tensors: Iterable[Tensor | None]) -> bool:
    """Whether nothing records, transforms or stands in for the computation."""
    plain = (Tensor, torch.nn.Parameter)
    return (
        all(t is None or type(t) in plain for t in tensors)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not is_in_torch_dispatch_mode()
        and _transforms_active is not None
        and not _transforms_active()
    )


def _why_not_differentiable(tensors: Iterable[Tensor | None]) -> str | None:
    """What asks for more than the operator's backward pass; None if nothing does."""
    if torch.compiler.is_compiling():
        return None
    if _transforms_active is not None and _transforms_active():
        return "a transform of torch.func needs plain torch"
    if any(t is not None and unpack_dual(t).tangent is not None for t in tensors):
        return "forward-mode differentiation needs plain torch"
    return None


def why_not_fused(x: Tensor, spec: CellSpec, extras: CellExtras) -> str | None:
    """What keeps a sequence from the fused operator; None if nothing does."""
    if spec.activation not in NATIVE_ACTIVATIONS:
        return f"activation {spec.activation!r} has no native kernel"
    if spec.recurrent_activation not in NATIVE_RECURRENT:
        return f"recurrent_activation {spec.recurrent_activation!r} has no native kernel"
    if extras.input_masks is not None or extras.state_masks is not None:
        return "dropout masks each gate's input by itself"
    if extras.gate_norm is not None:
        return "norm needs whole steps between the gates"
    if extras.peephole is not None and max(extras.peephole.shape[2:]) > 1:
        return "peepholes differ by position"
    if x.device.type not in ("cpu", "cuda"):
        return f"there is no kernel for {x.device.type}"
    if x.device.type == "cuda" and x.dtype not in cuda_dtypes():
        return f"the CUDA kernels that are chosen do not take {x.dtype}; see set_cuda_gates"
    return None


def sequence(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    spec: CellSpec,
    *,
    mask: Tensor | None = None,
    extras: CellExtras = reference.NO_EXTRAS,
    plan: str = "auto",
    recompute: bool = False,
    every_step: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps of x (B, T, C, size...): states h (B, T, F, size...), the last h and the last c.

    Without every_step the states may be the last one alone, (B, 1, F, size...). plan: "fused",
    "loop" (reference.py), "scan" (the same as one loop of an exported graph, scanned.py), or
    "auto": fused on the CPU wherever it can be, unless plain_loop.pays; else native convolutions
    (extended.py) where these can be, else the loop.
    Raises ValueError for plan "fused" where the fused operator cannot do the work.
    """
    if plan == "scan":
        return scanned.sequence(x, h, c, weight_ih, weight_hh, bias, spec, mask, extras)
    tensors = (x, h, c, weight_ih, weight_hh, bias, extras.peephole)
    plain_only = _why_not_differentiable(tensors)
    reason = why_not_fused(x, spec, extras) or plain_only
    if plan == "fused" and reason is not None:
        raise ValueError(f'ConvLSTM: plan "fused" is not possible: {reason}; use plan "auto"')
    extends = plan == "auto" and reason is not None and plain_only is None and mask is None
    if extends and _is_eager(tensors) and extended.takes(x, spec, extras):
        return extended.sequence(x, h, c, weight_ih, weight_hh, bias, spec, extras)
    if plan == "loop" or reason is not None or (plan == "auto" and x.device.type != "cpu"):
        return reference.sequence(x, h, c, weight_ih, weight_hh, bias, spec, mask, extras)
    # (an exported graph is of any length: what pays for this one decides nothing)
    exporting = torch.compiler.is_exporting()
    free = plan == "auto" and mask is None and not recompute and not exporting
    if free and plain_loop.pays(x, h, weight_hh, spec, extras):
        return plain_loop.sequence(x, h, c, weight_ih, weight_hh, bias, spec)
    return _fused(x, h, c, weight_ih, weight_hh, bias, spec, mask, extras, recompute, every_step)


def _learns(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _fused(x, h, c, w_ih, w_hh, bias, spec: CellSpec, mask, extras, recompute, every_step):
    dtype = x.dtype
    peephole = None if extras.peephole is None else extras.peephole.flatten(1)
    learns = _learns(x, h, c, w_ih, w_hh, bias, peephole)
    # float32 between the steps, rounded once at the end, where no kernel has half precisions
    if dtype in _LOW and learns and not uses_triton(x):
        x, h, w_ih, w_hh = (t.float() for t in (x, h, w_ih, w_hh))
        bias, peephole = (None if t is None else t.float() for t in (bias, peephole))
    keep = fused.KEEP_NOTHING
    if learns:
        keep = fused.KEEP_CHECKPOINTS if recompute else fused.KEEP_GATES
    x, h, c = (  # contiguous here, once for both passes
        t.contiguous()
        for t in (x.transpose(0, 1).movedim(2, -1), h.movedim(1, -1), c.movedim(1, -1))
    )
    valid = None if mask is None else mask.T.contiguous()
    tensors = (x, h, c, w_ih, w_hh, bias, peephole, valid)
    operator = _sequence
    if _is_eager(tensors):
        operator = _Eager.apply if learns else _forward
    hs, c_last, _, _ = operator(
        *tensors, list(spec.stride), list(spec.dilation), spec.padding == "same",
        NATIVE_CODES[spec.activation], NATIVE_CODES[spec.recurrent_activation], keep,
        not every_step and not learns,
    )  # fmt: skip
    states = hs.movedim(-1, 2).transpose(0, 1)
    states = states.to(dtype)
    return states, states[:, -1], c_last.movedim(-1, 1)
