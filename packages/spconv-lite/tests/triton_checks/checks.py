"""Triton's kernels beside the compiled CPU kernels, in Triton's interpreter or on a GPU: run by
test_triton.py, in a process of its own with TRITON_INTERPRET=1 where there is no GPU."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spconv_lite import cpu, ops
from spconv_lite.kernels import triton as MODULE

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"


@pytest.fixture
def kernels(monkeypatch):
    """The module of Triton's kernels, chosen for DEVICE."""
    import numpy
    import triton

    old = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7)
    if not ON_GPU and old and numpy.lib.NumpyVersion(numpy.__version__) >= "2.4.0":
        pytest.skip("the interpreter of Triton before 3.7 needs numpy below 2.4")
    monkeypatch.setitem(ops._chosen, DEVICE, MODULE)
    return MODULE


@pytest.fixture
def exact_bfloat16(monkeypatch, kernels):
    """bfloat16 as a device has it: Triton's interpreter multiplies its bits as if they were
    integers, and cuts float32 off where a device rounds to the nearest even."""
    if ON_GPU:
        return
    from triton.runtime import interpreter

    builder, tl = interpreter.InterpreterBuilder, interpreter.tl
    plain_dot, plain_cast = builder.create_dot, builder.cast_impl

    def wide(handle):
        if handle.dtype != tl.bfloat16:
            return handle
        bits = handle.data.astype("uint32") << 16
        return interpreter.TensorHandle(bits.view("float32"), tl.float32)

    def create_dot(self, a, b, *rest):
        return plain_dot(self, wide(a), wide(b), *rest)

    def cast_impl(self, source, to):
        if (source.dtype.scalar, to.scalar) != (tl.float32, tl.bfloat16):
            return plain_cast(self, source, to)
        rounded = torch.from_numpy(source.data).bfloat16().view(torch.uint16)
        return interpreter.TensorHandle(rounded.numpy(), tl.bfloat16)

    monkeypatch.setattr(builder, "create_dot", create_dot)
    monkeypatch.setattr(builder, "cast_impl", cast_impl)


def sites_of(rows, shape, batch_size=2):
    """Different sites int32 (rows, 1 + ndim) in a random order."""
    key = torch.randperm(batch_size * math.prod(shape))[:rows]
    columns = []
    for length in reversed(shape):
        columns.append(key % length)
        key = key // length
    return torch.stack([key, *reversed(columns)], 1).int()


