"""Vocab-parallel cross entropy against torch's, alone and joined with the output layer."""

import pytest
import torch
import torch.nn.functional as F

from tp_parallel import (
    ParallelContext,
    reference,
    vocab_parallel_cross_entropy,
    vocab_parallel_linear_cross_entropy,
)

TOKENS = 10


def problem(vocabulary, dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(TOKENS, vocabulary, dtype=torch.float64, generator=generator) * scale).to(
        dtype
    )
    target = torch.randint(vocabulary, (TOKENS,), generator=generator)
    target[2] = -100
    grad = torch.rand(TOKENS, dtype=torch.float64, generator=generator)
    return logits, target, grad


def shard(whole, tp, rank):
    """This rank's columns, with NaN in the padding, which must never be read."""
    columns = -(-whole.shape[-1] // tp)
    padded = F.pad(whole, (0, columns * tp - whole.shape[-1]), value=float("nan"))
    return padded[..., rank * columns : (rank + 1) * columns].contiguous()


def case(tp, vocabulary, dtype, scale=3.0, target=None, **options):
    context = ParallelContext(tp=tp, device="cpu")
    logits, own_target, grad = problem(vocabulary, getattr(torch, dtype), scale)
    target = own_target if target is None else target
    local = shard(logits, tp, context.tp.rank)
    leaf = local.clone().requires_grad_()
    given = leaf * 1.0 if options.get("inplace") else leaf
    before = given.detach().clone()
    loss = vocab_parallel_cross_entropy(
        given, target, context=context, vocab_size=vocabulary, **options
    )
    loss.backward(grad.to(loss.dtype))
    untouched = torch.equal(before.nan_to_num(), given.detach().nan_to_num())
    whole = context.tp.all_gather(leaf.grad, -1, label="test")
    return loss.detach(), whole[:, :vocabulary], untouched, float(whole[:, vocabulary:].abs().sum())


def expected(vocabulary, dtype, scale=3.0, target=None, **options):
    logits, own_target, grad = problem(vocabulary, getattr(torch, dtype), scale)
    logits = logits.double().requires_grad_()
    loss = reference.cross_entropy(logits, own_target if target is None else target, **options)
    loss.backward(grad)
    return loss.detach(), logits.grad


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 1e-2},
                                     {"label_smoothing": 0.3, "z_loss": 0.1}], ids=str)  # fmt: skip
@pytest.mark.parametrize(("tp", "vocabulary"), [(1, 33), (2, 33), (4, 33), (4, 5)])
def test_loss_and_gradient_equal_the_definition(world, tp, vocabulary, options):
    loss, grad = expected(vocabulary, "float64", **options)
    results = world(tp, case, tp=tp, vocabulary=vocabulary, dtype="float64", **options)
    for got, got_grad, untouched, padding in results:
        torch.testing.assert_close(got, loss, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got_grad, grad, rtol=1e-12, atol=1e-12)
        assert untouched, "the caller's logits were changed"
        assert padding == 0.0
        assert torch.equal(got, results[0][0]), "ranks disagree"


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_low_precision_logits_keep_wide_statistics(world, dtype, tolerance):
    loss, grad = expected(301, dtype, label_smoothing=0.1)
    for got, got_grad, _, _ in world(
        2, case, tp=2, vocabulary=301, dtype=dtype, label_smoothing=0.1
    ):
        assert got.dtype == torch.float32
        # the logits are the rounded ones on both sides, so the loss is as good as float32's
        torch.testing.assert_close(got.double(), loss, rtol=1e-5, atol=1e-5)
        assert got_grad.dtype == getattr(torch, dtype)
        torch.testing.assert_close(got_grad.double(), grad, rtol=tolerance, atol=tolerance)


