"""Autocast, float32 sums of bfloat16 gradients, torch.compile, torch's tools on the optimizer."""

import contextlib
import copy
import math
import pickle
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tp_parallel import (
    AdamW,
    ColumnParallelLinear,
    GPTConfig,
    GPTModel,
    GradientBuckets,
    ParallelContext,
    RowParallelLinear,
    finish_gradients,
    vocab_parallel_linear_cross_entropy,
)
from tp_parallel.data_parallel import optimizer as optimizer_module
from tp_parallel.data_parallel.optimizer import MasterAdamW, fused_by_default
from tp_parallel.loss import linear_cross_entropy
from tp_parallel.pipeline import build_stages, run_schedule
from tp_parallel.pipeline.schedules import make_schedule

SHAPE = {"vocab_size": 32, "hidden": 16, "layers": 2, "heads": 2, "max_positions": 8}
IDS = torch.arange(16).reshape(2, 8)


@pytest.mark.parametrize("layer", [ColumnParallelLinear, RowParallelLinear])
def test_autocast_gives_a_parallel_layer_the_dtype_and_values_of_nn_linear(layer):
    ours, plain = layer(8, 6, context=ParallelContext(device="cpu")), nn.Linear(8, 6)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(4, 8)
    results = []
    for module in (ours, plain):
        mine = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = module(mine)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        results.append((y.float(), mine.grad, module.weight.grad, module.bias.grad))
    for got, want in zip(*results, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2)


def autocast(tp, loss, sequence):
    context = ParallelContext(tp=tp, device="cpu")
    model = GPTModel(GPTConfig(**SHAPE, sequence_parallel=sequence), context=context)
    grads = []
    for on in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            if loss == "sum":
                value = model.loss_sum(IDS, IDS)
            else:
                value = model(IDS, IDS).sum()
        value.backward()
        finish_gradients([model], context)
        grads.append(torch.cat([g.flatten() for g in model.gather_full(gradients=True).values()]))
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    return ((grads[1] - grads[0]).norm() / grads[0].norm()).item()


@pytest.mark.parametrize(("tp", "sequence"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize("loss", ["tokens", "sum"])
def test_a_model_trains_under_autocast(world, tp, loss, sequence):
    for off in world(tp, autocast, tp=tp, loss=loss, sequence=sequence):
        assert 1e-5 < off < 0.03


@pytest.mark.parametrize("products", [torch.bfloat16, torch.float32])
def test_the_chunked_loss_under_autocast_is_that_of_bfloat16_operands(monkeypatch, products):
    monkeypatch.setattr(linear_cross_entropy, "computed_dtype", lambda dtype, x: products)
    ids, leaves = IDS.flatten()[:6], [torch.randn(6, 8), torch.randn(32, 8)]
    mine = [leaf.clone().requires_grad_() for leaf in leaves]
    with torch.autocast("cpu", torch.bfloat16):
        got = vocab_parallel_linear_cross_entropy(
            *mine, ids, context=ParallelContext(device="cpu"), vocab_size=32
        )
    plain = [leaf.bfloat16().to(products).requires_grad_() for leaf in leaves]
    want = F.cross_entropy(F.linear(*plain).float(), ids)
    bound = {"rtol": 2e-2, "atol": 2e-3} if products == torch.bfloat16 else {}  # of float32
    for ours, theirs in zip(torch.autograd.grad(got, mine), torch.autograd.grad(want, plain),
                            strict=True):  # fmt: skip
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs.float(), **bound)
    torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-2)


def accumulated(schedule, batches, overlap, pp=1, dp=1):
    """Gradients of a bfloat16 model by run_schedule, and the exact sum of its micro-batches'."""
    context = ParallelContext(pp=pp, dp=dp, device="cpu")
    config = GPTConfig(**{**SHAPE, "tie_embeddings": False}, dtype="bfloat16")
    models = build_stages(config, context)
    ids = torch.randint(32, (batches, 8), generator=torch.Generator().manual_seed(0))
    mine = list(ids.chunk(dp)[context.dp.rank].split(1))
    buckets = GradientBuckets(models, context) if overlap else None
    if buckets is not None:
        buckets.zero()
    options = {"context": context, "shape": (1, 8)}

    def run(rows, buckets=None):
        run_schedule(
            make_schedule(schedule, pp, len(rows)), models, rows,
            lambda m, x, n: m.loss_sum(x, rows[n]) / ids.numel(), buckets=buckets, **options,
        )  # fmt: skip

    run(mine, buckets)
    finish_gradients(models, context, buckets)
    got = [p.grad.clone() for m in models for p in m.parameters()]
    exact = [torch.zeros_like(g, dtype=torch.float64) for g in got]
    for row in mine:  # one micro-batch alone: no sum, no rounding of one
        for model in models:
            model.zero_grad()
        run([row])
        for total, p in zip(exact, (p for m in models for p in m.parameters()), strict=True):
            total += p.grad.double()
    for total in exact:
        context.dp.all_reduce(total, label="test")
    assert all(g.dtype == torch.float32 for g in got)
    off = sum((g.double() - e).square().sum() for g, e in zip(got, exact, strict=True))
    return (off / sum(e.square().sum() for e in exact)).sqrt().item()


