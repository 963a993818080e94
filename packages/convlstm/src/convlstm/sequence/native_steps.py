"""All steps over two-dimensional frames on the CPU: one native call for the steps forward, one for
the steps backward and one for the weights' gradients (csrc/cpu/steps.h, steps_backward.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _C  # type: ignore[attr-defined]
from .convolutions import input_gradient, tile_of, weight_gradient
from .problem import KEEP_GATES, KEEP_NOTHING, Gradients, Kept, Problem, block


def forward(p: Problem, keep: int, last_only: bool) -> Kept:
    """As fused.forward."""
    whole = p.is_joint and keep == KEEP_NOTHING
    pieces = [(0, p.steps)] if whole else list(p.pieces())
    kept = Kept.empty(p, keep, last_only)
    h, c = p.h0, p.c0
    for piece, (start, end) in enumerate(pieces):
        if keep != KEEP_NOTHING:
            kept.cs[piece] = c
        out = kept.hs if last_only else kept.hs[start:end]
        if last_only and start:
            h = h.clone()
        gates = kept.gates[start:end] if keep == KEEP_GATES else None
        _run(p, start, end, h, c, out, kept.c, gates, not last_only)
        h, c = out[(end - start - 1) % 2] if last_only else out[-1], kept.c
    if last_only:
        kept.hs = h.unsqueeze(0).clone()
    return kept


def _run(p: Problem, start: int, end: int, h, c, hs, c_last, gates, every_step: bool) -> None:
    """Steps [start, end) from h and c: states to hs, the last cell state to c_last."""
    joint = p.is_joint
    _C.run_steps(
        _plan(p),
        x=p.x[start:end] if joint else None,
        pre=None if joint else p.from_input(start, end),
        h_before=h,
        c=c,
        weight_ih=p.weight_ih.float() if joint else None,
        weight_hh=p.weight_hh.float(),
        bias=_float(p.bias),
        peephole=_float(p.peephole),
        valid=p.valid_steps(start, end),
        h=hs,
        c_last=c_last,
        gates=gates,
        every_step=every_step,
    )


def _float(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.float()


def _before(p: Problem) -> tuple[int, int]:
    (top, _), (left, _) = p.spec.recurrent_pads()
    return top, left


def _plan(p: Problem) -> _C.Plan:
    tile = tile_of(p.h0, p.c0.shape[1:-1], p.spec.kernel_size, p.steps)
    return _C.Plan(
        before=_before(p), activations=p.codes, tile=tile, threads=torch.get_num_threads()
    )


def backward(
    p: Problem, kept: Kept, d_hs: Tensor | None, d_c: Tensor | None, need_x: bool
) -> Gradients:
    """As fused.backward."""
    out = Gradients.start(p, d_c, need_x)
    joint_x = need_x and p.is_joint
    pieces = list(p.pieces())
    for piece in reversed(range(len(pieces))):
        start, end = pieces[piece]
        h = kept.hs[start - 1] if start else p.h0
        cells = block(p.c0, end - start + 1, *p.c0.shape)
        cells[0] = kept.cs[piece]
        gates = _gates(p, kept, start, end, h, cells[0])
        d_pre = block(gates, *gates.shape)
        _C.run_steps_backward(
            _plan(p),
            gates=gates,
            cells=cells,
            d_hs=None if d_hs is None else d_hs[start:end],
            d_h=out.h0,
            d_c=out.c0,
            weight_ih=p.weight_ih if joint_x else None,
            weight_hh=p.weight_hh,
            peephole=p.peephole,
            valid=p.valid_steps(start, end),
            d_pre=d_pre,
            d_x=out.x[start:end] if joint_x else None,
        )
        _add_weight_gradients(p, out, start, end, h, kept.hs[start : end - 1], d_pre)
        out.add_peephole(p, d_pre, cells)
        if need_x and not p.is_joint:
            x, pads = p.input_frames(start, end)
            d_x = input_gradient(
                d_pre.flatten(0, 1), x, p.weight_ih, pads, p.spec.stride, p.spec.dilation
            )
            out.x[start:end] = d_x.unflatten(0, (end - start, -1))
    return out


def _gates(p: Problem, kept: Kept, start: int, end: int, h: Tensor, c: Tensor) -> Tensor:
    """The activated gates of steps [start, end): kept, or computed again from h and c."""
    if kept.gates.shape[0]:
        return kept.gates[start:end]
    gates = block(c, end - start, *c.shape[:-1], 4 * c.shape[-1])
    hs = c.new_empty(2, *c.shape)
    _run(p, start, end, h, c, hs, torch.empty_like(c), gates, False)
    return gates


def _add_weight_gradients(p: Problem, out: Gradients, start, end, h, hs, d_pre) -> None:
    """From the states before the steps: h before the first, hs before the others."""
    d_frames = d_pre.flatten(0, 1)
    x, pads = p.input_frames(start, end)
    joint = p.is_joint
    tile = tile_of(d_frames, d_frames.shape[1:-1], p.spec.kernel_size, 1, most=5)
    _C.weight_gradient(
        x if joint else None, h, hs.flatten(0, 1), d_frames, out.weight_ih if joint else None,
        out.weight_hh, out.bias, *_before(p), tile, torch.get_num_threads(),
    )  # fmt: skip
    if not joint:
        s = p.spec
        out.weight_ih += weight_gradient(x, d_frames, p.weight_ih, pads, s.stride, s.dilation)
