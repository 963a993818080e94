"""What peers get wrong without an error, shown right here.

Shown elsewhere: heads that do not divide (test_layers), gathered logits taken for split ones
(test_cross_entropy), failures without a rank's name (test_faults), wrong process groups by global
state (test_context), recomputation that needs CUDA (test_rng), copies counted twice in the gradient
norm and a vocabulary that does not divide (test_gpt).
"""

import pytest
import torch
import torch.nn.functional as F

from tp_parallel import (
    AdamW,
    GPTConfig,
    GPTModel,
    ParallelContext,
    checkpoint,
    finish_gradients,
    parallel_lm_logits,
    reference,
    vocab_parallel_cross_entropy,
)

SHAPE = {"vocab_size": 21, "hidden": 8, "layers": 1, "heads": 2, "max_positions": 6}
IDS = torch.arange(12).reshape(2, 6)


def smoothing(tp, smoothing):
    context = ParallelContext(tp=tp, device="cpu")
    logits, target = case()
    local = logits.chunk(tp, -1)[context.tp.rank].clone()
    return vocab_parallel_cross_entropy(
        local, target, context=context, vocab_size=64, label_smoothing=smoothing
    )


def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 64, generator=generator)
    return logits, torch.randint(64, (16,), generator=generator)


@pytest.mark.parametrize("tp", [2, 4])
def test_smoothed_losses_are_the_same_bits_on_every_rank_and_torchs_values(world, tp):
    """megatron-core smooths over the local shard, so that its ranks disagree."""
    results = world(tp, smoothing, tp=tp, smoothing=0.1)
    logits, target = case()
    want = F.cross_entropy(logits, target, label_smoothing=0.1, reduction="none")
    for got in results:
        assert torch.equal(got, results[0])
        torch.testing.assert_close(got, want)


def twice(tp):
    context = ParallelContext(tp=tp, device="cpu")
    logits, target = case()
    local = logits.chunk(tp, -1)[context.tp.rank].clone().requires_grad_()
    before = local.detach().clone()
    losses = []
    for _ in range(2):
        loss = vocab_parallel_cross_entropy(local, target, context=context, vocab_size=64)
        loss.sum().backward()
        losses.append(loss.detach())
    return losses, torch.equal(local, before), local.grad.dtype


def test_logits_are_left_as_they_are_and_their_gradient_keeps_its_dtype(world):
    """megatron-core overwrites them, and its fused loss rounds the gradient to bfloat16."""
    for (first, second), untouched, dtype in world(2, twice, tp=2):
        assert torch.equal(first, second)
        assert untouched
        assert dtype == torch.float32


def two_uses(tp):
    """Gradient of the hidden states from a loss that uses the logits in two ways."""
    context = ParallelContext(tp=tp, device="cpu")
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(8, 5, dtype=torch.float64, generator=generator)
    target = torch.tensor([[1, 2, 3], [4, 5, 6]])
    local = weight.chunk(tp)[context.tp.rank].clone()
    logits = parallel_lm_logits(hidden, local, context=context)
    loss = vocab_parallel_cross_entropy(logits, target, context=context, vocab_size=8).sum()
    whole = parallel_lm_logits(hidden, local, context=context, gather_output=True)
    (loss + whole.log_softmax(-1).square().sum()).backward()
    return hidden.grad


def test_other_uses_of_the_logits_get_their_true_gradient(world):
    """Inside DTensor's loss_parallel another log_softmax gets the gradient of an identity."""
    want = world(1, two_uses, tp=1)[0]
    for got in world(2, two_uses, tp=2):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def tied(root, tp):
    """Trains, saves and reloads a tied model; what the output layer and the embedding are."""
    context = ParallelContext(tp=tp, device="cpu")
    config = GPTConfig(**SHAPE, dtype="float64")
    model = GPTModel(config, context=context)
    start = model.gather_full()
    optimizer = AdamW([model], context, lr=1e-2, clip_grad=None)
    (model(IDS, IDS).sum() / IDS.numel()).backward()
    finish_gradients([model], context)
    gradient = model.gather_full(gradients=True)["embedding.word.weight"]
    optimizer.step()
    path = checkpoint.save(root, 1, [model], None, context=context)
    again = GPTModel(config, context=context, initialize=False)
    checkpoint.load(path, [again], context=context)
    same = all(torch.equal(a, b) for a, b in
               zip(model.parameters(), again.parameters(), strict=True))  # fmt: skip
    return model.output_weight is model.embedding.word.weight, same, start, gradient


def test_tied_embeddings_stay_tied_through_splitting_training_and_a_checkpoint(world, tmp_path):
    """DTensor's parallelize_module unties them without a word; small weights show it only in the
    gradient, which here is the sum of both uses.
    """
    config = GPTConfig(**SHAPE, dtype="float64")
    for is_one, same, start, gradient in world(2, tied, root=tmp_path, tp=2):
        assert is_one
        assert same
        state = {k: v.requires_grad_() for k, v in start.items()}
        reference.gpt_loss(config, state, IDS, IDS).backward()
        want = state["embedding.word.weight"].grad
        torch.testing.assert_close(gradient, want, rtol=1e-12, atol=1e-12)


def test_a_misspelt_name_is_an_error():
    """A misspelt key of a DTensor plan is a warning, and its layer stays unsplit."""
    model = GPTModel(GPTConfig(**SHAPE), context=ParallelContext(device="cpu"))
    state = model.gather_full()
    state["layers.0.attention.qvk.weight"] = state["layers.0.attention.qkv.weight"]
    with pytest.raises(KeyError, match=r"no stage of the model has layers.0.attention.qvk.weight"):
        model.load_full(state)
    del state["layers.0.attention.qvk.weight"], state["layers.0.attention.qkv.weight"]
    with pytest.raises(KeyError, match=r"'layers.0.attention.qkv.weight' is not in the given"):
        model.load_full(state)
    with pytest.raises(TypeError, match="sequence_paralel"):
        GPTConfig(**SHAPE, sequence_paralel=True)


def test_a_stage_takes_the_whole_models_state_and_still_finds_misspelt_names():
    context = ParallelContext(device="cpu")
    config = GPTConfig(**SHAPE | {"layers": 2})
    state = GPTModel(config, context=context).gather_full()
    last = GPTModel(config, context=context, pre_process=False, layers=[1])
    last.load_full(state)
    assert torch.equal(last.output_weight, state["embedding.word.weight"])
    with pytest.raises(KeyError, match=r"no stage of the model has layers\.2\.mlp\.up\.weight"):
        last.load_full(state | {"layers.2.mlp.up.weight": torch.zeros(1)})
