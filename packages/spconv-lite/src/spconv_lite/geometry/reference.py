"""The definition, in plain torch, slow and obvious. Tests compare with it.

`rulebook` is a dictionary look-up over every site and offset; `convolve` is one matrix product and
one index_add for each offset.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from .rulebook import BLOCK_ROWS, Rulebook
from .settings import get_conv_output_size, get_deconv_output_size


def rulebook(
    indices: Tensor,
    spatial_shape: Sequence[int],
    ksize: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_padding: Sequence[int] | None = None,
    subm: bool = False,
    transpose: bool = False,
) -> tuple[Tensor, list[list[tuple[int, int]]]]:
    """The output sites (M, 1 + ndim) int32, row-major or those of the input (subm), and for each
    kernel offset its pairs (input row, output row), sorted by output row."""
    sizes = list(spatial_shape), list(ksize), list(stride), list(padding), list(dilation)
    if subm:
        stride, padding = (
            [1] * len(ksize),
            [k // 2 * d for k, d in zip(ksize, dilation, strict=True)],
        )
        shape = list(spatial_shape)
    elif transpose:
        shape = get_deconv_output_size(*sizes, list(out_padding or [0] * len(ksize)))
    else:
        shape = get_conv_output_size(*sizes)

    def reached(site: tuple[int, ...], offset: tuple[int, ...]) -> tuple[int, ...] | None:
        out = []
        for x, k, s, p, d, length in zip(
            site, offset, stride, padding, dilation, shape, strict=True
        ):
            place = x * s - p + k * d if transpose else x + p - k * d
            if not transpose:
                if place % s:
                    return None
                place //= s
            if not 0 <= place < length:
                return None
            out.append(place)
        return tuple(out)

    sites = [tuple(site) for site in indices.tolist()]
    offsets = list(itertools.product(*(range(k) for k in ksize)))
    links = [
        [(i, (site[0], *out)) for i, site in enumerate(sites) if (out := reached(site[1:], k))]
        for k in offsets
    ]
    out_sites = sites if subm else sorted({out for pairs in links for _, out in pairs})
    row = {site: i for i, site in enumerate(out_sites)}
    book = [
        sorted(((i, row[out]) for i, out in pairs if out in row), key=lambda p: p[1])
        for pairs in links
    ]
    return torch.tensor(out_sites, dtype=torch.int32).reshape(-1, indices.shape[1]), book


def convolve(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    book: list[list[tuple[int, int]]],
    out_rows: int,
) -> Tensor:
    """(out_rows, C_out) = bias + sum over offsets k of the pairs' features @ weight[:, k].T, for a
    weight (C_out, ..., C_in)."""
    flat = weight.reshape(weight.shape[0], -1, weight.shape[-1])
    out = features.new_zeros((out_rows, weight.shape[0]))
    for k, pairs in enumerate(book):
        if pairs:
            rows_in, rows_out = torch.tensor(pairs).T
            out = out.index_add(0, rows_out, features[rows_in] @ flat[:, k].T)
    return out if bias is None else out + bias


def pairs_by_offset(book: Rulebook, out_rows: int, volume: int) -> list[list[tuple[int, int]]]:
    """The compact rulebook in the form of `rulebook`."""
    blocks = (out_rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    found: list[list[tuple[int, int]]] = [[] for _ in range(volume)]
    rows_in, rows_out, offset = (t.tolist() for t in book)
    for block in range(blocks):
        for k in range(volume):
            for p in range(offset[block * volume + k], offset[block * volume + k + 1]):
                found[k].append((rows_in[p], block * BLOCK_ROWS + rows_out[p]))
    return [sorted(pairs, key=lambda pair: pair[1]) for pairs in found]
