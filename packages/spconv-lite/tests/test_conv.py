"""Layers against dense torch convolution at the active sites, and against spconv itself."""

import copy
import io
import pickle
import random

import pytest
import torch
from torch import nn

import spconv_lite as sp

pytestmark = pytest.mark.native

NAMES = {"subm": "SubMConv{}d", "conv": "SparseConv{}d", "transposed": "SparseConvTranspose{}d"}


def random_layer(ndim: int, seed: int):
    """(kind, layer arguments, spatial shape, batch size, number of sites)."""
    rng = random.Random(seed)
    numbers = lambda low, high: [rng.randint(low, high) for _ in range(ndim)]  # noqa: E731
    kind = rng.choice(list(NAMES))
    groups = rng.choice([1, 1, 2, 3])
    # torch's dense padding is symmetric: an even submanifold kernel has no dense counterpart there
    ksize = [rng.choice([1, 3, 5]) for _ in range(ndim)] if kind == "subm" else numbers(1, 4)
    settings = {
        "kernel_size": ksize,
        "stride": numbers(1, 3),
        "padding": numbers(0, 2),
        "dilation": numbers(1, 2),
        "groups": groups,
        "bias": rng.random() < 0.5,
    }
    least, longest = ((8, 60), (8, 16), (8, 9), (7, 7))[ndim - 1]
    shape = [rng.randint(least, longest) for _ in range(ndim)]
    return kind, settings, (2 * groups, 3 * groups), shape, rng.randint(1, 3), rng.randint(1, 120)


