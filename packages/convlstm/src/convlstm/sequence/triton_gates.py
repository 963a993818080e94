"""The pointwise half of a step by Triton: one kernel forward, one backward, for float32, bfloat16
and float16 with the cell state and all arithmetic in float32.

What gates.set_cuda_gates("triton") chooses. Triton comes with every CUDA build of torch and is
imported here only. Compiled and interpreted, never run on a device. The formulas are those of
csrc/core/gates.h (Shi et al. 2015, arXiv 1506.04214, equations 3, in Keras' gate order).
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK = 512

# activations.NATIVE_CODES
TANH, SIGMOID, HARD_SIGMOID, HARD_SIGMOID_KERAS2, RELU = (
    tl.constexpr(code) for code in (1, 2, 3, 4, 5)
)


@triton.jit
def _clamped(x):
    """To [0, 1]; NaN stays."""
    x = tl.where(x < 0.0, 0.0, x)
    return tl.where(x > 1.0, 1.0, x)


@triton.jit
def _tanh(x):
    """To 2e-7 of its value: near 0, where 1 - 2 / (e^2x + 1) cancels, by the polynomial of tanhf in
    Cephes (Moshier 1989)."""
    z = x * x
    near = -5.70498872745e-3 * z + 2.06390887954e-2
    near = near * z - 5.37397155531e-2
    near = near * z + 1.33314422036e-1
    near = near * z - 3.33332819422e-1
    far = 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)
    return tl.where(z < 0.390625, near * z * x + x, far)


@triton.jit
def _activate(x, CODE: tl.constexpr):
    if CODE == TANH:
        x = _tanh(x)
    elif CODE == SIGMOID:
        x = 1.0 / (1.0 + tl.exp(-x))
    elif CODE == HARD_SIGMOID:
        x = _clamped(x / 6.0 + 0.5)
    elif CODE == HARD_SIGMOID_KERAS2:
        x = _clamped(0.2 * x + 0.5)
    elif CODE == RELU:
        x = tl.where(x < 0.0, 0.0, x)
    return x


@triton.jit
def _slope(y, CODE: tl.constexpr):
    """The derivative of the activation from its value."""
    if CODE == TANH:
        d = 1.0 - y * y
    elif CODE == SIGMOID:
        d = y * (1.0 - y)
    elif CODE == HARD_SIGMOID:
        d = tl.where((y > 0.0) & (y < 1.0), 1.0 / 6.0, 0.0)
    elif CODE == HARD_SIGMOID_KERAS2:
        d = tl.where((y > 0.0) & (y < 1.0), 0.2, 0.0)
    elif CODE == RELU:
        d = tl.where(y > 0.0, 1.0, 0.0)
    else:
        d = y * 0.0 + 1.0
    return d


@triton.jit
def _places(CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """(k, j, pixel, row) of a program's elements of the state: place, channel, pixel, and place of
    the first gate; memory is channels last, gates side by side in a pixel. 64 bits wide; the one
    division is the program's, of each element there is a short one by a constant."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    first = start // CHANNELS
    lane = tl.arange(0, BLOCK)
    beyond = (start - first * CHANNELS).to(tl.int32) + lane
    j = beyond % CHANNELS
    pixel = first + beyond // CHANNELS
    return start + lane, j, pixel, pixel * (4 * CHANNELS) + j


