"""Dropout, norms, activations without a native kernel: native convolutions, by the definition."""

import re

import pytest
import torch

import convlstm
from convlstm.sequence import extended

pytestmark = pytest.mark.native

CASES = {
    "dropout": {"dropout": 0.3, "recurrent_dropout": 0.2},
    "recurrent dropout": {"recurrent_dropout": 0.2, "activation": "relu"},
    "layer norm": {"norm": "layer", "bias": False},
    "group norm, dropout, peepholes": {"norm": "group", "peephole": True, "dropout": 0.1},
    "silu": {"activation": "silu", "recurrent_activation": "hard_silu"},
    "peepholes by position": {"peephole": (9, 10), "kernel_size": 5},
}


def build(kernel_size=3, **options):
    torch.manual_seed(1)
    made = convlstm.ConvLSTM2d(
        3, 8, kernel_size, padding="same", return_sequences=True, return_state=True, **options
    )
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.1)
    return made


def results(layer, plan):
    """Outputs and gradients, the first and the second, of one draw of data and masks."""
    torch.manual_seed(2)
    x, h, c = (torch.randn(s, requires_grad=True) for s in ((2, 4, 3, 9, 10), *[(2, 8, 9, 10)] * 2))
    layer.plan = plan
    out, (h_last, c_last) = layer(x, (h, c))
    shown = (out, h_last, c_last)
    loss = sum((t * torch.randn(t.shape)).sum() for t in shown)
    every = (x, h, c, *layer.parameters())
    first = torch.autograd.grad(loss, every, retain_graph=True)
    again = torch.autograd.grad(loss, every, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in again), (x, layer.weight_hh))
    return [*shown, *first, *again, *second]


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_native_convolutions_equal_the_definition_to_second_order(options, monkeypatch, difference):
    taken = []
    monkeypatch.setattr(
        extended, "sequence", lambda *a, f=extended.sequence: taken.append(a) or f(*a)
    )
    layer = build(**options)
    got = results(layer, "auto")
    assert taken, "the loop was taken"
    for a, b in zip(got, results(layer, "loop"), strict=True):
        assert difference(a.detach(), b.detach()) <= 1.6e-5
    with torch.no_grad():
        layer.eval()
        x = torch.randn(2, 3, 3, 16, 17)
        fast, _ = layer(x) if options.get("peephole") != (9, 10) else layer(x[..., :9, :10])
        layer.plan = "loop"
        slow, _ = layer(x) if options.get("peephole") != (9, 10) else layer(x[..., :9, :10])
    assert difference(fast, slow) <= 1.6e-5


def test_a_frozen_norm_and_a_frozen_input_get_no_gradient():
    layer = build(norm="layer")
    layer.gate_norm.requires_grad_(False)
    out, _ = layer(torch.randn(1, 3, 3, 8, 8))
    out.sum().backward()
    assert layer.gate_norm.weight.grad is None
    assert layer.cell_norm.weight.grad.abs().sum() > 0
    assert layer.weight_hh.grad.abs().sum() > 0


def test_second_derivatives_of_a_normed_layer_that_feeds_itself(difference):
    layer = build(norm="layer", peephole=True)
    first, second = torch.randn(2, 1, 2, 3, 6, 7)
    loss = layer(second, layer(first)[1])[0].square().sum()
    want = torch.autograd.grad(loss, [*layer.parameters()], retain_graph=True)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            got = torch.autograd.grad(loss, [*layer.parameters()], create_graph=True)
        for a, b in zip(got, want, strict=True):
            assert difference(a.detach(), b) <= 1.6e-5


def test_nothing_is_kept_where_no_gradient_is_recorded(monkeypatch):
    kept, forward = [], extended._TorchGates.forward
    monkeypatch.setattr(
        extended._TorchGates, "forward", lambda *a: kept.append(forward(*a)) or kept[-1]
    )
    layer, x = build(norm="layer"), torch.randn(1, 2, 3, 6, 7)
    with torch.no_grad():
        layer(x)
    assert [k for _, k in kept] == [None, None]


def test_a_norm_with_a_state_of_its_own_is_called_once_a_step():
    layer = build(norm="layer")
    layer.gate_norm = torch.nn.BatchNorm2d(32)
    out, _ = layer(torch.randn(1, 4, 3, 6, 7))
    torch.autograd.grad(out.sum(), layer.weight_hh, create_graph=True)
    assert layer.gate_norm.num_batches_tracked == 4


def test_the_packed_convolution_refuses_what_does_not_fit():
    weight = torch.randn(8, 3, 3, 3)
    with pytest.raises(ValueError, match=re.escape("(4, 5) or (2, 7), got (3, 3)")):
        convlstm._C.Convolution(weight, None, before=(1, 1), tile=(3, 3), turned=False)
    with pytest.raises(ValueError, match="before must lie in the kernel"):
        convlstm._C.Convolution(weight, None, before=(3, 1), tile=(1, 1), turned=False)
    packed = convlstm._C.Convolution(weight, None, before=(1, 1), tile=(2, 3), turned=False)
    x, y = torch.randn(2, 5, 6, 3), torch.empty(2, 5, 6, 8)
    with pytest.raises(ValueError, match="all output channels from first on"):
        packed.run(x, None, y, first=1, y2=None, threads=1)
    with pytest.raises(ValueError, match="x2 goes with weight2"):
        packed.run(x, x, y, first=0, y2=None, threads=1)
    packed.run(x, None, y, first=0, y2=None, threads=1)
    want = torch.nn.functional.conv2d(x.movedim(-1, 1), weight, padding=1).movedim(1, -1)
    torch.testing.assert_close(y, want, atol=1e-5, rtol=0)
