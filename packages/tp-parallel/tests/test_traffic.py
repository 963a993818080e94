"""How much is sent in one training step: the fewest large operations the split allows, counted."""

import pytest
import torch
from torch.distributed.tensor.debug import CommDebugMode

from tp_parallel import GPTConfig, GPTModel, ParallelContext, finish_gradients

ROWS, LENGTH, HIDDEN, LAYERS = 4, 16, 32, 4


def step(tp, sequence, chunked):
    context = ParallelContext(tp=tp, device="cpu", check_shapes=False)
    config = GPTConfig(
        vocab_size=96, hidden=HIDDEN, layers=LAYERS, heads=4, max_positions=LENGTH,
        tie_embeddings=False, sequence_parallel=sequence,
    )  # fmt: skip
    model = GPTModel(config, context=context)
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    context.traffic.reset()
    with CommDebugMode() as seen:
        loss = model.loss_sum(ids, ids) if chunked else model(ids, ids).sum()
        loss.backward()
        finish_gradients([model], context)
    counts = {str(op): number for op, number in seen.get_comm_counts().items()}
    return dict(context.traffic.calls), dict(context.traffic.bytes), counts


@pytest.mark.parametrize("chunked", [False, True])
def test_a_step_of_four_layers_takes_exactly_18_all_reduces_of_activations(world, chunked):
    """1 embedding, 2 a layer forward, 2 a layer backward, 1 head; torch's own count agrees."""
    for calls, sent, counts in world(2, step, tp=2, sequence=False, chunked=chunked):
        assert calls == {("all_reduce", "activation"): 18, ("all_gather", "loss"): 1}
        assert sent["all_reduce", "activation"] == 18 * ROWS * LENGTH * HIDDEN * 4
        assert sent["all_gather", "loss"] == ROWS * LENGTH * 4 * 4
        assert {op.split(".")[-1].rstrip("_"): n for op, n in counts.items()} == {
            "allreduce": 18,
            "_allgather_base": 1,
        }


def test_sequence_parallelism_turns_each_all_reduce_into_a_scatter_and_a_gather(world):
    for calls, sent, _ in world(2, step, tp=2, sequence=True, chunked=False):
        assert ("all_reduce", "activation") not in calls
        # forward: embedding and two a layer; backward: the same number of column-parallel inputs
        assert calls["reduce_scatter", "activation"] == 18
        # and a second gather of each column-parallel input, in place of keeping it
        assert calls["all_gather", "activation"] == 18 + 9
        assert sent["reduce_scatter", "activation"] == 18 * ROWS * LENGTH * HIDDEN * 4


def test_one_process_sends_nothing():
    calls, _, counts = step(1, False, False)
    assert calls == {}
    assert sum(counts.values()) == 0
