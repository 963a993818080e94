"""All steps of a cell with dropout, norms or an activation without a native kernel, over
two-dimensional frames in float32 on the CPU: native convolutions (csrc/cpu/convolution.h), gate by
gate where dropout gives each its own inputs, and between them the native gates or reference.py's.

Memory is time first and channels last, as in problem.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import _C  # type: ignore[attr-defined]
from . import reference
from .activations import NATIVE_ACTIVATIONS, NATIVE_CODES, NATIVE_RECURRENT
from .convolutions import Tile, first, last, tile_of
from .problem import block
from .reference import CellExtras
from .spec import CellSpec


def takes(x: Tensor, spec: CellSpec, extras: CellExtras) -> bool:
    """Whether `sequence` can compute the steps of x (B, T, C, H, W)."""
    norms = (extras.gate_norm, extras.cell_norm)
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and spec.rank == 2
        and spec.padding == "same"
        and max(*spec.stride, *spec.dilation) == 1
        and all(norm is None or isinstance(norm, nn.GroupNorm) for norm in norms)
    )


def sequence(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    spec: CellSpec,
    extras: CellExtras,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.sequence`."""
    rows = x.transpose(0, 1).movedim(2, -1).contiguous()
    tensors = (rows, last(h), last(c), weight_ih, weight_hh, bias, extras.peephole)
    every = (*tensors, *_parameters(extras))
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in every)
    hs, c = _Steps.apply(spec, extras, learns, *every)
    states = hs.movedim(-1, 2).transpose(0, 1)
    return states, states[:, -1], first(c)


def _parameters(extras: CellExtras) -> Iterator[Tensor]:
    for norm in (extras.gate_norm, extras.cell_norm):
        if isinstance(norm, nn.Module):
            yield from norm.parameters()


def _masked(t: Tensor, mask: Tensor | None) -> Tensor:
    return t if mask is None else t * mask


@dataclass
class _Part:
    """The convolution of one gate's input and state, or of all gates' where they have one."""

    channels: slice  # of the gates' arguments
    weight_ih: Tensor
    weight_hh: Tensor
    input_mask: Tensor | None  # (B, H, W, C)
    state_mask: Tensor | None  # (B, H, W, F)

    @classmethod
    def all(cls, weight_ih: Tensor, weight_hh: Tensor, extras: CellExtras) -> list[_Part]:
        masks = [
            None if m is None else m.movedim(2, -1).contiguous()
            for m in (extras.input_masks, extras.state_masks)
        ]
        count = 1 if masks == [None, None] else 4
        width = weight_hh.shape[0] // count
        return [
            cls(
                slice(k * width, (k + 1) * width),
                weight_ih.detach()[k * width : (k + 1) * width].contiguous(),
                weight_hh.detach()[k * width : (k + 1) * width].contiguous(),
                *(None if m is None else m[k] for m in masks),
            )
            for k in range(count)
        ]

    def packed(self, spec: CellSpec, tile: Tile) -> _C.Convolution:
        return _C.Convolution(
            self.weight_ih, self.weight_hh, before=_before(spec), tile=tile, turned=False
        )

    def packed_back(self, spec: CellSpec, tile: Tile, need_x: bool) -> _C.Convolution:
        """From the arguments' gradients to those of the state and the input."""
        return _C.Convolution(
            self.weight_hh, self.weight_ih if need_x else None,
            before=_before(spec), tile=tile, turned=True,
        )  # fmt: skip


def _before(spec: CellSpec) -> tuple[int, int]:
    (top, _), (left, _) = spec.recurrent_pads()
    return top, left


