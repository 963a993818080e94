"""The fused sequence step by step: torch's convolutions in one layout, native gate kernels between
them. The input convolution runs over several steps at once; so do the weights' gradients and that
of the input, and only the gradient of the state goes step by step. On a device a step is two
launches each way: a convolution and the gates."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _C  # type: ignore[attr-defined]
from .convolutions import (
    channels_last,
    convolve,
    input_gradient,
    turned,
    turned_pads,
    weight_gradient,
)
from .gates import gates_backward, gates_forward
from .problem import KEEP_GATES, KEEP_NOTHING, Gradients, Kept, Problem, block


def forward(p: Problem, keep: int, last_only: bool) -> Kept:
    """As fused.forward."""
    kept = Kept.empty(p, keep, last_only)
    every_cell = keep == KEEP_GATES and not p.on_host
    spare = [torch.empty_like(p.c0), torch.empty_like(p.c0)]
    joint, pads = p.is_joint, p.spec.recurrent_pads()
    weight = torch.cat([p.weight_ih, p.weight_hh], 1) if joint else p.weight_hh
    weight = channels_last(weight)
    h, c = p.h0, p.c0
    for piece, (start, end) in enumerate(p.pieces()):
        if keep != KEEP_NOTHING and not (every_cell and start):
            kept.cs[piece] = c
        from_input = None if joint else p.from_input(start, end)
        for t in range(start, end):
            pre = convolve(torch.cat([p.x[t], h], -1) if joint else h, weight, pads)
            h_next = kept.hs[t % 2 if last_only else t]
            c_next = kept.cs[t + 1] if every_cell else spare[t % 2]
            _step(p, t, pre, None if joint else from_input[t - start], h, c,
                  kept.gates[t] if keep == KEEP_GATES else None, c_next, h_next)  # fmt: skip
            h, c = h_next, c_next
    hs = h.unsqueeze(0).clone() if last_only else kept.hs
    return Kept(hs, c.clone() if every_cell else c, kept.cs, kept.gates)


def _step(p: Problem, t: int, pre, pre2, h, c, gates, c_next, h_next) -> None:
    valid = None if p.valid is None else p.valid[t]
    activation, recurrent = p.codes
    gates_forward(
        c, pre, pre2, p.bias, p.peephole, valid, h, c, gates, c_next, h_next, activation, recurrent
    )


def backward(
    p: Problem, kept: Kept, d_hs: Tensor | None, d_c: Tensor | None, need_x: bool
) -> Gradients:
    """As fused.backward."""
    out = Gradients.start(p, d_c, need_x)
    joint_x, filters = need_x and p.is_joint, p.c0.shape[-1]
    weight = torch.cat([p.weight_hh, p.weight_ih], 1) if joint_x else p.weight_hh
    weight, pads = channels_last(turned(weight)), turned_pads(p.spec.recurrent_pads(), p.weight_hh)
    d_h: Tensor | None = None
    pieces = list(p.pieces())
    for piece in reversed(range(len(pieces))):
        start, end = pieces[piece]
        h_before = _h_before(p, kept.hs, start, end)
        gates, cells = _piece_states(p, kept, piece, start, end, h_before)
        d_pre = block(p.gates_like, *gates.shape)
        for t in reversed(range(start, end)):
            k = t - start
            d_shown = None if d_hs is None else d_hs[t]
            _step_backward(p, t, gates[k], cells[k], cells[k + 1], d_shown, d_h, out.c0, d_pre[k])
            d_before = convolve(d_pre[k], weight, pads)
            if joint_x:
                out.x[t] = d_before[..., filters:]
                d_before = d_before[..., :filters].contiguous()
            d_h = _carried(p, t, d_before, d_shown, d_h)
        _add_weight_gradients(p, out, start, end, h_before, d_pre)
        out.add_peephole(p, d_pre, cells)
        if need_x and not p.is_joint:
            x, x_pads = p.input_frames(start, end)
            d_x = input_gradient(
                d_pre.flatten(0, 1), x, p.weight_ih, x_pads, p.spec.stride, p.spec.dilation
            )
            out.x[start:end] = d_x.unflatten(0, (end - start, -1))
    out.h0.copy_(d_h)
    return out.rounded(p)


def _h_before(p: Problem, hs: Tensor, start: int, end: int) -> Tensor:
    """The state before each step of [start, end)."""
    if start > 0:
        return hs[start - 1 : end - 1]
    return torch.cat([p.h0.unsqueeze(0), hs[: end - 1]])


def _piece_states(p: Problem, kept: Kept, piece: int, start: int, end: int, h_before: Tensor):
    """(gates of each step of [start, end), c before the first and after each): kept, or computed
    again. Computing again needs no recurrence in the convolutions: every state h is known.
    """
    if len(kept.cs) > p.steps:
        return kept.gates[start:end], kept.cs[start : end + 1]
    cells = block(p.c0, end - start + 1, *p.c0.shape)
    cells[0] = kept.cs[piece]
    if kept.gates.shape[0]:
        gates = kept.gates[start:end]
        for k in range(end - start):
            _cell_state(p, start + k, gates[k], cells[k], cells[k + 1])
        return gates, cells
    from_input = p.from_input(start, end)
    from_state = convolve(
        h_before.flatten(0, 1), channels_last(p.weight_hh), p.spec.recurrent_pads()
    ).unflatten(0, (end - start, -1))
    gates = torch.empty_like(from_input)
    h = torch.empty_like(p.h0)
    for k in range(end - start):
        _step(p, start + k, from_input[k], from_state[k], h_before[k], cells[k], gates[k],
              cells[k + 1], h)  # fmt: skip
    return gates, cells


def _cell_state(p: Problem, t: int, gates: Tensor, c_before: Tensor, c: Tensor) -> None:
    """The cell state after step t, to c, from its activated gates."""
    valid = None if p.valid is None else p.valid[t]
    _C.cell_state(gates, c_before, valid, c, torch.get_num_threads())


def _step_backward(p: Problem, t, gates, c_before, c, d_shown, d_h, d_c, d_pre) -> None:
    valid = None if p.valid is None else p.valid[t]
    activation, recurrent = p.codes
    gates_backward(
        c, gates, c_before, c, d_shown, d_h, p.peephole, valid, d_c, d_pre, activation, recurrent
    )


def _carried(p: Problem, t, before: Tensor, d_shown, d_h) -> Tensor:
    """The gradient of the state before step t; a step that is not valid adds its own to it."""
    if p.valid is not None:
        carried = ~p.valid[t].view(-1, *(1,) * (before.dim() - 1))
        for part in (d_shown, d_h):
            if part is not None:
                before += part * carried
    return before


def _add_weight_gradients(
    p: Problem, out: Gradients, start: int, end: int, h_before, d_pre
) -> None:
    spec, ones = p.spec, (1,) * p.spec.rank
    flat = d_pre.flatten(0, 1)
    x, pads = p.input_frames(start, end)
    out.weight_ih += weight_gradient(x, flat, p.weight_ih, pads, spec.stride, spec.dilation)
    out.weight_hh += weight_gradient(
        h_before.flatten(0, 1), flat, p.weight_hh, spec.recurrent_pads(), ones, ones
    )
    if out.bias is not None:
        out.bias += flat.reshape(-1, flat.shape[-1]).sum(0)
