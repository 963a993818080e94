"""The fused sequence: torch's convolutions in one layout, native gate kernels between them.

Memory is time first and channels last throughout: sequences (T, B, size..., C), so that a step is
one block, the recurrent convolution reads the last output where it lies, and what one layer writes
the next one reads without a copy. The input convolution runs over several steps at once; so do the
weight gradients and the input gradient, and only the gradient of the state goes step by step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _C
from .activations import NATIVE_CODES
from .reference import CONV
from .spec import CellSpec, flat_pads

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


# Convolutions on (N, size..., C)


def _first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


def _last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous()


def _weight(weight: Tensor) -> Tensor:
    """Weights in the memory format of channels-last convolutions."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if weight.dim() not in formats:
        return weight.contiguous()
    return weight.contiguous(memory_format=formats[weight.dim()])


def _convolve(x: Tensor, weight: Tensor, pads, stride=1, dilation=1) -> Tensor:
    """(N, size..., C) to (N, out size..., K); pads are (before, after) of each axis."""
    x = _first(x)
    if any(a != b for a, b in pads):
        x, padding = F.pad(x, flat_pads(pads)), (0,) * len(pads)
    else:
        padding = tuple(a for a, _ in pads)
    return _last(CONV[len(pads)](x, weight, None, stride, padding, dilation))


def _turned(weight: Tensor) -> Tensor:
    """The weights whose convolution is the transpose of `weight`'s, for stride 1."""
    axes = tuple(range(2, weight.dim()))
    return _weight(weight.flip(axes).transpose(0, 1))


def _turned_pads(pads, weight: Tensor):
    return [(k - 1 - a, k - 1 - b) for (a, b), k in zip(pads, weight.shape[2:], strict=True)]


def _is_plain(spec: CellSpec) -> bool:
    return max(spec.stride) == 1 and max(spec.dilation) == 1


def weight_gradient(x: Tensor, d_out: Tensor, weight: Tensor, pads, stride, dilation) -> Tensor:
    """The gradient of `weight` (K, C, k...) from x (N, size..., C) and d_out (N, out..., K)."""
    plain = all(v == 1 for v in (*stride, *dilation))
    rank = len(pads)
    fits = all(a < k for (a, _), k in zip(pads, weight.shape[2:], strict=True))
    if x.device.type == "cpu" and x.dtype == torch.float32 and plain and rank <= 2 and fits:
        if rank == 1:
            x, d_out = x.unsqueeze(1), d_out.unsqueeze(1)
        kernel = (1,) * (2 - rank) + tuple(weight.shape[2:])
        out = x.new_empty(*kernel, x.shape[-1], d_out.shape[-1])
        top = 0 if rank == 1 else pads[0][0]
        _C.weight_gradient(x, d_out, out, top, pads[-1][0], torch.get_num_threads())
        return out.permute(3, 2, 0, 1).reshape(weight.shape)
    x = _first(x)
    if any(a != b for a, b in pads):
        x, pads = F.pad(x, flat_pads(pads)), [(0, 0)] * rank
    padding = [a for a, _ in pads]
    return torch.ops.aten.convolution_backward(
        _first(d_out), x, weight, None, list(stride), padding, list(dilation), False,
        [0] * rank, 1, [False, True, False],
    )[1]  # fmt: skip


def _input_gradient(p: Problem, d_pre: Tensor, x: Tensor, turned: Tensor | None) -> Tensor:
    """The gradient of x (N, size..., C) from that of the gates' arguments."""
    size, spec = x.shape[1:-1], p.spec
    pads = spec.input_pads(size)
    if turned is not None:
        return _convolve(d_pre, turned, _turned_pads(pads, p.weight_ih))
    padded = _first(x)
    if any(a != b for a, b in pads):
        padded, padding = F.pad(padded, flat_pads(pads)), [0] * spec.rank
    else:
        padding = [a for a, _ in pads]
    d_x = torch.ops.aten.convolution_backward(
        _first(d_pre), padded, p.weight_ih, None, list(spec.stride), padding, list(spec.dilation),
        False, [0] * spec.rank, 1, [True, False, False],
    )[0]  # fmt: skip
    if any(a != b for a, b in pads):
        for axis, ((a, _), n) in enumerate(zip(pads, size, strict=True)):
            d_x = d_x.narrow(2 + axis, a, n)
    return _last(d_x)


