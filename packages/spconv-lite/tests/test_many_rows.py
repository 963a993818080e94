"""Sizes at which 32-bit offsets and grid-stride loops of one pass fail, on a device; the same check
with few rows on the CPU, so that its first run on a device finds none of its own faults."""

import pytest
import torch

from spconv_lite import ops

BATCH = 4
SAMPLE = 200  # rows drawn at random, and as many of the last ones


def sites(rows: int, side: int, device: str) -> torch.Tensor:
    """`rows` different sites int32 (rows, 4) of BATCH cubes, in a random order."""
    keys = torch.randperm(BATCH * side**3, device=device)[:rows]
    return torch.stack(torch.unravel_index(keys, (BATCH, side, side, side)), 1).int()


def gathered(x, indices, weight, side: int, sample) -> torch.Tensor:
    """The rows `sample` of a submanifold convolution: a search and a product in float64."""
    rows, channels = x.shape
    stride = torch.tensor([side**3, side**2, side, 1], device=x.device)
    keys, order = (indices.long() * stride).sum(1).sort()
    y = torch.zeros(len(sample), channels, device=x.device, dtype=torch.float64)
    w = weight.double().reshape(channels, 27, channels)
    for k, shift in enumerate(torch.cartesian_prod(*[torch.arange(-1, 2)] * 3).to(x.device)):
        site = indices[sample].long()
        site[:, 1:] += shift
        inside = ((site[:, 1:] >= 0) & (site[:, 1:] < side)).all(1)
        key = (site * stride).sum(1)
        place = torch.searchsorted(keys, key).clamp_(max=rows - 1)
        has = inside & (keys[place] == key)
        y[has] += x[order[place[has]]].double() @ w[:, k].T
    return y


@pytest.mark.parametrize(
    ("device", "kernels", "rows", "channels", "side"),
    [
        ("cpu", "native", 3_000, 16, 12),
        ("cpu", "torch", 3_000, 16, 12),
        *(
            pytest.param("cuda", kernels, rows, channels, 128, marks=pytest.mark.gpu)
            for kernels in ("native", "triton")
            for rows, channels in ((1_000_000, 64), (4_300_000, 512))  # the last beyond 2^31
        ),
    ],
)
def test_sampled_rows_of_a_convolution_equal_a_search_and_a_product(
    device, kernels, rows, channels, side
):
    torch.manual_seed(0)
    before = ops.set_kernels(device, kernels)
    try:
        indices = sites(rows, side, device)
        book = ops.subm_rulebook(indices, BATCH, [side] * 3, [3] * 3, [1] * 3)
        x = torch.randn(rows, channels, device=device, dtype=torch.bfloat16)
        weight = torch.randn(channels, 3, 3, 3, channels, device=device, dtype=torch.bfloat16)
        y = ops.conv(x, weight, None, *book, rows, 1, True)
    finally:
        ops.set_kernels(device, before)
    last = torch.arange(rows - SAMPLE, rows)
    sample = torch.cat([torch.randint(0, rows, (SAMPLE,)), last]).to(device)
    expected = gathered(x, indices, weight, side, sample)
    error = (y[sample].double() - expected).norm() / expected.norm()
    assert error <= 1e-2