class Layer:
    """One random layer: what it gives on a device with the kernels that are chosen there."""

    def __init__(self, kind, ndim, rows, c_in, c_out, *, kernel=3, stride=1, dilation=1, groups=1):
        torch.manual_seed(rows + 7 * c_in)
        shape = [{1: 200, 2: 20, 3: 9, 4: 5}[ndim]] * ndim
        self.kind, self.groups, self.kernel = kind, groups, kernel
        self.indices = sites_of(rows, shape)
        self.features = torch.randn(rows, groups * c_in)
        self.weight = torch.randn(groups * c_out, *[kernel] * ndim, c_in)
        self.bias = torch.randn(groups * c_out)
        self.values = torch.float32  # the dtype that all values are of
        ones = [1] * ndim
        self.grid = 2, shape, [kernel] * ndim
        self.strided = (
            [stride] * ndim,
            [kernel // 2] * ndim,
            [dilation] * ndim,
            [0] * ndim,
            kind == "transposed",
        )
        self.dilation = [dilation] * ndim if kind == "submanifold" else ones

    def book(self, device):
        indices = self.indices.to(device)
        if self.kind == "submanifold":
            return len(indices), ops.subm_rulebook(indices, *self.grid, self.dilation)
        out_indices, *book = ops.rulebook(indices, *self.grid, *self.strided)
        return len(out_indices), book

    def run(self, device, dtype):
        rows, book = self.book(device)
        x, w, b = (
            t.to(device, dtype, copy=True).requires_grad_()
            for t in (self.features, self.weight, self.bias)
        )
        symmetric = self.kind == "submanifold" and self.kernel % 2 == 1
        y = ops.conv(x, w, b, *book, rows, self.groups, symmetric)
        torch.manual_seed(5)
        gradient = torch.randn(y.shape).to(self.values).to(device, dtype)
        return y, *torch.autograd.grad(y, (x, w, b), gradient)

    def compare(self, dtype, tolerance):
        """Values of `dtype` on both sides; the CPU multiplies them in float64. Beside its exact
        values rounded to `dtype`: that rounding alone is 1.6e-3 of the norm in bfloat16."""
        for name in ("features", "weight", "bias"):
            setattr(self, name, getattr(self, name).to(dtype).float())
        self.values = dtype
        found = self.run(DEVICE, dtype)
        before = ops._chosen["cpu"]
        ops._chosen["cpu"] = cpu
        try:
            expected = self.run("cpu", torch.float64)
        finally:
            ops._chosen["cpu"] = before
        for mine, wanted in zip(found, expected, strict=True):
            assert mine.dtype == dtype
            assert mine.shape == wanted.shape
            wanted = wanted.to(dtype).double()
            error = (mine.double().cpu() - wanted).norm() / wanted.norm().clamp(min=1e-30)
            assert error <= tolerance


LAYERS = {
    "submanifold 3D": (("submanifold", 3, 150, 24, 40), {}),
    "odd channels": (("submanifold", 3, 100, 5, 7), {}),
    "more than one tile of columns": (("submanifold", 1, 90, 6, 140), {"kernel": 5}),
    "dilation": (("submanifold", 2, 120, 16, 16), {"dilation": 2}),
    "an even kernel": (("submanifold", 2, 60, 3, 4), {"kernel": 2}),
    "strides": (("strided", 2, 90, 16, 8), {"stride": 2}),
    "strides and groups": (("strided", 2, 90, 8, 8), {"stride": 2, "groups": 2}),
    "transposed": (("transposed", 2, 60, 3, 20), {"stride": 3}),
    "depthwise": (("submanifold", 2, 50, 1, 1), {"groups": 6}),
    "four axes": (("submanifold", 4, 40, 4, 4), {}),
    "more than 62 offsets": (("submanifold", 1, 70, 4, 4), {"kernel": 67}),
    "one row": (("submanifold", 3, 1, 16, 16), {}),
    "no rows": (("submanifold", 3, 0, 16, 16), {}),
}


LONG = {"submanifold 3D", "four axes", "more than 62 offsets", "depthwise", "odd channels"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in LAYERS]
)
def test_forward_and_gradients_in_float32_equal_the_cpus(kernels, name):
    arguments, settings = LAYERS[name]
    Layer(*arguments, **settings).compare(torch.float32, 1e-6)


@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_forward_and_gradients_in_float16_equal_the_cpus(kernels, kind):
    Layer(kind, 2, 100, 20, 36, stride=1 if kind == "submanifold" else 2).compare(
        torch.float16, 1e-3
    )


@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_forward_and_gradients_in_bfloat16_equal_the_cpus(kernels, exact_bfloat16, kind):
    Layer(kind, 2, 100, 20, 36, stride=1 if kind == "submanifold" else 2).compare(
        torch.bfloat16, 1e-3
    )


def test_results_are_the_same_bits_in_every_run(kernels):
    layer = Layer("strided", 2, 90, 16, 8, stride=2)
    first, again = layer.run(DEVICE, torch.float32), layer.run(DEVICE, torch.float32)
    assert all(map(torch.equal, first, again))


def test_tiles_have_the_offsets_of_their_rows_and_every_row_once(kernels):
    from spconv_lite.kernels.triton import tiles

    torch.manual_seed(1)
    table = torch.where(torch.rand(27, 300) < 0.3, 5, -1).int().to(DEVICE)
    order, lists = tiles.ordered(table)
    assert torch.equal(order.sort().values.cpu(), torch.arange(300).int())
    lists = lists.view(-1, 28).cpu()
    for tile in range(5):
        rows = order[tile * 64 : tile * 64 + 64].long()
        has = (table[:, rows] >= 0).any(1).nonzero()[:, 0].tolist()
        count = int(lists[tile, 0])
        assert lists[tile, 1 : 1 + count].tolist() == has
    # neighbours in Gray order: fewer executed offsets than in the order of the rows
    plain = sum(int((table[:, t * 64 : t * 64 + 64] >= 0).any(1).sum()) for t in range(5))
    assert int(lists[:, 0].sum()) <= plain


