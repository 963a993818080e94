"""Generation: cached keys and values change no number; the same text on every split."""

import json

import pytest
import torch

from tp_parallel import (
    CheckpointError,
    CodeGeeXModel,
    GPTConfig,
    GPTModel,
    KeyValueCache,
    ParallelContext,
    checkpoint,
)
from tp_parallel.training.generate import generate, load_model
from tp_parallel.training.settings import Settings

SHAPE = {"vocab_size": 41, "hidden": 16, "layers": 2, "heads": 4, "max_positions": 12,
         "dtype": "float64", "init_std": 0.5}  # fmt: skip
LLAMA = {"position": "rotary", "norm": "rmsnorm", "activation": "swiglu", "kv_heads": 2}
KINDS = {"gpt2": (GPTModel, {}), "llama": (GPTModel, LLAMA), "codegeex": (CodeGeeXModel, {}),
         "codegeex rotary": (CodeGeeXModel, LLAMA)}  # fmt: skip


def build(kind, tp, **changes):
    model, options = KINDS[kind]
    context = ParallelContext(tp=tp, device="cpu")
    return model(GPTConfig(**SHAPE | options | changes), context=context).eval()


def prompt():
    return torch.randint(41, (3, 4), generator=torch.Generator().manual_seed(1))


def difference(kind, tp):
    """Of logits in four pieces (4, 3, 1, 1 tokens) with a cache, and at once without."""
    model = build(kind, tp)
    ids = torch.randint(41, (2, 9), generator=torch.Generator().manual_seed(2))
    cache = KeyValueCache(10)
    with torch.no_grad():
        pieces = [model(part, cache=cache) for part in ids.split([4, 3, 1, 1], 1)]
        assert cache.length == 9
        last = model(ids, last_only=True)
        whole = model(ids)
    torch.testing.assert_close(last, whole[:, -1:], rtol=1e-12, atol=1e-12)
    return float((torch.cat(pieces, 1) - whole).abs().max())


@torch.no_grad()
def test_a_model_that_recomputes_in_training_still_fills_the_cache():
    model = build("gpt2", 1, recompute=True).train()
    cache = KeyValueCache(4)
    pieces = [model(part, cache=cache) for part in prompt().split(2, 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(prompt()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_with_a_cache_equal_those_without(world, kind, tp):
    assert max(world(tp, difference, kind=kind, tp=tp)) < 1e-12


def anew(model, ids, tokens):
    """Greedy continuation that runs the whole window for every token."""
    for _ in range(tokens):
        logits = model(ids[:, -model.config.max_positions :])[:, -1]
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), 1)
    return ids


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_greedy_text_equals_running_every_token_anew_also_past_the_window(kind):
    model = build(kind, 1)
    got = generate(model, prompt(), 14, temperature=0)
    assert torch.equal(got, anew(model, prompt(), 14))
    assert got.shape == (3, 18)
    long = got[:, :15]  # a prompt longer than the window
    assert torch.equal(generate(model, long, 3, temperature=0), anew(model, long, 3))


def sampled(tp):
    return generate(build("llama", tp), prompt(), 6, temperature=0.7, top_k=9, seed=5).tolist()


def test_sampled_text_is_the_same_on_every_tensor_parallel_size(world):
    one = world(1, sampled, tp=1)[0]
    assert world(2, sampled, tp=2) == [one, one]


def sequence_parallel():
    generate(build("gpt2", 2, sequence_parallel=True), prompt(), 2)


def context_parallel(length):
    context = ParallelContext(dp=2, cp=2, device="cpu")
    ids = prompt().repeat(1, 4)[:, :length]
    generate(GPTModel(GPTConfig(**SHAPE), context=context), ids, 2)


@pytest.mark.parametrize("length", [4, 13])  # within the window and past it
def test_sequences_that_ranks_hold_in_parts_are_refused(world, length):
    for ok, message in world.outcomes(2, context_parallel, length=length):
        assert not ok
        assert "whole sequences, got a context of cp 2; load the checkpoint with cp=1" in message


def test_what_a_cache_cannot_do_is_refused(world):
    for ok, message in world.outcomes(2, sequence_parallel):
        assert not ok
        assert "build the model with sequence_parallel=False" in message
    model = build("gpt2", 1)
    with pytest.raises(ValueError, match="holds 3 tokens, got 4; make it larger"):
        model(prompt(), cache=KeyValueCache(3))


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (prompt()[:, :0], {}, r"a token at least, got \(3, 0\)"),
        (prompt()[0], {}, r"must be \[batch, length\]"),
        (prompt(), {"top_k": 0}, "top_k at least 1 or None, got 1.0 and 0"),
        (prompt(), {"temperature": -1.0}, "temperature must be at least 0"),
        (prompt(), {"temperature": float("nan")}, "temperature must be at least 0"),
        (prompt(), {"tokens": -1}, "tokens must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_continued_is_refused(ids, options, message):
    with pytest.raises(ValueError, match=message):
        generate(build("gpt2", 1), ids, **{"tokens": 2, **options})


def test_a_checkpoint_that_no_run_wrote_is_continued_and_one_of_no_known_model_refused(tmp_path):
    model = build("llama", 1)
    context = ParallelContext(device="cpu")
    checkpoint.save(tmp_path, 0, [model], None, context=context)
    path = checkpoint.latest(tmp_path)
    again, _ = load_model(path, context)
    assert torch.equal(again(prompt()), model(prompt()))
    assert Settings(load=str(path)).model(0) == model.config
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["model"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    for read in (lambda: load_model(path, context), lambda: Settings(load=str(path)).model(0)):
        with pytest.raises(CheckpointError, match="does not say of which model"):
            read()
