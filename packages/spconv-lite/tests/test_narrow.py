"""bfloat16: products of the processor where it has them, sums in float32, rounded once."""

import pytest
import torch

import spconv_lite as sp

pytestmark = pytest.mark.native


def results(layer, features, indices, shape, dtype):
    leaf = features.to(dtype).requires_grad_()
    x = sp.SparseConvTensor(leaf, indices, shape, 1)
    out = layer(x).features
    weights = torch.linspace(-1, 1, out.numel()).bfloat16().to(dtype).view(out.shape)
    wanted = [leaf, layer.weight, layer.bias]
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), wanted)]


@pytest.mark.parametrize("layer", [sp.SubMConv3d, sp.SparseConv3d])
# an even number of channels in both, one odd, groups, more than one panel of columns
@pytest.mark.parametrize(
    "channels", [(16, 24, 1), (5, 16, 1), (16, 7, 1), (36, 24, 2), (64, 130, 1)]
)
def test_bfloat16_is_float32_of_the_same_numbers_rounded_once(sparse, layer, channels):
    c_in, c_out, groups = channels
    shape = [9, 10, 11]
    indices = sparse.random_sites(500, 1, shape, 1)
    torch.manual_seed(0)
    made = layer(c_in, c_out, 3, groups=groups).bfloat16()
    features = torch.randn(500, c_in).bfloat16()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        got = results(made, features, indices, shape, torch.bfloat16)
        torch.set_num_threads(3)
        again = results(made, features, indices, shape, torch.bfloat16)
    finally:
        torch.set_num_threads(before)
    right = results(made.float(), features, indices, shape, torch.float32)
    for one, three, wide in zip(got, again, right, strict=True):
        assert one.dtype is torch.bfloat16
        assert torch.equal(one, three)
        scale = float(wide.abs().max())
        assert torch.allclose(one.float(), wide, rtol=2**-8, atol=1e-5 * scale)


def test_a_long_sum_of_bfloat16_does_not_stall():
    # 8,192 sites in a line, each with one neighbour of weight 1: 256 is where a bfloat16 sum stays
    indices = torch.zeros(8192, 2, dtype=torch.int32)
    indices[:, 1] = torch.arange(8192)
    layer = sp.SubMConv1d(2, 2, 3, bias=False).bfloat16()
    x = sp.SparseConvTensor(torch.ones(8192, 2).bfloat16(), indices, [8192], 1)
    layer(x).features.sum().backward()
    assert float(layer.weight.grad[0, 1, 0]) == 8192


def test_not_a_number_and_infinity_pass_through_bfloat16():
    indices = torch.zeros(3, 2, dtype=torch.int32)
    indices[:, 1] = torch.arange(3) * 5
    layer = sp.SubMConv1d(2, 2, 3, bias=False).bfloat16()
    torch.nn.init.ones_(layer.weight)
    features = torch.tensor([[1.0, 2], [float("nan"), 1], [float("inf"), 1]]).bfloat16()
    out = layer(sp.SparseConvTensor(features, indices, [16], 1)).features
    assert out[0].tolist() == [3, 3]
    assert out[1].isnan().all()
    assert (out[2] == float("inf")).all()


@pytest.mark.parametrize("kernel", [1, 3])
def test_autocast_to_a_dtype_that_is_widened_rounds_the_result_alone(kernel, sparse):
    """float16 is computed in float32 on the CPU: rounding float32 features first costs time and
    accuracy."""
    indices = sparse.random_sites(200, 1, [8] * 3, 0)
    features = torch.randn(200, 4, requires_grad=True)
    layer, x = sp.SubMConv3d(4, 6, kernel), sp.SparseConvTensor(features, indices, [8] * 3, 1)
    with torch.autocast("cpu", torch.float16):
        got = layer(x).features
    assert got.dtype is torch.float16
    assert torch.equal(got, layer(x).features.half())
    got.float().sum().backward()
    assert features.grad.dtype is torch.float32


@pytest.mark.parametrize("followed", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_autocast_to_bfloat16_in_inference_rounds_the_weight_and_the_result(
    kernel, followed, sparse
):
    indices = sparse.random_sites(200, 1, [8] * 3, 0)
    layer = sp.SubMConv3d(4, 6, kernel)
    net = sp.SparseSequential(layer, torch.nn.BatchNorm1d(6), torch.nn.ReLU()).eval()
    net = net if followed else layer
    x = sp.SparseConvTensor(torch.randn(200, 4), indices, [8] * 3, 1)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            got = net(x).features
        x = x.replace_feature(x.features.bfloat16().float())
        with torch.autocast("cpu", torch.bfloat16):
            again = net(x).features
        layer.weight.copy_(layer.weight.bfloat16())
        right = net(x).features
    assert got.dtype is again.dtype is torch.bfloat16
    assert torch.allclose(again.float(), right, rtol=2**-7, atol=1e-3)
    assert torch.allclose(got.float(), right, rtol=2**-5, atol=2e-2)


def test_shuffled_rows_of_bfloat16_are_those_in_order():
    """From 4,096 rows on a map is built in site order, and features are placed as they are read."""
    side = torch.arange(24)
    grid = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), -1).reshape(-1, 3)
    indices = torch.nn.functional.pad(grid, (1, 0))[: 24 * 24 * 20].int()
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    layer = sp.SubMConv3d(6, 10, 3).bfloat16()
    features = torch.randn(len(indices), 6).bfloat16()
    straight = results(layer, features, indices, [24] * 3, torch.bfloat16)
    x = sp.SparseConvTensor(features[order], indices[order].contiguous(), [24] * 3, 1)
    with torch.no_grad():
        assert torch.equal(layer(x).features, straight[0][order])
    wide = results(
        layer.float(), features[order], indices[order].contiguous(), [24] * 3, torch.float32
    )
    narrow = results(layer.bfloat16(), features[order], indices[order], [24] * 3, torch.bfloat16)
    for one, right in zip(narrow, wide, strict=True):
        assert torch.allclose(one.float(), right, rtol=2**-7, atol=1e-4 * float(right.abs().max()))


def test_mixed_dtypes_that_are_no_autocast_are_refused(sparse):
    indices = sparse.random_sites(50, 1, [8] * 3, 0)
    layer = sp.SubMConv3d(4, 6, 3)
    x = sp.SparseConvTensor(torch.randn(50, 4).bfloat16(), indices, [8] * 3, 1)
    with pytest.raises(TypeError, match="of one floating dtype"):
        layer(x)
    with pytest.raises(TypeError, match="of one floating dtype"):
        layer.half()(x.replace_feature(torch.randn(50, 4)))
    for kernel in (1, 3):  # a processor without bfloat16 products computes these under autocast
        bfloat16 = sp.SubMConv3d(4, 6, kernel).bfloat16()
        with torch.no_grad(), pytest.raises(TypeError, match="of one floating dtype"):
            bfloat16(x.replace_feature(torch.randn(50, 4)))
