"""The native loss kernels as operators: opcheck, edge values, and equal results at every level."""

import os
import subprocess
import sys

import pytest
import torch

from tp_parallel.loss import ops

pytestmark = pytest.mark.native

SHAPES = [(0, 5), (1, 1), (3, 7), (5, 2047), (5, 2048), (6, 4099)]


def arguments(rows, columns, dtype=torch.float32, valid=None, start=10):
    generator = torch.Generator().manual_seed(rows * 31 + columns)
    logits = (torch.randn(rows, columns, generator=generator) * 4).to(dtype)
    target = torch.randint(0, start + columns + 10, (rows,), generator=generator)
    return logits, target, start, columns if valid is None else valid, -100


@pytest.mark.parametrize("dtype", ops.DTYPES)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_statistics_and_gradient_equal_their_definitions(dtype, rows, columns):
    logits, target, start, valid, ignore = arguments(rows, columns, dtype)
    got = ops.loss_statistics(logits, target, start, valid, ignore, True).double()
    x = logits.double()
    own = (target >= start) & (target < start + columns)
    at = x.gather(1, (target - start).clamp(0, columns - 1).unsqueeze(1)).squeeze(1) * own
    top = x.amax(1) if rows else x.sum(1)
    want = torch.stack([top, (x - top[:, None]).exp().sum(1), at, x.sum(1)], 1)
    torch.testing.assert_close(got, want, rtol=2e-6, atol=2e-4)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    lse, grad = torch.logsumexp(x, 1).to(wide), torch.linspace(0.5, 2, rows).to(wide)
    out = ops.loss_gradient(logits, target, lse, grad, start, valid, ignore, 0.1, 0.01, 9000)
    p = (x - lse.double()[:, None]).exp() * (1 + 0.02 * lse.double()[:, None]) - 0.1 / 9000
    p[own, (target - start)[own]] -= 0.9
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    want = p * grad.double()[:, None]
    torch.testing.assert_close(out.double(), want, rtol=tolerance * 10, atol=tolerance)
    ops.loss_gradient_(logits, target, lse, grad, start, valid, ignore, 0.1, 0.01, 9000)
    assert torch.equal(logits, out), "in place differs"


def test_padding_is_never_read_and_gets_no_gradient():
    logits, target, start, _, ignore = arguments(4, 9, valid=6)
    logits[:, 6:] = float("nan")
    statistics = ops.loss_statistics(logits, target, start, 6, ignore, True)
    assert statistics.isfinite().all()
    ones = torch.ones(4)
    out = ops.loss_gradient(logits, target, ones, ones, start, 6, ignore, 0.1, 0.0, 9)
    assert out.isfinite().all()
    assert (out[:, 6:] == 0).all()


def test_infinities_and_nan_keep_their_meaning():
    inf = float("inf")
    logits = torch.tensor([[0.0, -inf, -inf], [-inf, -inf, -inf], [float("nan"), 0.0, 1.0]])
    target = torch.zeros(3, dtype=torch.int64)
    top, total, _, _ = ops.loss_statistics(logits, target, 0, 3, -100, False).unbind(1)
    assert top[0] == 0
    assert total[0] == 1
    assert top[1] == -inf
    assert total[1] == 0
    assert total[2].isnan()
    out = ops.loss_gradient(logits, target, torch.zeros(3), torch.ones(3), 0, 3, -100, 0.0, 0.0, 3)
    assert out[0].tolist() == [0.0, 0.0, 0.0]
    assert out[2, 0].isnan()


def test_ignored_rows_get_a_zero_gradient_whatever_they_hold():
    logits = torch.full((2, 3), float("inf"))
    target = torch.tensor([-100, 1])
    grad = torch.tensor([1.0, 0.0])
    out = ops.loss_gradient(logits, target, torch.zeros(2), grad, 0, 3, -100, 0.0, 0.0, 3)
    assert (out == 0).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = ops.loss_statistics(*arguments(37, 5000), True)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, ops.loss_statistics(*arguments(37, 5000), True))


def test_operators_pass_opcheck():
    logits, target, start, valid, ignore = arguments(4, 9)
    torch.library.opcheck(ops.loss_statistics, (logits, target, start, valid, ignore, True))
    ones = torch.ones(4)
    gradient = (logits, target, ones, ones, start, valid, ignore, 0.1, 0.0, 9)
    torch.library.opcheck(ops.loss_gradient, gradient)
    torch.library.opcheck(ops.loss_gradient_, gradient)


def test_a_strided_tensor_cannot_be_overwritten_unseen():
    logits = torch.zeros(4, 6).t()
    ones = torch.ones(6)
    target = torch.zeros(6, dtype=torch.int64)
    with pytest.raises(ValueError, match="must be contiguous to be overwritten"):
        ops.loss_gradient_(logits, target, ones, ones, 0, 4, -100, 0.0, 0.0, 4)


def test_float16_runs_as_torch_operators():
    assert not ops.has_kernel(torch.zeros(1, dtype=torch.float16))


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_lower_instruction_sets_give_the_same_numbers(level):
    code = (
        "import torch; from tp_parallel.loss import ops\n"
        "x = torch.linspace(-9, 9, 5000).repeat(3, 1); t = torch.zeros(3, dtype=torch.int64)\n"
        "s = ops.loss_statistics(x, t, 0, 5000, -100, True)\n"
        "print(ops.isa(), *s[0].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"NATIVE_ISA": level},
                          stdout=subprocess.PIPE, text=True, check=True, timeout=120)  # fmt: skip
    name, *numbers = done.stdout.split()
    assert name in (level, "baseline")
    x = torch.linspace(-9, 9, 5000, dtype=torch.float32).double()
    want = [9.0, (x - 9).exp().sum().item(), -9.0, x.sum().item()]
    assert [float(n) for n in numbers] == pytest.approx(want, rel=1e-5, abs=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_cuda_kernels_equal_the_cpu_kernels(dtype, rows, columns):
    logits, target, start, valid, ignore = arguments(rows, columns, dtype)
    there = (logits.cuda(), target.cuda(), start, valid, ignore)
    got = ops.loss_statistics(*there, True)
    want = ops.loss_statistics(logits, target, start, valid, ignore, True)
    torch.testing.assert_close(got.cpu(), want, rtol=1e-5, atol=1e-3)
    lse, grad = torch.logsumexp(logits.float(), 1), torch.linspace(0.5, 2, rows)
    terms = (start, valid, ignore, 0.1, 0.01, 9000)
    got = ops.loss_gradient(there[0], there[1], lse.cuda(), grad.cuda(), *terms)
    want = ops.loss_gradient(logits, target, lse, grad, *terms)
    torch.testing.assert_close(
        got.cpu(), want, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5
    )
