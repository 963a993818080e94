"""What torch makes of a network: inductor, AOTInductor, ONNX, traces, meta tensors, other devices,
vmap."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import spconv_lite as sp
from spconv_lite import ops

pytestmark = pytest.mark.native

SHAPE = [8, 9, 10]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = sp.SparseSequential(
            sp.SubMConv3d(4, 8, 3, indice_key="a"),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            sp.SparseConv3d(8, 8, 3, 2, 1, indice_key="down"),
            nn.ReLU(),
            sp.SparseInverseConv3d(8, 4, 3, indice_key="down"),
        )

    def forward(self, features: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return self.net(sp.SparseConvTensor(features, indices, SHAPE, 2)).features


@pytest.fixture
def inputs(sparse):
    """`inputs(count)`: features and sites, of other places for every count."""

    def make(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(count)
        features = torch.randn(count, 4, generator=generator)
        return features, sparse.random_sites(count, 2, SHAPE, count)

    torch.manual_seed(0)
    return make


def exported(model: nn.Module, inputs) -> torch.export.ExportedProgram:
    rows = {0: torch.export.Dim("rows", min=2, max=10_000)}
    return torch.export.export(model, inputs(200), dynamic_shapes=(rows, rows))


@pytest.mark.slow  # compiles C++
def test_inductor_trains_one_graph_on_any_number_of_sites(inputs):
    model = Network()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    parameters = list(model.parameters())
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for count in (200, 150, 90):
        got, right = compiled(*inputs(count)), model(*inputs(count))
        assert torch.allclose(got, right, atol=1e-5)
        ours = torch.autograd.grad(got.square().sum(), parameters)
        theirs = torch.autograd.grad(right.square().sum(), parameters)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1


@pytest.mark.slow  # compiles C++
def test_a_package_of_aotinductor_gives_the_networks_numbers(inputs, tmp_path):
    model = Network().eval()
    path = str(tmp_path / "network.pt2")
    torch._inductor.aoti_compile_and_package(exported(model, inputs), package_path=path)
    loaded = torch._inductor.aoti_load_package(path)
    for count in (200, 90):
        assert torch.allclose(loaded(*inputs(count)), model(*inputs(count)), atol=1e-5)
    features, indices = inputs(90)
    indices[5] = indices[3]
    with pytest.raises(RuntimeError):
        loaded(features, indices)


def test_an_exported_program_is_saved_and_loaded(inputs, tmp_path):
    model = Network().eval()
    path = tmp_path / "network.pt2"
    torch.export.save(exported(model, inputs), path)
    loaded = torch.export.load(path).module()
    for count in (200, 90):
        assert torch.allclose(loaded(*inputs(count)), model(*inputs(count)), atol=1e-6)
    features, indices = inputs(90)
    indices[5] = indices[3]
    with pytest.raises(ValueError, match="rows 3 and 5"):
        loaded(features, indices)


@pytest.mark.once
def test_onnx_has_no_operator_for_a_rulebook_and_says_which(inputs):
    pytest.importorskip("onnxscript")
    with pytest.raises(Exception, match=r"spconv_lite\.subm_rulebook") as failure:
        torch.onnx.export(exported(Network().eval(), inputs), dynamo=True)
    assert type(failure.value).__name__ == "ConversionError"


def test_meta_tensors_have_no_sites_and_are_refused(inputs):
    features, indices = (part.to("meta") for part in inputs(20))
    with pytest.raises(RuntimeError, match="no kernels for meta"):
        sp.SparseConvTensor(features, indices, SHAPE, 2)


def test_shapes_without_numbers_are_those_of_fake_tensors():
    with FakeTensorMode(shape_env=ShapeEnv()):
        features, indices = torch.empty(20, 4), torch.empty(20, 4, dtype=torch.int32)
        out = sp.SparseConv3d(4, 6, 3, 2, 1)(sp.SparseConvTensor(features, indices, SHAPE, 2))
    assert out.features.shape[1] == 6
    assert out.spatial_shape == [4, 5, 5]


def test_a_network_is_made_on_the_meta_device_and_loaded():
    right = Network()
    with torch.device("meta"):
        empty = Network()
    loaded = empty.to_empty(device="cpu")
    loaded.load_state_dict(right.state_dict())
    for a, b in zip(loaded.parameters(), right.parameters(), strict=True):
        assert torch.equal(a, b)


def test_devices_without_kernels_are_refused_by_name():
    for name in ("mps", "xpu", "meta"):
        with pytest.raises(
            RuntimeError, match=f"no kernels for {name}; move the tensors to the CPU"
        ):
            ops.kernels_for(SimpleNamespace(device=torch.device(name)))


def test_vmap_over_weights_is_a_loop_and_over_sites_is_refused(inputs):
    layer = sp.SparseConv3d(4, 3, 3, 2, 1)
    features, indices = inputs(40)

    def call(weight, sites):
        x = sp.SparseConvTensor(features, sites, SHAPE, 2)
        return torch.func.functional_call(layer, {"weight": weight}, (x,)).features

    weights = torch.randn(3, *layer.weight.shape)
    got = torch.func.vmap(call, (0, None))(weights, indices)
    assert torch.allclose(got, torch.stack([call(w, indices) for w in weights]), atol=1e-5)
    sites = torch.stack([indices, inputs(41)[1][:40]])
    with pytest.raises(RuntimeError):
        torch.func.vmap(call, (None, 0))(weights[0], sites)


def test_a_trace_would_keep_its_number_of_sites_and_is_refused(inputs):
    with pytest.raises(RuntimeError, match=r"use torch.export.export"):
        torch.jit.trace(Network().eval(), inputs(200))
