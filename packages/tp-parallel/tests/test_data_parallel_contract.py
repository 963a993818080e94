"""torch.nn.DataParallel's contract, promise by promise, on CPU replicas; differences are in
docs/data-parallel-contract.md, which lists the same promises."""

import copy
import dataclasses
import pickle
import re
from collections import OrderedDict, namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

from tp_parallel import DataParallel
from tp_parallel.data_parallel import gather, parallel_apply, replicate, scatter

TABLE = Path(__file__).resolve().parents[1] / "docs" / "data-parallel-contract.md"
TWO = ["cpu", "cpu"]
X = torch.arange(12.0).reshape(6, 2)
Pair = namedtuple("Pair", "first second")
PROMISES = {}


def promise(text):
    def add(check):
        assert text not in PROMISES
        PROMISES[text] = check
        return check

    return add


@dataclasses.dataclass
class Answer:
    value: torch.Tensor
    note: torch.Tensor | None = None


class Calls(nn.Module):
    """Runs `call(self, *inputs)` on each replica and notes what each was given."""

    def __init__(self, call=lambda self, x, *_, **__: x):
        super().__init__()
        self.linear, self.call, self.seen = nn.Linear(2, 3), call, []

    def forward(self, *inputs, **named):
        self.seen.append((inputs, named))
        return self.call(self, *inputs, **named)


def linear():
    torch.manual_seed(0)
    return nn.Linear(2, 3)


def run(call, *inputs, devices=TWO, **named):
    return DataParallel(Calls(call), devices)(*inputs, **named)


def given(*inputs, **named):
    module = Calls(lambda self, *_, **__: torch.zeros(1))
    DataParallel(module, TWO)(*inputs, **named)
    return sorted(module.seen, key=lambda seen: str(seen))


def same(got, want):
    torch.testing.assert_close(got, want)


@promise("the module is reached as .module, its parameters are the wrapper's")
def _():
    module = linear()
    parallel = DataParallel(module, TWO)
    assert parallel.module is module
    assert all(a is b for a, b in zip(parallel.parameters(), module.parameters(), strict=True))


@promise("keys of the state dict begin with module. and load into torch's and back")
def _():
    ours, torchs = DataParallel(linear(), TWO), nn.DataParallel(linear())
    assert list(ours.state_dict()) == list(torchs.state_dict()) == ["module.weight", "module.bias"]
    torchs.load_state_dict(ours.state_dict())
    ours.load_state_dict(torchs.state_dict())


@promise("it can be copied and pickled")
def _():
    parallel = DataParallel(linear(), TWO)
    for other in (copy.deepcopy(parallel), pickle.loads(pickle.dumps(parallel))):
        same(other(X), parallel(X))
        assert other.module is not parallel.module


@promise("without devices the module runs where it is")
def _():
    assert run(lambda self, x: [x, "word"], X, devices=[]) == [X, "word"]


@promise("on one device whatever the module returns is handed on")
def _():
    assert run(lambda self, x: "a word", X, devices=["cpu"]) == "a word"


@promise("the output equals the module's alone")
def _():
    module = linear()
    same(DataParallel(module, TWO)(X), module(X))


@promise("a batch that does not divide is cut as torch.chunk does")
def _():
    assert [len(inputs[0]) for inputs, _ in given(X[:5])] in ([2, 3], [3, 2])


@promise("a batch smaller than the devices uses fewer of them")
def _():
    module = Calls()
    same(DataParallel(module, ["cpu"] * 4)(X[:2]), X[:2])
    assert len(module.seen) == 2


@promise("gradients of all replicas are summed into the module's parameters")
def _():
    module = linear()
    DataParallel(module, TWO)(X).square().sum().backward()
    got = module.weight.grad.clone()
    module.zero_grad()
    module(X).square().sum().backward()
    same(got, module.weight.grad)