class _NativeGates:
    """The gates of a step by the native kernels: activations that these know, nothing else."""

    def __init__(self, spec: CellSpec) -> None:
        self.codes = NATIVE_CODES[spec.activation], NATIVE_CODES[spec.recurrent_activation]

    def enter(self, c: Tensor) -> Tensor:
        """The cell state (B, H, W, F), or its gradient, as the steps have it between them."""
        return c

    def leave(self, c: Tensor) -> Tensor:
        """The inverse of `enter`."""
        return c

    @staticmethod
    def fit(spec: CellSpec, extras: CellExtras) -> bool:
        known = spec.activation in NATIVE_ACTIVATIONS
        known = known and spec.recurrent_activation in NATIVE_RECURRENT
        return known and extras.gate_norm is None and extras.peephole is None

    def forward(self, pre: Tensor, bias: Tensor | None, c: Tensor, learns: bool, h: Tensor):
        """(c, what `backward` needs) from the arguments without their bias; the state to h."""
        c_next = torch.empty_like(c)
        _C.gates_forward(
            pre, None, bias, None, None, None, c, pre if learns else None, c_next, h, *self.codes,
            torch.get_num_threads(),
        )  # fmt: skip
        return c_next, (pre, c, c_next)

    def backward(self, kept: Any, d_h: Tensor, d_c: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The gradients of the arguments, of the cell state before, and of no parameter."""
        gates, before, after = kept
        d_pre, d_before = torch.empty_like(gates), d_c.clone()
        _C.gates_backward(
            gates, before, after, d_h, None, None, None, d_before, d_pre, *self.codes,
            torch.get_num_threads(),
        )  # fmt: skip
        return d_pre, d_before, []


class _TorchGates:
    """The gates of a step by their definition, with the gradients of `parameters`: channels first,
    where torch's pointwise operators and norms find long rows."""

    def __init__(self, spec: CellSpec, extras: CellExtras, parameters: Sequence[Tensor]) -> None:
        self.spec, self.extras, self.parameters = spec, extras, parameters

    def enter(self, c: Tensor) -> Tensor:
        return first(c).contiguous()

    def leave(self, c: Tensor) -> Tensor:
        return last(c)

    def forward(self, pre: Tensor, bias: Tensor | None, c: Tensor, learns: bool, h: Tensor):
        pre = first(pre)
        if bias is None:
            pre = pre.contiguous()
        else:
            pre = torch.add(pre, bias.view(-1, 1, 1), out=pre.new_empty(pre.shape))
        if not learns:
            shown, c_next = reference.gates(pre, c, self.spec, self.extras)
            h.copy_(shown.movedim(1, -1))
            return c_next, None
        with torch.enable_grad():
            pre.requires_grad_()
            c = c.detach().requires_grad_()
            shown, c_next = reference.gates(pre, c, self.spec, self.extras)
        h.copy_(shown.detach().movedim(1, -1))
        return c_next.detach(), (pre, c, shown, c_next)

    def backward(self, kept: Any, d_h: Tensor, d_c: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        pre, before, h, c = kept
        d_pre, d_before, *rest = torch.autograd.grad(
            (h, c), (pre, before, *self.parameters), (first(d_h), d_c), retain_graph=True,
            materialize_grads=True,
        )  # fmt: skip
        return last(d_pre), d_before, list(rest)


class _Steps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, spec, extras, learns, x, h, c, w_ih, w_hh, bias, peephole, *parameters):
        parts = _Part.all(w_ih, w_hh, extras)
        tile = tile_of(h, h.shape[1:-1], spec.kernel_size, x.shape[0])
        packed = [part.packed(spec, tile) for part in parts]
        learnt = tuple(t for t in (peephole, *parameters) if t is not None and t.requires_grad)
        native = _NativeGates.fit(spec, extras)
        gates = _NativeGates(spec) if native else _TorchGates(spec, extras, learnt)
        plain_bias = None if bias is None else bias.detach()
        hs, h0, c0, steps = block(x, x.shape[0], *h.shape), h, c, []
        c = gates.enter(c)
        threads = torch.get_num_threads()
        for x_t, h_next in zip(x.unbind(), hs.unbind(), strict=True):
            pre = x.new_empty(*h.shape[:-1], w_hh.shape[0])
            for part, convolution in zip(parts, packed, strict=True):
                convolution.run(
                    _masked(x_t, part.input_mask), _masked(h, part.state_mask), pre,
                    first=part.channels.start, y2=None, threads=threads,
                )  # fmt: skip
            c, kept = gates.forward(pre, plain_bias, c, learns, h_next)
            h = h_next
            if learns:
                steps.append(kept)
        ctx.save_for_backward(x, h0, c0, w_ih, w_hh, bias, peephole, *parameters, hs)
        ctx.work = (spec, extras, parts, tile, gates, steps)
        ctx.set_materialize_grads(False)
        return hs, gates.leave(c)

    @staticmethod
    def backward(ctx, d_hs, d_c):
        *given, hs = ctx.saved_tensors
        needs = ctx.needs_input_grad[3:]
        spec, extras = ctx.work[:2]
        if torch.is_grad_enabled():
            return None, None, None, *_differentiable(given, needs, spec, extras, d_hs, d_c)
        x, h0, _, w_ih, w_hh, bias, *rest = given
        parts, tile, gates, steps = ctx.work[2:]
        packed = [part.packed_back(spec, tile, needs[0]) for part in parts]
        d_x = torch.zeros_like(x) if needs[0] else None
        d_h, d_c = torch.zeros_like(h0), torch.zeros_like(h0) if d_c is None else d_c
        d_c = gates.enter(d_c.contiguous())
        d_pres = block(x, x.shape[0], *h0.shape[:-1], w_hh.shape[0])
        learnt = [torch.zeros_like(t) for t, need in zip(rest, needs[6:], strict=True) if need]
        for t in reversed(range(x.shape[0])):
            shown = d_h if d_hs is None else d_h + d_hs[t]
            d_pre, d_c, found = gates.backward(steps[t], shown.contiguous(), d_c)
            d_pres[t] = d_pre
            for total, some in zip(learnt, found, strict=True):
                total += some
            d_h = _step_back(parts, packed, d_pre, h0, None if d_x is None else d_x[t])
        d_ih, d_hh = torch.zeros_like(w_ih), torch.zeros_like(w_hh)
        d_bias = None if bias is None else torch.zeros_like(bias)
        for part in parts:
            _add_weight_gradients(part, spec, x, h0, hs, d_pres, d_ih, d_hh, d_bias)
        found = iter(learnt)
        d_rest = [next(found) if need else None for need in needs[6:]]
        return None, None, None, d_x, d_h, gates.leave(d_c), d_ih, d_hh, d_bias, *d_rest


def _differentiable(given, needs, spec, extras, d_hs, d_c) -> list[Tensor | None]:
    """Gradients of all inputs that can be differentiated again, by the definition."""
    # Views end the way back: input or state may follow from the weights, and what these get through
    # them is not this function's.
    viewed = [None if t is None else t.view_as(t) for t in given]
    x, h, c, w_ih, w_hh, bias, peephole, *parameters = viewed
    rest = iter(parameters)
    extras = replace(
        extras,
        peephole=peephole,
        gate_norm=_norm_of(extras.gate_norm, rest),
        cell_norm=_norm_of(extras.cell_norm, rest),
    )
    with torch.autocast(x.device.type, enabled=False):
        hs, _, c = reference.sequence(
            x.movedim(-1, 2).transpose(0, 1), first(h), first(c), w_ih, w_hh, bias, spec,
            extras=extras,
        )  # fmt: skip
    shown = [(hs.transpose(0, 1).movedim(2, -1), d_hs), (c.movedim(1, -1), d_c)]
    outputs, seeds = zip(*((o, d) for o, d in shown if d is not None), strict=True)
    wanted = [t for t, need in zip(viewed, needs, strict=True) if need]
    grads = torch.autograd.grad(outputs, wanted, seeds, create_graph=True, allow_unused=True)
    found = iter(grads)
    return [next(found) if need else None for need in needs]


def _norm_of(
    norm: Callable[[Tensor], Tensor] | None, parameters: Iterator[Tensor]
) -> Callable[[Tensor], Tensor] | None:
    """The norm with its next `parameters` in place of its own."""
    if not isinstance(norm, nn.Module):
        return norm
    own = {name: next(parameters) for name, _ in norm.named_parameters()}
    return lambda x: torch.func.functional_call(norm, own, (x,))


def _step_back(
    parts: list[_Part], packed: list[_C.Convolution], d_pre: Tensor, h: Tensor, d_x: Tensor | None
) -> Tensor:
    """The gradient of the state before a step; adds that of its input to d_x."""
    d_h = None
    for part, convolution in zip(parts, packed, strict=True):
        part_h = torch.empty_like(h)
        part_x = None if d_x is None else torch.empty_like(d_x)
        convolution.run(
            d_pre[..., part.channels].contiguous(), None, part_h,
            first=0, y2=part_x, threads=torch.get_num_threads(),
        )  # fmt: skip
        part_h = _masked(part_h, part.state_mask)
        d_h = part_h if d_h is None else d_h + part_h
        if d_x is not None:
            d_x += _masked(part_x, part.input_mask)
    return d_h


def _add_weight_gradients(part: _Part, spec, x, h0, hs, d_pres, d_ih, d_hh, d_bias) -> None:
    d_frames = d_pres[..., part.channels].contiguous().flatten(0, 1)
    tile = tile_of(d_frames, d_frames.shape[1:-1], spec.kernel_size, 1, most=5)
    _C.weight_gradient(
        _masked(x, part.input_mask).flatten(0, 1), _masked(h0, part.state_mask),
        _masked(hs[:-1], part.state_mask).flatten(0, 1), d_frames, d_ih[part.channels],
        d_hh[part.channels], None if d_bias is None else d_bias[part.channels], *_before(spec),
        tile, torch.get_num_threads(),
    )  # fmt: skip
