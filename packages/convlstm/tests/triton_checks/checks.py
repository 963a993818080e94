"""The gates by Triton beside the compiled CPU kernels, in Triton's interpreter or on a GPU: run by
test_triton.py, in a process of its own with TRITON_INTERPRET=1 where there is no GPU."""

import pytest
import torch

from convlstm import _C, ConvLSTM1d, ConvLSTM3d
from convlstm.sequence import gates as door
from convlstm.sequence import triton_gates
from convlstm.sequence.activations import NATIVE_CODES

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


@pytest.mark.parametrize("rank", [1, 3])
def test_a_layer_with_these_gates_equals_the_one_with_the_compiled(monkeypatch, rank):
    """The steps one by one, as on CUDA: other ranks than two take them on the CPU too."""
    torch.manual_seed(0)
    kind = {1: ConvLSTM1d, 3: ConvLSTM3d}[rank]
    layer = kind(2, 3, 3, return_sequences=True, plan="fused").to(DEVICE)
    x = torch.randn(2, 4, 2, *[5] * rank, device=DEVICE)

    def outputs():
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        grads = torch.autograd.grad(y.square().sum(), [leaf, *layer.parameters()])
        return y.detach(), *grads

    wanted = outputs()
    launches = []

    def counted(name):
        function = getattr(triton_gates, name)

        def run(*arguments):
            launches.append(name)
            return function(*arguments)

        return run

    for name in ("gates_forward", "gates_backward"):
        monkeypatch.setattr(triton_gates, name, counted(name))
    monkeypatch.setattr(door, "uses_triton", lambda tensor: True)
    found = outputs()
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    # one launch a step each way: with the two convolutions a step has at most three
    assert launches == ["gates_forward"] * 4 + ["gates_backward"] * 4


def test_the_choice_of_gates_is_explicit():
    with pytest.raises(ValueError, match="takes 'native' or 'triton', got 'torch'"):
        door.set_cuda_gates("torch")
    assert door.cuda_dtypes() == (torch.float32,)
    assert door.set_cuda_gates("triton") == "native"
    assert torch.bfloat16 in door.cuda_dtypes()
    assert door.set_cuda_gates("native") == "triton"
