"""Random sparse inputs and the dense oracle, shared by the tests as fixtures."""

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


def dense_conv(x, weight, bias, stride, padding, dilation, groups=1, transposed=False):
    """torch's convolution over 1 to 3 axes with a weight in our layout (out, k..., in / groups)."""
    ndim = x.ndim - 2
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
        random_sites=random_sites, to_dense=to_dense, at_sites=at_sites, dense_conv=dense_conv
    )
