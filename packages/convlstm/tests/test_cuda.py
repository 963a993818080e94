"""The CUDA paths: tests that need a GPU, and what is said without one."""

from dataclasses import dataclass

import pytest
import torch

import convlstm
from convlstm import ops
from convlstm.layers import graphs
from convlstm.sequence.gates import gates_forward, set_cuda_gates

SIZE = (16, 16)


def model_and_input(plan="fused"):
    torch.manual_seed(0)
    model = convlstm.next_frame("seed", size=SIZE, filters=8).eval()
    for layer in model.layers:
        if hasattr(layer, "plan"):
            layer.plan = plan
    return model, torch.rand(2, 4, *SIZE, 1)


def test_a_graph_without_a_gpu_or_of_a_model_that_trains_says_why():
    model, x = model_and_input()
    with pytest.raises(ValueError, match="example must be on cuda"):
        convlstm.graphed(model, x)


def test_a_graph_keeps_the_autocast_without_its_weights_and_gives_copies():
    """What a cache holds is freed with its autocast; a graph goes on to read it."""
    with torch.autocast("cpu", torch.bfloat16), graphs.without_weight_cache("cpu"):
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_autocast_cache_enabled()
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    with graphs.without_weight_cache("cpu"):
        assert not torch.is_autocast_enabled("cpu")
    shown = torch.zeros(2), (torch.zeros(3), None)
    first, (second, nothing) = graphs.copied(shown)
    assert nothing is None
    assert first is not shown[0]
    assert second is not shown[1][0]
    assert len(second) == 3


@dataclass(frozen=True)
class Forecast:
    frames: torch.Tensor
    states: list
    steps: int = 3


def test_a_graph_copies_dataclasses_and_refuses_what_may_hold_tensors_unseen():
    shown = {"forecast": Forecast(torch.zeros(2), [torch.zeros(3), None])}
    found = graphs.copied(shown)["forecast"]
    shown["forecast"].frames.fill_(7)
    shown["forecast"].states[0].fill_(7)
    assert type(found) is Forecast
    assert found.steps == 3
    assert found.states[1] is None
    assert not found.frames.any()
    assert not found.states[0].any()
    for unseen in (object(), {1, 2}):
        with pytest.raises(TypeError, match=r"got a (object|set), whose memory"):
            graphs.copied([torch.zeros(1), unseen])


@pytest.fixture(params=["native", "triton"])
def kernels(request):
    if request.param == "triton":
        pytest.importorskip("triton")
    before = set_cuda_gates(request.param)
    yield request.param
    set_cuda_gates(before)


@pytest.mark.gpu
@pytest.mark.parametrize("plan", ["fused", "loop"])
def test_a_model_on_the_gpu_gives_the_numbers_of_the_cpu(plan, kernels, difference):
    model, x = model_and_input(plan)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        want = model(x)
        got = model.cuda()(x.cuda()).cpu()
    assert difference(got, want) <= 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", [False, True])
