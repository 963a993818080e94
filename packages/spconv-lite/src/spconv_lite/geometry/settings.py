"""One layer on one grid: shapes, settings and their checks, shared by every implementation;
csrc/core/rulebook.h has the formulas.

Errors are named after the first operator that took these settings, get_indice_pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .sites import MOST_CELLS

MAX_AXES = 4

SUBMANIFOLD, CONVOLUTION, TRANSPOSED = 0, 1, 2  # Kind in csrc/cpu/rulebook.h


def get_conv_output_size(
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Spatial shape of a convolution's output, one number an axis; as torch computes it."""
    axes = zip(input_size, kernel_size, stride, padding, dilation, strict=True)
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]


def get_deconv_output_size(
    input_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
) -> list[int]:
    """Spatial shape of a transposed convolution's output; as torch's, dilation included."""
    axes = zip(input_size, kernel_size, stride, padding, dilation, output_padding, strict=True)
    return [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in axes]


class Geometry(NamedTuple):
    """One layer on one grid; made by `make_geometry`, which checks it."""

    ndim: int
    batch_size: int
    in_shape: list[int]
    out_shape: list[int]
    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    kind: int  # SUBMANIFOLD, CONVOLUTION or TRANSPOSED

    @property
    def volume(self) -> int:
        return math.prod(self.kernel)

    def as_four(self) -> tuple:
        """The arguments of _C.build_rulebook: leading axes of length 1 make every layer 4-D."""
        spare = MAX_AXES - self.ndim
        lists = self.in_shape, self.out_shape, self.kernel, self.stride, self.padding, self.dilation
        fills = 1, 1, 1, 1, 0, 1
        padded = [[fill] * spare + values for values, fill in zip(lists, fills, strict=True)]
        return (self.ndim, self.batch_size, *padded, self.kind)


def make_geometry(
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    ksize: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_padding: Sequence[int],
    subm: bool,
    transpose: bool,
) -> Geometry:
    """Checks what an operator that builds a rulebook is given; of the indices, shape and dtype."""
    ndim = len(spatial_shape)
    if not 1 <= ndim <= MAX_AXES:
        raise ValueError(
            f"get_indice_pairs: spatial_shape must have 1 to {MAX_AXES} axes, got "
            f"{list(spatial_shape)}"
        )
    if indices.ndim != 2 or indices.shape[1] != ndim + 1:
        raise ValueError(
            f"get_indice_pairs: indices must have shape (N, {ndim + 1}), columns batch and {ndim} "
            f"coordinates, got {tuple(indices.shape)}"
        )
    if indices.dtype != torch.int32:
        raise TypeError(
            f"get_indice_pairs: indices must be int32, got {indices.dtype}; use indices.int()"
        )
    if batch_size < 1:
        raise ValueError(f"get_indice_pairs: batch_size must be at least 1, got {batch_size}")
    for name, values, least in (
        ("spatial_shape", spatial_shape, 1),
        ("ksize", ksize, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
        ("out_padding", out_padding, 0),
    ):
        if len(values) != ndim or any(value < least for value in values):
            raise ValueError(
                f"get_indice_pairs: {name} must be {ndim} integers of at least {least}, got "
                f"{list(values)}"
            )
        if name != "spatial_shape" and max(values) > 2**31 - 1:
            raise ValueError(
                f"get_indice_pairs: {name} must be at most 2^31 - 1, got {list(values)}"
            )
    if subm and transpose:
        raise ValueError("get_indice_pairs: a layer is submanifold or transposed, not both")
    in_shape, ksize, dilation = list(spatial_shape), list(ksize), list(dilation)
    stride, padding, out_shape = list(stride), list(padding), in_shape
    if subm:
        stride, padding = [1] * ndim, [k // 2 * d for k, d in zip(ksize, dilation, strict=True)]
    elif transpose:
        out_shape = get_deconv_output_size(
            in_shape, ksize, stride, padding, dilation, list(out_padding)
        )
    else:
        out_shape = get_conv_output_size(in_shape, ksize, stride, padding, dilation)
    if min(out_shape) < 1:
        raise ValueError(
            f"get_indice_pairs: the kernel does not fit: spatial_shape {in_shape} with ksize "
            f"{ksize}, "
            f"padding {padding} and dilation {dilation} gives {out_shape}; enlarge the grid or "
            "the padding"
        )
    for name, shape in (("spatial_shape", in_shape), ("the output shape", out_shape)):
        if batch_size * math.prod(shape) > MOST_CELLS:
            raise ValueError(
                f"get_indice_pairs: batch_size {batch_size} and {name} {shape} have more than "
                "2^63 - 1 "
                "cells; use larger voxels"
            )
        if max(shape) > 2**31 - 1:
            raise ValueError(f"get_indice_pairs: {name} {shape} has an axis longer than 2^31 - 1")
    kind = SUBMANIFOLD if subm else TRANSPOSED if transpose else CONVOLUTION
    return Geometry(ndim, batch_size, in_shape, out_shape, ksize, stride, padding, dilation, kind)
