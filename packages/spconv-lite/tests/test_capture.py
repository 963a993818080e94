"""CUDA graphs: operators whose kernels wait for the device are kept out of them, or say so."""

import sys

import pytest
import torch

from spconv_lite import cuda, ops, plain

OPERATORS = [
    "get_indice_pairs",
    "subm_rulebook",
    "rulebook",
    "transpose_rulebook",
    "conv",
    "conv_input_grad",
    "conv_norm",
    "conv_weight_grad",
    "max_pool",
    "select_sum",
]


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="torch before 2.9")
@pytest.mark.parametrize("name", OPERATORS)
def test_torch_compile_keeps_every_operator_out_of_cuda_graphs(name):
    """mode="reduce-overhead" then captures what lies between them."""
    operator = getattr(torch.ops.spconv_lite, name).default
    assert torch.Tag.cudagraph_unsafe in operator.tags


@pytest.fixture
def capturing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)


@pytest.mark.parametrize("name", OPERATORS)
def test_under_capture_plain_torch_kernels_are_refused_before_they_wait(
    monkeypatch, capturing, name
):
    monkeypatch.setitem(ops._chosen, "cpu", plain)
    ran = []
    guarded = ops._outside_capture(name, lambda *_: ran.append(name))
    with pytest.raises(RuntimeError, match=f"{name}: these kernels wait for the device"):
        guarded(torch.zeros(1))
    assert not ran


@pytest.mark.parametrize("name", ["conv", "conv_input_grad", "conv_weight_grad"])
def test_under_capture_a_convolution_of_the_cuda_kernels_runs(monkeypatch, capturing, name):
    monkeypatch.setitem(ops._chosen, "cpu", cuda)
    assert ops._outside_capture(name, lambda *_: "ran")(torch.zeros(1)) == "ran"


@pytest.mark.parametrize("name", ["subm_rulebook", "rulebook"])
def test_under_capture_a_rulebook_of_the_cuda_kernels_is_refused(monkeypatch, capturing, name):
    monkeypatch.setitem(ops._chosen, "cpu", cuda)
    with pytest.raises(RuntimeError, match="build rulebooks before the capture"):
        ops._outside_capture(name, lambda *_: "ran")(torch.zeros(1))


def test_without_triton_its_kernels_are_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for loaded in [name for name in sys.modules if name.startswith("spconv_lite.kernels.triton")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.delattr("spconv_lite.kernels.triton", raising=False)
    with pytest.raises(RuntimeError, match="Triton is not installed"):
        ops.set_kernels("cuda", "triton")
    assert ops.set_kernels("cuda", "torch") == "torch"
