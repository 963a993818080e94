"""The split GPT equals the unsplit one: logits, loss, every gradient, parameters after Adam."""

import functools

import pytest
import torch

from tp_parallel import (
    AdamW,
    CodeGeeXModel,
    GPTConfig,
    GPTModel,
    ParallelContext,
    finish_gradients,
    gradient_norm,
    reference,
)  # fmt: skip

TINY = {"vocab_size": 101, "hidden": 24, "layers": 2, "heads": 4, "max_positions": 16}
VARIANTS = {
    "gpt2": {},
    "untied": {"tie_embeddings": False},
    "llama": {"position": "rotary", "norm": "rmsnorm", "activation": "swiglu", "bias": False,
              "kv_heads": 4, "ffn": 44, "tie_embeddings": False},
    "grouped": {"heads": 8, "kv_heads": 4, "activation": "gelu_tanh"},
    "sequence": {"sequence_parallel": True},
    "sequence llama": {"sequence_parallel": True, "position": "rotary", "norm": "rmsnorm",
                       "activation": "swiglu", "recompute": True},
    "recompute": {"recompute": True, "activation": "relu"},
    "codegeex": {"heads": 8, "kv_heads": 4},
    "codegeex sequence": {"sequence_parallel": True, "position": "rotary"},
}  # fmt: skip


def class_of(variant):
    return CodeGeeXModel if variant.startswith("codegeex") else GPTModel


def config_of(variant, dtype):
    return GPTConfig(**{**TINY, **VARIANTS[variant], "dtype": dtype})


def batch(config, seed=0, rows=4, length=12):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size, (rows, length + 1), generator=generator)
    labels = ids[:, 1:].clone()
    labels[0, 3] = -100
    return ids[:, :-1], labels


@functools.cache
def train_unsplit(variant, dtype, steps, lr):
    """Losses, first gradients, first gradient norm and final parameters of the definition."""
    config = config_of(variant, dtype)
    model = class_of(variant)(config, context=ParallelContext(device="cpu"))
    state = {k: v.requires_grad_() for k, v in model.gather_full().items()}
    optimizer = torch.optim.AdamW(
        state.values(), lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0
    )
    losses, first = [], None
    for step in range(steps):
        optimizer.zero_grad()
        loss = reference.gpt_loss(config, state, *batch(config, step))
        loss.backward()
        losses.append(loss.item())
        if first is None:
            first = {k: v.grad.clone() for k, v in state.items()}
        optimizer.step()
    return losses, first, {k: v.detach() for k, v in state.items()}


def train_split(variant, dtype, steps, tp, lr):
    """One rank's share of the same training; everything gathered at the end."""
    config = config_of(variant, dtype)
    context = ParallelContext(tp=tp, device="cpu")
    model = class_of(variant)(config, context=context)
    optimizer = AdamW([model], context, lr=lr, clip_grad=None)
    losses, first, norm = [], None, None
    for step in range(steps):
        ids, labels = batch(config, step)
        optimizer.zero_grad()
        loss = model(ids, labels).sum() / (labels != -100).sum()
        loss.backward()
        finish_gradients([model], context)
        losses.append(loss.item())
        if first is None:
            first = model.gather_full(gradients=True)
            norm = float(gradient_norm([model], context))
        optimizer.step()
    return losses, first, norm, model.gather_full()


def assert_same(got, want, tolerance, what):
    assert got.keys() == want.keys()
    for name, value in want.items():
        scale = max(1.0, float(value.abs().max()))
        difference = float((got[name] - value).abs().max()) / scale
        assert difference <= tolerance, f"{what} {name} differs by {difference:.2e}"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_split_training_equals_the_unsplit_definition_in_float64(world, variant, tp):
    steps = 5 if tp < 4 else 2  # four ranks: the first Adam step, and a loss and a step after it
    losses, gradients, parameters = train_unsplit(variant, "float64", steps, 1e-2)
    norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
    run = {"variant": variant, "dtype": "float64", "steps": steps, "tp": tp, "lr": 1e-2}
    for result in world(tp, train_split, **run):
        assert result[0] == pytest.approx(losses, abs=1e-10)
        assert_same(result[1], gradients, 1e-10, "gradient of")
        assert result[2] == pytest.approx(float(norm), rel=1e-10)
        assert_same(result[3], parameters, 1e-10, "parameter")


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_split_training_equals_the_unsplit_definition_in_float32(world, variant):
    # the bias of the keys has no gradient but rounding, which Adam turns into steps of up to lr
    losses, gradients, parameters = train_unsplit(variant, "float32", 5, 1e-3)
    for result in world(2, train_split, variant=variant, dtype="float32", steps=5, tp=2, lr=1e-3):
        assert result[0] == pytest.approx(losses, abs=1e-5)
        assert_same(result[1], gradients, 1e-5, "gradient of")
        assert_same(result[3], parameters, 1e-5, "parameter")