def test_pair_lists_are_the_tables_pairs_by_offset_and_row(kernels):
    from spconv_lite.kernels.triton import tiles

    torch.manual_seed(2)
    table = torch.where(torch.rand(5, 700) < 0.4, torch.randint(0, 99, (5, 700)), -1).int()
    found = [t.cpu() for t in tiles.pair_lists(table.to(DEVICE))]
    for k in range(5):
        rows = (table[k] >= 0).nonzero()[:, 0]
        assert int(found[2][k]) == len(rows)
        assert torch.equal(found[1][k, : len(rows)].long(), rows)
        assert torch.equal(found[0][k, : len(rows)], table[k, rows])


class Launches(TorchDispatchMode):
    """Counts what would run on a device: Triton's launches and torch's operators but for views and
    fresh memory."""

    FREE = ("empty", "view", "expand", "detach", "alias", "as_strided", "slice", "t.", "reshape")

    def __init__(self, monkeypatch, modules):
        super().__init__()
        self.names = []
        kind = type(modules[0].masked_product)
        for module in modules:
            for name, value in list(vars(module).items()):
                if isinstance(value, kind):
                    monkeypatch.setattr(module, name, self.counted(name, value))

    def counted(self, name, function):
        """Counts launches; on the CPU none runs: the interpreter itself uses torch."""
        counter = self

        class Counted:
            def __getitem__(self, grid):
                counter.names.append(name)
                return function[grid] if ON_GPU else lambda *_, **__: None

        return Counted()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::")
        if not any(name.startswith(free) for free in self.FREE) and "new_empty" not in name:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def launched(monkeypatch, call):
    """Names of the kernels of a call."""
    from spconv_lite.kernels.triton import operators, tiles

    with monkeypatch.context() as patch, Launches(patch, (operators, tiles)) as counter:
        call()
    return counter.names


def test_a_layer_with_its_map_at_hand_launches_one_kernel_forward_and_three_backward(
    kernels, monkeypatch
):
    layer = Layer("submanifold", 3, 150, 24, 40)
    rows, book = layer.book(DEVICE)
    book = ops.Rulebook(*book)
    x, w, b = (t.to(DEVICE) for t in (layer.features, layer.weight, layer.bias))
    y = kernels.conv(x, w, b, book, rows, 1)
    kernels.conv_weight_grad(x, y, book, w.shape, 1)  # makes the pair lists
    forward = launched(monkeypatch, lambda: kernels.conv(x, w, b, book, rows, 1))
    to_x = launched(monkeypatch, lambda: kernels.conv_input_grad(y, w, book, rows, 1, True))
    to_w = launched(monkeypatch, lambda: kernels.conv_weight_grad(x, y, book, w.shape, 1))
    assert forward == ["masked_product"]
    assert to_x + to_w == ["masked_product", "pair_product", "add_splits"]


def test_the_order_and_the_lists_of_a_map_take_few_stream_operations(kernels, monkeypatch):
    from spconv_lite.kernels.triton import tiles

    table = torch.full((27, 200), -1, dtype=torch.int32, device=DEVICE)
    assert len(launched(monkeypatch, lambda: tiles.ordered(table))) <= 5


def test_a_table_is_turned_once(kernels):
    layer = Layer("strided", 2, 90, 16, 8, stride=2)
    rows, book = layer.book(DEVICE)
    book = ops.Rulebook(*book)
    first = kernels.turn(book, 90, rows, 9)
    assert kernels.turn(book, 90, rows, 9).pair_in is first.pair_in


def test_float64_is_refused_with_the_kernels_that_take_it(kernels):
    layer = Layer("submanifold", 2, 20, 4, 4)
    with pytest.raises(TypeError, match='float64; choose set_kernels\\("cuda", "native"\\)'):
        layer.run(DEVICE, torch.float64)


def test_a_rulebook_of_other_kernels_is_refused(kernels):
    layer = Layer("submanifold", 2, 20, 4, 4)
    ops._chosen[DEVICE] = ops._KERNELS[DEVICE, "torch"]
    try:
        rows, book = layer.book(DEVICE)
    finally:
        ops._chosen[DEVICE] = kernels
    x, w = layer.features.to(DEVICE), layer.weight.to(DEVICE)
    with pytest.raises(TypeError, match="made by other kernels than Triton's"):
        ops.conv(x, w, None, *book, rows, 1, True)
