"""The rulebook of one layer on the sites of its input: what an `indice_key` then remembers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..geometry import Rulebook, restrict_outputs
from ..kernels import ops
from .tensor import IndiceData, SparseConvTensor


def build_indice_data(
    input: SparseConvTensor,
    ksize: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    output_padding: list[int],
    subm: bool,
    transposed: bool,
) -> IndiceData:
    """Builds the rulebook of one layer on the sites of `input`; the only step that synchronises."""
    shape, indices, batch = input.spatial_shape, input.indices, input.batch_size
    if subm:
        out_indices, out_shape = indices, shape
        book = ops.subm_rulebook(indices, batch, shape, ksize, dilation)
    else:
        sizes = shape, ksize, stride, padding, dilation
        out_indices, *book = ops.rulebook(indices, batch, *sizes, output_padding, transposed)
        if transposed:
            out_shape = ops.get_deconv_output_size(*sizes, output_padding)
        else:
            out_shape = ops.get_conv_output_size(*sizes)
    input.mark_checked()
    return IndiceData(
        Rulebook(*book),
        indices,
        out_indices,
        list(shape),
        list(out_shape),
        ksize,
        stride,
        padding,
        dilation,
        subm,
        transposed,
        batch,
        output_padding,
    )


def onto_coordinates(name: str, data: IndiceData, coordinates: Tensor) -> IndiceData:
    """The same layer with these output sites, in their order; those that nothing reaches get the
    bias alone."""
    columns = data.out_indices.shape[1]
    if coordinates.dtype != torch.int32 or coordinates.shape[1:] != (columns,):
        raise TypeError(
            f"{name}: coordinates must be int32 of shape (M, {columns}), got {coordinates.dtype} "
            f"{tuple(coordinates.shape)}"
        )
    book = restrict_outputs(
        name,
        data.rulebook,
        math.prod(data.ksize),
        data.out_indices,
        coordinates,
        data.batch_size,
        data.out_spatial_shape,
    )
    data.rulebook, data.out_indices = book, coordinates
    return data
