"""The loss by Triton beside the compiled CPU kernels and the definition, in Triton's interpreter or
on a GPU: run by test_triton.py, in a process of its own with TRITON_INTERPRET=1 where there is no
GPU."""

import pytest
import torch

from tp_parallel.loss import cross_entropy, ops
from tp_parallel.loss import triton_kernels as MODULE
from tp_parallel.loss.cross_entropy import LossTerms

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    import numpy
    import triton

    if ON_GPU:
        return
    monkeypatch.setattr(MODULE, "BLOCK", 64)  # so that small rows have several blocks
    old = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7)
    if old and numpy.lib.NumpyVersion(numpy.__version__) >= "2.4.0":
        pytest.skip("the interpreter of Triton before 3.7 needs numpy below 2.4")


def case(rows, columns, dtype):
    """Logits with rows that overflow and that are -inf; targets of every kind."""
    torch.manual_seed(rows + columns)
    logits = torch.randn(rows, columns) * 5
    if rows > 2:
        logits[0] *= 40
        logits[1, :] = -torch.inf
        logits[1, 2] = 1.0
    target = torch.randint(0, 2 * columns, (rows,))
    target[rows // 2 :: 3] = -100
    return logits.to(dtype), target


SHAPES = [(5, 7), (4, 64), (6, 200), (1, 130)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_statistics_and_gradient_equal_the_cpu_kernels(dtype, rows, columns):
    logits, target = case(rows, columns, dtype)
    native = logits.float() if dtype == torch.float16 else logits  # no CPU kernel for float16
    start, valid = 3, columns - 2
    there = logits.to(DEVICE), target.to(DEVICE)
    got = MODULE.statistics(*there, start, valid, -100, True).cpu()
    want = ops.loss_statistics(native, target, start, valid, -100, True)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    lse = torch.logsumexp(logits[:, :valid].float(), 1)
    grad = torch.linspace(0.0, 2.0, rows)
    terms = start, valid, -100, 0.1, 0.01, 9000
    out = torch.empty_like(there[0])
    MODULE.gradient(*there, lse.to(DEVICE), grad.to(DEVICE), *terms, out)
    want = ops.loss_gradient(native, target, lse, grad, *terms).to(dtype)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]
    torch.testing.assert_close(out.cpu(), want, rtol=tolerance, atol=1e-5)
    MODULE.gradient(*there, lse.to(DEVICE), grad.to(DEVICE), *terms, there[0])
    assert torch.equal(there[0], out)


class Ranks:
    """An axis whose ranks' statistics are given."""

    def __init__(self, every):
        self.every = every

    def all_gather(self, *_, **__):
        return self.every


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_are_combined_to_torchs_loss(ranks):
    rows, columns = 6, 50
    logits, target = case(rows, ranks * columns, torch.float32)
    target = target.clamp(max=ranks * columns - 1)
    parts = [
        ops.loss_statistics(part.contiguous(), target, r * columns, columns, -100, True)
        for r, part in enumerate(logits.split(columns, 1))
    ]
    every = torch.stack(parts)
    found = MODULE.combine(every.to(DEVICE), target.to(DEVICE), -100, 0.1, ranks * columns, 0.01)
    terms = LossTerms(ranks * columns, 0.1, -100, 0.01, 0, columns)
    want = cross_entropy.combine(parts[0], target, terms, Ranks(every))
    for mine, wanted in zip(found, want, strict=True):
        torch.testing.assert_close(mine.cpu(), wanted, rtol=1e-5, atol=1e-5)


def test_an_ignored_row_of_infinities_has_no_loss_and_no_gradient():
    logits = torch.full((2, 10), torch.inf, device=DEVICE)
    target = torch.tensor([-100, -100], device=DEVICE)
    statistics = MODULE.statistics(logits, target, 0, 10, -100, False)
    loss, lse = MODULE.combine(statistics[None], target, -100, 0.0, 10, 0.0)
    assert loss.tolist() == [0.0, 0.0]
    MODULE.gradient(logits, target, lse, torch.ones_like(lse), 0, 10, -100, 0.0, 0.0, 10, logits)
    assert not logits.any()


def test_a_nan_reaches_the_loss():
    logits = torch.zeros(1, 100, device=DEVICE)
    logits[0, 70] = torch.nan
    target = torch.tensor([3], device=DEVICE)
    statistics = MODULE.statistics(logits, target, 0, 100, -100, False)
    assert MODULE.combine(statistics[None], target, -100, 0.0, 100, 0.0)[0].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_loss_takes_three_launches(monkeypatch, dtype):
    """Its own kernels only: statistics, the ranks' combination, the gradient."""
    launches = []

    def counting(name, function):
        class Counted:
            def __getitem__(self, grid):
                launches.append(name)
                return function[grid]

        return Counted()

    for name in ("row_statistics", "combine_ranks", "row_gradient"):
        monkeypatch.setattr(MODULE, name, counting(name, getattr(MODULE, name)))
    for door in ("uses_triton", "has_kernel"):
        monkeypatch.setattr(ops, door, lambda tensor: True)
    logits, target = case(4, 30, dtype)
    logits, target = logits.to(DEVICE), target.clamp(max=29).to(DEVICE)
    terms = LossTerms(30, 0.0, -100, 0.0, 0, 30)

    class One:
        def all_gather(self, statistics, *_, **__):
            return statistics

    leaf = logits.clone().requires_grad_()
    loss = cross_entropy._CrossEntropy.apply(leaf, target, terms, One(), False)
    loss.sum().backward()
    assert launches == ["row_statistics", "combine_ranks", "row_gradient"]
    wanted = logits.clone().float().requires_grad_()
    want = torch.nn.functional.cross_entropy(wanted, target, reduction="none")
    want.sum().backward()
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(leaf.grad.float(), wanted.grad, rtol=1e-2, atol=1e-3)


def test_the_choice_of_kernels_is_explicit_and_names_what_there_is():
    with pytest.raises(ValueError, match=r"takes .torch., .native. or .triton., got 'cuda'"):
        ops.set_cuda_kernels("cuda")
    before = ops.set_cuda_kernels("triton")
    assert before == "torch"
    assert ops.set_cuda_kernels(before) == "triton"
