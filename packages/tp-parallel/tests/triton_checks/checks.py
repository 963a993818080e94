"""The loss by Triton beside the compiled CPU kernels and the definition, in Triton's interpreter or
on a GPU: run by test_triton.py, in a process of its own with TRITON_INTERPRET=1 where there is no
GPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tp_parallel import (
    ParallelContext,
    vocab_parallel_cross_entropy,
    vocab_parallel_linear_cross_entropy,
)
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


@pytest.mark.parametrize("valid", [0, 1, 9])
def test_no_rows_no_valid_columns_and_one_are_no_special_case(valid):
    target = torch.tensor([3, 11, -100, 2], device=DEVICE)
    for rows in (0, 4):
        logits, ids = torch.randn(rows, 9, device=DEVICE), target[:rows]
        found = MODULE.statistics(logits, ids, 3, valid, -100, True)
        want = ops.loss_statistics(logits.cpu(), ids.cpu(), 3, valid, -100, True)
        torch.testing.assert_close(found.cpu(), want, rtol=1e-5, atol=1e-5)
        lse = torch.ones(rows, device=DEVICE)
        vectors = ids, lse, lse
        out = torch.full_like(logits, torch.nan)
        MODULE.gradient(logits, *vectors, 3, valid, -100, 0.1, 0.01, 20, out)
        want = ops.loss_gradient(logits.cpu(), *(v.cpu() for v in vectors), 3, valid, -100, 0.1,
                                 0.01, 20)  # fmt: skip
        torch.testing.assert_close(out.cpu(), want, rtol=1e-5, atol=1e-6)


def test_a_batch_whose_targets_are_all_ignored_has_no_loss_and_no_gradient():
    logits = torch.randn(3, 70, device=DEVICE)
    target = torch.full((3,), 2**40, device=DEVICE)  # an ignore_index beyond 32 bits
    found = MODULE.statistics(logits, target, 0, 70, 2**40, True)
    loss, lse = MODULE.combine(found[None], target, 2**40, 0.1, 70, 0.01)
    assert loss.tolist() == [0.0] * 3
    MODULE.gradient(logits, target, lse, lse, 0, 70, 2**40, 0.1, 0.01, 70, logits)
    assert not logits.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_narrow_logits_are_in_float32(dtype):
    """Equal values, whose sum in their own dtype would stand still or be rounded."""
    logits = torch.full((1, 2051), 1.25, dtype=dtype, device=DEVICE)
    found = MODULE.statistics(logits, torch.zeros(1, dtype=torch.int64, device=DEVICE), 0, 2051,
                              -100, True)  # fmt: skip
    assert found.tolist() == [[1.25, 2051.0, 1.25, 2563.75]]


def test_logits_of_any_strides_and_a_gradient_of_one_expanded_number(monkeypatch):
    monkeypatch.setattr(ops, "uses_triton", lambda tensor: True)
    logits, target = torch.randn(90, 4, device=DEVICE).t(), torch.arange(4, device=DEVICE)
    found = ops.loss_statistics(logits, target, 0, 90, -100, False)
    torch.testing.assert_close(found[:, 0], logits.amax(1))
    lse, one = logits.logsumexp(1), torch.tensor(0.5, device=DEVICE)
    terms = target, lse, one.expand(4), 0, 90, -100, 0.0, 0.0, 90
    want = 0.5 * (logits.softmax(1) - torch.nn.functional.one_hot(target, 90))
    torch.testing.assert_close(ops.loss_gradient(logits, *terms), want)
    with pytest.raises(ValueError, match="logits must be contiguous to be overwritten"):
        ops.loss_gradient_(logits, *terms)


def test_rows_beyond_2_to_the_31_elements_are_where_they_should_be(tmp_path, monkeypatch):
    """Three rows 2^30 + 16 apart, of which only the first columns are touched: a file of holes."""
    stride, filled = 2**30 + 16, 40
    if ON_GPU:
        logits = torch.zeros(3, stride, dtype=torch.bfloat16, device=DEVICE)
    else:
        from triton.runtime.interpreter import GridExecutor

        # it would copy all of a tensor's storage onto itself
        monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *_: None)
        path = str(tmp_path / "holes")
        logits = torch.from_file(path, True, 3 * stride, dtype=torch.bfloat16).view(3, stride)
    values = torch.randn(3, filled).bfloat16()
    logits[:, :filled] = values.to(DEVICE)
    target = torch.tensor([1, 2, 39], device=DEVICE)
    found = MODULE.statistics(logits, target, 0, filled, -100, True)
    want = ops.loss_statistics(values, target.cpu(), 0, filled, -100, True)
    torch.testing.assert_close(found.cpu(), want, rtol=1e-5, atol=1e-5)
    lse = found[:, 0] + found[:, 1].log()
    grad = torch.ones_like(lse)
    terms = target, lse, grad, logits, stride, 1, 0, filled, -100, 0.0, 0.0, 0.0
    MODULE.row_gradient[(3, 1)](logits, *terms, MODULE.BLOCK, num_warps=MODULE.WARPS)
    want = ops.loss_gradient(values, *(v.cpu() for v in (target, lse, grad)), 0, filled, -100, 0.0,
                             0.0, filled)  # fmt: skip
    got = logits[:, :filled].cpu()
    torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-5)


OURS = {"tp_parallel::loss_statistics": ops._statistics,
        "tp_parallel::loss_gradient": ops._gradient,
        "tp_parallel::loss_gradient_": ops._gradient_inplace}  # fmt: skip


class Launches(TorchDispatchMode):
    """Names of what would run on a device: the kernels here, and torch's operators that compute."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.names = []
        for name in ("row_statistics", "combine_ranks", "row_gradient"):
            monkeypatch.setattr(MODULE, name, self.counting(name, getattr(MODULE, name)))

    def counting(self, name, function):
        launches = self

        class Counted:
            def __getitem__(self, grid):
                def run(*arguments, **options):
                    launches.names.append(name)
                    with _disable_current_modes():  # the interpreter computes with torch itself
                        function[grid](*arguments, **options)

                return run

        return Counted()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        if name in OURS:  # what it does is counted, not its call
            with self:
                return OURS[name](*args)
        if not (function.is_view or "empty" in name or "detach" in name):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_loss_takes_three_launches(monkeypatch, dtype, inplace):
    """Statistics, the ranks' combination, the gradient: nothing of torch's beside them."""
    launches = Launches(monkeypatch)
    for door in ("uses_triton", "has_kernel"):
        monkeypatch.setattr(ops, door, lambda tensor: True)
    monkeypatch.setattr(cross_entropy, "can_read", lambda tensor: False)  # as on a device
    logits, target = case(4, 30, dtype)
    logits, target = logits.to(DEVICE), target.clamp(max=29).to(DEVICE)
    context = ParallelContext(device=DEVICE)
    leaf, one = logits.clone().requires_grad_(), torch.ones((), device=DEVICE)
    given = leaf * 1 if inplace else leaf
    with launches:
        loss = vocab_parallel_cross_entropy(
            given[None], target[None], context=context, vocab_size=30, inplace=inplace
        )
        (grad,) = torch.autograd.grad(loss, given, one.expand_as(loss))
    assert launches.names == ["row_statistics", "combine_ranks", "row_gradient"]
    wanted = logits.clone().float().requires_grad_()
    want = torch.nn.functional.cross_entropy(wanted, target, reduction="none")
    want.sum().backward()
    torch.testing.assert_close(loss[0], want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad.float(), wanted.grad, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.01)])