# --full: 300 and more that are no plain matrix products, a dimension
@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 400), marks=pytest.mark.slow)])
@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_random_layers_equal_dense_torch_at_the_active_sites(sparse, ndim, seeds):
    worst, compared = {"forward": 0.0, "gradient": 0.0}, 0
    for seed in seeds:
        kind, settings, channels, shape, batch_size, count = random_layer(ndim, seed)
        torch.manual_seed(seed)
        layer = getattr(sp, NAMES[kind].format(ndim))(*channels, **settings)
        if layer.conv1x1:
            continue  # the documented exception of the weight layout
        indices = sparse.random_sites(count, batch_size, shape, seed)
        x = torch.randn(len(indices), channels[0], requires_grad=True)
        out = layer(sp.SparseConvTensor(x, indices, shape, batch_size))
        wide = [t.detach().double().requires_grad_() for t in (x, *layer.parameters())]
        geometry = settings["stride"], settings["padding"], settings["dilation"]
        if kind == "subm":
            reach = [
                d * (k // 2) for d, k in zip(geometry[2], settings["kernel_size"], strict=True)
            ]
            geometry = 1, reach, geometry[2]
        bias = wide[2] if settings["bias"] else None
        dense_in = sparse.to_dense(wide[0], indices, batch_size, shape)
        arguments = (*geometry, settings["groups"], kind == "transposed")
        dense = sparse.dense_conv(dense_in, wide[1], bias, *arguments)
        assert list(dense.shape[2:]) == out.spatial_shape
        if kind != "subm":  # the active set is what a convolution of the occupancy reaches
            ones = sparse.to_dense(torch.ones(len(indices), 1), indices, batch_size, shape)
            kernel = torch.ones(1, *settings["kernel_size"], 1)
            reached = sparse.dense_conv(ones, kernel, None, *geometry, 1, kind == "transposed")
            assert torch.equal((reached[:, 0] > 0.5).nonzero().int(), out.indices)
        expected = sparse.at_sites(dense, out.indices)
        grad = torch.randn_like(out.features)
        exact = torch.autograd.grad(expected, wide, grad.double(), allow_unused=True)
        got = torch.autograd.grad(out.features, [x, *layer.parameters()], grad)
        compared += 1
        worst["forward"] = max(worst["forward"], relative(out.features, expected))
        pairs = ((a, b) for a, b in zip(got, exact, strict=True) if b is not None)
        worst["gradient"] = max(worst["gradient"], *(relative(a, b) for a, b in pairs))
    assert compared >= len(seeds) * 7 // 8
    assert worst["forward"] <= 1e-6
    assert worst["gradient"] <= 1e-5


def relative(got: torch.Tensor, exact: torch.Tensor) -> float:
    if exact.numel() == 0 or exact.abs().max() == 0:
        return got.abs().max().item() if got.numel() else 0.0
    return ((got - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.parametrize("transposed", [False, True])
def test_the_dense_definition_for_four_axes_equals_torch_for_three(sparse, transposed):
    x = torch.randn(2, 4, 6, 7, 5, dtype=torch.float64)
    weight, bias = torch.randn(6, 3, 2, 1, 2, dtype=torch.float64), torch.randn(6).double()
    settings = [2, 1, 3], [1, 0, 0], [1, 2, 1], 2, transposed
    got = sparse.dense_conv_by_offset(x, weight, bias, *settings)
    assert torch.allclose(got, sparse.dense_conv(x, weight, bias, *settings))


def test_an_even_submanifold_kernel_reads_what_its_definition_says():
    indices = torch.tensor([[0, 2], [0, 3], [0, 5]], dtype=torch.int32)
    layer = sp.SubMConv1d(1, 1, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([10.0, 1.0]).view(1, 2, 1))
    x = torch.tensor([[1.0], [2.0], [4.0]], requires_grad=True)
    out = layer(sp.SparseConvTensor(x, indices, [8], 1))  # out[i] = 10 x[i - 1] + x[i]
    assert out.features.flatten().tolist() == [1.0, 12.0, 4.0]
    out.features.sum().backward()
    assert x.grad.flatten().tolist() == [11.0, 1.0, 1.0]


def test_an_inverse_layer_gives_back_the_sites_in_their_order(sparse):
    indices = sparse.random_sites(70, 2, [9, 9, 9], 4)
    x = sp.SparseConvTensor(torch.randn(70, 4), indices, [9, 9, 9], 2)
    down = sp.SparseConv3d(4, 6, 3, 2, 1, indice_key="down", bias=False)
    up = sp.SparseInverseConv3d(6, 4, 3, indice_key="down", bias=False)
    back = up(down(x))
    assert torch.equal(back.indices, indices)
    assert back.spatial_shape == [9, 9, 9]
    middle = down(x)
    dense = sparse.to_dense(middle.features, middle.indices, 2, middle.spatial_shape)
    full = sparse.dense_conv(dense, up.weight, None, 2, 1, 1, 1, True)
    assert torch.allclose(sparse.at_sites(full, indices), back.features, atol=1e-5)


def test_kernel_1_reads_its_weight_as_spconv_does():
    x = sp.SparseConvTensor(
        torch.randn(5, 3), torch.arange(5).int()[:, None].repeat(1, 2) % 1, [9], 1
    )
    x.indices[:, 1] = torch.arange(5)
    for layer in (sp.SubMConv1d(3, 4, 1, bias=False), sp.SparseConv1d(3, 4, 1, bias=False)):
        product = x.features @ layer.weight.detach().view(3, 4)
        torch.testing.assert_close(layer(x).features, product, rtol=1e-6, atol=1e-6)


@pytest.fixture
def network(sparse):
    torch.manual_seed(0)
    net = sp.SparseSequential(
        sp.SubMConv3d(3, 8, 3, indice_key="a", bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        sp.SubMConv3d(8, 8, 3, indice_key="a"),
        sp.SparseConv3d(8, 12, 3, 2, 1, indice_key="down"),
        nn.ReLU(),
        sp.SparseInverseConv3d(12, 8, 3, indice_key="down"),
    )
    indices = sparse.random_sites(200, 2, [8, 9, 10], 2)
    return net, torch.randn(200, 3), indices


def run(net, features, indices):
    return net(sp.SparseConvTensor(features, indices, [8, 9, 10], 2)).features


def test_layers_of_one_key_share_a_rulebook(network):
    net, features, indices = network
    x = sp.SparseConvTensor(features, indices, [8, 9, 10], 2)
    first = net[0](x)
    assert x.indice_dict == {}
    assert net[3](first.replace_feature(torch.randn(200, 8))).indice_dict == first.indice_dict
    assert set(net(x).indice_dict) == {"a", "down"}


def test_a_network_survives_copy_pickle_and_weights_only_load(network):
    net, features, indices = network
    expected = run(net.eval(), features, indices)
    stream = io.BytesIO()
    torch.save(net.state_dict(), stream)
    stream.seek(0)
    loaded = copy.deepcopy(net)
    for parameter in loaded.parameters():
        nn.init.zeros_(parameter)
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), loaded):
        assert torch.equal(run(other, features, indices), expected)


@pytest.mark.once
def test_compile_fullgraph_equals_eager_with_dynamic_sizes(network):
    net, features, indices = network
    net.eval()
    compiled = torch.compile(lambda f, i: run(net, f, i), fullgraph=True, backend="aot_eager")
    for count in (200, 150):
        x = features[:count].clone().requires_grad_()
        y = features[:count].clone().requires_grad_()
        got, expected = compiled(x, indices[:count]), run(net, y, indices[:count])
        assert torch.allclose(got, expected, atol=1e-6)
        got.square().sum().backward()
        expected.square().sum().backward()
        assert torch.allclose(x.grad, y.grad, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_computes_in_the_narrow_dtype(network, dtype):
    net, features, indices = network
    with torch.autocast("cpu", dtype):
        out = net[0](sp.SparseConvTensor(features, indices, [8, 9, 10], 2)).features
    assert out.dtype == dtype
    wide = net[0](sp.SparseConvTensor(features, indices, [8, 9, 10], 2)).features
    assert (out - wide).abs().max() < 0.02 * wide.abs().max()
    out.float().square().sum().backward()
    assert net[0].weight.grad.dtype == torch.float32


def test_a_small_network_learns(network):
    net, features, indices = network
    target = features.sum(1, keepdim=True).expand(-1, 8)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = (run(net, features, indices) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


class Encoder(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, features, indices):
        return run(self.net, features, indices)


def test_an_encoder_exports_with_a_dynamic_number_of_sites(network):
    net, features, indices = network
    model, rows = Encoder(net.eval()), torch.export.Dim("rows", min=2, max=10_000)
    program = torch.export.export(
        model, (features, indices), dynamic_shapes=({0: rows}, {0: rows})
    ).module()
    for count in (200, 90):
        expected = model(features[:count], indices[:count])
        got = program(features[:count], indices[:count])
        assert torch.allclose(got, expected, atol=1e-6)
