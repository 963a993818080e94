"""Every operator by every choice of kernels, beside the compiled CPU kernels: plain torch on the
CPU, the CUDA kernels in the simulator and, with `-m gpu`, both choices on a GPU."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import kernels as choice

import spconv_lite as sp
from spconv_lite import ops, plain
from spconv_lite.rulebook import Rulebook, pair_offsets, pair_rows

SHAPES = {1: [40], 2: [8, 9], 3: [5, 6, 7], 4: [4, 4, 5, 4]}
KINDS = ("submanifold", "convolution", "transposed")


@pytest.fixture(scope="module", params=choice.choices(pytest.mark.gpu))
def kernels(request):
    return choice.make(request.param)


def geometry(ndim, kind):
    """ksize, stride, padding, dilation, out_padding: mixed, and even here and there."""
    if kind == "submanifold":
        return [3] * ndim, [1] * ndim, [0] * ndim, [1, 2, 1, 1][:ndim], [0] * ndim
    return [3, 2, 3, 1][:ndim], [2, 1, 2, 1][:ndim], [1, 0, 1, 0][:ndim], [1] * ndim, [0] * ndim


def build(indices, ndim, kind):
    """Output sites, and the rulebook."""
    ksize, stride, padding, dilation, more = geometry(ndim, kind)
    if kind == "submanifold":
        return indices, Rulebook(*ops.subm_rulebook(indices, 2, SHAPES[ndim], ksize, dilation))
    settings = ksize, stride, padding, dilation, more, kind == "transposed"
    out, *book = ops.rulebook(indices, 2, SHAPES[ndim], *settings)
    return out, Rulebook(*book)


def triples(book, volume):
    """Every (offset, input row, output row), sorted."""
    rows_in, rows_out = pair_rows(book, volume)
    if book.is_table:
        offset = (book.pair_in.T >= 0).nonzero()[:, 1]
    else:
        offset = pair_offsets(book, volume)
    return sorted(torch.stack([offset, rows_in, rows_out], 1).tolist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_rulebooks_have_the_pairs_of_the_cpu_and_turn_around(kernels, sparse, ndim, kind):
    indices = sparse.random_sites(37, 2, SHAPES[ndim], ndim)
    volume = math.prod(geometry(ndim, kind)[0])

    def run(device):
        out, book = build(indices.to(device), ndim, kind)
        turned = Rulebook(*ops.transpose_rulebook(*book, len(indices), len(out), volume))
        return out.cpu(), triples(book, volume), triples(turned, volume)

    (out, pairs, turned), expected = kernels.beside_the_cpu(run)
    assert torch.equal(out, expected[0])
    assert [pairs, turned] == [expected[1], expected[2]]
    assert turned == sorted([k, o, i] for k, i, o in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_padded_pairs_are_those_of_the_cpu_in_some_order(kernels, sparse, kind):
    indices = sparse.random_sites(37, 2, SHAPES[2], 1)

    def run(device):
        settings = *geometry(2, kind), kind == "submanifold", kind == "transposed"
        out, pairs, number = ops.get_indice_pairs(indices.to(device), 2, SHAPES[2], *settings)
        assert all((pairs[:, k, n:] == -1).all() for k, n in enumerate(number.tolist()))
        lists = [sorted(pairs[:, k, :n].T.tolist()) for k, n in enumerate(number.tolist())]
        return out.tolist(), lists

    got, expected = kernels.beside_the_cpu(run)
    assert got == expected


TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 2e-6,
    torch.float16: 2**-10,
    torch.bfloat16: 2**-7,
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("c_in", "c_out", "groups"), [(16, 32, 1), (5, 7, 1), (8, 12, 2), (6, 6, 6)]
)
def test_convolutions_and_their_gradients_agree(kernels, sparse, c_in, c_out, groups, kind, dtype):
    indices = sparse.random_sites(70, 2, SHAPES[2], 3)
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=generator).to(dtype)  # noqa: E731
    ksize = geometry(2, kind)[0]
    x, weight, bias = draw(70, c_in), draw(c_out, *ksize, c_in // groups), draw(c_out)
    noise = draw(400, c_out)

    def run(device, dtype):
        out, book = build(indices.to(device), 2, kind)
        a, w, b, g = (t.to(device, dtype) for t in (x, weight, bias, noise[: len(out)]))
        symmetric = kind == "submanifold" and ops.is_symmetric(ksize)
        return (
            ops.conv(a, w, b, *book, len(out), groups, symmetric),
            ops.conv_input_grad(g, w, *book, len(indices), groups, symmetric),
            ops.conv_weight_grad(a, g, *book, w.shape, groups, symmetric),
        )

    with choice.Kernels("cpu", ops.cpu).chosen():
        exact = run("cpu", torch.float64)
    with kernels.chosen():
        got, again = run(kernels.device, dtype), run(kernels.device, dtype)
    for value, same, expected in zip(got, again, exact, strict=True):
        assert value.dtype == dtype
        assert torch.equal(value, same)  # the same bits in every run
        error = (value.cpu().double() - expected).abs().max()
        assert error <= TOLERANCE[dtype] * expected.abs().max()


def test_gradients_of_any_order(kernels, sparse):
    indices = sparse.random_sites(6, 2, [2, 3], 1).to(kernels.device)
    draw = lambda *size: torch.randn(  # noqa: E731
        *size, dtype=torch.float64, device=kernels.device, requires_grad=True
    )
    with kernels.chosen():
        out, *book = ops.rulebook(indices, 2, [2, 3], [2, 2], [2, 1], [1, 0], [1, 1], [0, 0], False)
        function = lambda *a: ops.conv(*a, *book, len(out), 2, False)  # noqa: E731
        inputs = draw(6, 2), draw(2, 2, 2, 1), draw(2)
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_opcheck_passes_for_every_operator(kernels, sparse):
    indices = sparse.random_sites(40, 2, [6, 7], 1).to(kernels.device)
    settings = (2, [6, 7], [3, 2], [2, 1], [1, 0], [1, 1], [0, 0])
    draw = lambda *size: torch.randn(*size, device=kernels.device, requires_grad=True)  # noqa: E731
    names = torch.ops.spconv_lite
    with kernels.chosen():
        out, *book = ops.rulebook(indices, *settings, False)
        m, n, weight = len(out), len(indices), draw(6, 3, 2, 2)
        for op, arguments in (
            (names.get_indice_pairs, (indices, *settings, False, False)),
            (names.get_indice_pairs, (indices, *settings, True, False)),
            (names.subm_rulebook, (indices, 2, [6, 7], [3, 3], [1, 1])),
            (names.rulebook, (indices, *settings, True)),
            (names.transpose_rulebook, (*book, n, m, 6)),
            (names.conv, (draw(n, 4), weight, draw(6), *book, m, 2, False)),
            (names.conv_input_grad, (draw(m, 6), weight, *book, n, 2, False)),
            (names.conv_weight_grad, (draw(n, 4), draw(m, 6), *book, list(weight.shape), 2, False)),
        ):
            if kernels.native and op is names.get_indice_pairs:
                tests = ("test_schema", "test_faketensor")  # the order of its pairs may differ
                torch.library.opcheck(op, arguments, test_utils=tests)
            else:
                torch.library.opcheck(op, arguments)


def test_no_sites_give_no_sites(kernels):
    empty = torch.zeros((0, 3), dtype=torch.int32, device=kernels.device)
    with kernels.chosen():
        for kind in KINDS:
            out, book = build(empty, 2, kind)
            assert out.shape == (0, 3)
            weight = torch.ones(5, *geometry(2, kind)[0], 2, device=kernels.device)
            x = torch.ones(0, 2, device=kernels.device)
            y = ops.conv(x, weight, None, *book, 0, 1, False)
            assert y.shape == (0, 5)
            assert ops.conv_input_grad(y, weight, *book, 0, 1, False).shape == (0, 2)
            w_grad = ops.conv_weight_grad(x, y, *book, weight.shape, 1, False)
            assert (w_grad == 0).all()
            ops.get_indice_pairs(empty, 2, SHAPES[2], *geometry(2, kind), kind == KINDS[0], False)


def test_input_sites_that_reach_no_output(kernels):
    lonely = torch.tensor([[0, 1], [1, 3]], dtype=torch.int32)  # odd places, stride 2, kernel 1

    def run(device):
        out, *book = ops.rulebook(lonely.to(device), 2, [5], [1], [2], [0], [1], [0], False)
        x = torch.ones(2, 3, device=device)
        weight = torch.ones(4, 1, 3, device=device)
        y = ops.conv(x, weight, None, *book, 0, 1, False)
        return out.shape, y.shape, ops.conv_input_grad(y, weight, *book, 2, 1, False).tolist()

    got, expected = kernels.beside_the_cpu(run)
    assert got == expected == ((0, 2), (0, 4), [[0.0] * 3] * 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "rows",
    [
        [[0, 1, 1], [0, 8, 0]],
        [[0, 1, -1], [0, 1, 1]],
        [[2, 1, 1]],
        [[-1, 1, 1]],
        [[0, 1, 1], [1, 1, 1], [0, 2, 2], [1, 1, 1], [0, 1, 1]],
    ],
    ids=["beyond the grid", "negative", "batch", "negative batch", "twice"],
)
def test_sites_that_are_wrong_are_named_as_on_the_cpu(kernels, rows, kind):
    def run(device):
        with pytest.raises(ValueError) as caught:
            build(torch.tensor(rows, dtype=torch.int32, device=device), 2, kind)
        return str(caught.value)

    got, expected = kernels.beside_the_cpu(run)
    assert got == expected


def test_far_sites_of_a_grid_of_2_to_62_cells(kernels):
    shape = [2**20, 2**21, 2**20]
    rows = [[0, 0, 0, 0], [0, 0, 0, 1], [0, *(n - 1 for n in shape)], [1, *(n - 1 for n in shape)]]

    def run(device):
        indices = torch.tensor(rows, dtype=torch.int32, device=device)
        book = Rulebook(*ops.subm_rulebook(indices, 2, shape, [3] * 3, [1] * 3))
        ones = [1] * 3
        out, *other = ops.rulebook(
            indices, 2, shape, [2] * 3, [2] * 3, [0] * 3, ones, [0] * 3, False
        )
        return triples(book, 27), out.tolist(), triples(Rulebook(*other), 8)

    got, expected = kernels.beside_the_cpu(run)
    assert got == expected


def test_operands_that_do_not_fit_are_refused(kernels, sparse):
    indices = sparse.random_sites(20, 2, SHAPES[2], 1).to(kernels.device)
    x, weight = torch.ones(20, 4), torch.ones(6, 3, 3, 4)
    x, weight = x.to(kernels.device), weight.to(kernels.device)
    with kernels.chosen():
        _, book = build(indices, 2, "submanifold")
        with pytest.raises(TypeError, match=r"conv: features and weight must be of one floating"):
            ops.conv(x.double(), weight, None, *book, 20, 1, True)
        with pytest.raises(ValueError, match=r"conv: features must have 4 channels"):
            ops.conv(x[:, :3], weight, None, *book, 20, 1, True)
        with pytest.raises(ValueError, match=r"groups must divide the 6 output channels, got 4"):
            ops.conv(x.repeat(1, 4), weight, None, *book, 20, 4, True)


def test_a_rulebook_of_the_other_form_is_refused(kernels, sparse):
    indices = sparse.random_sites(20, 2, SHAPES[2], 1)
    x, weight = torch.ones(20, 4), torch.ones(6, 3, 3, 4)
    with kernels.chosen():
        _, own = build(indices.to(kernels.device), 2, "submanifold")
    compact = plain.compact(*torch.zeros((3, 1), dtype=torch.int64), 20, 9)
    table = Rulebook(*(torch.zeros(s, dtype=torch.int32) for s in ((9, 20), (20,), (1,))))
    other = compact if own.is_table else table
    operands = [t.to(kernels.device) for t in (x, weight)]
    other = [t.to(kernels.device) for t in other]
    words = "compact form" if own.is_table else "neighbour table"
    with kernels.chosen():
        with pytest.raises(TypeError, match=f"conv: the rulebook .*{words}.*build it again"):
            ops.conv(*operands, None, *other, 20, 1, True)
        with pytest.raises(TypeError, match="transpose_rulebook: the rulebook"):
            ops.transpose_rulebook(*other, 20, 20, 9)


def test_tf32_is_torchs_own_switch(kernels, sparse):
    if not kernels.native:
        pytest.skip("plain torch products read the switch themselves")
    indices = sparse.random_sites(40, 2, SHAPES[2], 1).to(kernels.device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 32, generator=generator).to(kernels.device)
    weight = torch.randn(16, 3, 3, 32, generator=generator).to(kernels.device)
    before = torch.get_float32_matmul_precision()
    with kernels.chosen():
        _, book = build(indices, 2, "submanifold")
        results = {}
        try:
            for precision in ("highest", "high"):
                torch.set_float32_matmul_precision(precision)
                results[precision] = ops.conv(x, weight, None, *book, 40, 1, True)
        finally:
            torch.set_float32_matmul_precision(before)
    error = (results["high"] - results["highest"]).abs().max()
    assert 0 < error < 2**-9 * results["highest"].abs().max()


def test_only_a_rulebook_waits_for_the_device_and_only_once(kernels, sparse):
    if not kernels.native or kernels.device != "cpu":
        pytest.skip("the simulator counts the waits")
    waits = choice.simulator().host_waits
    indices, count = sparse.random_sites(40, 2, SHAPES[2], 1), []
    x, weight = torch.ones(40, 4), torch.ones(4, 3, 2, 4)
    with kernels.chosen():
        for kind in KINDS:
            count.append(waits())
            out, book = build(indices, 2, kind)
        count.append(waits())
        y = ops.conv(x, weight, None, *book, len(out), 1, False)
        ops.conv_input_grad(y, weight, *book, 40, 1, False)
        ops.conv_weight_grad(x, y, *book, weight.shape, 1, False)
        count.append(waits())
    assert [b - a for a, b in itertools.pairwise(count)] == [1, 1, 1, 0]


def test_the_choice_is_explicit_and_the_default_on_cuda_is_plain_torch(monkeypatch):
    monkeypatch.setattr(ops, "_chosen", dict(ops._chosen))
    assert sp.set_kernels("cuda", "torch") == "torch"  # the default
    assert sp.set_kernels("cpu", "torch") == "native"
    assert sp.set_kernels("cpu", "native") == "torch"
    with pytest.raises(ValueError, match="\"native\" or \"torch\", got 'cuda' and 'fast'"):
        sp.set_kernels("cuda", "fast")
    monkeypatch.setattr(ops._C, "cuda_architectures", "")
    with pytest.raises(RuntimeError, match="this build of spconv-lite has no CUDA kernels"):
        sp.set_kernels("cuda", "native")
    monkeypatch.setattr(ops._C, "cuda_architectures", "90")
    monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__", raising=False)
    with pytest.raises(RuntimeError, match=r"which torch .* does not name .*install a newer torch"):
        sp.set_kernels("cuda", "native")
    assert sp.set_kernels("cuda", "torch") == "torch"


def test_the_gpu_check_reads_every_file_with_cases_for_a_gpu():
    files = list(Path(__file__).parent.glob("test_*.py"))
    texts = {path.name: path.read_text() for path in files}
    with_cases = [name for name, text in texts.items() if "import kernels as choice" in text]
    assert sorted(with_cases) == ["test_kernel_layers.py", "test_kernels.py"]
    assert all("mark.gpu" in texts[name] for name in with_cases)  # as tools/gpu_check.py asks


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["torch", "native"])
def test_work_goes_to_the_current_stream(sparse, name):
    kernels = choice.make(("cuda", name))
    indices = sparse.random_sites(2000, 2, [30, 31], 1)
    x, weight = torch.randn(2000, 32), torch.randn(32, 3, 3, 32)

    def run(device):
        # a long wait ahead on the stream: work queued elsewhere would read what is not there yet
        rows, a, w = (torch.zeros_like(t, device=device) for t in (indices, x, weight))
        if device == "cuda":
            torch.cuda._sleep(100_000_000)
        rows.copy_(indices), a.copy_(x), w.copy_(weight)
        book = ops.subm_rulebook(rows, 2, [30, 31], [3, 3], [1, 1])
        y = ops.conv(a, w, None, *book, 2000, 1, True)
        return y, ops.conv_weight_grad(a, y, *book, w.shape, 1, True)

    with torch.cuda.stream(torch.cuda.Stream()):
        got, expected = kernels.beside_the_cpu(run)
        for value, exact in zip(got, expected, strict=True):
            assert (value.cpu() - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_fewer_features_than_the_map_reads_are_refused_before_a_kernel_runs(kernels, sparse):
    """A device would read beyond them, or stop at an assertion of torch's."""
    device = kernels.device
    indices = sparse.random_sites(37, 2, SHAPES[2], 1).to(device)
    with kernels.chosen():
        out, book = build(indices, 2, "convolution")
        rows, volume = len(out), math.prod(geometry(2, "convolution")[0])
        few, w = torch.ones(36, 3, device=device), torch.ones(5, 3, 2, 3, device=device)
        grad, pooled = torch.ones(rows, 5, device=device), torch.ones(rows, 3, device=device)
        conv, shape = (*book, rows, 1, False), list(w.shape)
        calls = {
            "conv": lambda: ops.conv(few, w, None, *conv),
            "conv_weight_grad": lambda: ops.conv_weight_grad(few, grad, *book, shape, 1, False),
            "max_pool": lambda: ops.max_pool(few, *book, rows, volume, False),
            "select_sum": lambda: ops.select_sum(few, few, pooled, *book, volume, False),
            "transpose_rulebook": lambda: ops.transpose_rulebook(*book, 36, rows, volume),
            "conv_input_grad|transpose_rulebook": lambda: ops.conv_input_grad(
                grad, w, *book, 36, 1, False
            ),
        }
        words = "the rulebook names rows that these features do not have; .* 37 rows, got 36"
        for name, call in calls.items():
            with pytest.raises(ValueError, match=f"({name}): {words}"):
                call()
