"""The fused sequence: torch's convolutions in one layout, native gate kernels between them.

Memory is time first and channels last throughout: sequences (T, B, size..., C), so that a step is
one block, the recurrent convolution reads the last output where it lies, and what one layer writes
the next one reads without a copy. The input convolution runs over several steps at once; so do the
weight gradients and the input gradient, and only the gradient of the state goes step by step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import _C
from .activations import NATIVE_CODES
from .convolutions import (
    Filter,
    OneFilter,
    channels_last,
    choose_filter,
    convolve,
    input_gradient,
    is_heavy,
    turned,
    turned_pads,
    weight_gradient,
    winograd_pays,
)
from .spec import CellSpec

# Steps are taken together while the arguments of their gates fill at most so many bytes: blocks of
# this size are reused by the allocator; larger ones are given back and made present anew each time.
BLOCK_BYTES = 12 << 20
# Blocks from this size on ask for large pages.
LARGE_BYTES = 4 << 20

# Which activations the native kernels have, as `activation` and as `recurrent_activation`.
ACTIVATIONS = ("tanh", "relu", "linear", "sigmoid")
RECURRENT_ACTIVATIONS = ("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2")

# What a forward pass keeps for the backward pass.
KEEP_NOTHING, KEEP_GATES, KEEP_CHECKPOINTS = 0, 1, 2


@dataclass(frozen=True)
class Problem:
    """One sequence: inputs in the layout of this file, weights in torch's."""

    x: Tensor  # (T, B, size..., C)
    h0: Tensor  # (B, state size..., F)
    c0: Tensor  # (B, state size..., F)
    weight_ih: Tensor  # (4F, C, k...)
    weight_hh: Tensor  # (4F, F, k...)
    bias: Tensor | None  # (4F,)
    peephole: Tensor | None  # (3, F)
    valid: Tensor | None  # (T, B) bool
    spec: CellSpec

    @property
    def steps(self) -> int:
        return self.x.shape[0]

    @property
    def codes(self) -> tuple[int, int]:
        s = self.spec
        return NATIVE_CODES[s.activation], NATIVE_CODES[s.recurrent_activation]

    def piece_length(self) -> int:
        """How many steps are taken together."""
        gates = 4 * self.c0.numel() * self.c0.element_size()
        return max(1, BLOCK_BYTES // max(1, gates))

    def pieces(self) -> Iterator[tuple[int, int]]:
        """[start, end) of the steps that are taken together, from the first on."""
        length = self.piece_length()
        for start in range(0, self.steps, length):
            yield start, min(self.steps, start + length)


def block(like: Tensor, *shape: int) -> Tensor:
    """A new tensor; a large one asks for large pages."""
    out = like.new_empty(shape)
    if out.device.type == "cpu" and out.numel() * out.element_size() >= LARGE_BYTES:
        _C.prefer_large_pages(out)
    return out


# Which convolutions


@dataclass(frozen=True)
class Filters:
    """The convolutions that go step by step.

    forward: `joint` takes the input and the state side by side; else `state` takes the state alone.
    back: gives the gradient of the state, and with `joint` that of the input beside it.
    """

    step: Filter
    joint: bool

    @classmethod
    def forward(cls, p: Problem) -> Filters:
        if _is_heavy(p):
            return cls(OneFilter(p.weight_hh, p.spec.recurrent_pads(), False), False)
        joint = _is_joint(p)
        weight = torch.cat([p.weight_ih, p.weight_hh], 1) if joint else p.weight_hh
        return cls(_filter(p, weight, p.spec.recurrent_pads()), joint)

    @classmethod
    def back(cls, p: Problem, need_x: bool) -> Filters:
        if _is_heavy(p):
            return cls(OneFilter(p.weight_hh, p.spec.recurrent_pads(), True), False)
        joint = need_x and _is_joint(p)
        weight = torch.cat([p.weight_hh, p.weight_ih], 1) if joint else p.weight_hh
        pads = turned_pads(p.spec.recurrent_pads(), p.weight_hh)
        return cls(_filter(p, turned(weight), pads), joint)


def _filter(p: Problem, weight: Tensor, pads) -> Filter:
    return choose_filter(weight, pads, p.h0, p.c0.shape[1:-1], p.steps)


def _is_heavy(p: Problem) -> bool:
    pixels = p.steps * p.c0.numel() // p.c0.shape[-1]
    return is_heavy(p.weight_hh, pixels)


def _is_joint(p: Problem) -> bool:
    """Whether one convolution over the input and the state side by side does the work of both."""
    s = p.spec
    return s.padding == "same" and max(*s.stride, *s.dilation) == 1


# Forward


@dataclass
class Kept:
    """What forward returns: hs (T or 1, B, ..., F), the last c, and cs and gates for backward.

    cs holds the cell state before each piece: those between follow from the gates. KEEP_GATES:
    gates (T, B, ..., 4F). KEEP_CHECKPOINTS: gates is empty. KEEP_NOTHING: both are empty.
    """

    hs: Tensor
    c: Tensor
    cs: Tensor
    gates: Tensor


def forward(p: Problem, keep: int, last_only: bool) -> Kept:
    """Runs all steps. last_only (with KEEP_NOTHING): hs holds the last step alone."""
    if takes_native_steps(p):
        return _native_forward(p, keep, last_only)
    if p.x.dtype in (torch.bfloat16, torch.float16):
        kept = forward(_in_float32(p), keep, last_only)
        return replace(kept, hs=kept.hs.to(p.x.dtype))
    return _stepwise_forward(p, keep, last_only)


def _in_float32(p: Problem) -> Problem:
    """The same in float32 from end to end: more exact than half precision."""
    names = ("x", "h0", "weight_ih", "weight_hh", "bias", "peephole")
    given = {name: getattr(p, name) for name in names}
    return replace(p, **{k: None if t is None else t.float() for k, t in given.items()})


def takes_native_steps(p: Problem) -> bool:
    """Whether one native call runs many steps: in two dimensions in float32, or in bfloat16 on a
    processor that multiplies it."""
    if p.x.device.type != "cpu" or p.spec.rank != 2 or _is_heavy(p):
        return False
    if p.x.dtype == torch.bfloat16:
        return _is_joint(p) and _C.has_bfloat16()
    return p.x.dtype == torch.float32


def _native_forward(p: Problem, keep: int, last_only: bool) -> Kept:
    shape, joint = p.c0.shape, _is_joint(p)
    pieces = [(0, p.steps)] if joint and keep == KEEP_NOTHING else list(p.pieces())
    hs, cs, gates = _outputs(p, keep, last_only, len(pieces))
    w_hh = p.weight_hh.float()
    w_ih = p.weight_ih.float() if joint else None
    bias, peephole = (None if t is None else t.float() for t in (p.bias, p.peephole))
    (top, _), (left, _) = p.spec.recurrent_pads()
    winograd = winograd_pays(p.h0, shape[1:-1], p.spec.kernel_size, p.steps)
    h, c, c_last = p.h0, p.c0, torch.empty_like(p.c0)
    for piece, (start, end) in enumerate(pieces):
        part = slice(start, end)
        if keep != KEEP_NOTHING:
            cs[piece] = c
        out = hs if last_only else hs[part]
        if last_only and start:
            h = h.clone()
        _C.run_steps(
            p.x[part] if joint else None, None if joint else _from_input(p, start, end), h, c,
            w_ih, w_hh, bias, peephole, None if p.valid is None else p.valid[part], out, c_last,
            gates[part] if keep == KEEP_GATES else None, (top, left), p.codes, winograd,
            not last_only, torch.get_num_threads(),
        )  # fmt: skip
        h, c = out[(end - start - 1) % 2] if last_only else out[-1], c_last
    return Kept(h.unsqueeze(0).clone() if last_only else hs, c, cs, gates)


def _outputs(p: Problem, keep: int, last_only: bool, pieces: int) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for hs, cs and gates of `Kept`; hs has two steps with last_only."""
    shape = p.c0.shape
    hs = block(p.x, 2 if last_only else p.steps, *shape)
    cs = block(p.c0, 0 if keep == KEEP_NOTHING else pieces, *shape)
    gates = block(p.c0, p.steps if keep == KEEP_GATES else 0, *shape[:-1], 4 * shape[-1])
    return hs, cs, gates


def _stepwise_forward(p: Problem, keep: int, last_only: bool) -> Kept:
    shape = p.c0.shape
    pieces = list(p.pieces())
    hs, cs, gates = _outputs(p, keep, last_only, len(pieces))
    spare = [torch.empty_like(p.c0), torch.empty_like(p.c0)]
    filters = Filters.forward(p)
    pre = p.c0.new_empty(*shape[:-1], 4 * shape[-1])
    h, c = p.h0, p.c0
    for piece, (start, end) in enumerate(pieces):
        if keep != KEEP_NOTHING:
            cs[piece] = c
        from_input = None if filters.joint else _from_input(p, start, end)
        for t in range(start, end):
            pre = filters.step(p.x[t], pre, h) if filters.joint else filters.step(h, pre)
            h_next, c_next = hs[t % 2 if last_only else t], spare[t % 2]
            _step(p, t, pre, None if filters.joint else from_input[t - start], h, c,
                  gates[t] if keep == KEEP_GATES else None, c_next, h_next)  # fmt: skip
            h, c = h_next, c_next
    return Kept(h.unsqueeze(0).clone() if last_only else hs, c, cs, gates)


def _from_input(p: Problem, start: int, end: int) -> Tensor:
    x = p.x[start:end].flatten(0, 1)
    pads = p.spec.input_pads(x.shape[1:-1])
    out = convolve(x, channels_last(p.weight_ih), pads, p.spec.stride, p.spec.dilation)
    return out.unflatten(0, (end - start, -1))


def _step(p: Problem, t: int, pre, pre2, h, c, gates, c_next, h_next) -> None:
    valid = None if p.valid is None else p.valid[t]
    activation, recurrent = p.codes
    _C.gates_forward(
        pre, pre2, p.bias, p.peephole, valid, h, c, gates, c_next, h_next,
        activation, recurrent, torch.get_num_threads(),
    )  # fmt: skip


# Backward


@dataclass
class Gradients:
    """One for each tensor of a Problem; None where it was not asked for."""

    x: Tensor | None
    h0: Tensor
    c0: Tensor
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor | None
    peephole: Tensor | None


def backward(
    p: Problem, kept: Kept, d_hs: Tensor | None, d_c: Tensor | None, need_x: bool
) -> Gradients:
    """Gradients from those of hs (T, B, ..., F) and of the last c (B, ..., F); None is zero."""
    out = Gradients(
        torch.empty_like(p.x) if need_x else None,
        torch.empty_like(p.h0),
        torch.zeros_like(p.c0) if d_c is None else d_c.clone(),
        torch.zeros_like(p.weight_ih),
        torch.zeros_like(p.weight_hh),
        None if p.bias is None else torch.zeros_like(p.bias),
        None if p.peephole is None else torch.zeros_like(p.peephole),
    )
    filters = Filters.back(p, need_x)
    d_h: Tensor | None = None
    pieces = list(p.pieces())
    for piece in reversed(range(len(pieces))):
        start, end = pieces[piece]
        h_before = _h_before(p, kept.hs, start, end)
        gates, c_before, c_after = _piece_states(p, kept, piece, start, end, h_before)
        d_pre = torch.empty_like(gates)
        for t in reversed(range(start, end)):
            k = t - start
            d_shown = None if d_hs is None else d_hs[t]
            _step_backward(p, t, gates[k], c_before[k], c_after[k], d_shown, d_h, out.c0, d_pre[k])
            d_before = torch.empty_like(p.h0)
            if filters.joint:
                d_before = filters.step(d_pre[k], d_before, None, out.x[t])
            else:
                d_before = filters.step(d_pre[k], d_before)
            d_h = _carried(p, t, d_before, d_shown, d_h)
        _add_weight_gradients(p, out, start, end, h_before, c_before, c_after, d_pre)
        if need_x and not filters.joint:
            x, spec = p.x[start:end].flatten(0, 1), p.spec
            pads = spec.input_pads(x.shape[1:-1])
            d_x = input_gradient(
                d_pre.flatten(0, 1), x, p.weight_ih, pads, spec.stride, spec.dilation
            )
            out.x[start:end] = d_x.unflatten(0, (end - start, -1))
    out.h0.copy_(d_h)
    return out


def _h_before(p: Problem, hs: Tensor, start: int, end: int) -> Tensor:
    """The state before each step of [start, end)."""
    if start > 0:
        return hs[start - 1 : end - 1]
    return torch.cat([p.h0.unsqueeze(0), hs[: end - 1]])


def _piece_states(p: Problem, kept: Kept, piece: int, start: int, end: int, h_before: Tensor):
    """(gates, c before, c after) of each step of [start, end): kept, or computed again.

    Computing again needs no recurrence in the convolutions: every state h is known.
    """
    cs = block(p.c0, end - start + 1, *p.c0.shape)
    cs[0] = kept.cs[piece]
    if kept.gates.shape[0]:
        gates = kept.gates[start:end]
        for k in range(end - start):
            _cell_state(p, start + k, gates[k], cs[k], cs[k + 1])
        return gates, cs[:-1], cs[1:]
    from_input = _from_input(p, start, end)
    from_state = convolve(
        h_before.flatten(0, 1), channels_last(p.weight_hh), p.spec.recurrent_pads()
    ).unflatten(0, (end - start, -1))
    gates = torch.empty_like(from_input)
    h = torch.empty_like(p.h0)
    for k in range(end - start):
        _step(
            p, start + k, from_input[k], from_state[k], h_before[k], cs[k], gates[k], cs[k + 1], h
        )
    return gates, cs[:-1], cs[1:]


def _cell_state(p: Problem, t: int, gates: Tensor, c_before: Tensor, c: Tensor) -> None:
    """The cell state after step t, to c, from its activated gates."""
    valid = None if p.valid is None else p.valid[t]
    if c.device.type == "cpu":
        _C.cell_state(gates, c_before, valid, c, torch.get_num_threads())
        return
    i, f, g, _ = gates.chunk(4, -1)
    c.copy_(f * c_before + i * g)
    if valid is not None:
        c.copy_(torch.where(valid.view(-1, *(1,) * (c.dim() - 1)), c, c_before))


def _step_backward(p: Problem, t, gates, c_before, c, d_shown, d_h, d_c, d_pre) -> None:
    valid = None if p.valid is None else p.valid[t]
    activation, recurrent = p.codes
    _C.gates_backward(
        gates, c_before, c, d_shown, d_h, p.peephole, valid, d_c, d_pre,
        activation, recurrent, torch.get_num_threads(),
    )  # fmt: skip


def _carried(p: Problem, t, before: Tensor, d_shown, d_h) -> Tensor:
    """The gradient of the state before step t; a step that is not valid adds its own to it."""
    if p.valid is not None:
        carried = ~p.valid[t].view(-1, *(1,) * (before.dim() - 1))
        for part in (d_shown, d_h):
            if part is not None:
                before += part * carried
    return before


def _add_weight_gradients(
    p: Problem, out: Gradients, start: int, end: int, h_before, c_before, c_after, d_pre
) -> None:
    spec, ones = p.spec, (1,) * p.spec.rank
    flat = d_pre.flatten(0, 1)
    x = p.x[start:end].flatten(0, 1)
    pads = spec.input_pads(x.shape[1:-1])
    out.weight_ih += weight_gradient(x, flat, p.weight_ih, pads, spec.stride, spec.dilation)
    out.weight_hh += weight_gradient(
        h_before.flatten(0, 1), flat, p.weight_hh, spec.recurrent_pads(), ones, ones
    )
    if out.bias is not None:
        out.bias += flat.reshape(-1, flat.shape[-1]).sum(0)
    if out.peephole is not None:
        d_i, d_f, _, d_o = d_pre.reshape(-1, 4, p.c0.shape[-1]).unbind(1)
        before, after = (c.reshape(-1, c.shape[-1]) for c in (c_before, c_after))
        out.peephole += torch.stack(
            [(d_i * before).sum(0), (d_f * before).sum(0), (d_o * after).sum(0)]
        )
