"""One sequence for the fused operator, and what its forward and backward passes return.

Memory is time first and channels last throughout: sequences (T, B, size..., C), so that a step is
one block, the recurrent convolution reads the last output where it lies, and what one layer writes
the next one reads without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _C  # type: ignore[attr-defined]
from .activations import NATIVE_CODES
from .convolutions import channels_last, convolve
from .spec import CellSpec

# Steps are taken together while the arguments of their gates fill at most so many bytes of float32.
# On the CPU blocks of this size are reused by the allocator; larger ones are given back and made
# present anew each time. On a device each piece is a few launches more.
BLOCK_BYTES, DEVICE_BLOCK_BYTES = 12 << 20, 256 << 20
# Blocks from this size on ask for large pages.
LARGE_BYTES = 4 << 20

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

    @property
    def on_host(self) -> bool:
        return self.x.device.type == "cpu"

    @property
    def is_joint(self) -> bool:
        """Whether one convolution over the input and the state side by side does the work of
        both. On a device that of the input runs over many steps at once: a launch, no copy less."""
        s = self.spec
        return self.on_host and s.padding == "same" and max(*s.stride, *s.dilation) == 1

    def valid_steps(self, start: int, end: int) -> Tensor | None:
        return None if self.valid is None else self.valid[start:end]

    def input_frames(self, start: int, end: int) -> tuple[Tensor, list[tuple[int, int]]]:
        """The inputs of steps [start, end) as frames (N, size..., C), and their pads."""
        x = self.x[start:end].flatten(0, 1)
        return x, self.spec.input_pads(x.shape[1:-1])

    def from_input(self, start: int, end: int) -> Tensor:
        """What the input adds to the arguments of the gates in steps [start, end)."""
        x, pads = self.input_frames(start, end)
        weight = channels_last(self.weight_ih)
        out = convolve(x, weight, pads, self.spec.stride, self.spec.dilation)
        return out.unflatten(0, (end - start, -1))

    def piece_length(self) -> int:
        """How many steps are taken together."""
        gates = 4 * self.c0.numel() * self.c0.element_size()
        return max(1, (BLOCK_BYTES if self.on_host else DEVICE_BLOCK_BYTES) // max(1, gates))

    def pieces(self) -> Iterator[tuple[int, int]]:
        """[start, end) of the steps that are taken together, from the first on."""
        length = self.piece_length()
        for start in range(0, self.steps, length):
            yield start, min(self.steps, start + length)

    def cells_kept(self, keep: int) -> int:
        """How many cell states a forward pass keeps: those before each piece, from which the gates
        give the others; on a device with the gates those of all steps, which saves launches."""
        if keep == KEEP_NOTHING:
            return 0
        if keep == KEEP_GATES and not self.on_host:
            return self.steps + 1
        return -(-self.steps // self.piece_length())

    @property
    def gates_like(self) -> Tensor:
        """What the kept gates have the dtype of: half precisions are for devices."""
        return self.c0 if self.on_host else self.x


def block(like: Tensor, *shape: int) -> Tensor:
    """A new tensor; a large one asks for large pages."""
    out = like.new_empty(shape)
    if out.device.type == "cpu" and out.numel() * out.element_size() >= LARGE_BYTES:
        _C.prefer_large_pages(out)
    return out


@dataclass
class Kept:
    """What forward returns: hs (T or 1, B, ..., F), the last c, and cs and gates for backward.

    cs holds cell states, see Problem.cells_kept. KEEP_GATES:
    gates (T, B, ..., 4F). KEEP_CHECKPOINTS: gates is empty. KEEP_NOTHING: both are empty.
    """

    hs: Tensor
    c: Tensor
    cs: Tensor
    gates: Tensor

    @classmethod
    def empty(cls, p: Problem, keep: int, last_only: bool) -> Kept:
        """Memory for all of it; hs has two steps with last_only."""
        shape = p.c0.shape
        return cls(
            block(p.x, 2 if last_only else p.steps, *shape),
            torch.empty_like(p.c0),
            block(p.c0, p.cells_kept(keep), *shape),
            block(p.gates_like, p.steps if keep == KEEP_GATES else 0, *shape[:-1], 4 * shape[-1]),
        )


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

    @classmethod
    def start(cls, p: Problem, d_c: Tensor | None, need_x: bool) -> Gradients:
        """Zeros, but d_c for c0; sums over steps are of float32 for half precisions."""

        def zeros(t: Tensor) -> Tensor:
            return torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32))

        return cls(
            torch.empty_like(p.x) if need_x else None,
            torch.zeros_like(p.h0),
            torch.zeros_like(p.c0) if d_c is None else d_c.clone(),
            zeros(p.weight_ih),
            zeros(p.weight_hh),
            None if p.bias is None else zeros(p.bias),
            None if p.peephole is None else zeros(p.peephole),
        )

    def rounded(self, p: Problem) -> Gradients:
        """The same in the dtypes of p's tensors."""
        self.x = None if self.x is None else self.x.to(p.x.dtype)
        self.h0 = self.h0.to(p.h0.dtype)
        self.weight_ih = self.weight_ih.to(p.weight_ih.dtype)
        self.weight_hh = self.weight_hh.to(p.weight_hh.dtype)
        self.bias = None if self.bias is None else self.bias.to(p.bias.dtype)
        self.peephole = None if self.peephole is None else self.peephole.to(p.peephole.dtype)
        return self

    def add_peephole(self, p: Problem, d_pre: Tensor, cells: Tensor) -> None:
        """From d_pre of some steps and the cell states before the first and after each of them."""
        if self.peephole is None:
            return
        d_i, d_f, _, d_o = d_pre.reshape(-1, 4, p.c0.shape[-1]).unbind(1)
        before, after = (c.reshape(-1, c.shape[-1]) for c in (cells[:-1], cells[1:]))
        sums = [(d_i * before).sum(0), (d_f * before).sum(0), (d_o * after).sum(0)]
        self.peephole += torch.stack(sums)
