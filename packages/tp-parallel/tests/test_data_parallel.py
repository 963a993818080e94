"""In-process data parallelism on CPU replicas: equal to the module alone, torch's contract kept."""

from collections import namedtuple

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