@promise("the gradient of the input comes back whole")
def _():
    leaf = X.clone().requires_grad_()
    DataParallel(linear(), TWO)(leaf).square().sum().backward()
    other = X.clone().requires_grad_()
    linear()(other).square().sum().backward()
    same(leaf.grad, other.grad)


@promise("a frozen parameter stays without a gradient")
def _():
    module = linear()
    module.bias.requires_grad_(False)
    DataParallel(module, TWO)(X).sum().backward()
    assert module.bias.grad is None
    assert module.weight.grad is not None


@promise("second derivatives go through the copies")
def _():
    module = linear()
    out = DataParallel(module, TWO)(X).square().sum()
    (first,) = torch.autograd.grad(out, module.weight, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), module.weight)
    same(second, 2 * X.sum(1, keepdim=True).mul(X).sum(0).expand(3, 2))


@promise("keyword tensors are cut as positional ones are")
def _():
    assert all(len(named["y"]) == len(inputs[0]) == 3 for inputs, named in given(X, y=X))


@promise("what is no tensor goes to every replica")
def _():
    word = object()
    assert all(inputs[1] is word and named == {"n": 3} for inputs, named in given(X, word, n=3))


@promise("None is handed on")
def _():
    assert all(inputs[1] is None for inputs, _ in given(X, None))


@promise("tuples are cut element by element")
def _():
    assert all(isinstance(i[0], tuple) and len(i[0][1]) == 3 for i, _ in given((X, X)))


@promise("lists are cut element by element")
def _():
    assert all(isinstance(i[0], list) and len(i[0][0]) == 3 for i, _ in given([X, "word"]))


@promise("dicts are cut value by value, their type kept")
def _():
    cut = given(OrderedDict(a=X, b={"c": X}))
    assert all(isinstance(i[0], OrderedDict) and len(i[0]["b"]["c"]) == 3 for i, _ in cut)


@promise("named tuples are cut and stay what they are")
def _():
    assert all(isinstance(i[0], Pair) and len(i[0].second) == 3 for i, _ in given(Pair("a", X)))


@promise("a call without any input runs once")
def _():
    assert len(given()) == 1


@promise("a call with keywords alone runs on every device")
def _():
    assert len(given(x=X)) == 2


@promise("tuples, lists and named tuples of outputs are joined element by element")
def _():
    for make in (lambda *v: v, lambda *v: list(v), Pair):
        out = run(lambda self, x, make=make: make(x, 2 * x), X)
        assert type(out) is type(make(X, X))
        same(out[1], 2 * X)


@promise("dicts of outputs are joined value by value, their type kept")
def _():
    out = run(lambda self, x: OrderedDict(a=x, b={"c": x}), X)
    assert isinstance(out, OrderedDict)
    same(out["b"]["c"], X)


@promise("replicas whose dicts have different keys are an error")
def _():
    with pytest.raises(ValueError, match="same keys"):
        run(lambda self, x: {str(x[0, 0].item()): x}, X)


@promise("dataclasses of outputs are joined field by field")
def _():
    out = run(lambda self, x: Answer(x), X)
    assert isinstance(out, Answer)
    assert out.note is None
    same(out.value, X)


@promise("None as an output stays None")
def _():
    assert run(lambda self, x: (x, None), X)[1] is None


@promise("scalars of the replicas become a vector")
def _():
    same(run(lambda self, x: x.sum(), X), torch.tensor([X[:3].sum(), X[3:].sum()]))


@promise("dim says which dimension counts the batch")
def _():
    same(DataParallel(Calls(), TWO, dim=1)(X), X)
    assert DataParallel(Calls(lambda self, x: x.shape[1] + 0 * x), TWO, dim=1)(X).unique() == 1


@promise("dim may count from the end, in gather too")
def _():
    same(DataParallel(Calls(), TWO, dim=-1)(X), X)
    same(gather([X, X], "cpu", dim=-1), torch.cat([X, X], -1))


