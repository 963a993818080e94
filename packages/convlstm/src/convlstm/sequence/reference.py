"""The definition of a ConvLSTM in plain torch: slow, obvious, differentiable to any order.

With a the activation, s the recurrent activation, * a convolution (Shi et al. 2015, arXiv
1506.04214, in the form of Keras):

    i = s(Wi * x + Ui * h + bi)          f = s(Wf * x + Uf * h + bf)
    c' = f c + i a(Wc * x + Uc * h + bc)
    o = s(Wo * x + Uo * h + bo)          h' = o a(c')

Peepholes add p_i c to the argument of i, p_f c to f's and p_o c' to o's. The input convolution has
the stride, padding and dilation of the spec; the recurrent one is always "same", stride 1.

Weights are in torch's layout, gates in Keras' order i, f, c, o: `weight_ih` (4F, C, k...),
`weight_hh` (4F, F, k...), `bias` (4F,). Tensors are channels first: steps (B, C, size...),
sequences (B, T, C, size...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .activations import resolve_activation
from .spec import CellSpec, flat_pads

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class CellExtras:
    """What a cell may have beyond its weights.

    peephole: (3, F, 1...) or (3, F, size...), for i, f and o. input_masks, state_masks: dropout
    masks (4, B, C, size...), one for each gate. gate_norm, cell_norm: functions of the gates'
    arguments (B, 4F, size...) and of the new cell state (B, F, size...).
    """

    peephole: Tensor | None = None
    input_masks: Tensor | None = None
    state_masks: Tensor | None = None
    gate_norm: Callable[[Tensor], Tensor] | None = None
    cell_norm: Callable[[Tensor], Tensor] | None = None


NO_EXTRAS = CellExtras()


def input_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, spec: CellSpec) -> Tensor:
    """W * x + b of one step or of many: (N, C, size...) to (N, out, state size...)."""
    pads = spec.input_pads(x.shape[2:])
    if any(a != b for a, b in pads):
        x, padding = F.pad(x, flat_pads(pads)), (0,) * spec.rank
    else:
        padding = tuple(a for a, _ in pads)
    return CONV[spec.rank](x, weight, bias, spec.stride, padding, spec.dilation)


def recurrent_convolution(h: Tensor, weight: Tensor, spec: CellSpec) -> Tensor:
    """U * h: (N, F, size...) to (N, out, size...)."""
    pads = spec.recurrent_pads()
    if any(a != b for a, b in pads):
        h, padding = F.pad(h, flat_pads(pads)), (0,) * spec.rank
    else:
        padding = tuple(a for a, _ in pads)
    return CONV[spec.rank](h, weight, None, 1, padding)


def _per_gate(
    convolve: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, masks: Tensor | None
) -> Tensor:
    if masks is None:
        return convolve(x, weight)
    parts = zip(masks, weight.chunk(4), strict=True)
    return torch.cat([convolve(x * mask, part) for mask, part in parts], 1)


def gates(
    pre: Tensor, c: Tensor, spec: CellSpec, extras: CellExtras = NO_EXTRAS
) -> tuple[Tensor, Tensor]:
    """(h', c') from the gates' arguments (B, 4F, size...) and the cell state (B, F, size...)."""
    act = resolve_activation(spec.activation)
    recurrent = resolve_activation(spec.recurrent_activation)
    if extras.gate_norm is not None:
        pre = extras.gate_norm(pre)
    i, f, g, o = pre.chunk(4, 1)
    if extras.peephole is not None:
        p_i, p_f, p_o = extras.peephole
        i, f = i + p_i * c, f + p_f * c
    c = recurrent(f) * c + recurrent(i) * act(g)
    if extras.peephole is not None:
        o = o + p_o * c
    inner = c if extras.cell_norm is None else extras.cell_norm(c)
    return recurrent(o) * act(inner), c


def step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    spec: CellSpec,
    extras: CellExtras = NO_EXTRAS,
) -> tuple[Tensor, Tensor]:
    """One step: x (B, C, size...), h and c (B, F, state size...) to the new (h, c)."""
    from_input = _per_gate(
        lambda a, w: input_convolution(a, w, None, spec), x, weight_ih, extras.input_masks
    )
    from_state = _per_gate(
        lambda a, w: recurrent_convolution(a, w, spec), h, weight_hh, extras.state_masks
    )
    pre = from_input + from_state
    if bias is not None:
        pre = pre + bias.view(-1, *(1,) * spec.rank)
    h_next, c_next = gates(pre.to(c.dtype), c, spec, extras)
    return h_next.to(h.dtype), c_next


def sequence(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    spec: CellSpec,
    mask: Tensor | None = None,
    extras: CellExtras = NO_EXTRAS,
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps of x (B, T, C, size...): states h (B, T, F, size...), the last h and the last c.

    mask (B, T), true where a step is valid: elsewhere both states are carried over.
    """
    states = []
    for t in range(x.shape[1]):
        h_next, c_next = step(x[:, t], h, c, weight_ih, weight_hh, bias, spec, extras)
        if mask is not None:
            valid = mask[:, t].view(-1, *(1,) * (spec.rank + 1))
            h_next, c_next = torch.where(valid, h_next, h), torch.where(valid, c_next, c)
        h, c = h_next, c_next
        states.append(h)
    return torch.stack(states, 1), h, c
