"""The chunked loss is handed to Liger where its numbers are the same, and only there.

Liger itself is stood in for by torch's operators: triton_checks/checks.py runs the real one.
"""

import sys
import types

import pytest
import torch
import torch.nn.functional as F

from tp_parallel import ParallelContext, vocab_parallel_linear_cross_entropy
from tp_parallel.layers.precision import widen_gradients
from tp_parallel.loss import liger, ops

calls = []


class Function:
    """The part of Liger's autograd function that is used."""

    @staticmethod
    def forward(ctx, _input, weight, target, bias=None, ce_weight=None, ignore_index=-100,
                lse_square_scale=0.0, label_smoothing=0.0, reduction="mean", softcap=None,
                return_z_loss=False, accum_dtype=None):  # fmt: skip
        raise NotImplementedError

    @staticmethod
    def apply(hidden, weight, target, bias, ce_weight, ignore_index, z_loss, smoothing, reduction,
              softcap, return_z_loss, accum_dtype):  # fmt: skip
        assert (bias, ce_weight, softcap, return_z_loss) == (None, None, None, False)
        calls.append(accum_dtype)
        logits = F.linear(hidden, weight).float()
        options = {"ignore_index": ignore_index, "label_smoothing": smoothing}
        loss = F.cross_entropy(logits, target, reduction="sum", **options)
        valid = target != ignore_index
        loss = loss + z_loss * logits.logsumexp(-1)[valid].square().sum()
        return loss / valid.sum().clamp(min=1) if reduction == "mean" else loss, None, None, None


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    calls.clear()
    module = types.ModuleType("liger_kernel.ops.fused_linear_cross_entropy")
    module.LigerFusedLinearCrossEntropyFunction = Function
    for name in ("liger_kernel", "liger_kernel.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(ops, "uses_liger", lambda tensor: True)
    return module


def loss_of(hidden, weight, target, **options):
    return vocab_parallel_linear_cross_entropy(
        hidden, weight, target, context=ParallelContext(device="cpu"), vocab_size=20, **options
    )


def operands(dtype=torch.float32, rows=20):
    torch.manual_seed(0)
    hidden = torch.randn(2, 3, 8, dtype=dtype, requires_grad=True)
    return hidden, torch.randn(rows, 8, dtype=dtype, requires_grad=True), torch.arange(6).view(2, 3)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_every_term_of_the_loss_is_handed_over(monkeypatch, reduction):
    hidden, weight, target = operands()
    target[1, 1] = 7
    options = {"reduction": reduction, "label_smoothing": 0.1, "ignore_index": 7, "z_loss": 0.01}
    got = loss_of(hidden, weight, target, **options)
    assert calls == [torch.float32]
    monkeypatch.setattr(ops, "uses_liger", lambda tensor: False)
    want = loss_of(hidden, weight, target, **options)
    torch.testing.assert_close(got, want)
    for ours, theirs in zip(torch.autograd.grad(want, (hidden, weight)),
                            torch.autograd.grad(got, (hidden, weight)), strict=True):  # fmt: skip
        torch.testing.assert_close(theirs, ours)


def test_a_mean_over_no_tokens_is_nan_as_in_torch():
    hidden, weight, target = operands()
    assert loss_of(hidden, weight, torch.full_like(target, -100)).isnan()
    assert loss_of(hidden, weight, torch.full_like(target, -100), reduction="sum") == 0
    assert calls == [torch.float32] * 2


@pytest.mark.parametrize("kernels", ["liger", "ours"])
def test_a_second_backward_is_refused_as_the_kept_gradients_were_scaled_in_place(
    monkeypatch, kernels
):
    monkeypatch.setattr(ops, "uses_liger", lambda tensor: kernels == "liger")
    loss = loss_of(*operands())
    (2 * loss).backward(retain_graph=True)
    message = "takes one backward pass" if kernels == "liger" else "modified by an inplace"
    with pytest.raises(RuntimeError, match=message):
        loss.backward()


def test_a_second_derivative_is_refused():
    hidden, weight, target = operands()
    with pytest.raises(RuntimeError, match=r"no second derivative; cure: .*create_graph=True"):
        torch.autograd.grad(loss_of(hidden, weight, target), hidden, create_graph=True)


def test_what_it_would_compute_otherwise_stays_here():
    hidden, weight, target = operands(torch.bfloat16)
    loss_of(hidden, weight, target)
    assert len(calls) == 1
    widen_gradients([weight])  # as the trainer's are
    loss_of(hidden, weight, target)
    loss_of(*operands(torch.float64))
    loss_of(hidden[:, :0], weight, target[:, :0])
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(*operands())
    assert len(calls) == 1


def test_a_vocabulary_over_several_ranks_or_with_padding_stays_here():
    hidden, weight, _ = operands()
    axis = types.SimpleNamespace(size=1)
    terms = types.SimpleNamespace(valid=20)
    assert liger.serves(hidden[0], weight, terms, axis)
    assert not liger.serves(hidden[0], weight, types.SimpleNamespace(valid=19), axis)
    assert not liger.serves(hidden[0], weight, terms, types.SimpleNamespace(size=2))


def test_without_liger_or_with_an_old_one_the_choice_is_refused(monkeypatch, stub):
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    before = ops.set_cuda_kernels("liger")
    ops.set_cuda_kernels(before)
    monkeypatch.setattr(Function, "forward", staticmethod(lambda ctx, _input: None))
    with pytest.raises(RuntimeError, match=r"sum the weight's gradient in float32; install 0\.6"):
        ops.set_cuda_kernels("liger")
    del stub.LigerFusedLinearCrossEntropyFunction
    with pytest.raises(RuntimeError, match=r"Liger is not installed .*; pip install liger-kernel"):
        ops.set_cuda_kernels("liger")
    assert ops.set_cuda_kernels("torch") == before
