"""Checkpoints written in the background hold the values of the moment they were asked for."""

import pytest
import torch

from tp_parallel import AdamW, CheckpointError, GPTConfig, ParallelContext, checkpoint
from tp_parallel.pipeline import build_stages
from tp_parallel.training import async_save, pretrain
from tp_parallel.training.async_save import AsyncSaver

SHAPE = {"vocab_size": 35, "hidden": 16, "layers": 2, "heads": 4, "max_positions": 8,
         "activation": "swiglu"}  # fmt: skip


def build(tp, pp=1):
    context = ParallelContext(tp, pp, device="cpu")
    models = build_stages(GPTConfig(**SHAPE), context)
    return context, models, AdamW(models, context, lr=1e-2)


def parameters(models):
    return {name: value for model in models for name, value in model.gather_full().items()}


def saved_and_changed(root, grid):
    """Saves, changes every value before the write is waited for, and reads what was saved."""
    context, models, optimizer = build(*grid)
    for parameter in optimizer.parameters:
        optimizer.inner.state_of(parameter)
    want = parameters(models)
    saver = AsyncSaver(context)
    saver.save(root, 1, models, optimizer, keep=1)
    with torch.no_grad():
        for model in models:
            for parameter in model.parameters():
                parameter.zero_()
    # collectives of the training meanwhile
    total = sum(context.world.all_reduce(torch.ones(1), label="step").item() for _ in range(20))
    assert total == 20 * context.world_size
    path = saver.wait()
    checkpoint.load(path, models, optimizer, context=context)
    got = parameters(models)
    assert all(torch.equal(got[name], value) for name, value in want.items())
    saver.save(root, 2, models, optimizer, keep=1)
    return saver.wait().name, checkpoint.latest(root).name


@pytest.mark.parametrize("grid", [(1, 1), (2, 1), (2, 2)], ids=str)
def test_a_background_save_holds_the_values_of_its_moment(world, tmp_path, grid):
    for last, latest in world(grid[0] * grid[1], saved_and_changed, root=tmp_path, grid=grid):
        assert last == latest == "step_00000002"
    assert [path.name for path in checkpoint.committed(tmp_path)] == ["step_00000002"]


def failing(root):
    context, models, optimizer = build(2)
    saver = AsyncSaver(context)
    saver.save(root, 1, models, optimizer)
    saver.wait()
    real = checkpoint.complete
    if context.rank == 1:

        def broken(*_):
            raise OSError("no space left")
    else:

        def broken(*_):
            return None

    async_save.checkpoint.complete = broken
    try:
        saver.save(root, 2, models, optimizer)
        saver.wait()
    finally:
        async_save.checkpoint.complete = real


def test_what_goes_wrong_in_the_background_is_raised_on_every_rank(world, tmp_path):
    for ok, message in world.outcomes(2, failing, root=tmp_path):
        assert not ok
        assert "rank 1 could not write the checkpoint: OSError: no space left" in message
    assert checkpoint.latest(tmp_path).name == "step_00000001"
    assert issubclass(CheckpointError, RuntimeError)


def test_a_run_that_saves_in_the_background_resumes_to_the_numbers_of_the_whole(tmp_path):
    (tmp_path / "t.txt").write_text("the quick brown fox jumps over the lazy dog. " * 30)
    base = {"data": str(tmp_path / "t.txt"), "layers": 1, "hidden": 16, "heads": 2, "seq": 16,
            "batch": 4, "eval_every": 0, "held_out": 0.0, "save_every": 1, "keep": 2,
            "async_save": True}  # fmt: skip
    whole = pretrain.pretrain(pretrain.Settings(**base, steps=4)).losses
    run = base | {"save": str(tmp_path / "run")}
    first = pretrain.pretrain(pretrain.Settings(**run, steps=2))
    assert first.checkpoint.endswith("step_00000002")
    second = pretrain.pretrain(pretrain.Settings(**run, steps=4))
    assert first.losses + second.losses == whole
    assert [p.name for p in checkpoint.committed(tmp_path / "run")] == [
        "step_00000004", "step_00000003"]  # fmt: skip
