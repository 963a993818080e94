"""In inference a convolution, its BatchNorm and ReLU are one pass: with the numbers of three."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import spconv_lite as sp

pytestmark = pytest.mark.native

SHAPE = [9, 10, 11]
NORM = torch.ops.spconv_lite.conv_norm.default


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the calls of the operator that does it in one pass."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is NORM
        return func(*args, **(kwargs or {}))


def network(layer, *behind):
    torch.manual_seed(0)
    net = sp.SparseSequential(layer, *behind).eval()
    for norm in (m for m in net if isinstance(m, nn.BatchNorm1d)):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        if norm.weight is not None:
            nn.init.uniform_(norm.weight, -2, 2)
            nn.init.uniform_(norm.bias, -1, 1)
    return net


def one_by_one(net, x):
    for module in net:
        sparse = isinstance(module, sp.SparseModule)
        x = module(x) if sparse else x.replace_feature(module(x.features))
    return x


def merged(net, x):
    with Calls() as calls:
        out = net(x)
    return out, calls.count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 7, 16, 40, 130])
@pytest.mark.parametrize("order", [1, 10**9])
@torch.no_grad()
def test_one_pass_gives_what_three_give(sparse, monkeypatch, dtype, channels, order):
    monkeypatch.setattr(sp.ops.cpu, "SORTED_ROWS", order)
    sites = sparse.random_sites(600, 2, SHAPE, 3)
    for layer in (
        sp.SubMConv3d(3, channels, 3, bias=False, indice_key="a"),
        sp.SparseConv3d(3, channels, 3, 2, 1),
    ):
        for behind in (
            [nn.BatchNorm1d(channels), nn.ReLU()],
            [nn.BatchNorm1d(channels, affine=False)],
        ):
            net = network(layer, *behind).to(dtype)
            x = sp.SparseConvTensor(torch.randn(600, 3, dtype=dtype), sites, SHAPE, 2)
            out, calls = merged(net, x)
            right = one_by_one(net, x)
            assert calls == 1
            assert torch.equal(out.indices, right.indices)
            assert sorted(out.indice_dict) == sorted(right.indice_dict)
            tolerance = 1e-5 if dtype is torch.float32 else 1e-12
            assert torch.allclose(out.features, right.features, rtol=tolerance, atol=tolerance)
            threads = torch.get_num_threads()
            torch.set_num_threads(3 - min(threads, 2))
            assert torch.equal(net(x).features, out.features)
            torch.set_num_threads(threads)


def test_not_a_number_stays_and_is_not_rectified(sparse):
    net = network(sp.SubMConv3d(1, 16, 3), nn.BatchNorm1d(16), nn.ReLU())
    features = torch.full((60, 1), float("nan"))
    x = sp.SparseConvTensor(features, sparse.random_sites(60, 2, SHAPE, 3), SHAPE, 2)
    with torch.no_grad():
        out, calls = merged(net, x)
    assert calls == 1
    assert out.features.isnan().all()


def test_who_would_see_the_difference_gets_three(sparse):
    sites = sparse.random_sites(60, 2, SHAPE, 3)
    x = sp.SparseConvTensor(torch.randn(60, 3), sites, SHAPE, 2)
    net = network(sp.SubMConv3d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU())
    assert merged(net, x)[1] == 0  # gradients
    seen = []
    with torch.no_grad():
        for watched in (0, 1):
            hook = net[watched].register_forward_hook(lambda *a: seen.append(a[2]))
            assert merged(net, x)[1] == 0
            hook.remove()
        hook = net[2].register_forward_hook(lambda *a: seen.append(a[2]))
        assert merged(net, x)[1] == 1  # the norm alone
        hook.remove()
        assert len(seen) == 3
        assert merged(net, x)[1] == 1
        with torch.autocast("cpu", torch.bfloat16):
            assert merged(net, x)[1] == 0
        nothing = sp.SparseConvTensor(torch.randn(0, 3), sites[:0], SHAPE, 2)
        assert merged(net, nothing)[0].features.shape == (0, 8)
        assert merged(net.train(), x)[1] == 0  # statistics are taken
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.features, torch.ones(60, 3))
        assert merged(net.eval(), x.replace_feature(dual))[1] == 0


@torch.no_grad()
def test_a_forward_of_the_modules_own_is_called(sparse):
    x = sp.SparseConvTensor(torch.randn(60, 3), sparse.random_sites(60, 2, SHAPE, 3), SHAPE, 2)
    net = network(sp.SubMConv3d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU())
    right = net(x).features
    for place in range(3):  # as tools do that load weights late or quantise
        calls, forward = [], net[place].forward
        net[place].forward = lambda *a, f=forward, calls=calls: calls.append(a) or f(*a)
        out, count = merged(net, x)
        assert len(calls) == 1
        assert count == (place == 2)  # the norm alone
        torch.testing.assert_close(out.features, right)
        del net[place].forward


@torch.no_grad()
def test_statistics_of_another_dtype_are_torchs_affair(sparse):
    x = sp.SparseConvTensor(torch.randn(60, 3), sparse.random_sites(60, 2, SHAPE, 3), SHAPE, 2)
    net = network(sp.SubMConv3d(3, 8, 3), nn.BatchNorm1d(8))
    for variance in (net[1].running_var.double(), None):
        net[1].running_var = variance
        with pytest.raises(RuntimeError):
            one_by_one(net, x)
        with pytest.raises(RuntimeError):
            net(x)


@torch.no_grad()
def test_a_group_wise_or_activated_layer_is_left_alone(sparse):
    x = sp.SparseConvTensor(torch.randn(60, 8), sparse.random_sites(60, 2, SHAPE, 3), SHAPE, 2)
    for layer in (
        sp.SubMConv3d(8, 8, 3, groups=8),
        sp.SubMConv3d(8, 8, 1),
        sp.SubMConv3d(8, 8, 3, act_type=sp.layers.Activation.ReLU),
    ):
        net = network(layer, nn.BatchNorm1d(8), nn.ReLU())
        out, calls = merged(net, x)
        assert calls == 0
        assert torch.equal(out.features, one_by_one(net, x).features)


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_the_operator_takes_narrow_tensors(sparse, dtype, kernels):
    """With a scale of the features' dtype or of float32; the native kernels round once."""
    sites = sparse.random_sites(60, 2, SHAPE, 3)
    before = sp.set_kernels("cpu", kernels)
    try:
        book = sp.ops.subm_rulebook(sites, 2, SHAPE, [3] * 3, [1] * 3)
        x, w = torch.randn(60, 4).to(dtype), torch.randn(8, 3, 3, 3, 4).to(dtype)
        scale, shift = torch.randn(2, 8).to(dtype)
        still = torch.zeros(8, dtype=dtype), torch.ones(8, dtype=dtype)
        got = NORM(x, w, None, *still, scale, shift, 0.0, *book, 60, 1, True)
        wide = scale.float(), shift.float()
        same = NORM(x, w, None, *still, *wide, 0.0, *book, 60, 1, True)
        sums = sp.ops.conv(x.double(), w.double(), None, *book, 60, 1, True)
    finally:
        sp.set_kernels("cpu", before)
    right = (sums * scale.double() + shift.double()).relu()
    assert got.dtype is same.dtype is dtype
    roundings = 1 if kernels == "native" else 3
    tolerance = roundings * torch.finfo(dtype).eps
    scale = sums.abs().max()
    for found in (got, same):
        torch.testing.assert_close(
            found.double(), right, rtol=tolerance, atol=float(tolerance * scale)
        )


@torch.no_grad()
def test_the_operator_passes_opcheck_and_counts_its_work(sparse):
    sites = sparse.random_sites(60, 2, SHAPE, 3)
    book = sp.ops.subm_rulebook(sites, 2, SHAPE, [3] * 3, [1] * 3)
    tensors = torch.randn(60, 3), torch.randn(8, 3, 3, 3, 3), None, *torch.rand(4, 8), 1e-5
    torch.library.opcheck(NORM, (*tensors, *book, 60, 1, True))
    with FlopCounterMode(display=False) as counter:
        NORM(*tensors, *book, 60, 1, True)
    assert counter.get_total_flops() == 2 * len(book[1]) * 3 * 8
