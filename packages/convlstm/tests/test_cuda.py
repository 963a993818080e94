"""The CUDA paths: tests that need a GPU, and what is said without one."""

import pytest
import torch

import convlstm
from convlstm import ops

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


@pytest.mark.gpu
@pytest.mark.parametrize("plan", ["fused", "loop"])
def test_a_model_on_the_gpu_gives_the_numbers_of_the_cpu(plan, difference):
    model, x = model_and_input(plan)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        want = model(x)
        got = model.cuda()(x.cuda()).cpu()
    assert difference(got, want) <= 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", [False, True])
def test_fused_gradients_on_the_gpu_are_those_of_the_definition(recompute, difference):
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
def test_a_graph_gives_the_bits_of_the_model_and_refuses_other_shapes():
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
def test_the_loop_is_the_default_on_the_gpu(monkeypatch):
    model, x = model_and_input("auto")
    monkeypatch.setattr(ops, "_fused", lambda *a: pytest.fail("fused was taken unasked"))
    with torch.no_grad():
        model.cuda()(x.cuda())
