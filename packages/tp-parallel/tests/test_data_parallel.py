"""In-process data parallelism on CPU replicas: equal to the module alone, torch's contract kept."""

import dataclasses
import sys
from collections import defaultdict, namedtuple

import pytest
import torch
from torch import nn

from tp_parallel import DataParallel
from tp_parallel.data_parallel import gather, parallel_apply, replicate, scatter

Pair = namedtuple("Pair", "first second")


class Model(nn.Module):
    """Tied weights, a buffer, keyword arguments, nested outputs."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4, dtype=torch.float64)
        self.b = nn.Linear(4, 4, dtype=torch.float64)
        self.b.weight = self.a.weight
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x, scale=1.0, extra=None):
        self.calls += 1
        y = self.b(torch.tanh(self.a(x))) * scale
        if extra is not None:
            y = y + extra["bias"]
        return {"y": y, "pair": Pair(y.sum(1), (y * 2,)), "none": None}


def cpus(number):
    return ["cpu"] * number


@pytest.mark.parametrize(("devices", "rows"), [(1, 5), (2, 6), (2, 5), (3, 4), (4, 2), (3, 1)])
def test_outputs_and_gradients_equal_the_module_alone(devices, rows):
    torch.manual_seed(0)
    plain = Model()
    parallel = DataParallel(Model(), cpus(devices))
    parallel.module.load_state_dict(plain.state_dict())
    x = torch.randn(rows, 4, dtype=torch.float64)
    bias = {"bias": torch.randn(rows, 4, dtype=torch.float64)}
    results = []
    for model in (plain, parallel):
        leaf = x.clone().requires_grad_()
        out = model(leaf, scale=1.5, extra=bias)
        (out["y"].square().sum() + out["pair"].second[0].sum()).backward()
        gradients = [p.grad for p in model.parameters()]
        results.append([out["y"], out["pair"].first, out["pair"].second[0], leaf.grad, *gradients])
        assert isinstance(out["pair"], Pair)
        assert out["none"] is None
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_buffers_are_kept_from_the_first_replica():
    parallel = DataParallel(nn.BatchNorm1d(3), cpus(2))
    x = torch.randn(8, 3)
    parallel(x)
    alone = nn.BatchNorm1d(3)
    alone(x[:4])
    torch.testing.assert_close(parallel.module.running_mean, alone.running_mean)
    assert parallel.module.num_batches_tracked == 1


def test_state_dict_keys_start_with_module_and_load_into_torchs():
    parallel = DataParallel(Model(), cpus(2))
    assert all(key.startswith("module.") for key in parallel.state_dict())
    nn.DataParallel(Model()).load_state_dict(parallel.state_dict())


def test_without_gpus_the_default_is_the_module_itself():
    if torch.cuda.is_available():
        pytest.skip("this machine has GPUs")
    parallel = DataParallel(Model())
    assert parallel.device_ids == []
    assert parallel(torch.ones(2, 4, dtype=torch.float64))["y"].shape == (2, 4)


def test_training_mode_no_grad_and_autocast_reach_every_replica():
    seen = []

    class Probe(nn.Module):
        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled(), (x @ x.t()).dtype))
            return x

    parallel = DataParallel(Probe(), cpus(2)).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        parallel(torch.ones(4, 2))
    assert seen == [(False, False, torch.bfloat16)] * 2


def test_another_batch_dimension_can_be_chosen():
    model = nn.Linear(3, 2)
    x = torch.randn(5, 4, 3)
    torch.testing.assert_close(DataParallel(model, cpus(2), dim=1)(x), model(x))


def test_the_error_of_a_replica_reaches_the_caller_with_its_number():
    class Fails(nn.Module):
        def forward(self, x):
            if x[0, 0] > 0:
                raise KeyError("planned")
            return x

    with pytest.raises(KeyError, match="planned") as caught:
        DataParallel(Fails(), cpus(2))(torch.tensor([[0.0], [1.0]]))
    assert "in replica 1 on cpu of parallel_apply" in getattr(caught.value, "__notes__", [""])[0]


def test_the_four_steps_can_be_used_alone():
    model = nn.Linear(2, 2)
    replicas = replicate(model, cpus(2))
    parts = scatter((torch.arange(6.0).reshape(3, 2), "same"), cpus(2))
    assert [p[0].shape[0] for p in parts] == [2, 1]
    assert parts[1][1] == "same"
    outputs = parallel_apply(replicas, [(p[0],) for p in parts])
    joined = gather(outputs, "cpu")
    torch.testing.assert_close(joined, model(torch.arange(6.0).reshape(3, 2)))
    joined.sum().backward()
    assert model.weight.grad is not None
    assert gather([torch.tensor(1.0), torch.tensor(2.0)], "cpu").tolist() == [1.0, 2.0]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="same length along dimension 0"):
        scatter((torch.zeros(4), torch.zeros(1)), cpus(2))
    with pytest.raises(ValueError, match="same keys"):
        gather([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}], "cpu")
    with pytest.raises(TypeError, match="got str"):
        gather(["a", "b"], "cpu")
    with pytest.raises(RuntimeError, match="must lie on device_ids"):
        DataParallel(nn.Linear(2, 2, device="meta"), cpus(2))(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"a dimension 0, got the shape \(\);"):
        scatter((torch.zeros(4), torch.tensor(1.0)), cpus(2))
    with pytest.raises(TypeError, match="compiled module keeps its parameters"):
        replicate(torch.compile(nn.Linear(2, 2)), cpus(2))


@pytest.mark.parametrize(
    ("outputs", "error", "message"),
    [
        ([None, torch.zeros(1)], TypeError, "same kind, got NoneType and Tensor"),
        ([torch.zeros(1), (torch.zeros(1),)], TypeError, "same kind, got Tensor and tuple"),
        ([[torch.zeros(1)], [torch.zeros(1)] * 2], ValueError, "as many items, got .1, 2."),
        ([{torch.zeros(1)}, {torch.zeros(1)}], TypeError, "got set"),
        ([iter(()), iter(())], TypeError, "got tuple_iterator"),
    ],
)
def test_outputs_that_do_not_correspond_are_refused_and_none_is_dropped(outputs, error, message):
    with pytest.raises(error, match=message):
        gather(outputs, "cpu")


@dataclasses.dataclass(frozen=True)
class Doubled:
    value: torch.Tensor
    scale: dataclasses.InitVar[float]
    twice: torch.Tensor = dataclasses.field(init=False)

    def __post_init__(self, scale):
        object.__setattr__(self, "twice", scale * self.value)


def test_containers_whose_constructors_take_more_than_their_items_are_kept():
    x = torch.arange(4.0)
    whole = gather([Doubled(part, 2.0) for part in x.split(2)], "cpu")
    assert torch.equal(whole.value, x)
    assert torch.equal(whole.twice, 2 * x)
    parts = scatter(defaultdict(list, a=x), cpus(2))
    assert parts[1].default_factory is list
    back = gather(parts, "cpu")
    assert isinstance(back, defaultdict)
    assert torch.equal(back["a"], x)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_run_with_todays_weights_and_get_gradients(kind):
    model = kind(3, 4, batch_first=True)
    x = torch.randn(4, 5, 3)
    for _ in range(2):
        model.zero_grad()
        out, _ = DataParallel(model, cpus(2))(x)
        out.sum().backward()
        got = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        want, _ = model(x)
        want.sum().backward()
        torch.testing.assert_close(out, want)
        for grad, parameter in zip(got, model.parameters(), strict=True):
            torch.testing.assert_close(grad, parameter.grad)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1)


@dataclasses.dataclass
class Answer:
    value: torch.Tensor
    note: torch.Tensor | None = None


class Box:
    def __init__(self, items=()):
        self.items = list(items)

    def __iter__(self):
        return iter(self.items)


class Answers(nn.Module):
    """Returns `x` in one of many shapes; counts how it was copied."""

    def __init__(self, make):
        super().__init__()
        self.make, self.copies = make, [0]
        self.register_buffer("scale", torch.ones(1, requires_grad=True))

    def _replicate_for_data_parallel(self):
        self.copies[0] += 1
        return super()._replicate_for_data_parallel()

    def forward(self, x=None, **_):
        return self.make(torch.ones(2, 1) if x is None else x * self.scale)


def test_outputs_inputs_and_modes_are_those_of_torchs_contract():
    x = torch.arange(8.0).reshape(4, 2)
    run = lambda make, *a, devices=2, **k: DataParallel(Answers(make), cpus(devices))(*a, **k)  # noqa: E731
    answer = run(lambda v: Answer(v), x)
    assert isinstance(answer, Answer)
    assert torch.equal(answer.value, x)
    assert answer.note is None
    assert torch.equal(next(iter(run(lambda v: Box([v]), x))), x)
    assert run(lambda v: v, None).shape == (4, 1)  # no tensor: every device runs
    assert run(lambda v: v).shape == (2, 1)
    assert run(lambda v: "a word", x, devices=1) == "a word"
    with torch.inference_mode():
        assert run(lambda v: torch.tensor([float(torch.is_inference_mode_enabled())]), x).sum() == 2
    wide = DataParallel(Answers(lambda v: v), cpus(2), dim=-1)
    assert torch.equal(wide(x), x)
    assert gather([x, x], -1).device.type == "cpu"
    assert torch.equal(parallel_apply([nn.Identity()] * 2, [x, x])[1], x)
    with pytest.raises(TypeError, match="gather: outputs must be tensors"):
        run(lambda v: "a word", x)
    with pytest.raises(TypeError, match="ScriptModule keeps its parameters"):
        replicate(torch.jit.script(nn.Linear(2, 2)), cpus(2))


def test_a_buffer_with_a_gradient_gets_the_sum_and_the_modules_own_hook_is_called():
    module = Answers(lambda v: v)
    DataParallel(module, cpus(2))(torch.ones(4, 2)).sum().backward()
    assert module.scale.grad.item() == 8
    assert module.copies == [2]


@pytest.mark.parametrize("options", [{}, {"use_cache": False}])
def test_a_hugging_face_model_returns_its_logits_and_its_cache(options, monkeypatch):
    # text models need no torchvision, and one that was built for another torch stops the import
    monkeypatch.setitem(sys.modules, "torchvision", None)
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.randint(64, (4, 8))
    got = DataParallel(model, cpus(2))(input_ids=ids, labels=ids, **options)
    want = model(input_ids=ids, labels=ids, **options)
    torch.testing.assert_close(got.logits, want.logits)
    assert got.loss.shape == (2,)
    if not options:
        keys = [next(iter(cache))[0] for cache in (got.past_key_values, want.past_key_values)]
        torch.testing.assert_close(*keys)
