"""Layers and whole networks by every choice of kernels, beside the compiled CPU kernels; as
test_kernels.py does for operators."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

sys.path.insert(0, str(Path(__file__).resolve().parent))
import kernels as choice

import spconv_lite as sp
from spconv_lite import ops

SHAPES = {1: [40], 2: [8, 9], 3: [5, 6, 7], 4: [4, 4, 5, 4]}


@pytest.fixture(scope="module", params=choice.choices(pytest.mark.gpu))
def kernels(request):
    return choice.make(request.param)


CPU_TOO = [pytest.param(("cpu", "native"), id="native-cpu"), *choice.choices(pytest.mark.gpu)]


@pytest.fixture(scope="module", params=CPU_TOO)
def all_kernels(request):
    return choice.make(request.param)


def close(got, expected, tolerance=1e-5):
    assert got.shape == expected.shape
    error = (got.cpu().double() - expected.double()).abs().max() if got.numel() else 0
    assert error <= tolerance * expected.abs().max()


def train(make_net, device, features, indices, shape, batch_size=2):
    """One training step: output sites, output features, gradients of the input and of every
    parameter."""
    torch.manual_seed(0)
    net = make_net().to(device, features.dtype)
    x = features.to(device).requires_grad_()
    out = net(sp.SparseConvTensor(x, indices.to(device), shape, batch_size))
    weight = torch.linspace(-1, 1, out.features.numel(), dtype=x.dtype).view(out.features.shape)
    (out.features * weight.to(device)).sum().backward()
    return out.indices, out.features.detach(), x.grad, *(p.grad for p in net.parameters())


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_every_layer_trains_as_on_the_cpu(kernels, sparse, ndim):
    indices = sparse.random_sites(36, 2, SHAPES[ndim], ndim)
    features = torch.randn(36, 4, generator=torch.Generator().manual_seed(0))

    def net():
        make = lambda name, *args, **settings: getattr(sp, f"{name}{ndim}d")(*args, **settings)  # noqa: E731
        return sp.SparseSequential(
            make("SubMConv", 4, 6, 3, indice_key="s", groups=2),
            nn.ReLU(),
            make("SparseConv", 6, 8, 2, 2, indice_key="down"),
            make("SubMConv", 8, 8, 1),
            make("SparseMaxPool", 2, indice_key="pool"),
            make("SparseInverseConv", 8, 8, 2, indice_key="pool"),
            make("SparseInverseConv", 8, 6, 2, indice_key="down"),
            make("SparseAvgPool", 2, 2),
            make("SparseConvTranspose", 6, 4, 2, 2, bias=False),
        )

    run = lambda device: train(net, device, features, indices, SHAPES[ndim])  # noqa: E731
    got, expected = kernels.beside_the_cpu(run)
    assert torch.equal(got[0].cpu(), expected[0])
    for value, exact in zip(got[1:], expected[1:], strict=True):
        close(value, exact)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_pools_agree_in_every_dtype(kernels, sparse, ndim, dtype):
    indices = sparse.random_sites(36, 2, SHAPES[ndim], ndim)
    features = (torch.randn(36, 3, generator=torch.Generator().manual_seed(0)) - 9).to(dtype)

    def run(device):
        x = sp.SparseConvTensor(features.to(device), indices.to(device), SHAPES[ndim], 2)
        local = [getattr(sp, f"Sparse{kind}Pool{ndim}d") for kind in ("Max", "Avg")]
        pooled = [make(3, 2, 1)(x) for make in local] + [make(3, subm=True)(x) for make in local]
        ends = [sp.SparseGlobalMaxPool()(x), sp.SparseGlobalAvgPool()(x)]
        return [p.indices for p in pooled], [p.features for p in pooled] + ends

    got, expected = kernels.beside_the_cpu(run)
    for sites, exact in zip(got[0], expected[0], strict=True):
        assert torch.equal(sites.cpu(), exact)
    for value, exact in zip(got[1], expected[1], strict=True):
        assert value.dtype == dtype
        close(value, exact, 2 * torch.finfo(dtype).eps)


def test_voxels_tables_and_dense_agree(kernels, sparse):
    points = torch.rand(500, 4, generator=torch.Generator().manual_seed(0)) * 10
    other = sparse.random_sites(30, 1, [5, 5, 5], 7)

    def run(device):
        make = sp.PointToVoxel((2, 2, 2), (0, 0, 0, 10, 10, 10), 4, 100, 5, device)
        voxels, indices, number, where = make.generate_voxel_with_id(points.to(device), True, True)
        x = sp.SparseConvTensor(voxels.mean(1), nn.functional.pad(indices, (1, 0)), [5] * 3, 1)
        y = sp.SparseConvTensor(torch.ones(30, 4, device=device), other.to(device), [5] * 3, 1)
        total = sp.AddTableMisaligned()([x, y])
        twice = sp.SparseConvTensor(
            torch.cat([x.features] * 2), torch.cat([x.indices] * 2), [5] * 3, 1
        )
        merged = [sp.coalesce(twice, how).features for how in ("sum", "mean", "max", "first")]
        return [indices, number, where, total.indices], [voxels, total.dense(), *merged]

    got, expected = kernels.beside_the_cpu(run)
    for value, exact in zip(got[0], expected[0], strict=True):
        assert torch.equal(value.cpu(), exact)
    for value, exact in zip(got[1], expected[1], strict=True):
        close(value, exact)


def test_features_of_other_rows_are_refused_before_a_kernel_reads_them(kernels, sparse):
    indices = sparse.random_sites(30, 1, SHAPES[2], 7).to(kernels.device)
    make = lambda: sp.SparseConvTensor(torch.ones(30, 4), indices.cpu(), SHAPES[2], 1)  # noqa: E731
    layers = (
        sp.SubMConv2d(4, 4, 3, indice_key="a"),
        sp.SparseConv2d(4, 4, 2),
        sp.SparseMaxPool2d(2),
        sp.SparseAvgPool2d(2),
    )
    with kernels.chosen():
        for layer in layers:
            for rows in (20, 40):
                x = make()
                x.features, x.indices = torch.ones(rows, 4, device=kernels.device), indices
                with pytest.raises(ValueError, match=f"as many rows, got {rows} and 30"):
                    layer.to(kernels.device)(x)


def second_encoder(channels=(4, 8, 8, 16, 16, 16)):
    """SECOND's middle encoder with fewer channels: 12 layers, 4 of them strided."""

    def block(make, c_in, c_out, key, kernel=3, **settings):
        conv = make(c_in, c_out, kernel, bias=False, indice_key=key, **settings)
        return conv, nn.BatchNorm1d(c_out, eps=1e-3, momentum=0.01), nn.ReLU()

    subm, conv, (c, c1, c2, c3, c4, c5) = sp.SubMConv3d, sp.SparseConv3d, channels
    return sp.SparseSequential(
        *block(subm, c, c1, "1"),
        *block(subm, c1, c1, "1"),
        *block(conv, c1, c2, "down1", stride=2, padding=1),
        *block(subm, c2, c2, "2"),
        *block(subm, c2, c2, "2"),
        *block(conv, c2, c3, "down2", stride=2, padding=1),
        *block(subm, c3, c3, "3"),
        *block(subm, c3, c3, "3"),
        *block(conv, c3, c4, "down3", stride=2, padding=[0, 1, 1]),
        *block(subm, c4, c4, "4"),
        *block(subm, c4, c4, "4"),
        *block(conv, c4, c5, "down4", kernel=(3, 1, 1), stride=(2, 1, 1)),
    )


