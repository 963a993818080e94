"""Convolutions to few channels against torch's, forward and backward."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from convlstm import few_outputs
from convlstm.keras_layers import Conv
from convlstm.reference import CONV

CASES = {
    "head of the 40-filter model": (3, (2, 5, 9, 8), 40, 1, (3, 3, 3), [(1, 1)] * 3),
    "colour head": (2, (2, 7, 9), 16, 3, (3, 3), [(1, 1)] * 2),
    "no padding": (2, (2, 7, 9), 16, 2, (3, 2), [(0, 0)] * 2),
    "unequal padding": (2, (1, 5, 6), 16, 1, (4, 2), [(1, 2), (0, 1)]),
    "one dimension": (1, (3, 11), 8, 2, (5,), [(4, 0)]),
    "kernel larger than the frame": (2, (1, 2, 3), 32, 1, (5, 5), [(2, 2)] * 2),
}


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch):
    monkeypatch.setattr(few_outputs, "FEWEST_NUMBERS", 0)


@pytest.mark.parametrize("small", [False, True], ids=["planes", "as small frames go"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_sum_of_moved_planes_is_the_convolution(case, small, monkeypatch, difference):
    monkeypatch.setattr(few_outputs, "FEWEST_NUMBERS", 10**6 if small else 0)
    rank, shape, channels, filters, kernel, pads = case
    x = torch.randn(*shape, channels, requires_grad=True)
    weight = (torch.randn(filters, channels, *kernel) / channels**0.5).requires_grad_()
    got = few_outputs.convolve(x, weight, pads)
    flat = [p for pair in reversed(pads) for p in pair]
    padded = torch.nn.functional.pad(x.movedim(-1, 1).double(), flat)
    want = CONV[rank](padded, weight.double()).movedim(1, -1)
    # torch's own convolution rounds the sum of 1,080 products to 1.2e-6
    assert difference(got.detach(), want.detach()) <= (2e-6 if small else 1e-6)
    seed = torch.randn_like(got)
    grads = [torch.autograd.grad(y, (x, weight), seed.to(y.dtype)) for y in (got, want)]
    for a, b in zip(*grads, strict=True):
        assert difference(a, b) <= 2e-6


def test_first_and_second_derivatives_in_double_precision():
    x = torch.randn(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    call = lambda *t: few_outputs.convolve(*t, [(0, 1), (1, 1)])  # noqa: E731
    assert gradcheck(call, (x, weight))
    assert gradgradcheck(call, (x, weight))


def test_the_head_of_a_model_takes_this_way_and_gives_the_same(monkeypatch, difference):
    head = Conv(3, 40, 1, 3, padding="same", activation="sigmoid")
    x = torch.randn(2, 4, 6, 6, 40)
    calls = []
    real = few_outputs.convolve
    monkeypatch.setattr(few_outputs, "convolve", lambda *a: calls.append(1) or real(*a))
    got = head(x)
    assert calls
    monkeypatch.setattr(few_outputs, "MOST_PLANES", 0)
    assert difference(got.detach(), head(x).detach()) <= 1e-6
    assert len(calls) == 1


def test_an_empty_batch_and_what_does_not_fit():
    head = Conv(2, 8, 1, 3)
    assert head(torch.zeros(0, 6, 7, 8)).shape == (0, 4, 5, 1)
    with pytest.raises(ValueError, match=r"8 channels \(its last axis\), got 16"):
        head(torch.zeros(2, 6, 7, 16))
    with pytest.raises(ValueError, match=r"at least as large as the kernel \(3, 3\), got size"):
        head(torch.zeros(2, 2, 7, 8))


def test_autocast_gives_the_dtype_of_a_convolution():
    x = torch.randn(1, 6, 6, 16)
    with torch.autocast("cpu", torch.bfloat16):
        few, many = (Conv(2, 16, filters, 3)(x) for filters in (1, 40))
    assert few.dtype == many.dtype == torch.bfloat16


def test_compile_takes_it_whole(difference):
    head = Conv(2, 32, 1, 3, padding="same")
    x = torch.randn(2, 6, 6, 32)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    assert difference(compiled(x).detach(), head(x).detach()) <= 1e-6