def test_huge_logits_neither_overflow_nor_vanish(world):
    loss, grad = expected(40, "float64", scale=1e4)
    for got, got_grad, _, _ in world(2, case, tp=2, vocabulary=40, dtype="float64", scale=1e4):
        torch.testing.assert_close(got, loss, rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(got_grad, grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", [0, 39])
def test_all_targets_may_lie_on_one_rank(world, target):
    target = torch.full((TOKENS,), target)
    loss, grad = expected(40, "float64", target=target)
    for got, got_grad, _, _ in world(2, case, tp=2, vocabulary=40, dtype="float64", target=target):
        torch.testing.assert_close(got, loss)
        torch.testing.assert_close(got_grad, grad)


def test_inplace_gives_the_same_numbers(world):
    loss, grad = expected(33, "float64", label_smoothing=0.1)
    for got, got_grad, untouched, _ in world(
        2, case, tp=2, vocabulary=33, dtype="float64", label_smoothing=0.1, inplace=True
    ):
        torch.testing.assert_close(got, loss)
        torch.testing.assert_close(got_grad, grad)
        assert not untouched


def test_one_tensor_can_be_used_twice():
    context = ParallelContext(device="cpu")
    logits, target, _ = problem(33)
    first = vocab_parallel_cross_entropy(logits, target, context=context, vocab_size=33)
    again = vocab_parallel_cross_entropy(logits, target, context=context, vocab_size=33)
    assert torch.equal(first, again)


def test_gradient_passes_gradcheck_on_a_strided_view():
    context = ParallelContext(device="cpu")
    target = torch.tensor([[1, 0], [3, -100]])
    logits = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)

    def function(x):
        return vocab_parallel_cross_entropy(
            x.movedim(0, -1), target, context=context, vocab_size=4, label_smoothing=0.2, z_loss=0.1
        )

    assert torch.autograd.gradcheck(function, logits)


def test_no_tokens_give_no_losses():
    context = ParallelContext(device="cpu")
    logits = torch.zeros(0, 5, requires_grad=True)
    target = torch.zeros(0, dtype=torch.int64)
    loss = vocab_parallel_cross_entropy(logits, target, context=context, vocab_size=5)
    loss.sum().backward()
    assert loss.shape == (0,)
    assert logits.grad.shape == (0, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 12}, r"must hold ceil\(vocab_size 12 / 1\) = 12 columns, got 9"),
        ({"target": torch.zeros(3, dtype=torch.int64)}, r"target must have the shape .*\(4,\)"),
        ({"target": torch.full((4,), 9)}, r"ids in \[0, 9\) or ignore_index -100, got 9 to 9"),
        ({"label_smoothing": 1.5}, "label_smoothing must be in"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    arguments = {"target": torch.zeros(4, dtype=torch.int64), "vocab_size": 9} | change
    with pytest.raises(ValueError, match=message):
        vocab_parallel_cross_entropy(
            torch.zeros(4, 9), context=ParallelContext(device="cpu"), **arguments
        )


def gathered(tp):
    context = ParallelContext(tp=tp, device="cpu")
    with pytest.raises(ValueError, match="these look like gathered logits"):
        vocab_parallel_cross_entropy(
            torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64), context=context, vocab_size=10
        )


def test_gathered_logits_are_refused_instead_of_adding_log_tp(world):
    world(2, gathered, tp=2)


def joined(tp, vocabulary, reduction, chunk_rows, label_smoothing):
    context = ParallelContext(tp=tp, device="cpu")
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(2, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, 6, dtype=torch.float64, generator=generator)
    columns = -(-vocabulary // tp)
    padded = F.pad(weight, (0, 0, 0, columns * tp - vocabulary), value=9.0)
    local = padded[context.tp.rank * columns :][:columns].clone().requires_grad_()
    target = torch.randint(vocabulary, (2, 5), generator=generator)
    target[0, 1] = -100
    loss = vocab_parallel_linear_cross_entropy(
        hidden, local, target, context=context, vocab_size=vocabulary, reduction=reduction,
        chunk_rows=chunk_rows, label_smoothing=label_smoothing,
    )  # fmt: skip
    (loss * 1.7).backward()
    grad = context.tp.all_gather(local.grad, 0, label="test")[:vocabulary]
    whole_hidden, whole = hidden.detach().requires_grad_(), weight.requires_grad_()
    want = F.cross_entropy(
        (whole_hidden @ whole.t()).flatten(0, 1), target.flatten(), reduction=reduction,
        label_smoothing=label_smoothing,
    )  # fmt: skip
    (want * 1.7).backward()
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(hidden.grad, whole_hidden.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, whole.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("tp", "vocabulary"), [(1, 23), (2, 23), (4, 5)])
@pytest.mark.parametrize(("reduction", "chunk_rows", "smoothing"),
                         [("mean", 3, 0.0), ("sum", 128, 0.1)])  # fmt: skip
def test_chunked_linear_cross_entropy_equals_linear_then_cross_entropy(
    world, tp, vocabulary, reduction, chunk_rows, smoothing
):
    world(tp, joined, tp=tp, vocabulary=vocabulary, reduction=reduction, chunk_rows=chunk_rows,
          label_smoothing=smoothing)  # fmt: skip
