"""Layers of many channels: weights in panels of output channels, packed for several blocks at once
or where they are used, and offsets with few pairs, which are not packed."""

import pytest
import torch

import spconv_lite as sp

pytestmark = pytest.mark.native


def results(layer, features, indices, shape):
    leaf = features.clone().requires_grad_()
    out = layer(sp.SparseConvTensor(leaf, indices, shape, 1)).features
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [leaf, layer.weight])]


# sites in a grid of 12^3: few pairs an offset, one stripe of blocks, more than one
@pytest.mark.parametrize("sites", [1, 40, 700, pytest.param(1500, marks=pytest.mark.once)])
@pytest.mark.parametrize(
    "channels", [(64, 64, 1), (136, 72, 1), (80, 200, 1), (96, 160, 2), (33, 130, 1), (81, 81, 81)]
)
def test_wide_layers_equal_float64_with_the_same_bits_for_any_number_of_threads(
    sparse, sites, channels
):
    c_in, c_out, groups = channels
    shape = [12, 12, 12]
    indices = sparse.random_sites(sites, 1, shape, 5)
    torch.manual_seed(0)
    layer = sp.SubMConv3d(c_in, c_out, 3, groups=groups)
    features = torch.randn(sites, c_in)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        got = results(layer, features, indices, shape)
        torch.set_num_threads(3)
        again = results(layer, features, indices, shape)
    finally:
        torch.set_num_threads(before)
    expected = results(layer.double(), features.double(), indices, shape)
    for one, three, right in zip(got, again, expected, strict=True):
        assert torch.equal(one, three)
        assert torch.allclose(one.double(), right, atol=2e-5 * float(right.abs().max()) + 1e-7)


def test_the_weights_of_a_strided_layer_that_no_pair_meets_get_zero_gradients():
    layer = sp.SparseConv3d(160, 144, 3, 2, 1, bias=False)
    indices = torch.tensor([[0, 2, 2, 2]], dtype=torch.int32)  # even: only the centre meets it
    x = sp.SparseConvTensor(torch.ones(1, 160), indices, [6, 6, 6], 1)
    layer(x).features.sum().backward()
    met = layer.weight.grad.abs().sum((0, 4)) > 0
    assert met.sum() == 1
    assert met[1, 1, 1]