def test_ligers_fused_loss_is_this_librarys(monkeypatch, reduction, smoothing, z_loss):
    pytest.importorskip("liger_kernel", reason="Liger is not installed: pip install liger-kernel")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 5, 16, generator=generator).to(DEVICE).requires_grad_()
    weight = torch.randn(70, 16, generator=generator).to(DEVICE).requires_grad_()
    target = torch.randint(70, (2, 5), generator=generator).to(DEVICE)
    target[0, 2] = -100
    results = []
    for liger in (False, True):
        monkeypatch.setattr(ops, "uses_liger", lambda tensor, chosen=liger: chosen)
        loss = vocab_parallel_linear_cross_entropy(
            hidden, weight, target, context=ParallelContext(device=DEVICE), vocab_size=70,
            reduction=reduction, label_smoothing=smoothing, z_loss=z_loss,
        )  # fmt: skip
        assert ("Liger" in repr(_graph(loss))) == liger
        results.append((loss, *torch.autograd.grad(3 * loss, (hidden, weight))))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5)


def _graph(tensor):
    """The nodes of a tensor's graph."""
    nodes = [tensor.grad_fn]
    for node in nodes:
        nodes += [parent for parent, _ in node.next_functions if parent is not None]
    return nodes


def test_the_choice_of_kernels_is_explicit_and_names_what_there_is():
    with pytest.raises(ValueError, match=r".native., .triton. or .liger., got 'cuda'"):
        ops.set_cuda_kernels("cuda")
    before = ops.set_cuda_kernels("triton")
    assert before == "torch"
    assert ops.set_cuda_kernels(before) == "triton"