# Winograd's convolution: 3x3 kernels in float32 on the CPU


# Fewer filters than this and its transforms cost more than they save.
WINOGRAD_CHANNELS = 8


@dataclass(frozen=True)
class Filter:
    """A 3x3 convolution of stride 1 with its weights transformed once for many calls.

    Pads are those before the first row and column: the output's size says the rest.
    """

    transformed: Tensor
    top: int
    left: int

    @classmethod
    def make(cls, weight: Tensor, pads) -> Filter:
        weight = weight.contiguous()
        out = weight.new_empty(_C.winograd_size(weight.shape[1], weight.shape[0]))
        _C.winograd_weights(weight, out)
        return cls(out, pads[0][0], pads[1][0])

    def __call__(self, x: Tensor, out: Tensor, x2: Tensor | None = None, out2=None) -> Tensor:
        """(N, H, W, C) to `out`; x2's channels follow x's, out2's channels those of out."""
        threads = torch.get_num_threads()
        _C.winograd(x, x2, self.transformed, out, out2, self.top, self.left, threads)
        return out


def _suits_winograd(p: Problem) -> bool:
    spec = p.spec
    return (
        p.x.device.type == "cpu"
        and p.x.dtype == torch.float32
        and spec.kernel_size == (3, 3)
        and spec.hidden_channels >= WINOGRAD_CHANNELS
        and min(p.c0.shape[1:3]) >= 3
    )


@dataclass(frozen=True)
class Filters:
    """How the convolutions of a problem are done: by Winograd's filters, or (None) by torch's.

    Where input and state have one size and stride, one filter takes both (`joint`); else `state`
    takes the state alone. `back` gives the gradient of the state, and with `joint_back` also that
    of the input.
    """

    joint: Filter | None = None
    state: Filter | None = None
    back: Filter | None = None
    joint_back: bool = False

    @classmethod
    def forward(cls, p: Problem) -> Filters:
        if not _suits_winograd(p):
            return cls()
        if _is_joint(p):
            both = torch.cat([p.weight_ih, p.weight_hh], 1)
            return cls(joint=Filter.make(both, p.spec.recurrent_pads()))
        return cls(state=Filter.make(p.weight_hh, p.spec.recurrent_pads()))

    @classmethod
    def backward(cls, p: Problem, need_x: bool) -> Filters:
        if not _suits_winograd(p):
            return cls()
        joint = need_x and _is_joint(p)
        weight = torch.cat([p.weight_hh, p.weight_ih], 1) if joint else p.weight_hh
        turned = weight.flip((2, 3)).transpose(0, 1)
        pads = _turned_pads(p.spec.recurrent_pads(), p.weight_hh)
        return cls(back=Filter.make(turned, pads), joint_back=joint)


def _is_joint(p: Problem) -> bool:
    """Whether one convolution over the input and the state side by side does the work of both."""
    return p.spec.padding == "same" and _is_plain(p.spec)


# Forward


@dataclass
class Kept:
    """What forward returns: hs (T or 1, B, ..., F), the last c, and cs and gates for backward.

    KEEP_GATES: cs (T, B, ..., F) and gates (T, B, ..., 4F). KEEP_CHECKPOINTS: cs holds the state
    before each piece. KEEP_NOTHING: both are empty.
    """

    hs: Tensor
    c: Tensor
    cs: Tensor
    gates: Tensor


