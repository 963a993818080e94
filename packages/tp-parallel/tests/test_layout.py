"""How a parameter is cut is known whatever torch does to the Parameter; FSDP2 beside tp and pp."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tp_parallel import (
    AdamW,
    ColumnParallelLinear,
    GPTConfig,
    GPTModel,
    ParallelContext,
    Shard,
    declare,
    declare_replicated,
    finish_gradients,
    gradient_norm,
    shard_over_data,
)
from tp_parallel.grid.context import planned_grid
from tp_parallel.layers.layout import placed_parameters
from tp_parallel.pipeline import build_stages, run_schedule
from tp_parallel.pipeline.schedules import make_schedule
from tp_parallel.training import checkpoint

SHAPE = {"vocab_size": 31, "hidden": 16, "layers": 2, "heads": 4, "max_positions": 8,
         "activation": "swiglu"}  # fmt: skip
IDS = torch.arange(16).reshape(2, 8)


def replaced(model, how):
    """`model` or a copy of it after something that makes new Parameters."""
    if how == "deepcopy":
        return copy.deepcopy(model)
    if how == "average":
        return AveragedModel(model).module
    if how == "pickle":
        return pickle.loads(pickle.dumps(model))
    if how == "torch.save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        return torch.load(file, weights_only=False)
    if how == "assign":
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    elif how == "to_empty":
        state = model.state_dict()
        model = GPTModel(model.config, context=model.context, device="meta").to_empty(device="cpu")
        model.load_state_dict(state)
    elif how == "new Parameters":
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    setattr(module, name, nn.Parameter(parameter.detach().clone()))
    elif how == "parametrized":
        for layer in model.layers.values():
            nn.utils.parametrize.register_parametrization(layer.mlp.up, "weight", nn.Identity())
    elif how == "compiled":
        return torch.compile(model, backend="eager")
    return model


def survives(how, root):
    context = ParallelContext(tp=2, device="cpu")
    config = GPTConfig(**SHAPE, sequence_parallel=True)
    whole = GPTModel(config, context=context).gather_full()
    model = replaced(GPTModel(config, context=context), how)
    got = getattr(model, "_orig_mod", model).gather_full()
    assert got.keys() == whole.keys()
    assert all(torch.equal(got[name], whole[name]) for name in whole)
    model(IDS, IDS).sum().backward()
    finish_gradients([model], context)
    norm = gradient_norm([model], context).item()
    path = checkpoint.save(root, 1, [model], None, context=context)
    fresh = GPTModel(config, context=context, initialize=False)
    checkpoint.load(path, [fresh], context=context)
    loaded = fresh.gather_full()
    assert all(torch.equal(loaded[name], whole[name]) for name in whole)
    return norm


@pytest.mark.parametrize(
    "how",
    ["deepcopy", "average", "pickle", "torch.save", "assign", "to_empty", "new Parameters",
     "parametrized", "compiled"],
)  # fmt: skip
def test_a_model_whose_parameters_were_replaced_is_still_cut_as_before(world, tmp_path, how):
    norms = world(2, survives, how=how, root=tmp_path)
    model = GPTModel(GPTConfig(**SHAPE), context=ParallelContext(device="cpu"))
    model(IDS, IDS).sum().backward()
    want = gradient_norm([model], model.context).item()
    assert norms == pytest.approx([want, want], rel=1e-5)


class Adapted(nn.Module):
    """A low-rank adapter (LoRA) around a column-parallel layer."""

    def __init__(self, base, out_features):
        super().__init__()
        self.base_layer = base
        self.lora_a = nn.Linear(base.in_features, 2, bias=False)
        self.lora_b = nn.Linear(2, out_features, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x):
        return self.base_layer(x) + self.lora_b(self.lora_a(x))


def adapter(root):
    context = ParallelContext(tp=2, device="cpu")
    model = Adapted(ColumnParallelLinear(8, 12, context=context), 6)
    model(torch.ones(2, 8)).sum().backward()
    refused = []
    for act in (
        lambda: finish_gradients([model], context),
        lambda: gradient_norm([model], context),
        lambda: AdamW([model], context),
        lambda: checkpoint.save(root, 1, [model], None, context=context),
    ):
        try:
            act()
        except ValueError as error:
            refused.append(str(error))
    context.world.barrier(label="refused")
    declare(model.lora_b, "weight", Shard((12, 2), 0))
    declare(model.lora_a, "weight", Shard((2, 8)), partial_gradient=True)
    finish_gradients([model], context)
    AdamW([model], context).step()
    checkpoint.save(root, 1, [model], None, context=context)
    return refused, [tuple(p.layout.shard.shape) for p in placed_parameters([model], context)]


def test_a_part_that_no_table_knows_is_refused_until_it_is_declared(world, tmp_path):
    for refused, shapes in world(2, adapter, root=tmp_path):
        assert len(refused) == 4
        assert all("no table says how parameter 'lora_a.weight'" in text for text in refused)
        assert shapes == [(12, 8), (12,), (2, 8), (12, 2)]


def wrong_part():
    context = ParallelContext(tp=2, device="cpu")
    layer = ColumnParallelLinear(8, 12, context=context)
    layer.weight = nn.Parameter(torch.zeros(12, 8))
    gradient_norm([layer], context)


def test_a_parameter_with_the_whole_tensors_shape_is_not_taken_for_a_part(world):
    for ok, message in world.outcomes(2, wrong_part):
        assert not ok
        assert "'weight' must have the shape (6, 8), its part of (12, 8) over tp 2" in message


def copies():
    context = ParallelContext(tp=2, device="cpu")
    model = nn.Sequential(nn.LayerNorm(8), ColumnParallelLinear(8, 12, context=context))
    declare_replicated(model)
    model(torch.ones(2, 8)).sum().backward()
    return gradient_norm([model], context).item(), model[1].gather_full(model[1].weight)


def test_torchs_own_layers_are_declared_as_copies_and_count_once(world):
    results = world(2, copies)
    weight = results[0][1]
    x = torch.ones(2, 8)
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 12)
    with torch.no_grad():
        linear.weight.copy_(weight)
    linear(norm(x)).sum().backward()
    want = sum(p.grad.square().sum() for m in (norm, linear) for p in m.parameters()).sqrt()
    # column-parallel sums the input's gradient over tp: the copy's gradient is the whole one
    assert [norm for norm, _ in results] == pytest.approx([want.item()] * 2, rel=1e-5)


def sharded(grid, root, dtype="float64"):
    """One step with FSDP2 over dp beside tp and pp: (first norm, weights after it)."""
    tp, pp, dp = grid
    context = ParallelContext(tp=tp, pp=pp, dp=dp, device="cpu")
    config = GPTConfig(**SHAPE, dtype=dtype, sequence_parallel=tp > 1)
    models = build_stages(config, context)
    for model in models:
        shard_over_data(model, context)
    optimizer = AdamW(models, context, lr=1e-2)
    ids = torch.randint(31, (6, 8), generator=torch.Generator().manual_seed(0))
    mine = ids.chunk(dp)[context.dp.rank].split(1)
    for step in range(2):
        optimizer.zero_grad()
        run_schedule(
            make_schedule("1f1b", pp, len(mine)), models, list(mine),
            lambda m, x, n: m.loss_sum(x, mine[n]) / ids.numel(), context=context, shape=(1, 8),
        )  # fmt: skip
        finish_gradients(models, context)
        gradients = {k: v for m in models for k, v in m.gather_full(gradients=True).items()}
        norm = optimizer.step()
        if step == 0:
            path = checkpoint.save(root, 1, models, optimizer, context=context)
    weights = {k: v for m in models for k, v in m.gather_full().items()}
    # back to the first step, into the sharded model again
    checkpoint.load(path, models, optimizer, context=context)
    again = {k: v for m in models for k, v in m.gather_full().items()}
    return norm, gradients, weights, again


@pytest.mark.parametrize("grid", [(2, 1, 2), (1, 2, 2), (1, 1, 3)], ids=str)
def test_fsdp2_beside_tp_and_pp_equals_the_unsplit_model_in_norm_step_and_checkpoint(
    world, tmp_path, grid
):
    ranks = grid[0] * grid[1] * grid[2]
    (want,) = world(1, sharded, grid=(1, 1, 1), root=tmp_path / "one")
    results = world(ranks, sharded, grid=grid, root=tmp_path / "many")
    for norm, *trees in results:
        assert norm == pytest.approx(want[0], rel=1e-10)
        for got, right in zip(trees, want[1:], strict=True):
            for name, value in got.items():
                torch.testing.assert_close(value, right[name], rtol=1e-9, atol=1e-11)
    # what the sharded run saved is read by one process
    context = ParallelContext(device="cpu")
    model = GPTModel(GPTConfig(**SHAPE, dtype="float64"), context=context, initialize=False)
    optimizer = AdamW([model], context)
    checkpoint.load(tmp_path / "many" / "step_00000001", [model], optimizer, context=context)
    joined = {k: v for result in results for k, v in result[3].items()}
    assert all(torch.equal(v, joined[k]) for k, v in model.gather_full().items())
    assert float(optimizer.moments()["final_norm.weight"]["step"]) == 1.0


def test_fsdp2_sums_float32_gradients_on_gloo_too(world, tmp_path):
    (want,) = world(1, sharded, grid=(1, 1, 1), root=tmp_path / "one", dtype="float32")
    for got in world(2, sharded, grid=(1, 1, 2), root=tmp_path / "two", dtype="float32"):
        assert got[0] == pytest.approx(want[0], rel=1e-5)
        for name, value in got[1].items():
            torch.testing.assert_close(value, want[1][name], rtol=1e-4, atol=1e-6)


def test_a_context_is_pickled_as_the_process_grid_it_is_part_of():
    context = ParallelContext(device="cpu")
    assert pickle.loads(pickle.dumps(context)) is context
    assert pickle.loads(pickle.dumps(context.tp)) is context.tp
    other = ParallelContext(device="cpu", seed=5)
    assert pickle.loads(pickle.dumps(other)) is other


def shared_and_sharded():
    context = ParallelContext(tp=2, dp=2, device="cpu")
    config = GPTConfig(vocab_size=8, hidden=8, layers=1, heads=2, kv_heads=1, max_positions=4)
    model = shard_over_data(GPTModel(config, context=context), context)
    ids = torch.zeros(1, 4, dtype=torch.int64)
    model.loss_sum(ids, ids).backward()
    finish_gradients([model], context)


def test_key_copies_that_fsdp_has_cut_are_refused_and_so_is_a_plan_inside_a_world(world):
    for ok, message in world.outcomes(4, shared_and_sharded):
        assert not ok
        assert "FSDP2 has cut keys and values that several tp ranks hold; choose a tp of" in message
    for ok, message in world.outcomes(2, planned_inside):
        assert not ok
        assert "planned_grid: a process group is there" in message


def planned_inside():
    with planned_grid(0, tp=2, pp=1, dp=1):
        pass
