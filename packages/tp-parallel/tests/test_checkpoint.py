"""Checkpoints: any grid to any other bitwise, exact resumption, and refusal of what is
incomplete.
"""

import errno
import json
import os
import shutil

import pytest
import torch

from tp_parallel import (
    AdamW,
    CheckpointError,
    GPTConfig,
    ParallelContext,
    checkpoint,
    finish_gradients,
)
from tp_parallel.pipeline import build_stages, run_schedule
from tp_parallel.pipeline.schedules import make_schedule
from tp_parallel.training import contents as contents_of_torch

SHAPE = {"vocab_size": 35, "hidden": 16, "layers": 4, "heads": 4, "max_positions": 8,
         "activation": "swiglu"}  # fmt: skip


def build(tp, pp, dp, tied=True, dtype="float32", chunks=1, zero=False, kv_heads=None):
    context = ParallelContext(tp, pp, dp, device="cpu")
    config = GPTConfig(**SHAPE, tie_embeddings=tied, dtype=dtype, kv_heads=kv_heads)
    models = build_stages(config, context, chunks=chunks)
    return context, models, AdamW(models, context, lr=1e-2, zero=zero)


def train(context, models, optimizer, steps):
    for step in steps:
        ids = torch.randint(35, (4, 8), generator=torch.Generator().manual_seed(step))
        mine = ids.chunk(context.dp.size)[context.dp.rank]
        optimizer.zero_grad()
        run_schedule(
            make_schedule("1f1b", context.pp.size, 1), models, [mine],
            lambda m, x, n, t=mine: m.loss_sum(x, t) / 32, context=context, shape=tuple(mine.shape),
        )  # fmt: skip
        finish_gradients(models, context)
        optimizer.step()


def write(root, grid, **options):
    context, models, optimizer = build(*grid, **options)
    train(context, models, optimizer, range(2))
    checkpoint.save(root, 2, models, optimizer, context=context, extra={"note": "x"})
    return contents(models, optimizer)


def move(root, target, grid, **options):
    """Reads into another grid and writes from there."""
    context, models, optimizer = build(*grid, **options)
    manifest = checkpoint.load(checkpoint.latest(root), models, optimizer, context=context)
    checkpoint.save(target, manifest["step"], models, optimizer, context=context)
    return contents(models, optimizer)


def contents(models, optimizer):
    """Unsplit parameters and, cut the same way, unsplit optimizer moments, by name."""
    out = {}
    moments = optimizer.moments()
    for model in models:
        out |= model.gather_full()
        for name, parameter, layout in model.placed():
            parameter.grad = None
            if layout.tied_to is not None or name not in moments:
                continue
            parameter.grad = moments[name]["exp_avg_sq"].to(parameter.grad_dtype)
        out |= {f"{name} moment": v for name, v in model.gather_full(gradients=True).items()}
    return out


def joined(results):
    return {name: value for result in results for name, value in result.items()}


@pytest.mark.parametrize("there", [(1, 1, 1), (2, 2, 1), (4, 1, 1), (1, 2, 2), (2, 1, 2)], ids=str)
def test_a_checkpoint_moves_to_any_grid_and_back_bitwise(world, tmp_path, there):
    here = (2, 1, 1)
    first, second, third = (tmp_path / name for name in "abc")
    want = joined(world(2, write, root=first, grid=here))
    size = there[0] * there[1] * there[2]
    moved = joined(world(size, move, root=first, target=second, grid=there))
    back = joined(world(2, move, root=second, target=third, grid=here))
    assert moved.keys() == back.keys() == want.keys()
    for name, value in want.items():
        assert torch.equal(moved[name], value), name
        assert torch.equal(back[name], value), name


def test_keys_and_values_held_by_several_ranks_move_to_ranks_of_their_own_bitwise(world, tmp_path):
    options = {"kv_heads": 1}
    want = joined(world(4, write, root=tmp_path / "a", grid=(4, 1, 1), **options))
    for grid in ((1, 1, 1), (2, 2, 1)):
        target = tmp_path / str(grid)
        size = grid[0] * grid[1]
        moved = joined(world(size, move, root=tmp_path / "a", target=target, grid=grid, **options))
        assert moved.keys() == want.keys()
        assert all(torch.equal(moved[name], value) for name, value in want.items())


def test_untied_bfloat16_with_masters_moves_to_an_interleaved_pipeline(world, tmp_path):
    options = {"tied": False, "dtype": "bfloat16"}
    want = joined(world(2, write, root=tmp_path / "a", grid=(2, 1, 1), **options))
    moved = joined(
        world(
            2, move, root=tmp_path / "a", target=tmp_path / "b", grid=(1, 2, 1), chunks=2, **options
        )
    )
    assert moved.keys() == want.keys()
    for name, value in want.items():
        assert torch.equal(moved[name], value), name