GRID = [33, 16, 16]


@pytest.fixture(scope="module")
def scene(sparse):
    indices = sparse.random_sites(150, 1, GRID, 1)
    return torch.randn(150, 4, generator=torch.Generator().manual_seed(0)), indices


def test_a_whole_encoder_trains_as_on_the_cpu(kernels, scene):
    features, indices = scene
    wide = features.double()  # BatchNorm over few sites makes much of a rounding
    run = lambda device: train(second_encoder, device, wide, indices, GRID, 1)  # noqa: E731
    got, expected = kernels.beside_the_cpu(run)
    assert torch.equal(got[0].cpu(), expected[0])
    for value, exact in zip(got[1:], expected[1:], strict=True):
        close(value, exact, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_whole_encoder_trains_in_mixed_precision(kernels, scene, dtype):
    features, indices = scene

    def run(device):
        torch.manual_seed(0)
        net = second_encoder().to(device)
        x = sp.SparseConvTensor(features.to(device), indices.to(device), GRID, 1)
        with torch.autocast(kernels.device, dtype):
            out = net(x)
            dense = out.dense()
        dense.float().square().mean().backward()
        assert all(p.grad.dtype == torch.float32 for p in net.parameters())
        return dense.detach(), net[0].weight.grad

    (dense, grad), (exact, exact_grad) = kernels.beside_the_cpu(run)
    difference = lambda a, b: (a.cpu().float() - b.float()).norm() / b.float().norm()  # noqa: E731
    assert difference(dense, exact) <= 0.05
    assert difference(grad, exact_grad) <= 0.2  # twelve layers of roundings in another order


def as_tensors(net, dense=True):
    """The network as a function of tensors: a dense result, or output features and sites."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, features, indices):
            out = self.net(sp.SparseConvTensor(features, indices, GRID, 1))
            return out.dense() if dense else (out.features, out.indices)

    return Encoder()


def test_a_whole_encoder_compiles_as_one_graph_with_dynamic_sizes(all_kernels, scene):
    kernels = all_kernels
    features, indices = (t.to(kernels.device) for t in scene)
    with kernels.chosen():
        torch.manual_seed(0)
        torch.compiler.reset()
        model = as_tensors(second_encoder().to(kernels.device))
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for count in (150, 110):
            results = []
            for run in (model, compiled):
                model.zero_grad()
                x = features[:count].clone().requires_grad_()
                y = run(x, indices[:count])
                y.square().mean().backward()
                results.append([y.detach(), x.grad, *(p.grad.clone() for p in model.parameters())])
            for value, expected in zip(*reversed(results), strict=True):
                close(value, expected.cpu(), 1e-4)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs <= 2


def test_a_whole_encoder_exports_with_a_dynamic_number_of_sites(all_kernels, scene):
    kernels = all_kernels
    features, indices = (t.to(kernels.device) for t in scene)
    rows = torch.export.Dim("rows", min=2, max=10_000)
    with kernels.chosen():
        torch.manual_seed(0)
        model = as_tensors(second_encoder().to(kernels.device).eval())
        program = torch.export.export(
            model, (features, indices), dynamic_shapes=({0: rows}, {0: rows})
        )
        names = {str(node.target) for node in program.graph.nodes}
        assert {"spconv_lite.rulebook.default", "spconv_lite.conv.default"} <= names
        module = program.module()
        for count in (150, 70):
            expected = model(features[:count], indices[:count])
            close(module(features[:count], indices[:count]), expected.detach().cpu(), 1e-6)


@pytest.mark.parametrize("name", ["torch", "native"])
def test_a_whole_encoder_exports_for_cuda_without_a_device(name, monkeypatch):
    """Shapes, dtypes and devices of every operator under the CUDA key, by its fake."""
    monkeypatch.setattr(ops, "_chosen", ops._chosen | {"cuda": ops._KERNELS["cuda", name]})
    monkeypatch.setattr(nn.init, "uniform_", lambda weight, *_: weight)  # asks for a generator
    with FakeTensorMode():
        with torch.device("cuda"):
            model = as_tensors(second_encoder(), dense=False).eval()
            indices = torch.zeros((50, 4), dtype=torch.int32)
            features = torch.ones((50, 4))
        rows = torch.export.Dim("rows", min=2, max=10_000)
        shapes = {0: rows}, {0: rows}
        with torch.no_grad():  # autograd asks for the device itself
            graph = torch.export.export(model, (features, indices), dynamic_shapes=shapes).graph
    values = [node.meta.get("val") for node in graph.nodes]
    output = next(node for node in graph.nodes if node.op == "output")
    out, sites = (node.meta["val"] for node in output.args[0])
    assert (out.shape[1], out.dtype, sites.shape[1], sites.dtype) == (
        16,
        torch.float32,
        4,
        torch.int32,
    )
    assert {t.device.type for t in values if isinstance(t, torch.Tensor)} == {"cuda"}
    books = [n.meta["val"] for n in graph.nodes if "rulebook" in str(n.target)]
    assert len(books) == 8
    assert all((book[-3].ndim == 2) == (name == "native") for book in books)
