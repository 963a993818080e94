"""What networks of spconv's users do around the layers, by its structure and beside dense torch.

test_compat.py has the names and VoxelNeXt; here are FocalConv (OpenPCDet), SpUNet, OA-CNNs and
Point Transformer V3 (Pointcept) and the blocks of TRELLIS.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spconv_lite as sp
from spconv_lite import ops

pytestmark = pytest.mark.native

SHAPE = [8, 6, 10]


def dense_weight(layer: nn.Module) -> torch.Tensor:
    """(out, in, k...), as torch.nn.functional.conv3d takes it."""
    return layer.weight.permute(0, 4, 1, 2, 3)


def same(got: torch.Tensor, right: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    """Values, and the gradients of `inputs` by weights drawn at random."""
    assert torch.allclose(got, right, atol=1e-10)
    by = torch.randn(got.shape, generator=torch.Generator().manual_seed(9), dtype=got.dtype)
    ours = torch.autograd.grad((got * by).sum(), inputs)
    theirs = torch.autograd.grad((right * by).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.fixture
def scene(sparse):
    """A tensor of two samples, and its features as a leaf."""
    torch.manual_seed(0)
    indices = sparse.random_sites(150, 2, SHAPE)
    features = torch.randn(150, 4, dtype=torch.float64, requires_grad=True)
    return sp.SparseConvTensor(features, indices, SHAPE, 2), features, indices


def test_focal_blocks_grow_sites_around_the_important_ones(scene, sparse):
    """Importance from a layer; the best half gets new neighbours, with zeros; all are merged."""
    x, features, indices = scene
    weigh = sp.SubMConv3d(4, 1, 3, bias=False, indice_key="importance").double()
    conv = sp.SubMConv3d(4, 5, 3, bias=False, indice_key="focal").double()
    importance = weigh(x).features.sigmoid()
    x = x.replace_feature(x.features * importance)
    best = importance.flatten().argsort(descending=True)[:75]
    steps = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.int32)
    grown = (indices[best, None] + steps).flatten(0, 1)
    grown = grown[(grown < torch.tensor([2, *SHAPE])).all(1)]
    rows = torch.cat([x.features, x.features.new_zeros((len(grown), 4))])
    sites, place = torch.unique(torch.cat([indices, grown]), dim=0, return_inverse=True)
    merged = rows.new_zeros((len(sites), 4)).index_add(0, place, rows)
    wide = x.replace_feature(merged)
    wide.indices = sites
    got = conv(wide).features
    assert len(sites) > len(indices)

    dense = sparse.to_dense(features, indices, 2, SHAPE)
    seen = sparse.at_sites(F.conv3d(dense, dense_weight(weigh), padding=1), indices).sigmoid()
    dense = sparse.to_dense(features * seen, indices, 2, SHAPE)
    right = sparse.at_sites(F.conv3d(dense, dense_weight(conv), padding=1), sites)
    same(got, right, [features, conv.weight, weigh.weight])


def test_the_key_of_the_wider_tensor_is_not_that_of_the_narrow_one(scene):
    x, _, indices = scene
    layer = sp.SubMConv3d(4, 4, 3, indice_key="focal").double()
    half = layer(x)
    half = half.replace_feature(half.features[:80])
    half.indices = indices[:80]
    with pytest.raises(ValueError, match=r"indice_key \W*focal"):
        layer(half)


class Residual(sp.SparseModule):
    """Two submanifold layers of one key beside a 1x1 layer, as in SpUNet."""

    def __init__(self, c_in: int, c_out: int, key: str) -> None:
        super().__init__()
        self.proj = sp.SparseSequential(sp.SubMConv3d(c_in, c_out, 1, bias=False))
        self.conv1 = sp.SubMConv3d(c_in, c_out, 3, padding=1, bias=False, indice_key=key)
        self.conv2 = sp.SubMConv3d(c_out, c_out, 3, padding=1, bias=False, indice_key=key)

    def forward(self, x):
        out = self.conv1(x)
        out = self.conv2(out.replace_feature(out.features.relu()))
        return out.replace_feature(out.features + self.proj(x).features)

    def dense(self, x, mask):
        out = (F.conv3d(x, dense_weight(self.conv1), padding=1) * mask).relu()
        out = F.conv3d(out, dense_weight(self.conv2), padding=1)
        layer = self.proj[0]  # its memory is (in, out), as spconv reads a 1x1 layer
        side = torch.einsum("nixyz,io->noxyz", x, layer.weight.view(x.shape[1], -1))
        return (out + side) * mask


def test_a_u_net_shares_keys_down_and_up_and_joins_its_skips(scene, sparse, monkeypatch):
    """SpUNet: kernel 2, stride 2 down; the inverse of its key up; features joined by rows."""
    x, features, indices = scene
    built = []
    build = ops.subm_rulebook
    monkeypatch.setattr(ops, "subm_rulebook", lambda *a: (built.append(a), build(*a))[1])
    enter, deep = Residual(4, 6, "subm0").double(), Residual(8, 8, "subm1").double()
    leave = Residual(12, 5, "subm0").double()
    down = sp.SparseConv3d(6, 8, 2, stride=2, bias=False, indice_key="spconv1").double()
    up = sp.SparseInverseConv3d(8, 6, 2, bias=False, indice_key="spconv1").double()
    skip = enter(x)
    y = up(deep(down(skip)))
    y = leave(y.replace_feature(torch.cat([y.features, skip.features], 1)))
    assert torch.equal(y.indices, indices)
    assert sum(a[3] == [3, 3, 3] for a in built) == 2  # one map a resolution, for six layers

    mask = sparse.to_dense(features.new_ones((150, 1)), indices, 2, SHAPE)
    first = enter.dense(sparse.to_dense(features, indices, 2, SHAPE), mask)
    low_mask = F.max_pool3d(mask, 2)
    low = deep.dense(F.conv3d(first, dense_weight(down), stride=2), low_mask)
    high = F.conv_transpose3d(low, up.weight.permute(4, 0, 1, 2, 3), stride=2) * mask
    right = sparse.at_sites(leave.dense(torch.cat([high, first], 1), mask), indices)
    same(
        y.features,
        right,
        [features, down.weight, up.weight, enter.conv2.weight, leave.proj[0].weight],
    )


def test_clusters_of_sites_speak_to_each_other_between_two_layers(scene, sparse):
    """OA-CNNs: means of coarse cells go back to their sites, weighted by the sites' own softmax."""
    x, features, indices = scene
    conv = sp.SubMConv3d(4, 4, 3, bias=False, indice_key="block").double()
    weigh = nn.Linear(4, 2).double()
    out = conv(x)
    adaptive = weigh(out.features).softmax(1)
    parts = []
    for size in (2, 4):
        cells = torch.cat([indices[:, :1], indices[:, 1:] // size], 1)
        _, cell, count = torch.unique(cells, dim=0, return_inverse=True, return_counts=True)
        mean = out.features.new_zeros((len(count), 4)).index_add(0, cell, out.features)
        parts.append((mean / count[:, None])[cell])
    mixed = (torch.stack(parts, 1) * adaptive[..., None]).sum(1)
    got = conv(out.replace_feature(mixed + out.features)).features

    dense = lambda rows: F.conv3d(  # noqa: E731
        sparse.to_dense(rows, indices, 2, SHAPE), dense_weight(conv), padding=1
    )
    first = sparse.at_sites(dense(features), indices)
    other = 0
    for k, size in enumerate((2, 4)):
        grid = sparse.to_dense(torch.cat([first, first.new_ones((150, 1))], 1), indices, 2, SHAPE)
        pad = [n for axis in reversed(SHAPE) for n in (0, -axis % size)]
        total = F.avg_pool3d(F.pad(grid, pad), size).repeat_interleave(size, 2)
        total = total.repeat_interleave(size, 3).repeat_interleave(size, 4)
        total = sparse.at_sites(total, indices)
        other = other + total[:, :4] / total[:, 4:] * weigh(first).softmax(1)[:, k, None]
    right = sparse.at_sites(dense(other + first), indices)
    same(got, right, [features, conv.weight, weigh.weight])


def test_positions_are_encoded_by_layers_of_one_key_over_replaced_features(scene, sparse):
    """Point Transformer V3: a layer, a linear and a norm before every block of attention; the
    features of the points are put back into the stage's one sparse tensor, and a coarser stage
    makes its own."""
    x, features, indices = scene
    encode = [sp.SubMConv3d(4, 4, 3, indice_key="stage0").double() for _ in range(2)]
    linear, norm = nn.Linear(4, 4).double(), nn.LayerNorm(4).double()
    mix = lambda rows: rows + norm(linear(rows)).tanh()  # noqa: E731
    point, rows = x, features
    for layer in encode:
        y = layer(point)
        point = y.replace_feature(mix(y.features) + point.features)
        dense = F.conv3d(
            sparse.to_dense(rows, indices, 2, SHAPE), dense_weight(layer), layer.bias, padding=1
        )
        rows = mix(sparse.at_sites(dense, indices)) + rows
    assert set(point.indice_dict) == {"stage0"}
    same(point.features, rows, [features, encode[0].weight, linear.weight])
    cells = torch.cat([indices[:, :1], indices[:, 1:] // 2], 1)
    cells, place = torch.unique(cells, dim=0, return_inverse=True)
    pooled = rows.new_zeros((len(cells), 4)).index_add(0, place, point.features)
    coarse = sp.SparseConvTensor(pooled, cells, [4, 3, 5], 2)
    assert encode[0](coarse).features.shape == (len(cells), 4)  # the same key: another tensor's


def test_rows_sorted_by_sample_go_back_to_their_order_before_the_inverse(scene, sparse):
    """TRELLIS: a tensor keeps each sample's rows together, and undoes that for an inverse layer."""
    x, features, _ = scene
    down = sp.SparseConv3d(4, 6, 3, 2, 1, bias=False, indice_key="down").double()
    up = sp.SparseInverseConv3d(6, 4, 3, bias=False, indice_key="down").double()
    plain = up(down(x))
    y = down(x)
    there = torch.randperm(len(y.indices)).sort(stable=True)[1]
    there = there[y.indices[there, 0].argsort(stable=True)]
    back = there.argsort()
    parts = y.features[there], y.indices[there], y.spatial_shape, y.batch_size
    kept = sp.SparseConvTensor(*parts, indice_dict=y.indice_dict)
    with pytest.raises(ValueError, match="down"):
        up(kept)
    parts = kept.features[back], kept.indices[back], kept.spatial_shape, kept.batch_size
    again = up(sp.SparseConvTensor(*parts, indice_dict=kept.indice_dict))
    assert torch.equal(again.indices, plain.indices)
    same(again.features, plain.features, [features, down.weight, up.weight])


def test_sites_are_divided_into_eight_and_joined_again(scene, sparse):
    """TRELLIS: children at 2 i + {0, 1}^3 with their parent's features, a layer, their means."""
    x, features, indices = scene
    conv = sp.SubMConv3d(4, 4, 3, bias=False, indice_key="fine").double()
    steps = torch.cartesian_prod(*[torch.arange(2, dtype=torch.int32)] * 3)
    children = torch.cat([indices[:, :1], indices[:, 1:] * 2], 1)[:, None].repeat(1, 8, 1)
    children[..., 1:] += steps
    rows = x.features.repeat_interleave(8, 0)
    fine = sp.SparseConvTensor(rows, children.flatten(0, 1), [2 * n for n in SHAPE], 2)
    means = conv(fine).features.view(-1, 8, 4).mean(1)

    mask = sparse.to_dense(features.new_ones((150, 1)), indices, 2, SHAPE)
    grid = F.interpolate(sparse.to_dense(features, indices, 2, SHAPE), scale_factor=2)
    grid = F.conv3d(grid, dense_weight(conv), padding=1) * F.interpolate(mask, scale_factor=2)
    same(means, sparse.at_sites(F.avg_pool3d(grid, 2), indices), [features, conv.weight])