def test_fused_gradients_on_the_gpu_are_those_of_the_definition(recompute, kernels, difference):
    torch.manual_seed(0)
    layer = convlstm.ConvLSTM2d(3, 8, 3, padding="same", return_sequences=True, peephole=True)
    layer = layer.cuda()
    layer.recompute = recompute
    x = torch.randn(2, 5, 3, 9, 7, device="cuda", requires_grad=True)
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], dtype=torch.bool, device="cuda")
    found = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for plan in ("fused", "loop"):
            layer.plan = plan
            layer.zero_grad()
            x.grad = None
            layer(x, mask=mask).square().sum().backward()
            found.append([x.grad.clone(), *(p.grad.clone() for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        assert difference(a.cpu(), b.cpu()) <= 1e-4


@pytest.mark.gpu
def test_a_graph_gives_the_bits_of_the_model_and_refuses_other_shapes(kernels):
    model, x = model_and_input()
    model, x = model.cuda(), x.cuda()
    graph = convlstm.graphed(model, x)
    for _ in range(3):
        x = torch.rand_like(x)
        with torch.no_grad():
            assert torch.equal(graph(x), model(x))
    with pytest.raises(ValueError, match="make another graph"):
        graph(x[:1])
    with pytest.raises(ValueError, match="training mode"):
        convlstm.graphed(model.train(), x)


@pytest.mark.gpu
def test_a_graph_of_half_precision_outlives_the_autocast_it_was_made_in(difference):
    pytest.importorskip("triton")
    model, x = model_and_input()
    model, x = model.cuda(), x.cuda()
    with torch.no_grad():
        want = model(x)
    before = set_cuda_gates("triton")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            graph = convlstm.graphed(model, x)
    finally:
        set_cuda_gates(before)
    rubbish = [torch.full((1 << k,), torch.nan, device="cuda") for k in range(8, 20)]
    found = graph(x)
    assert found.dtype == torch.bfloat16
    assert difference(found.float().cpu(), want.cpu()) <= 3e-2
    del rubbish


@pytest.mark.gpu
def test_a_layer_works_on_another_stream_and_on_memory_of_any_order(kernels, difference):
    layer = convlstm.ConvLSTM2d(3, 8, 3, padding="same", return_state=True, plan="fused").cuda()
    x = torch.randn(2, 4, 9, 7, 3, device="cuda").movedim(-1, 2)  # channels last in memory
    x = torch.cat([x, x], 1)[:, ::2]
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        want, _ = layer(x.contiguous())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            late = x * 1.0
            found, (h, c) = layer(late)
        stream.synchronize()
        graph = convlstm.graphed(layer.eval(), x)
        again, (h2, c2) = graph(x)
    assert difference(found.cpu(), want.cpu()) <= 1e-6
    for a, b in ((again, found), (h2, h), (c2, c)):
        assert difference(a.cpu(), b.cpu()) <= 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_layer_and_its_graph_work_on_a_device_that_is_not_the_current_one(kernels, difference):
    model, x = model_and_input()
    want = model(x).detach()
    model, x = model.to("cuda:1"), x.to("cuda:1")
    graph = convlstm.graphed(model, x)
    with torch.no_grad():
        for call in (model, graph):
            found = call(x)
            assert found.device.index == 1
            assert difference(found.cpu(), want) <= 1e-3
    assert torch.cuda.current_device() == 0


@pytest.mark.gpu
def test_gates_of_more_than_two_to_the_31_elements(kernels):
    """The last pixels of a step whose gates' places do not fit into 32 bits."""
    dtype = torch.float32 if kernels == "native" else torch.bfloat16
    pixels, channels = (1 << 29) // 16 + 3, 16
    needed = pixels * channels * (4 * dtype.itemsize + 8 + dtype.itemsize)
    if torch.cuda.mem_get_info()[0] < 1.2 * needed:
        pytest.skip(f"needs {needed >> 30} GiB of free device memory")
    pre = torch.zeros(pixels, 4 * channels, device="cuda", dtype=dtype)
    pre[-2:] = torch.arange(8 * channels, device="cuda").view(2, -1).to(dtype) / 100
    before = torch.ones(pixels, channels, device="cuda")
    c, h = torch.empty_like(before), torch.empty_like(before, dtype=dtype)
    gates_forward(c, pre, None, None, None, None, h, before, None, c, h, 1, 2)
    i, f, g, o = pre[-2:].float().chunk(4, 1)
    want = f.sigmoid() + i.sigmoid() * g.tanh()
    assert (c[-2:] - want).abs().max() <= 1e-5
    assert (h[-2:].float() - o.sigmoid() * want.tanh()).abs().max() <= 1e-2
    assert (c[:-2] == 0.5).all()


@pytest.mark.gpu
def test_the_loop_is_the_default_on_the_gpu(monkeypatch):
    model, x = model_and_input("auto")
    monkeypatch.setattr(ops, "_fused", lambda *a: pytest.fail("fused was taken unasked"))
    with torch.no_grad():
        model.cuda()(x.cuda())