@promise("-1 as the output device is the CPU")
def _():
    assert DataParallel(Calls(), TWO, output_device=-1)(X).device.type == "cpu"
    assert gather([X, X], -1).device.type == "cpu"


@promise("a module that does not lie on the first device is an error")
def _():
    with pytest.raises(RuntimeError, match="must lie on device_ids"):
        DataParallel(nn.Linear(2, 3, device="meta"), TWO)(X)


@promise("buffers that a forward pass changes are kept from the first replica alone")
def _():
    parallel, alone = DataParallel(nn.BatchNorm1d(2), TWO), nn.BatchNorm1d(2)
    parallel(X)
    alone(X[:3])
    same(parallel.module.running_mean, alone.running_mean)
    assert parallel.module.num_batches_tracked == 1


@promise("attributes set in a forward pass are lost")
def _():
    parallel = DataParallel(Calls(lambda self, x: setattr(self, "last", x) or x), TWO)
    parallel(X)
    assert not hasattr(parallel.module, "last")


@promise("a parameter that two modules share is shared in a replica, and gets both gradients")
def _():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    first = replicate(module, TWO)[1]
    assert first[0].weight is first[1].weight
    DataParallel(module, TWO)(X).sum().backward()
    got = module[0].weight.grad.clone()
    module.zero_grad()
    module(X).sum().backward()
    same(got, module[0].weight.grad)


@promise("recurrent layers see today's weights")
def _():
    module = nn.LSTM(2, 3)
    for _ in range(2):
        same(DataParallel(module, TWO, dim=1)(X[:, None].expand(6, 4, 2))[0],
             module(X[:, None].expand(6, 4, 2))[0])  # fmt: skip
        with torch.no_grad():
            module.weight_ih_l0.add_(1.0)


@promise("training mode, no_grad and inference_mode reach every replica")
def _():
    def modes(self, x):
        on = self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        return torch.tensor([on])

    parallel = DataParallel(Calls(modes), TWO)
    assert parallel(X).tolist() == [[True, True, False]] * 2
    with torch.no_grad():
        assert parallel.eval()(X).tolist() == [[False, False, False]] * 2
    with torch.inference_mode():
        assert parallel(X).tolist() == [[False, False, True]] * 2


@promise("autocast reaches every replica")
def _():
    with torch.autocast("cpu", torch.bfloat16):
        assert DataParallel(linear(), TWO)(X).dtype == torch.bfloat16


@promise("hooks of the module's parts run in every replica")
def _():
    module, ran = nn.Sequential(linear()), []
    module[0].register_forward_hook(lambda part, inputs, out: ran.append(len(out)))
    DataParallel(module, TWO)(X)
    assert ran == [3, 3]


@promise("an error of a replica reaches the caller as it was")
def _():
    def fails(self, x):
        raise KeyError("planned")

    with pytest.raises(KeyError, match="planned"):
        run(fails, X)


@promise("a module's own _replicate_for_data_parallel is called")
def _():
    class Own(nn.Linear):
        copies = 0

        def _replicate_for_data_parallel(self):
            Own.copies += 1
            return super()._replicate_for_data_parallel()

    DataParallel(Own(2, 3), TWO)(X)
    assert Own.copies == 2


@promise("replicate, scatter, parallel_apply and gather serve alone")
def _():
    module = linear()
    parts = scatter(X, TWO)
    same(gather(parallel_apply(replicate(module, TWO), parts), "cpu"), module(X))


@pytest.mark.parametrize("text", PROMISES)
def test_a_promise_of_torchs_is_kept(text):
    PROMISES[text]()


def test_the_table_lists_every_promise_once_and_in_order():
    rows = re.findall(r"^\| (\d+) \| (.+?) \| .+ \|$", TABLE.read_text(), re.MULTILINE)
    assert rows == [(str(number), text) for number, text in enumerate(PROMISES, 1)]
    assert len(rows) == 41
