"""Maps of many sites in no order are built in site order: the same numbers, and the rows stay."""

import math

import pytest
import torch

import spconv_lite as sp
from spconv_lite.geometry import pair_offsets, pair_rows
from spconv_lite.kernels import cpu

pytestmark = pytest.mark.native

SHAPE = [9, 10, 11]


@pytest.fixture
def sites(sparse, monkeypatch):
    """600 shuffled sites of two samples, for which a map is built in site order."""
    monkeypatch.setattr(cpu, "SORTED_ROWS", 1)
    return sparse.random_sites(600, 2, SHAPE, 3)


def by_row(indices):
    return sp.ops.get_indice_pairs(
        indices, 2, SHAPE, *[[3] * 3, [1] * 3, [1] * 3, [1] * 3, [0] * 3], True, False
    )


def test_a_map_in_site_order_holds_the_same_pairs(sites):
    book = sp.ops.Rulebook(*sp.ops.subm_rulebook(sites, 2, SHAPE, [3, 3, 3], [1, 1, 1]))
    assert len(book.pair_in) == len(book.pair_out) + len(sites)
    key = pair_offsets(book, 27) * len(sites) ** 2
    rows_in, rows_out = pair_rows(book, 27)
    got = (key + rows_in * len(sites) + rows_out).sort()[0]
    _, pairs, number = by_row(sites)
    right = [
        k * len(sites) ** 2 + int(pairs[0, k, p]) * len(sites) + int(pairs[1, k, p])
        for k in range(27)
        for p in range(int(number[k]))
    ]
    assert got.tolist() == sorted(right)


def test_sites_in_order_need_none(sites):
    places = (
        ((sites[:, 0].long() * 9 + sites[:, 1]) * 10 + sites[:, 2]) * 11 + sites[:, 3]
    ).argsort()
    book = sp.ops.Rulebook(*sp.ops.subm_rulebook(sites[places], 2, SHAPE, [3, 3, 3], [1, 1, 1]))
    assert len(book.pair_in) == len(book.pair_out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [3, 2, (1, 2, 3)])
@pytest.mark.parametrize("channels", [(6, 10, 1), (16, 16, 1), (8, 8, 8), (12, 8, 2), (2, 72, 1)])
def test_layers_give_what_they_give_row_by_row(sites, monkeypatch, dtype, kernel, channels):
    c_in, c_out, groups = channels
    torch.manual_seed(0)
    layer = sp.SubMConv3d(c_in, c_out, kernel, groups=groups).to(dtype)
    features = torch.randn(len(sites), c_in).to(dtype)

    def results():
        leaf = features.clone().requires_grad_()
        out = layer(sp.SparseConvTensor(leaf, sites, SHAPE, 2)).features
        weights = torch.linspace(-1, 1, out.numel()).to(dtype).view(out.shape)
        return [out, *torch.autograd.grad((out * weights).sum(), [leaf, *layer.parameters()])]

    got = results()
    monkeypatch.setattr(cpu, "SORTED_ROWS", 10**9)
    tolerance = 2**-7 if dtype is torch.bfloat16 else 1e-5
    for ours, right in zip(got, results(), strict=True):
        assert torch.allclose(
            ours, right, rtol=tolerance, atol=tolerance * float(right.detach().abs().max())
        )


def test_pools_and_plain_torch_read_a_map_in_site_order(sites, monkeypatch):
    features = torch.randn(len(sites), 4)

    def pooled():
        leaf = features.clone().requires_grad_()
        out = sp.SparseMaxPool3d(3, subm=True)(sp.SparseConvTensor(leaf, sites, SHAPE, 2)).features
        return out, torch.autograd.grad(out.square().sum(), leaf)[0]

    layer = sp.SubMConv3d(4, 4, 3, indice_key="a")
    made = layer(sp.SparseConvTensor(features, sites, SHAPE, 2))
    before = sp.set_kernels("cpu", "torch")
    try:
        again = layer(made.replace_feature(features))
    finally:
        sp.set_kernels("cpu", before)
    assert torch.allclose(made.features, again.features, atol=1e-6)
    got = pooled()
    monkeypatch.setattr(cpu, "SORTED_ROWS", 10**9)
    for ours, right in zip(got, pooled(), strict=True):
        assert torch.allclose(ours, right, atol=1e-6)


def test_bad_sites_are_named_by_the_rows_of_the_caller(sites):
    layer = sp.SubMConv3d(1, 1, 3)
    twice = sites.clone()
    twice[500] = twice[20]
    with pytest.raises(ValueError, match="rows 20 and 500 are both"):
        layer(sp.SparseConvTensor(torch.ones(600, 1), twice, SHAPE, 2))
    sites[77, 1] = 9
    with pytest.raises(ValueError, match="row 77 is"):
        layer(sp.SparseConvTensor(torch.ones(600, 1), sites, SHAPE, 2))


def test_an_order_that_is_none_is_refused(sites):
    book = sp.ops.subm_rulebook(sites, 2, SHAPE, [3, 3, 3], [1, 1, 1])
    wrong = book[0].clone()
    wrong[-1] = len(sites)
    features, weight = torch.ones(len(sites), 2), torch.ones(2, 3, 3, 3, 2)
    with pytest.raises(ValueError, match="rulebook names rows"):
        sp.ops.conv(features, weight, None, wrong, *book[1:], len(sites), 1, True)


def test_flops_count_pairs_and_not_the_order(sites):
    from torch.utils.flop_counter import FlopCounterMode

    book = sp.ops.subm_rulebook(sites, 2, SHAPE, [3, 3, 3], [1, 1, 1])
    with FlopCounterMode(display=False) as counter:
        sp.ops.conv(torch.ones(600, 2), torch.ones(3, 3, 3, 3, 2), None, *book, 600, 1, True)
    assert counter.get_total_flops() == 2 * len(book[1]) * 3 * 2


def test_a_compiled_network_takes_maps_with_and_without_an_order(sites, monkeypatch):
    layer = sp.SubMConv3d(2, 4, 3)
    run = torch.compile(
        lambda features, indices: layer(sp.SparseConvTensor(features, indices, SHAPE, 2)).features,
        backend="aot_eager",
        fullgraph=True,
    )
    features = torch.randn(math.prod([600, 2])).view(600, 2)
    for rows in (1, 10**9):
        monkeypatch.setattr(cpu, "SORTED_ROWS", rows)
        right = layer(sp.SparseConvTensor(features, sites, SHAPE, 2)).features
        assert torch.allclose(run(features, sites), right, atol=1e-6)


@pytest.mark.parametrize("more", [-1, 5])
def test_features_of_other_rows_are_refused_with_both_numbers(sites, more):
    book = sp.ops.subm_rulebook(sites, 2, SHAPE, [3, 3, 3], [1, 1, 1])
    features = torch.randn(len(sites) + more, 4)
    with pytest.raises(ValueError, match=f"is of 600 rows and the features have {600 + more}; bui"):
        sp.ops.conv(features, torch.randn(8, 3, 3, 3, 4), None, *book, 600, 1, True)