def test_sharded_optimizer_states_move_to_a_whole_optimizer_and_back_bitwise(world, tmp_path):
    first, second, third = (tmp_path / name for name in "abc")
    options = {"dtype": "bfloat16"}
    want = joined(world(4, write, root=first, grid=(2, 1, 2), zero=True, **options))
    moved = joined(world(1, move, root=first, target=second, grid=(1, 1, 1), **options))
    back = joined(world(4, move, root=second, target=third, grid=(1, 2, 2), zero=True, **options))
    assert moved.keys() == back.keys() == want.keys()
    assert sum(name.endswith(" moment") for name in want) == len(want) / 2
    for name, value in want.items():
        assert torch.equal(moved[name], value), name
        assert torch.equal(back[name], value), name


def resumed(root, grid):
    context, models, optimizer = build(*grid)
    train(context, models, optimizer, range(5))
    want = contents(models, optimizer)
    context, models, optimizer = build(*grid)
    checkpoint.load(checkpoint.latest(root), models, optimizer, context=context)
    train(context, models, optimizer, range(2, 5))
    got = contents(models, optimizer)
    return all(torch.equal(got[name], value) for name, value in want.items())


@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 1, 1)], ids=str)
def test_a_resumed_run_equals_the_uninterrupted_one_bitwise(world, tmp_path, grid):
    size = grid[0] * grid[1] * grid[2]
    world(size, write, root=tmp_path, grid=grid)
    assert world(size, resumed, root=tmp_path, grid=grid) == [True] * size


def single(tmp_path, shape=None):
    context = ParallelContext(device="cpu")
    models = build_stages(GPTConfig(**(shape or SHAPE)), context)
    return context, models


def saved(tmp_path):
    context, models = single(tmp_path)
    return checkpoint.save(tmp_path, 3, models, None, context=context)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: (p / "manifest.json").unlink(), "was not written to the end"),
        (lambda p: (p / "manifest.json").write_text("{"), "is no JSON"),
        (lambda p: (p / "__0_0.distcp").unlink(), "is missing"),
        (lambda p: (p / "__0_0.distcp").write_bytes(b"short"), "has 5 bytes"),
        (lambda p: flip(p / "__0_0.distcp"), "differs from its SHA-256"),
    ],
    ids=["manifest gone", "manifest torn", "file gone", "file short", "bit flipped"],
)
def test_a_damaged_checkpoint_is_refused_with_the_reason(tmp_path, harm, message):
    path = saved(tmp_path)
    harm(path)
    context, models = single(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path, models, context=context)


def test_what_the_system_refuses_is_told_as_that_and_not_as_another_model(tmp_path, monkeypatch):
    import torch.distributed.checkpoint as dcp

    path = saved(tmp_path)
    context, models = single(tmp_path)

    def refuse(name, mode):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(name))

    def fail(*args, **kwargs):
        raise dcp.api.CheckpointException("read", {0: (OSError(errno.EIO, "a bad disk"), None)})

    with monkeypatch.context() as patch:
        patch.setattr(contents_of_torch, "open", refuse, raising=False)
        with pytest.raises(OSError, match=r"Too many open files: '.*\.metadata'"):
            checkpoint.load(path, models, context=context)
    monkeypatch.setattr(dcp, "load", fail)
    with pytest.raises(OSError, match=f"a bad disk: '{path}'"):
        checkpoint.load(path, models, context=context)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = saved(tmp_path)
    context, models = single(tmp_path, SHAPE | {"hidden": 32})
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoint.load(path, models, context=context)


def padding_after_loading(path):
    """The rows past the vocabulary in a model built without values and read from a checkpoint."""
    context = ParallelContext(tp=2, device="cpu")
    torch.utils.deterministic.fill_uninitialized_memory = True  # empty memory is NaN
    torch.use_deterministic_algorithms(True)
    try:
        models = build_stages(GPTConfig(**SHAPE), context, initialize=False)
    finally:
        torch.use_deterministic_algorithms(False)
    checkpoint.load(path, models, context=context)
    ids = torch.zeros(1, 8, dtype=torch.int64)
    models[0].loss_sum(ids, ids).backward()
    finite = all(bool(p.grad.isfinite().all()) for p in models[0].parameters())
    return models[0].embedding.word.weight[17:].detach(), finite


def test_padding_stays_zero_in_a_model_built_for_a_checkpoint(world, tmp_path):
    results = world(2, padding_after_loading, path=saved(tmp_path))
    assert torch.equal(results[1][0], torch.zeros(1, 16))
    assert results[0][1]
    assert results[1][1]


def test_a_checkpoint_half_written_is_not_the_latest(tmp_path):
    path = saved(tmp_path)
    (tmp_path / "step_00000009.part").mkdir()
    (tmp_path / "step_00000007").mkdir()
    assert checkpoint.latest(tmp_path) == path
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 3
    assert manifest["grid"] == {"tp": 1, "pp": 1, "dp": 1}


