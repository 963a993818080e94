"""The native kernels between a layer's products: equal to torch's operators in values and gradients
of first and second order, at every level of instructions and for any number of threads.
"""

import os
import subprocess
import sys

import pytest
import torch

from tp_parallel.layers import ops
from tp_parallel.layers.rotary import rotary_table

pytestmark = pytest.mark.native

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1.6e-2}


def drawn(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).mul(2).to(dtype)


def norms(dtype, shift):
    # 130 rows: three chunks; 19 features: no multiple of a vector
    return ops.rms_norm, (drawn(2, 65, 19, dtype=dtype), drawn(19, dtype=dtype)), (1e-5, shift)


def gates(dtype, gelu):
    return ops.gate, (drawn(3, 37, 2 * 21, dtype=dtype) * 3,), (gelu,)


def heads(dtype, batched, dim=10, groups=2, queries=3):
    place = torch.arange(7) if not batched else torch.arange(14).view(2, 7) % 5
    table = rotary_table(place, dim, 100.0, dtype)
    return ops.split_heads, (drawn(2, 7, groups, queries + 2, 12, dtype=dtype),), (table,)


CASES = {"rms norm": (norms, 0.0), "zero-centred rms norm": (norms, 1.0),
         "silu gate": (gates, False), "gelu gate": (gates, True),
         "heads": (heads, False), "heads of documents": (heads, True)}  # fmt: skip


def values_and_gradients(function, inputs, settings):
    inputs = [x.clone().requires_grad_() for x in inputs]
    out = function(*inputs, *settings)
    out = out if isinstance(out, tuple) else (out,)
    grads = [drawn(*x.shape, dtype=x.dtype) for x in out]
    return [*out, *torch.autograd.grad(out, inputs, grads)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_torch_in_float64(monkeypatch, case, dtype):
    build, setting = CASES[case]
    function, inputs, settings = build(dtype, setting)
    got = values_and_gradients(function, inputs, settings)
    monkeypatch.setattr(ops, "has_kernel", lambda *_: False)
    wide = [x.double() for x in inputs]
    table = [x.double() if isinstance(x, torch.Tensor) else x for x in settings]
    for mine, want in zip(got, values_and_gradients(function, wide, table), strict=True):
        assert mine.dtype == dtype
        scale = float(want.detach().abs().max())
        tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype] * scale}
        torch.testing.assert_close(mine.double(), want, **tolerance)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_both_orders_pass_gradcheck(case):
    build, setting = CASES[case]
    function, inputs, settings = build(torch.float64, setting)
    small = [x[:1, :3].contiguous().requires_grad_() if x.dim() > 1 else x.requires_grad_()
             for x in inputs]  # fmt: skip
    if function is ops.split_heads:  # the table of the tokens that are left
        (table,) = settings
        settings = (table[:, :3] if table.dim() == 3 else table[:, :1, :, :3],)
    assert torch.autograd.gradcheck(lambda *x: function(*x, *settings), small)
    assert torch.autograd.gradgradcheck(lambda *x: function(*x, *settings), small)


@pytest.mark.parametrize("case", CASES)
def test_strided_and_empty_inputs_are_taken(case):
    build, setting = CASES[case]
    function, inputs, settings = build(torch.float32, setting)
    x, *others = inputs
    strided = torch.stack((x, x), -1)[..., 0]
    assert not strided.is_contiguous()
    got = values_and_gradients(function, (strided, *others), settings)
    assert all(map(torch.equal, got, values_and_gradients(function, inputs, settings)))
    if function is not ops.split_heads:
        *_, grad = values_and_gradients(function, (x[:0], *others), settings)
        assert not grad.any()


@pytest.mark.parametrize("case", CASES)
def test_the_number_of_threads_changes_no_bit(case):
    build, setting = CASES[case]
    before, got = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            got.append(values_and_gradients(*build(torch.float32, setting)))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *got))


