"""What torch.compile and torch.export see of Triton's kernels: traced without a GPU, never run. By
test_triton.py, in a process of its own without TRITON_INTERPRET."""

import pytest
import torch
import triton
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._higher_order_ops.triton_kernel_wrap import triton_kernel_wrapper_functional
from triton.backends.compiler import GPUTarget

import spconv_lite as sp
from spconv_lite import ops
from spconv_lite.kernels import triton as MODULE


class Hopper:
    """The device that a graph is traced for."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


class Traced(Exception):
    pass


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    if not torch.cuda.is_available():
        triton.runtime.driver.set_active(Hopper())
    monkeypatch.setitem(ops._chosen, "cpu", MODULE)
    torch._dynamo.reset()


def book(rows, volume):
    """A rulebook of the form alone: it is not run."""
    table = torch.full((volume, rows), -1, dtype=torch.int32)
    return table, torch.arange(rows).int(), torch.zeros(MODULE.mask_words(rows, volume)).int()


def seen(graph):
    """Names of kernels and of this package's operators in a graph, and what a kernel writes."""
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

    found, writes = [], {}
    for node in graph.graph.nodes:
        if node.target is triton_kernel_wrapper_functional:
            kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
            name = getattr(kernel, "fn", kernel).__name__
            found.append(name)
            writes[name] = list(node.kwargs["tensors_to_clone"])
        elif "spconv_lite" in str(node.target):
            found.append(str(node.target).removeprefix("spconv_lite.").removesuffix(".default"))
    return found, writes


def graphs_of(function, *args, loss=None):
    """The graphs that a backend is given, forward and then backward; they give zeros."""
    graphs = []

    def capture(graph, _):
        graphs.append(graph)
        outputs = [n.meta["val"] for n in graph.graph.output_node().args[0] if n is not None]
        sizes = [
            [s if isinstance(s, int) else None for s in getattr(v, "shape", ())] for v in outputs
        ]
        if any(None in size for size in sizes):
            raise Traced
        return lambda *_: [
            torch.zeros(s, dtype=v.dtype) for s, v in zip(sizes, outputs, strict=True)
        ]

    backend = aot_autograd(fw_compiler=capture, bw_compiler=capture)
    try:
        out = torch.compile(function, backend=backend, fullgraph=True)(*args)
        if loss is not None:
            loss(out).backward()
    except Exception:
        if not graphs:
            raise
    return graphs


@pytest.mark.parametrize("groups", [1, 8])
def test_a_layer_is_its_kernels_forward_and_backward(groups):
    x = torch.randn(90, 8, requires_grad=True)
    w = torch.randn(8, 3, 3, 8 // groups, requires_grad=True)
    b, table = torch.randn(8, requires_grad=True), book(90, 9)
    layer = lambda x, w, b: ops.conv(x, w, b, *table, 90, groups, True)  # noqa: E731
    forward, backward = graphs_of(layer, x, w, b, loss=torch.sum)
    product = "masked_product" if groups == 1 else "masked_depthwise"
    pairs = "pair_product" if groups == 1 else "pair_depthwise"
    assert seen(forward) == ([product], {product: ["y"]})
    found, writes = seen(backward)
    assert sorted(found) == sorted([product, "triton_pair_lists", pairs, "add_splits"])
    assert writes == {product: ["y"], pairs: ["partial"], "add_splits": ["total"]}


def test_rows_that_a_graph_does_not_know_are_seen_through_too():
    """A strided layer, whose output sites are counted when it runs."""
    indices = torch.stack(torch.meshgrid(*[torch.arange(4)] * 3, indexing="ij"), -1).view(-1, 3)
    indices = nn.functional.pad(indices, (1, 0)).int()
    layer = sp.SparseConv3d(4, 6, 3, 2, 1)

    def run(features, indices):
        return layer(sp.SparseConvTensor(features, indices, [4, 4, 4], 1)).features

    x = torch.randn(64, 4, requires_grad=True)
    forward, *_ = graphs_of(run, x, indices)
    assert seen(forward)[0] == ["rulebook", "masked_product"]


class Layer(nn.Module):
    def forward(self, x, w, table, order, lists):
        return ops.conv(x, w, None, table, order, lists, x.shape[0], 1, True).relu()


def test_an_exported_program_names_the_kernels_that_it_was_made_for():
    args = torch.randn(90, 8), torch.randn(8, 3, 3, 8), *book(90, 9)
    program = torch.export.export(Layer(), args)
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names == ["spconv_lite.triton_conv.default", "aten.relu.default"]
    with torch.no_grad():  # and is opened where it is compiled
        (graph,) = graphs_of(program.module(), *args)
    assert seen(graph)[0] == ["masked_product"]


def test_another_choice_is_another_graph(monkeypatch):
    args = torch.randn(90, 8), torch.randn(8, 3, 3, 8), *book(90, 9)
    assert seen(graphs_of(Layer(), *args)[0])[0] == ["masked_product"]
    monkeypatch.setitem(ops._chosen, "cpu", ops._KERNELS["cpu", "native"])
    assert seen(graphs_of(Layer(), *args)[0])[0] == ["conv"]
