"""The gates by Triton beside the compiled CPU kernels, in Triton's interpreter or on a GPU: run by
test_triton.py, in a process of its own with TRITON_INTERPRET=1 where there is no GPU."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from convlstm import _C, ConvLSTM1d, ConvLSTM2d, ConvLSTM3d
from convlstm.sequence import fused, ops, triton_gates
from convlstm.sequence import gates as door
from convlstm.sequence.activations import NATIVE_CODES
from convlstm.sequence.problem import Problem
from convlstm.sequence.spec import CellSpec

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PAIRS = [
    ("tanh", "sigmoid"),
    ("tanh", "hard_sigmoid"),
    ("tanh", "hard_sigmoid_keras2"),
    ("relu", "sigmoid"),
    ("linear", "sigmoid"),
    ("sigmoid", "sigmoid"),
]
HALVES = torch.float16, torch.bfloat16
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def step(given, dtype):
    """The tensors of one step: 3 sequences of 11 pixels and 5 channels."""
    torch.manual_seed(3)

    def values(*shape):
        return torch.randn(shape).mul(1.5).to(dtype).float()

    shape, wide = (3, 11, 5), (3, 11, 20)
    return {
        "pre": values(*wide),
        "pre2": values(*wide) if given else None,
        "bias": values(20) if given else None,
        "peephole": values(3, 5) if given else None,
        "valid": torch.tensor([True, False, True]) if given else None,
        "h_before": values(*shape),
        "c_before": torch.randn(shape),
        "dh": values(*shape),
        "dh2": values(*shape) if given else None,
        "dc": torch.randn(shape),
    }


def move(tensor, dtype):
    if tensor is None:
        return None
    return tensor.to(DEVICE) if tensor.dtype == torch.bool else tensor.to(DEVICE, dtype)


def near(found, wanted, dtype):
    torch.testing.assert_close(
        found.float().cpu(), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("given", [True, False], ids=["all inputs", "what is needed"])
@pytest.mark.parametrize(
    ("pair", "dtype"),
    [*((pair, torch.float32) for pair in PAIRS), *((PAIRS[0], half) for half in HALVES)],
)
def test_a_step_and_its_gradient_equal_the_cpu_kernels(pair, given, dtype):
    codes = [NATIVE_CODES[name] for name in pair]
    s = step(given, dtype)
    gates, c, h = torch.empty(3, 11, 20), torch.empty(3, 11, 5), torch.empty(3, 11, 5)
    inputs = [s[n] for n in ("pre", "pre2", "bias", "peephole", "valid", "h_before", "c_before")]
    _C.gates_forward(*inputs, gates, c, h, *codes, 1)
    there = {
        name: move(t, torch.float32 if name in ("c_before", "dc") else dtype)
        for name, t in s.items()
    }
    inputs = [
        there[n] for n in ("pre", "pre2", "bias", "peephole", "valid", "h_before", "c_before")
    ]
    found = [torch.empty_like(move(t, torch.float32)) for t in (gates, c, h)]
    found[2] = found[2].to(dtype)
    triton_gates.gates_forward(*inputs, *found, *codes)
    near(found[0], gates, dtype)
    near(found[1], c, dtype)
    near(found[2], h, dtype)

    d_pre, dc = torch.empty(3, 11, 20), s["dc"].clone()
    arguments = [s[n] for n in ("dh", "dh2", "peephole", "valid")]
    _C.gates_backward(gates, s["c_before"], c, *arguments, dc, d_pre, *codes, 1)
    arguments = [there[n] for n in ("dh", "dh2", "peephole", "valid")]
    d_found = torch.empty_like(there["pre"])
    triton_gates.gates_backward(
        move(gates, torch.float32), there["c_before"], move(c, torch.float32), *arguments,
        there["dc"], d_found, *codes,
    )  # fmt: skip
    near(d_found, d_pre, dtype)
    near(there["dc"], dc, dtype)


def test_a_nan_reaches_the_state():
    pre = torch.full((1, 1, 4), torch.nan, device=DEVICE)
    c_before, c, h = (torch.zeros(1, 1, 1, device=DEVICE) for _ in range(3))
    for recurrent in ("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"):
        codes = NATIVE_CODES["tanh"], NATIVE_CODES[recurrent]
        triton_gates.gates_forward(pre, None, None, None, None, c, c_before, None, c, h, *codes)
        assert h.isnan().all()


def test_no_states_are_no_launch():
    none = torch.empty(0, 4, 2, device=DEVICE)
    wide = torch.empty(0, 4, 8, device=DEVICE)
    triton_gates.gates_forward(wide, None, None, None, None, none, none, None, none, none, 1, 2)


def test_small_states_are_exact_beside_their_size():
    tiny = torch.logspace(-6, 1, 4096, device=DEVICE).view(1, 1024, 4)
    zero = torch.zeros_like(tiny)
    wide = torch.cat([zero, zero, tiny, zero], -1)  # the argument of g alone
    c, h = torch.empty_like(tiny), torch.empty_like(tiny)
    triton_gates.gates_forward(wide, None, None, None, None, zero, zero, None, c, h, 1, 2)
    exact = 0.5 * tiny.double().tanh()
    assert ((c - exact) / exact).abs().max() <= 1e-6
    exact = 0.5 * exact.tanh()
    assert ((h - exact) / exact).abs().max() <= 1e-6


@pytest.fixture
def on_device(monkeypatch):
    """Layers take these gates, and the way of a device; without one that way on the CPU."""
    if DEVICE == "cuda":
        before = door.set_cuda_gates("triton")
        yield
        door.set_cuda_gates(before)
        return
    monkeypatch.setattr(Problem, "on_host", property(lambda problem: False))
    for module in (door, fused, ops):
        monkeypatch.setattr(module, "uses_triton", lambda tensor: True)
    yield


def outputs(layer, x, **given):
    """The outputs of a layer and all its gradients."""
    leaf = x.detach().clone().requires_grad_()
    y, (h, c) = layer(leaf, **given)
    assert c.dtype == torch.float32
    total = y.float().square().sum() + (c * h.float()).sum()
    return y.detach(), *torch.autograd.grad(total, [leaf, *layer.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize(
    ("rank", "options"),
    [
        (1, {}),
        (2, {"peephole": True}),
        (2, {"recompute": True, "stride": 2, "bias": False}),
        (3, {"padding": "same"}),
    ],
    ids=["1d", "peephole", "recomputed", "3d"],
)
def test_a_layer_on_a_device_equals_the_definition(on_device, rank, options, dtype):
    torch.manual_seed(0)
    kind = {1: ConvLSTM1d, 2: ConvLSTM2d, 3: ConvLSTM3d}[rank]
    options = {"return_sequences": True, "return_state": True, **options}
    layer = kind(2, 3, 3 if rank > 1 else 4, **options).to(DEVICE)
    if layer.peephole is not None:
        torch.nn.init.normal_(layer.peephole, std=0.3)
    x = torch.randn(2, 4, 2, *[5] * rank, device=DEVICE)
    given = {}
    if layer.peephole is not None:
        given["mask"] = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]], dtype=torch.bool, device=DEVICE)
    layer.plan = "loop"
    wanted = outputs(layer, x, **given)
    layer.plan = "fused"
    found = outputs(layer.to(dtype), x.to(dtype), **given)
    bound = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]
    for mine, other in zip(found, wanted, strict=True):
        assert mine.dtype == dtype
        largest = other.abs().max()
        assert (mine.float() - other).abs().max() <= bound * largest


def test_autocast_takes_its_dtype_and_gives_gradients_of_the_weights(on_device):
    torch.manual_seed(0)
    layer = ConvLSTM2d(2, 3, 3, padding="same", return_state=True, peephole=True, plan="fused")
    layer, x = layer.to(DEVICE), torch.randn(2, 3, 2, 6, 5, device=DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = outputs(layer, x)
    layer.plan = "loop"
    wanted = outputs(layer, x)
    assert found[0].dtype == torch.bfloat16
    for mine, other in zip(found[1:], wanted[1:], strict=True):
        assert mine.dtype == torch.float32
        assert (mine - other).abs().max() <= 8e-2 * other.abs().max()


class Launches(TorchDispatchMode):
    """Counts what would run on a device: the gates, and torch's operators but for views and fresh
    memory."""

    FREE = "empty", "permute", "view", "alias", "detach", "select", "slice", "unbind", "expand"

    def __init__(self, monkeypatch):
        super().__init__()
        self.names = []
        for name in ("gates_forward", "gates_backward"):
            monkeypatch.setattr(triton_gates, name, lambda *_, name=name: self.names.append(name))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::")
        if not name.startswith(self.FREE) and "new_empty" not in name:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_two_launches_each_way(on_device, monkeypatch, dtype):
    spec = CellSpec.make(2, 8, 3, padding="same")
    weights = [torch.randn(32, n, 3, 3, device=DEVICE, dtype=dtype) for n in (4, 8)]
    counter, counts = Launches(monkeypatch), []
    for steps in (3, 4):
        x = torch.randn(steps, 2, 9, 7, 4, device=DEVICE, dtype=dtype)
        h = torch.zeros(2, 9, 7, 8, device=DEVICE, dtype=dtype)
        bias = torch.zeros(32, device=DEVICE, dtype=dtype)
        p = Problem(x, h, h.float(), *weights, bias, None, None, spec)
        for keep in (fused.KEEP_NOTHING, fused.KEEP_GATES):
            counter.names.clear()
            with counter:
                kept = fused.forward(p, keep, keep == fused.KEEP_NOTHING)
            counts.append(list(counter.names))
        counter.names.clear()
        with counter:
            fused.backward(p, kept, kept.hs, None, True)
        counts.append(list(counter.names))
    for few, more in zip(counts[:3], counts[3:], strict=True):
        added = list((Counter(more) - Counter(few)).elements())
        assert len(added) == len(more) - len(few) == 2, added
        assert sorted(added)[0] == "convolution"
        assert few.count("convolution") <= 3 + 2  # and the weights', whatever the steps


def test_the_choice_of_gates_is_explicit():
    with pytest.raises(ValueError, match="takes 'native' or 'triton', got 'torch'"):
        door.set_cuda_gates("torch")
    assert door.cuda_dtypes() == (torch.float32,)
    assert door.set_cuda_gates("triton") == "native"
    assert torch.bfloat16 in door.cuda_dtypes()
    assert door.set_cuda_gates("native") == "triton"
