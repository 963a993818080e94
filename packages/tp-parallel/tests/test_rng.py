"""Random streams: equal where activations are copies, different where they are parts."""

import pytest
import torch
import torch.nn.functional as F

from tp_parallel import GPTConfig, GPTModel, ParallelContext, RngTracker, recompute


def masks():
    context = ParallelContext(tp=2, dp=2, device="cpu")
    out = {}
    for stream in ("shared", "tensor"):
        with context.rng.fork(stream):
            out[stream] = F.dropout(torch.ones(64), 0.5)
    return context.dp.rank, context.tp.rank, out


def test_dropout_matches_over_tp_outside_and_differs_inside_and_over_dp(world):
    results = {(dp, tp): out for dp, tp, out in world(4, masks)}
    for dp in (0, 1):
        assert torch.equal(results[dp, 0]["shared"], results[dp, 1]["shared"])
        assert not torch.equal(results[dp, 0]["tensor"], results[dp, 1]["tensor"])
    assert not torch.equal(results[0, 0]["shared"], results[1, 0]["shared"])


def test_fork_leaves_the_default_stream_as_it_was():
    rng = RngTracker(5)
    torch.manual_seed(1)
    want = torch.rand(4)
    torch.manual_seed(1)
    with rng.fork("tensor"):
        first = torch.rand(3)
    assert torch.equal(torch.rand(4), want)
    with rng.fork("tensor"):
        assert not torch.equal(torch.rand(3), first)


def test_a_saved_state_continues_the_streams():
    rng = RngTracker(5)
    with rng.fork("shared"):
        torch.rand(3)
    state = rng.state_dict()
    with rng.fork("shared"):
        want = torch.rand(3)
    other = RngTracker(6)
    other.load_state_dict(state)
    with other.fork("shared"):
        assert torch.equal(torch.rand(3), want)


def test_wrong_stream_names_are_refused():
    rng = RngTracker(5)
    with pytest.raises(ValueError, match="no stream 'nobody'"), rng.fork("nobody"):
        pass
    with pytest.raises(ValueError, match="stream 'tensor' exists"):
        rng.add("tensor", 1)
    with pytest.raises(ValueError, match=r"streams \['shared', 'tensor'\] are missing"):
        rng.load_state_dict({})


def test_recompute_draws_the_same_numbers_from_tracked_and_default_streams():
    rng = RngTracker(3)

    def noisy(x):
        with rng.fork("tensor"):
            x = F.dropout(x, 0.5)
        return F.dropout(x.sin(), 0.3)

    grads = []
    for again in (False, True):
        rng.reseed()
        torch.manual_seed(0)
        x = torch.linspace(0, 1, 50, requires_grad=True)
        y = recompute(noisy, x, rng=rng) if again else noisy(x)
        torch.rand(7)  # the backward pass must not depend on where the streams are by then
        y.sum().backward()
        grads.append((x.grad, torch.rand(1), rng.state_dict()["tensor"][0]))
    for plain, recomputed in zip(*grads, strict=True):
        assert torch.equal(plain, recomputed)


def dropout_gradients(tp, recompute_layers, sequence):
    context = ParallelContext(tp=tp, device="cpu")
    config = GPTConfig(
        vocab_size=31, hidden=16, layers=2, heads=2, max_positions=8, dropout=0.2,
        attention_dropout=0.1, recompute=recompute_layers, sequence_parallel=sequence,
    )  # fmt: skip
    model = GPTModel(config, context=context)
    ids = torch.arange(16).reshape(2, 8)
    model(ids, ids).sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("sequence", [False, True])
def test_recomputation_with_dropout_is_bitwise_equal_under_tp(world, sequence):
    plain = world(2, dropout_gradients, tp=2, recompute_layers=False, sequence=sequence)
    again = world(2, dropout_gradients, tp=2, recompute_layers=True, sequence=sequence)
    for rank in (0, 1):
        for name, gradient in plain[rank].items():
            assert torch.equal(gradient, again[rank][name]), name


def test_a_fork_inside_a_fork_of_the_same_stream_goes_on_and_repeats_nothing():
    rng = RngTracker(7)
    with rng.fork("tensor"):
        want = torch.rand(6)
    rng.reseed()
    with rng.fork("tensor"):
        first = torch.rand(2)
        with rng.fork("tensor"):
            second = torch.rand(2)
            with rng.fork("shared"):
                torch.rand(3)
        third = torch.rand(2)
    assert torch.equal(torch.cat((first, second, third)), want)


def test_a_state_saved_inside_a_fork_continues_there():
    rng = RngTracker(7)
    with rng.fork("tensor"):
        torch.rand(2)
        state = rng.state_dict()
        want = torch.rand(2)
        rng.load_state_dict(state)
        assert torch.equal(torch.rand(2), want)


def test_a_second_stream_of_one_seed_is_refused():
    rng = RngTracker(7)
    rng.add("mine", 3)
    with pytest.raises(ValueError, match="seed 3 is that of stream 'mine', so 'other'"):
        rng.add("other", 3)


def kept_gradients(tp, keep, dropout):
    """Gradients with recomputation, and how often the attention ran."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        runs = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            attention = "flash_attention_for_cpu.default" in str(function)
            Count.runs += attention and "backward" not in str(function)
            return function(*args, **(kwargs or {}))

    context = ParallelContext(tp=tp, device="cpu")
    config = GPTConfig(vocab_size=17, hidden=16, layers=3, heads=4, max_positions=8,
                       dropout=dropout, recompute=True, recompute_keep=keep)  # fmt: skip
    model = GPTModel(config, context=context)
    ids = torch.arange(16).view(2, 8)
    with Count():
        model(ids, ids).sum().backward()
    return Count.runs, model.gather_full(gradients=True)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_selective_recomputation_runs_the_attention_once_and_gives_the_same_gradients(
    world, dropout
):
    results = [world(2, kept_gradients, tp=2, keep=keep, dropout=dropout)
               for keep in ("nothing", "attention")]  # fmt: skip
    for (twice, every), (once, kept) in zip(*results, strict=True):
        assert (twice, once) == (6, 3)
        assert all(torch.equal(every[name], value) for name, value in kept.items())


def test_attention_that_draws_numbers_cannot_be_kept():
    with pytest.raises(ValueError, match="recompute_keep 'attention' needs an attention without"):
        GPTConfig(vocab_size=8, hidden=8, layers=1, heads=1, attention_dropout=0.1,
                  recompute_keep="attention")  # fmt: skip