CHANGES = [{"heads": 2}, {"activation": "relu"}, {"layers": 2}, {"dropout": 0.1},
           {"norm_eps": 1e-3}, {"max_positions": 4}]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_model_with_another_config_is_refused_by_the_fields_name_unless_allowed(tmp_path, change):
    path = saved(tmp_path)
    context, models = single(tmp_path, SHAPE | change)
    (name,) = change
    with pytest.raises(CheckpointError, match=f"does not fit the model: {name} .* there, .* here"):
        checkpoint.load(path, models, context=context)
    if name == "layers":
        with pytest.raises(CheckpointError, match=r"no stage has layers\.2\.attention"):
            checkpoint.load(path, models, context=context, allow=["layers"])
    elif name not in ("activation", "max_positions"):  # these change shapes too
        checkpoint.load(path, models, context=context, allow=[name])


def test_what_changes_no_result_may_differ(tmp_path):
    path = saved(tmp_path)
    context, models = single(tmp_path, SHAPE | {"recompute": True, "sequence_parallel": True})
    assert checkpoint.load(path, models, context=context)["step"] == 3


def test_the_newest_are_kept_and_an_older_whole_one_is_tried_when_the_last_is_damaged(tmp_path):
    context, models = single(tmp_path)
    for step in range(4):
        checkpoint.save(tmp_path, step, models, None, context=context, keep=2)
    assert [p.name for p in checkpoint.committed(tmp_path)] == ["step_00000003", "step_00000002"]
    flip(tmp_path / "step_00000003" / "__0_0.distcp")
    with pytest.warns(UserWarning, match="differs from its SHA-256; it is damaged; trying the one"):
        manifest = checkpoint.resume(tmp_path, models, context=context)
    assert manifest["step"] == 2
    flip(tmp_path / "step_00000002" / "__0_0.distcp")
    with (
        pytest.warns(UserWarning, match="trying"),
        pytest.raises(CheckpointError, match=r"step_00000003.* differs from its SHA-256"),
    ):
        checkpoint.resume(tmp_path, models, context=context)
    with pytest.raises(ValueError, match="keep must be at least 1"):
        checkpoint.save(tmp_path, 5, models, None, context=context, keep=0)
    assert checkpoint.resume(tmp_path / "none", models, context=context) is None


def test_only_what_a_save_has_named_is_resumed_from_or_removed(tmp_path):
    context, models = single(tmp_path)
    first = checkpoint.save(tmp_path, 99_999_999, models, None, context=context)
    for name in ("step_best", "step_00000001_before", "step_00000002.copy"):
        shutil.copytree(first, tmp_path / name)
    second = checkpoint.save(tmp_path, 100_000_000, models, None, context=context)
    assert checkpoint.committed(tmp_path) == [second, first]
    third = checkpoint.save(tmp_path, 100_000_001, models, None, context=context, keep=1)
    left = {"step_best", "step_00000001_before", "step_00000002.copy", third.name}
    assert {p.name for p in tmp_path.iterdir()} == left


@pytest.mark.parametrize("place", ["write", "first rename", "second rename"])
def test_a_second_save_of_a_step_that_is_broken_off_loses_nothing(tmp_path, monkeypatch, place):
    path = saved(tmp_path)
    context, models = single(tmp_path)
    renames = []
    rename = os.replace

    def broken(*names):
        renames.append(names)
        if (place, len(renames)) in {("first rename", 1), ("second rename", 2)}:
            raise KeyboardInterrupt
        rename(*names)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken)
        if place == "write":
            patch.setattr(checkpoint, "_all_files", lambda *_: (_ for _ in ()).throw(OSError()))
        with pytest.raises((KeyboardInterrupt, OSError)):
            checkpoint.save(tmp_path, 3, models, None, context=context)
    assert checkpoint.resume(tmp_path, models, context=context)["step"] == 3
    assert checkpoint.save(tmp_path, 3, models, None, context=context) == path
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".part"] == ["step_00000003"]


def hashed(root):
    """The files of tensors that this rank hashed."""
    context = ParallelContext(tp=2, device="cpu")
    models = build_stages(GPTConfig(**SHAPE), context)
    mine, real = [], checkpoint._digest
    checkpoint._digest = lambda path: (mine.append(path.name), real(path))[1]
    try:
        path = checkpoint.save(root, 1, models, None, context=context)
    finally:
        checkpoint._digest = real
    checkpoint.verify(path, context)
    return [name for name in mine if name.endswith(".distcp")]


def test_each_rank_hashes_what_it_wrote(world, tmp_path):
    assert world(2, hashed, root=tmp_path) == [["__0_0.distcp"], ["__1_0.distcp"]]
