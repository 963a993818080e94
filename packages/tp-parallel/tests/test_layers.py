"""The parallel layers against torch.nn, for every tp, with loading and gathering of whole
weights.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tp_parallel import (
    ColumnParallelLinear,
    GPTConfig,
    ParallelContext,
    ParallelSelfAttention,
    RowParallelLinear,
    VocabParallelEmbedding,
    parallel_lm_logits,
)
from tp_parallel.layers.layout import layouts_of

D = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def data(*shape, seed=0):
    return torch.randn(*shape, dtype=D, generator=generator(seed))


def column(tp, gather, skip, sequence):
    context = ParallelContext(tp=tp, device="cpu")
    layer = ColumnParallelLinear(
        6, 8, context=context, gather_output=gather, skip_bias_add=skip,
        sequence_parallel=sequence, dtype=D,
    )  # fmt: skip
    weight, bias, x, grad = (
        data(8, 6),
        data(8, seed=1),
        data(2, 4, 6, seed=2),
        data(2, 4, 8, seed=3),
    )
    layer.load_full(weight, bias)
    mine = x.chunk(tp, 1)[context.tp.rank] if sequence and tp > 1 else x
    mine = mine.clone().requires_grad_()
    y = layer(mine)
    if skip:
        y = y[0] + y[1]
    y.backward(grad if gather else grad.chunk(tp, -1)[context.tp.rank])
    y = y if gather else context.tp.all_gather(y.detach(), -1, label="test")
    grad_x = mine.grad
    if sequence and tp > 1:
        grad_x = context.tp.all_gather(grad_x, 1, label="test")
    return (
        y.detach(),
        grad_x,
        layer.gather_full(layer.weight.grad),
        layer.gather_full(layer.bias.grad),
    )


@pytest.mark.parametrize(
    ("gather", "skip", "sequence"),
    [(False, False, False), (True, False, False), (False, True, False), (False, False, True)],
)
@pytest.mark.parametrize("tp", [1, 2])
def test_column_parallel_linear_equals_linear(world, tp, gather, skip, sequence):
    weight, bias = data(8, 6).requires_grad_(), data(8, seed=1).requires_grad_()
    x = data(2, 4, 6, seed=2).requires_grad_()
    y = F.linear(x, weight, bias)
    y.backward(data(2, 4, 8, seed=3))
    want = (y.detach(), x.grad, weight.grad, bias.grad)
    for result in world(tp, column, tp=tp, gather=gather, skip=skip, sequence=sequence):
        for got, expected in zip(result, want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def row(tp, parallel_input, skip, sequence):
    context = ParallelContext(tp=tp, device="cpu")
    layer = RowParallelLinear(
        8, 6, context=context, input_is_parallel=parallel_input, skip_bias_add=skip,
        sequence_parallel=sequence, dtype=D,
    )  # fmt: skip
    layer.load_full(data(6, 8), data(6, seed=1))
    x = data(2, 4, 8, seed=2)
    mine = x.chunk(tp, -1)[context.tp.rank] if parallel_input else x
    mine = mine.clone().requires_grad_()
    y = layer(mine)
    if skip:
        y = y[0] + y[1]
    grad = data(2, 4, 6, seed=3)
    split = sequence and tp > 1
    y.backward(grad.chunk(tp, 1)[context.tp.rank] if split else grad)
    y = context.tp.all_gather(y.detach(), 1, label="test") if split else y.detach()
    grad_x = mine.grad
    if parallel_input:
        grad_x = context.tp.all_gather(grad_x, -1, label="test")
    grad_bias = layer.bias.grad
    if layouts_of(layer)["bias"].partial_gradient:
        context.tp.all_reduce(grad_bias, label="test")
    return y, grad_x, layer.gather_full(layer.weight.grad), layer.gather_full(grad_bias)


@pytest.mark.parametrize(
    ("parallel_input", "skip", "sequence"),
    [(True, False, False), (False, False, False), (True, True, False), (True, False, True)],
)
@pytest.mark.parametrize("tp", [1, 2])
def test_row_parallel_linear_equals_linear(world, tp, parallel_input, skip, sequence):
    weight, bias = data(6, 8).requires_grad_(), data(6, seed=1).requires_grad_()
    x = data(2, 4, 8, seed=2).requires_grad_()
    y = F.linear(x, weight, bias)
    y.backward(data(2, 4, 6, seed=3))
    want = (y.detach(), x.grad, weight.grad, bias.grad)
    arguments = {"tp": tp, "parallel_input": parallel_input, "skip": skip, "sequence": sequence}
    for result in world(tp, row, **arguments):
        for got, expected in zip(result, want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def embed(tp, vocabulary):
    context = ParallelContext(tp=tp, device="cpu")
    layer = VocabParallelEmbedding(vocabulary, 4, context=context, dtype=D)
    layer.load_full(data(vocabulary, 4))
    ids = torch.randint(vocabulary, (3, 5), generator=generator(1))
    x = layer(ids)
    logits = parallel_lm_logits(x, layer.weight, context=context, gather_output=True)
    logits = logits[..., :vocabulary]
    (logits * data(3, 5, vocabulary, seed=2)).sum().backward()
    return x.detach(), logits.detach(), layer.gather_full(layer.weight.grad)


@pytest.mark.parametrize(("tp", "vocabulary"), [(1, 7), (2, 8), (2, 7), (4, 5)])
def test_embedding_and_tied_logits_equal_torch_for_any_vocabulary(world, tp, vocabulary):
    weight = data(vocabulary, 4).requires_grad_()
    x = F.embedding(torch.randint(vocabulary, (3, 5), generator=generator(1)), weight)
    logits = x @ weight.t()
    (logits * data(3, 5, vocabulary, seed=2)).sum().backward()
    for got_x, got_logits, got_grad in world(tp, embed, tp=tp, vocabulary=vocabulary):
        torch.testing.assert_close(got_x, x.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got_logits, logits.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got_grad, weight.grad, rtol=1e-12, atol=1e-12)


def whole_weights(tp):
    context = ParallelContext(tp=tp, device="cpu")
    layers = [
        ColumnParallelLinear(6, 8, context=context),
        ColumnParallelLinear(6, 16, blocks=2, context=context),
        RowParallelLinear(8, 6, context=context),
        VocabParallelEmbedding(11, 4, context=context),
    ]
    return [layer.gather_full(layer.weight) for layer in layers]


def test_initial_weights_gather_to_the_same_bits_for_any_tp(world):
    one = world(1, whole_weights, tp=1)[0]
    for tp in (2, 4):
        for result in world(tp, whole_weights, tp=tp):
            for got, want in zip(result, one, strict=True):
                assert torch.equal(got, want)


def refusals(tp):
    context = ParallelContext(tp=tp, device="cpu")
    with pytest.raises(ValueError, match=r"out_features must be a multiple of .* size 2, got 7"):
        ColumnParallelLinear(4, 7, context=context)
    with pytest.raises(ValueError, match=r"in_features must be a multiple of .* size 2, got 7"):
        RowParallelLinear(7, 4, context=context)
    three = GPTConfig(vocab_size=8, hidden=12, layers=1, heads=3)
    with pytest.raises(ValueError, match=r"heads must be a multiple .* size 2, got 3"):
        ParallelSelfAttention(three, context=context)
    layer = ColumnParallelLinear(4, 8, context=context, bias=False)
    with pytest.raises(ValueError, match=r"last dimension must be 4, got shape \(2, 5\)"):
        layer(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="bias was given, but the layer has none"):
        layer.load_full(torch.zeros(8, 4), torch.zeros(8))
    with pytest.raises(ValueError, match=r"unsplit shape \(8, 4\), got \(4, 4\)"):
        layer.load_full(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="shape of a local parameter"):
        layer.gather_full(torch.zeros(3))
    with pytest.raises(ValueError, match=r"ids must lie in \[0, 8\), got 0 to 8"):
        VocabParallelEmbedding(8, 4, context=context)(torch.tensor([0, 8]))
    with pytest.raises(TypeError, match="ids must be int64 or int32"):
        VocabParallelEmbedding(8, 4, context=context)(torch.tensor([0.0]))


def test_what_does_not_fit_is_refused_early_with_both_numbers(world):
    world(2, refusals, tp=2)


def test_layers_work_in_one_process_without_a_launcher():
    context = ParallelContext(device="cpu")
    layer = ColumnParallelLinear(3, 5, context=context)
    plain = nn.Linear(3, 5)
    layer.load_full(plain.weight, plain.bias)
    x = torch.randn(2, 3)
    torch.testing.assert_close(layer(x), plain(x))