def test_operators_pass_opcheck():
    x, weight = drawn(3, 4, 10, dtype=torch.float32), drawn(10, dtype=torch.float32)
    out, scale = ops.operators.rms_norm(x, weight, 1e-5, 0.0)
    qkv, table = (
        drawn(2, 7, 2, 5, 12, dtype=torch.float32),
        rotary_table(torch.arange(7), 10, 9.0, x.dtype),
    )
    for operator, arguments in (
        ("rms_norm", (x, weight, 1e-5, 0.0)), ("rms_norm_gradient", (x, weight, scale, out, 0.0)),
        ("gate", (x, True)), ("gate_gradient", (x, x[..., :5], False)),
        ("split_heads", (qkv, table)),
        ("join_heads", (*ops.operators.split_heads(qkv, table), table)),
    ):  # fmt: skip
        torch.library.opcheck(getattr(ops.operators, operator).default, arguments)


def test_what_torch_compile_makes_of_them_gives_the_same_numbers():
    for build, setting in CASES.values():
        function, inputs, settings = build(torch.float32, setting)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        got = values_and_gradients(compiled, inputs, settings)
        wanted = values_and_gradients(function, inputs, settings)
        for mine, want in zip(got, wanted, strict=True):
            off = (mine - want).detach().abs().max() / want.detach().abs().max()
            assert off < 1e-6


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_lower_instruction_sets_give_the_same_numbers(level):
    code = (
        "import torch; from tp_parallel.layers import ops\n"
        "x = torch.linspace(-9, 9, 2 * 501).repeat(3, 1)\n"
        "print(ops.gate(x, False).sum().item(), ops.gate(x, True).sum().item(),\n"
        "      ops.rms_norm(x, x[0], 1e-5, 0.0).sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"NATIVE_ISA": level},
                          stdout=subprocess.PIPE, text=True, check=True, timeout=120)  # fmt: skip
    x = torch.linspace(-9, 9, 2 * 501).repeat(3, 1)
    want = [ops.gate(x, False), ops.gate(x, True), ops.rms_norm(x, x[0], 1e-5, 0.0)]
    assert [float(n) for n in done.stdout.split()] == pytest.approx(
        [w.sum().item() for w in want], rel=1e-5
    )


def test_distributed_tensors_run_by_torchs_operators():
    from torch import distributed
    from torch.distributed.tensor import DeviceMesh, distribute_tensor

    x, weight = drawn(3, 10, dtype=torch.float32), drawn(10, dtype=torch.float32)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = DeviceMesh("cpu", [0])
        spread, by = distribute_tensor(x, mesh), distribute_tensor(weight, mesh)
        norm = ops.rms_norm(spread, by, 1e-5, 0.0).to_local()
        gated = ops.gate(spread, True).to_local()
    finally:
        distributed.destroy_process_group()
    torch.testing.assert_close(norm, ops.rms_norm(x, weight, 1e-5, 0.0))
    torch.testing.assert_close(gated, ops.gate(x, True))


@pytest.mark.parametrize("positions", [torch.arange(14), torch.arange(28).view(4, 7)])
def test_a_rotary_table_of_other_tokens_is_refused(positions):
    table = rotary_table(positions, 10, 100.0, torch.float32)
    with pytest.raises(ValueError, match="split_heads: table must be a rotary_table of qkv's"):
        ops.split_heads(torch.zeros(2, 7, 2, 5, 12), table)


def test_a_shape_that_does_not_fit_is_refused():
    from tp_parallel import _C

    x = torch.zeros(2, 6)
    with pytest.raises(
        ValueError, match=r"gate: x must be contiguous float32 of shape \(rows=2, 8\)"
    ):
        _C.gate(x, False, torch.zeros(2, 4), 1)
    table = torch.zeros(2, 3, 4)
    parts = torch.zeros(3, 1, 1, 6), torch.zeros(3, 1, 6), torch.zeros(3, 1, 6)
    with pytest.raises(ValueError, match=r"table must be \(2, places, at most width / 2\)"):
        _C.split_heads(torch.zeros(3, 1, 3, 6), table, *parts, 1)