@pytest.mark.parametrize(
    ("schedule", "batches", "overlap", "pp", "dp"),
    [("1f1b", 256, False, 1, 1), ("1f1b", 64, True, 1, 2), ("zero_bubble", 64, False, 2, 1),
     ("1f1b", 32, False, 1, 2)],
)  # fmt: skip
def test_bfloat16_gradients_of_many_micro_batches_are_added_in_float32(
    world, schedule, batches, overlap, pp, dp
):
    options = {"schedule": schedule, "batches": batches, "overlap": overlap, "pp": pp, "dp": dp}
    for off in world(pp * dp, accumulated, **options):
        assert off < 1e-6


@pytest.mark.parametrize("recompute", [False, True])
def test_a_model_compiles_into_one_graph_with_and_without_recomputation(recompute):
    model = GPTModel(GPTConfig(**SHAPE, recompute=recompute), context=ParallelContext(device="cpu"))
    model(IDS, IDS).sum().backward()
    want = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    torch._dynamo.reset()
    torch.compile(model, backend="aot_eager", fullgraph=True)(IDS, IDS).sum().backward()
    for parameter, grad in zip(model.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_recomputation_with_dropout_compiles_too():
    config = GPTConfig(**SHAPE, recompute=True, dropout=0.1, attention_dropout=0.1)
    model = GPTModel(config, context=ParallelContext(device="cpu"))
    torch._dynamo.reset()
    torch.compile(model, backend="aot_eager")(IDS, IDS).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def optimized():
    model = GPTModel(GPTConfig(**SHAPE, dtype="bfloat16"), context=ParallelContext(device="cpu"))
    return model, AdamW([model], model.context, lr=1e-2)


def one_step(model, optimizer):
    optimizer.zero_grad()
    model(IDS, IDS).sum().backward()
    return optimizer.step()


def test_one_kernel_updates_where_all_parameters_lie_on_cuda(monkeypatch):
    on_cuda, here = types.SimpleNamespace(is_cuda=True), torch.zeros(1)
    assert fused_by_default([on_cuda, on_cuda]) is True
    assert fused_by_default([on_cuda, here]) is fused_by_default([here]) is None
    assert fused_by_default([]) is None
    monkeypatch.setattr(optimizer_module, "fused_by_default", lambda parameters: True)
    assert optimized()[1].inner.defaults["fused"] is True
    model = GPTModel(GPTConfig(**SHAPE), context=ParallelContext(device="cpu"))
    assert AdamW([model], model.context, fused=False).inner.defaults["fused"] is False


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_fused_kernel_differs_from_torchs_default_by_rounding_alone(dtype):
    results = []
    for fused in (None, True):
        model = GPTModel(GPTConfig(**SHAPE, dtype=dtype), context=ParallelContext(device="cpu"))
        optimizer = AdamW([model], model.context, lr=1e-2, weight_decay=0.1, fused=fused)
        assert optimizer.inner.defaults["fused"] is fused
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):  # the same gradients for both: what follows is the update's rounding
            for p in optimizer.parameters:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        results.append([m.detach() for m in optimizer.inner.masters.values()])
    for default, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, default, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_the_norm_is_the_sum_of_squares_to_float64s_rounding_and_the_update_torchs_bits(dtype):
    model = GPTModel(GPTConfig(**SHAPE, dtype=dtype), context=ParallelContext(device="cpu"))
    optimizer = AdamW([model], model.context, lr=1e-2, weight_decay=0.0, clip_grad=0.5)
    model(IDS, IDS).sum().backward()
    masters = [p.detach().to(torch.promote_types(p.dtype, torch.float32)).clone()
               for p in optimizer.parameters]  # fmt: skip
    grads = [p.grad.clone() for p in optimizer.parameters]
    squares = sum(g.double().square().sum() for g in grads)
    norm = optimizer.step()
    assert norm == pytest.approx(squares.sqrt().item(), rel=1e-14)
    plain = torch.optim.AdamW(masters, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    for master, grad in zip(masters, grads, strict=True):
        master.grad = grad.to(master.dtype) * (0.5 / norm)
    plain.step()
    for master, parameter in zip(masters, optimizer.parameters, strict=True):
        assert torch.equal(parameter, master.to(parameter.dtype))


def test_torchs_schedulers_change_the_learning_rate():
    model, optimizer = optimized()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    before = [p.detach().clone() for p in model.parameters()]
    one_step(model, optimizer)
    schedule.step()
    moved = [p.detach().clone() for p in model.parameters()]
    one_step(model, optimizer)
    assert not all(torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(moved, model.parameters(), strict=True))


def test_state_dict_continues_a_run_bitwise_with_float32_states():
    model, optimizer = optimized()
    one_step(model, optimizer)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    saved = torch.utils._pytree.tree_map(
        lambda x: x.clone() if isinstance(x, torch.Tensor) else x, optimizer.state_dict()
    )
    assert all(s["master"].dtype == torch.float32 for s in saved["state"].values())
    one_step(model, optimizer)
    other, again = optimized()
    other.load_state_dict(state)
    again.load_state_dict(saved)
    one_step(other, again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(),
                                                 strict=True))  # fmt: skip


