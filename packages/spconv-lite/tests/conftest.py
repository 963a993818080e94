"""Random sparse inputs and the dense oracle, shared by the tests as fixtures."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F


def random_sites(count: int, batch_size: int, shape: list[int], seed: int = 0) -> torch.Tensor:
    """`count` distinct sites (at most all of them) in random order, int32 (count, 1 + ndim)."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(batch_size * math.prod(shape), generator=generator)[:count]
    return torch.stack(torch.unravel_index(cells, (batch_size, *shape)), 1).int()


def to_dense(
    features: torch.Tensor, indices: torch.Tensor, batch_size: int, shape: list[int]
) -> torch.Tensor:
    """(batch, C, ...), zeros elsewhere; differentiable."""
    full = features.new_zeros((batch_size, *shape, features.shape[1]))
    full = full.index_put(tuple(indices.long().unbind(1)), features)
    return full.movedim(-1, 1)


def at_sites(dense: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """The rows (N, C) of a dense (batch, C, ...) tensor at the sites."""
    return dense.movedim(1, -1)[tuple(indices.long().unbind(1))]


def _dense_conv_by_offset(x, weight, bias, stride, padding, dilation, groups, transposed):
    """Any number of axes: a shifted, strided product of the whole array for each offset."""
    ndim, ksize = x.ndim - 2, weight.shape[1:-1]
    stride, padding, dilation = (
        [n] * ndim if isinstance(n, int) else n for n in (stride, padding, dilation)
    )
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, ksize, strict=True)]
    sizes = list(zip(x.shape[2:], stride, padding, reach, strict=True))
    if transposed:  # an input cell adds to the cells stride * cell + dilation * offset
        full = [(n - 1) * s + r for n, s, _, r in sizes]
        y = x.new_zeros((x.shape[0], weight.shape[0], *full))
    else:
        x = F.pad(x, [p for p in reversed(padding) for _ in range(2)])
        full = [(n + 2 * p - r) // s + 1 for n, s, p, r in sizes]
        y = 0
    counts = [n for n, *_ in sizes] if transposed else full
    for offset in itertools.product(*map(range, ksize)):
        steps = zip(offset, dilation, stride, counts, strict=True)
        cells = [slice(k * d, k * d + (n - 1) * s + 1, s) for k, d, s, n in steps]
        seen = x if transposed else x[(..., *cells)]
        part = weight[(slice(None), *offset)]
        product = torch.cat(
            [
                torch.einsum("bi...,oi->bo...", a, w)
                for a, w in zip(seen.chunk(groups, 1), part.chunk(groups), strict=True)
            ],
            1,
        )
        if transposed:
            y[(..., *cells)] += product
        else:
            y = y + product
    if transposed:
        y = y[(..., *(slice(p, n - p) for p, n in zip(padding, full, strict=True)))]
    return y if bias is None else y + bias.view(-1, *[1] * ndim)


def dense_conv(x, weight, bias, stride, padding, dilation, groups=1, transposed=False):
    """torch's convolution over 1 to 3 axes, and its definition over 4, with a weight in our layout
    (out, k..., in / groups)."""
    ndim = x.ndim - 2
    if ndim > 3:
        return _dense_conv_by_offset(x, weight, bias, stride, padding, dilation, groups, transposed)
    kernel = weight.movedim(-1, 1)
    if transposed:
        call = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[ndim - 1]
        kernel = torch.cat([part.transpose(0, 1) for part in kernel.chunk(groups)])
        return call(x, kernel, bias, stride, padding, 0, groups, dilation)
    call = (F.conv1d, F.conv2d, F.conv3d)[ndim - 1]
    return call(x, kernel, bias, stride, padding, dilation, groups)


@pytest.fixture(scope="session")
def sparse():
    return SimpleNamespace(
        random_sites=random_sites,
        to_dense=to_dense,
        at_sites=at_sites,
        dense_conv=dense_conv,
        dense_conv_by_offset=_dense_conv_by_offset,
    )