def forward(p: Problem, keep: int, last_only: bool) -> Kept:
    """Runs all steps. last_only (with KEEP_NOTHING): hs holds the last step alone."""
    shape = p.c0.shape
    pieces = list(p.pieces())
    hs = block(p.x, 2 if last_only else p.steps, *shape)
    cs = block(p.c0, {0: 0, 1: p.steps, 2: len(pieces)}[keep], *shape)
    gates = block(p.c0, p.steps if keep == KEEP_GATES else 0, *shape[:-1], 4 * shape[-1])
    spare = [torch.empty_like(p.c0), torch.empty_like(p.c0)] if keep != KEEP_GATES else []
    filters = Filters.forward(p)
    w_ih, w_hh = _weight(p.weight_ih), _weight(p.weight_hh)
    pads = p.spec.recurrent_pads()
    pre = p.c0.new_empty(*shape[:-1], 4 * shape[-1])
    h, c = p.h0, p.c0
    for piece, (start, end) in enumerate(pieces):
        if keep == KEEP_CHECKPOINTS:
            cs[piece] = c
        from_input = None if filters.joint else _from_input(p, w_ih, start, end)
        for t in range(start, end):
            if filters.joint:
                filters.joint(p.x[t], pre, h)
            elif filters.state:
                filters.state(h, pre)
            else:
                pre = _convolve(h, w_hh, pads)
            h_next = hs[t % 2 if last_only else t]
            c_next = cs[t] if keep == KEEP_GATES else spare[t % 2]
            _step(p, t, pre, None if filters.joint else from_input[t - start], h, c,
                  gates[t] if keep == KEEP_GATES else None, c_next, h_next)  # fmt: skip
            h, c = h_next, c_next
    if last_only:
        hs = h.unsqueeze(0).clone()
    return Kept(hs, c.clone() if keep == KEEP_GATES else c, cs, gates)


def _from_input(p: Problem, w_ih: Tensor, start: int, end: int) -> Tensor:
    x = p.x[start:end].flatten(0, 1)
    pads = p.spec.input_pads(x.shape[1:-1])
    out = _convolve(x, w_ih, pads, p.spec.stride, p.spec.dilation)
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
    filters = Filters.backward(p, need_x)
    turned_hh = _turned(p.weight_hh)
    turned_ih = _turned(p.weight_ih) if need_x and _is_plain(p.spec) else None
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
            if filters.back:
                d_x = out.x[t] if filters.joint_back else None
                d_before = filters.back(d_pre[k], torch.empty_like(p.h0), None, d_x)
            else:
                pads = _turned_pads(p.spec.recurrent_pads(), p.weight_hh)
                d_before = _convolve(d_pre[k], turned_hh, pads)
            d_h = _carried(p, t, d_before, d_shown, d_h)
        _add_weight_gradients(p, out, start, end, h_before, c_before, c_after, d_pre)
        if need_x and not filters.joint_back:
            x = p.x[start:end].flatten(0, 1)
            d_x = _input_gradient(p, d_pre.flatten(0, 1), x, turned_ih)
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
    if kept.gates.shape[0]:
        if start > 0:
            before = kept.cs[start - 1 : end - 1]
        else:
            before = torch.cat([p.c0.unsqueeze(0), kept.cs[: end - 1]])
        return kept.gates[start:end], before, kept.cs[start:end]
    cs = block(p.c0, end - start + 1, *p.c0.shape)
    cs[0] = kept.cs[piece]
    from_input = _from_input(p, _weight(p.weight_ih), start, end)
    from_state = _convolve(
        h_before.flatten(0, 1), _weight(p.weight_hh), p.spec.recurrent_pads()
    ).unflatten(0, (end - start, -1))
    gates = torch.empty_like(from_input)
    h = torch.empty_like(p.h0)
    for k in range(end - start):
        _step(
            p, start + k, from_input[k], from_state[k], h_before[k], cs[k], gates[k], cs[k + 1], h
        )
    return gates, cs[:-1], cs[1:]


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