@pytest.mark.parametrize("again", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_copy_of_model_and_optimizer_goes_on_alone_and_bitwise(again, dtype):
    model = GPTModel(GPTConfig(**SHAPE, dtype=dtype), context=ParallelContext(device="cpu"))
    optimizer = AdamW([model], model.context, lr=1e-2)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)  # wraps the step of this one
    one_step(model, optimizer)
    other, twin = again((model, optimizer))
    one_step(other, twin)
    assert all(p.grad.dtype == torch.float32 for p in other.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    one_step(model, optimizer)
    assert not all(map(torch.equal, before, model.parameters()))
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    assert schedule.optimizer is optimizer


def test_a_state_of_another_model_is_refused_and_changes_nothing():
    model, optimizer = optimized()
    one_step(model, optimizer)
    whole = optimizer.state_dict()
    lacking = {**whole, "state": {k: v for k, v in whole["state"].items() if k != 1}}
    other = {**whole, "state": {**whole["state"], 1: {**whole["state"][1], "exp_avg": IDS}}}
    before = [p.detach().clone() for p in model.parameters()]
    for state, message in ((lacking, "parameter 1 needs 'step' .*none"), (other, "got .2, 8.")):
        state["param_groups"] = [{**g, "lr": 9.0} for g in whole["param_groups"]]
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
    assert all(group["lr"] != 9.0 for group in optimizer.param_groups)
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan])
def test_a_bound_of_the_norm_that_is_none_is_refused(bound):
    with pytest.raises(ValueError, match="clip_grad must be above 0, or None, got"):
        AdamW([], ParallelContext(device="cpu"), clip_grad=bound)


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_made_to_be_read_into_lie_where_torchs_do_on_cuda(fused, dtype):
    """The fused kernel needs `step` on the device; fake tensors have one without memory."""
    with FakeTensorMode():
        parameter = nn.Parameter(torch.zeros(4, 4, dtype=dtype, device="cuda"))
        parameter.grad = torch.zeros_like(parameter)
        stepped, made = (MasterAdamW([{"params": [parameter]}], fused=fused) for _ in range(2))
        stepped.step()
        states = [optimizer.state_of(parameter) for optimizer in (stepped, made)]
    places = [{k: (v.device, v.dtype) for k, v in state.items()} for state in states]
    assert places[0] == places[1]
    assert places[0]["step"] == (torch.device("cuda:0" if fused else "cpu"), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_on_cuda_continues_where_a_state_is_loaded_before_the_first_step(dtype, fused):
    def build():
        context = ParallelContext(device="cuda")
        model = GPTModel(GPTConfig(**SHAPE, dtype=dtype), context=context)
        return model, AdamW([model], context, lr=1e-2, fused=fused)

    def step(model, optimizer):
        generator = torch.Generator("cuda").manual_seed(0)
        for p in optimizer.parameters:
            p.grad = torch.randn(p.shape, device="cuda", generator=generator)
        optimizer.step()

    (model, optimizer), (other, again) = build(), build()
    step(model, optimizer)
    other.load_state_dict(model.state_dict())
    again.load_state_dict(optimizer.state_dict())
    for each in ((model, optimizer), (other, again)):
        step(*each)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_grad_scaler_runs_with_it_and_skips_a_step_that_overflows():
    model = GPTModel(GPTConfig(**SHAPE), context=ParallelContext(device="cpu"))
    optimizer = AdamW([model], model.context, lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(model(IDS, IDS).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    scaler.scale(model(IDS, IDS).sum() * torch.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_frozen_parameters_have_no_moments_and_a_closure_runs_first():
    model = GPTModel(GPTConfig(**SHAPE), context=ParallelContext(device="cpu"))
    model.embedding.requires_grad_(False)
    optimizer = AdamW([model], model.context, lr=1e-2)
    assert not any(name.startswith("embedding") for name in optimizer.moments())
    norm = optimizer.step(lambda: model(IDS, IDS).sum().backward())
    assert norm > 0


@pytest.mark.parametrize("recompute", [False, True])
def test_activations_go_through_torchs_offload_hook_and_gradients_stay_as_they_are(recompute):
    config = GPTConfig(vocab_size=17, hidden=16, layers=2, heads=4, max_positions=8,
                       recompute=recompute)  # fmt: skip
    ids = torch.arange(16).view(2, 8)
    gradients = []
    moved = []

    class Offload(torch.autograd.graph.save_on_cpu):
        def __init__(self):
            super().__init__()
            pack = self.pack_hook
            self.pack_hook = lambda x: (moved.append(x.numel()), pack(x.clone()))[1]

    for offload in (False, True):
        model = GPTModel(config, context=ParallelContext(device="cpu"))
        with Offload() if offload else contextlib.nullcontext():
            loss = model(ids, ids).sum()
        loss.backward()
        gradients.append(model.gather_full(gradients=True))
    assert len(moved) > (2 if recompute else 20)
    for name, value in gradients[0].items():
        assert torch.equal(gradients[1][name], value), name