@triton.jit
def forward_step(
    pre, pre2, bias, peephole, valid, h_before, c_before, gates, c, h,
    states, pixels_per_sequence, CHANNELS: tl.constexpr,
    PRE2: tl.constexpr, BIAS: tl.constexpr, PEEPHOLE: tl.constexpr, VALID: tl.constexpr,
    GATES: tl.constexpr, ACTIVATION: tl.constexpr, RECURRENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """An element of the state each."""
    k, j, pixel, row = _places(CHANNELS, BLOCK)
    inside = k < states
    c_old = tl.load(c_before + k, mask=inside, other=0.0).to(tl.float32)
    i = tl.load(pre + row, mask=inside, other=0.0).to(tl.float32)
    f = tl.load(pre + row + CHANNELS, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(pre + row + 2 * CHANNELS, mask=inside, other=0.0).to(tl.float32)
    o = tl.load(pre + row + 3 * CHANNELS, mask=inside, other=0.0).to(tl.float32)
    if PRE2:
        i += tl.load(pre2 + row, mask=inside, other=0.0).to(tl.float32)
        f += tl.load(pre2 + row + CHANNELS, mask=inside, other=0.0).to(tl.float32)
        g += tl.load(pre2 + row + 2 * CHANNELS, mask=inside, other=0.0).to(tl.float32)
        o += tl.load(pre2 + row + 3 * CHANNELS, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        i += tl.load(bias + j, mask=inside, other=0.0).to(tl.float32)
        f += tl.load(bias + j + CHANNELS, mask=inside, other=0.0).to(tl.float32)
        g += tl.load(bias + j + 2 * CHANNELS, mask=inside, other=0.0).to(tl.float32)
        o += tl.load(bias + j + 3 * CHANNELS, mask=inside, other=0.0).to(tl.float32)
    if PEEPHOLE:
        i += tl.load(peephole + j, mask=inside, other=0.0).to(tl.float32) * c_old
        f += tl.load(peephole + j + CHANNELS, mask=inside, other=0.0).to(tl.float32) * c_old
    i = _activate(i, RECURRENT)
    f = _activate(f, RECURRENT)
    g = _activate(g, ACTIVATION)
    c_new = f * c_old + i * g
    if PEEPHOLE:
        o += tl.load(peephole + j + 2 * CHANNELS, mask=inside, other=0.0).to(tl.float32) * c_new
    o = _activate(o, RECURRENT)
    h_new = o * _activate(c_new, ACTIVATION)
    if VALID:
        runs = tl.load(valid + pixel // pixels_per_sequence, mask=inside, other=0) != 0
        h_old = tl.load(h_before + k, mask=inside, other=0.0).to(tl.float32)
        h_new = tl.where(runs, h_new, h_old)
        c_new = tl.where(runs, c_new, c_old)
        i = tl.where(runs, i, 0.0)
        f = tl.where(runs, f, 0.0)
        g = tl.where(runs, g, 0.0)
        o = tl.where(runs, o, 0.0)
    tl.store(c + k, c_new.to(c.dtype.element_ty), mask=inside)
    tl.store(h + k, h_new.to(h.dtype.element_ty), mask=inside)
    if GATES:
        tl.store(gates + row, i.to(gates.dtype.element_ty), mask=inside)
        tl.store(gates + row + CHANNELS, f.to(gates.dtype.element_ty), mask=inside)
        tl.store(gates + row + 2 * CHANNELS, g.to(gates.dtype.element_ty), mask=inside)
        tl.store(gates + row + 3 * CHANNELS, o.to(gates.dtype.element_ty), mask=inside)


@triton.jit
def backward_step(
    gates, c_before, c, dh, dh2, peephole, valid, dc, d_pre,
    states, pixels_per_sequence, CHANNELS: tl.constexpr,
    DH: tl.constexpr, DH2: tl.constexpr, PEEPHOLE: tl.constexpr, VALID: tl.constexpr,
    ACTIVATION: tl.constexpr, RECURRENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of the gates' arguments to d_pre; dc is that of c, and then that of c_before."""
    k, j, pixel, row = _places(CHANNELS, BLOCK)
    inside = k < states
    i = tl.load(gates + row, mask=inside, other=0.0).to(tl.float32)
    f = tl.load(gates + row + CHANNELS, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gates + row + 2 * CHANNELS, mask=inside, other=0.0).to(tl.float32)
    o = tl.load(gates + row + 3 * CHANNELS, mask=inside, other=0.0).to(tl.float32)
    c_old = tl.load(c_before + k, mask=inside, other=0.0).to(tl.float32)
    shown = _activate(tl.load(c + k, mask=inside, other=0.0).to(tl.float32), ACTIVATION)
    d_h = tl.zeros((BLOCK,), tl.float32)
    if DH:
        d_h += tl.load(dh + k, mask=inside, other=0.0).to(tl.float32)
    if DH2:
        d_h += tl.load(dh2 + k, mask=inside, other=0.0).to(tl.float32)
    d_later = tl.load(dc + k, mask=inside, other=0.0).to(tl.float32)
    d_o = d_h * shown * _slope(o, RECURRENT)
    d_c = d_later + d_h * o * _slope(shown, ACTIVATION)
    if PEEPHOLE:
        d_c += tl.load(peephole + j + 2 * CHANNELS, mask=inside, other=0.0).to(tl.float32) * d_o
    d_i = d_c * g * _slope(i, RECURRENT)
    d_f = d_c * c_old * _slope(f, RECURRENT)
    d_g = d_c * i * _slope(g, ACTIVATION)
    d_old = d_c * f
    if PEEPHOLE:
        d_old += tl.load(peephole + j, mask=inside, other=0.0).to(tl.float32) * d_i
        d_old += tl.load(peephole + j + CHANNELS, mask=inside, other=0.0).to(tl.float32) * d_f
    if VALID:
        runs = tl.load(valid + pixel // pixels_per_sequence, mask=inside, other=0) != 0
        d_old = tl.where(runs, d_old, d_later)
        d_i = tl.where(runs, d_i, 0.0)
        d_f = tl.where(runs, d_f, 0.0)
        d_g = tl.where(runs, d_g, 0.0)
        d_o = tl.where(runs, d_o, 0.0)
    tl.store(dc + k, d_old.to(dc.dtype.element_ty), mask=inside)
    tl.store(d_pre + row, d_i.to(d_pre.dtype.element_ty), mask=inside)
    tl.store(d_pre + row + CHANNELS, d_f.to(d_pre.dtype.element_ty), mask=inside)
    tl.store(d_pre + row + 2 * CHANNELS, d_g.to(d_pre.dtype.element_ty), mask=inside)
    tl.store(d_pre + row + 3 * CHANNELS, d_o.to(d_pre.dtype.element_ty), mask=inside)


def _on_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _sizes(c: Tensor, valid: Tensor | None) -> tuple[int, int, int]:
    """(states, pixels of a sequence, channels)."""
    channels, sequences = c.shape[-1], 1 if valid is None else max(1, valid.shape[0])
    return c.numel(), max(1, c.numel() // max(1, channels * sequences)), channels


def gates_forward(
    pre: Tensor,
    pre2: Tensor | None,
    bias: Tensor | None,
    peephole: Tensor | None,
    valid: Tensor | None,
    h_before: Tensor,
    c_before: Tensor,
    gates: Tensor | None,
    c: Tensor,
    h: Tensor,
    activation: int,
    recurrent: int,
) -> None:
    """As _C.gates_forward, but each tensor may have a dtype of its own; all contiguous."""
    sizes = _sizes(c, valid)
    if c.numel() == 0:
        return
    given = pre2 is not None, bias is not None, peephole is not None, valid is not None
    with _on_device(c):
        forward_step[(triton.cdiv(c.numel(), BLOCK),)](
            pre, _or(pre2, pre), _or(bias, pre), _or(peephole, pre),
            pre if valid is None else valid.view(torch.uint8), h_before, c_before,
            _or(gates, pre), c, h, *sizes,
            *given, gates is not None, activation, recurrent, BLOCK,
        )  # fmt: skip


def gates_backward(
    gates: Tensor,
    c_before: Tensor,
    c: Tensor,
    dh: Tensor | None,
    dh2: Tensor | None,
    peephole: Tensor | None,
    valid: Tensor | None,
    dc: Tensor,
    d_pre: Tensor,
    activation: int,
    recurrent: int,
) -> None:
    """As _C.gates_backward, but each tensor may have a dtype of its own; all contiguous."""
    sizes = _sizes(c, valid)
    if c.numel() == 0:
        return
    with _on_device(c):
        backward_step[(triton.cdiv(c.numel(), BLOCK),)](
            gates, c_before, c, _or(dh, c), _or(dh2, c), _or(peephole, c),
            c if valid is None else valid.view(torch.uint8), dc, d_pre,
            *sizes,
            dh is not None, dh2 is not None, peephole is not None, valid is not None,
            activation, recurrent, BLOCK,
        )  # fmt: skip


def _or(given: Tensor | None, other: Tensor) -> Tensor:
    """A pointer that the kernel does not follow where nothing is given."""
    return other if given is None else given
