"""Triton's kernels beside the compiled CPU kernels, in Triton's interpreter or on a GPU: run by
test_triton.py, in a process of its own with TRITON_INTERPRET=1 where there is no GPU."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import spconv_lite as sp
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
    "depthwise, strided": (("strided", 2, 70, 1, 1), {"stride": 2, "groups": 70}),
    "a channel more for each": (("submanifold", 1, 70, 1, 2), {"groups": 5}),
    "four axes": (("submanifold", 4, 40, 4, 4), {}),
    "more than 62 offsets": (("submanifold", 1, 70, 4, 4), {"kernel": 67}),
    "one row": (("submanifold", 3, 1, 16, 16), {}),
    "a whole tile": (("submanifold", 1, 64, 4, 4), {}),
    "no rows": (("submanifold", 3, 0, 16, 16), {}),
}


LONG = {"submanifold 3D", "four axes", "more than 62 offsets", "odd channels"}


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


@pytest.mark.parametrize("kind", ["submanifold", "strided", "depthwise"])
def test_forward_and_gradients_in_bfloat16_equal_the_cpus(kernels, exact_bfloat16, kind):
    channels, groups = ((1, 1), 20) if kind == "depthwise" else ((20, 36), 1)
    stride = 2 if kind == "strided" else 1
    kind = "strided" if kind == "strided" else "submanifold"
    Layer(kind, 2, 100, *channels, stride=stride, groups=groups).compare(torch.bfloat16, 1e-3)


@pytest.mark.parametrize("groups", [1, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_follows_a_layer_is_of_its_pass_and_rounded_once(
    kernels, exact_bfloat16, dtype, groups
):
    layer = Layer("submanifold", 2, 80, 12 // groups, 12 // groups, groups=groups)
    rows, book = layer.book(DEVICE)
    x, w = (t.to(DEVICE, dtype) for t in (layer.features, layer.weight))
    x[3] = float("nan")
    bias, mean, gain, offset = torch.randn(4, 12, device=DEVICE)
    variance = torch.rand(12, device=DEVICE) + 0.5
    norm = mean, variance, gain, offset, 1e-3
    found = ops.conv_norm(x, w, bias, *norm, *book, rows, groups, True)
    sums = ops.conv(x.float(), w.float(), None, *book, rows, groups, True)
    right = ((sums + bias - mean) / (variance + 1e-3).sqrt() * gain + offset).relu().to(dtype)
    assert found.dtype is dtype
    assert torch.equal(found.isnan(), right.isnan())
    tolerance = 1e-5 if dtype is torch.float32 else 2**-8
    found, right = (t.float().nan_to_num() for t in (found, right))
    torch.testing.assert_close(found, right, rtol=tolerance, atol=1e-4)


def test_in_inference_a_layers_kernel_ends_with_its_norm_and_its_relu(kernels, monkeypatch):
    """What torch launches to fold the norm, in every call, comes before it."""
    net = sp.SparseSequential(sp.SubMConv2d(4, 8, 3), nn.BatchNorm1d(8), nn.ReLU()).eval()
    net[1].running_mean.uniform_(-1, 1)
    net[1].running_var.uniform_(0.5, 2)
    net = net.to(DEVICE, torch.float16)
    sites = sites_of(60, [20, 20]).to(DEVICE)
    features = torch.randn(60, 4).to(DEVICE, torch.float16)
    x = sp.SparseConvTensor(features, sites, [20, 20], 2)
    with torch.no_grad():
        found = net(x).features
        three = net[2](net[1](net[0](x).features))
        net[0].indice_key = "a"  # with the map at hand
        x.indice_dict = net[0](x).indice_dict
        names = launched(monkeypatch, lambda: net(x))
        net[1].weight.data.fill_(0.5)  # unseen by the version of the tensor
        net[1].bias.data.fill_(3.0)
        again = net(x).features
        right = net[2](net[1](net[0](x).features))
    torch.testing.assert_close(found, three, rtol=4e-3, atol=4e-3)
    torch.testing.assert_close(again, right, rtol=4e-3, atol=4e-3)
    assert names == ["masked_product"]  # which folds the norm, too


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
        if name.startswith("spconv_lite::"):  # launches nothing itself
            keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, DEVICE.upper()))
            with self:
                return function.redispatch(keys, *args, **(kwargs or {}))
        if not any(name.startswith(free) for free in self.FREE) and "new_empty" not in name:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def launched(monkeypatch, call):
    """Names of the kernels of a call."""
    from spconv_lite.kernels.triton import operators, tiles

    with monkeypatch.context() as patch, Launches(patch, (operators, tiles)) as counter:
        call()
    return counter.names


@pytest.mark.parametrize(
    ("channels", "groups", "product", "pairs"),
    [
        ((24, 40), 1, "masked_product", "pair_product"),
        ((1, 1), 24, "masked_depthwise", "pair_depthwise"),
    ],
    ids=["full", "depthwise"],
)
def test_a_layer_with_its_map_at_hand_launches_one_kernel_forward_and_three_backward(
    kernels, monkeypatch, channels, groups, product, pairs
):
    """The gradient of a bias, where there is one, is the fourth."""
    layer = Layer("submanifold", 2, 150, *channels, groups=groups)
    rows, book = layer.book(DEVICE)
    book = ops.Rulebook(*book)
    x, w, b = (t.to(DEVICE) for t in (layer.features, layer.weight, layer.bias))
    y = torch.randn(rows, len(w), device=DEVICE)
    kernels.conv_weight_grad(x, y, book, w.shape, groups)  # makes the pair lists
    forward = launched(monkeypatch, lambda: kernels.conv(x, w, b, book, rows, groups))
    to_x = launched(monkeypatch, lambda: kernels.conv_input_grad(y, w, book, rows, groups, True))
    to_w = launched(monkeypatch, lambda: kernels.conv_weight_grad(x, y, book, w.shape, groups))
    assert forward == [product]
    assert to_x + to_w == [product, pairs, "add_splits"]


def test_the_order_and_the_lists_of_a_map_take_few_stream_operations(kernels, monkeypatch):
    from spconv_lite.kernels.triton import tiles

    table = torch.full((27, 200), -1, dtype=torch.int32, device=DEVICE)
    assert len(launched(monkeypatch, lambda: tiles.ordered(table))) <= 4


def test_a_map_is_turned_and_its_pairs_listed_once_for_all_its_layers(kernels, monkeypatch):
    from spconv_lite.kernels.triton import books

    layer = Layer("strided", 2, 90, 8, 8, stride=2)
    rows, book = layer.book(DEVICE)
    made = []
    for name in ("_turned", "pair_lists"):
        make = getattr(books, name)
        monkeypatch.setattr(books, name, lambda *a, n=name, f=make: made.append(n) or f(*a))
    for _ in range(2):
        x, w = (t.to(DEVICE).requires_grad_() for t in (layer.features, layer.weight))
        ops.conv(x, w, None, *book, rows, 1, False).sum().backward()
    assert sorted(made) == (["pair_lists"] if kernels_turn_at_once() else ["_turned", "pair_lists"])


def kernels_turn_at_once():
    """Whether building a strided map gives the table read backwards as well."""
    return ON_GPU and bool(sp.ops._C.cuda_architectures)


def test_features_padded_to_a_fixed_size_have_a_gradient(kernels):
    """Rows that no site of the map has; beside the map's own rows, in either order."""
    layer = Layer("strided", 2, 90, 8, 8, stride=2)
    rows, book = layer.book(DEVICE)
    w = layer.weight.to(DEVICE)
    grad = torch.randn(rows, 8, device=DEVICE)
    exact = layer.features.to(DEVICE, copy=True).requires_grad_()
    ops.conv(exact, w, None, *layer.book(DEVICE)[1], rows, 1, False).backward(grad)
    for padding in (30, 0, 7):
        padded = torch.cat([layer.features, torch.zeros(padding, 8)]).to(DEVICE).requires_grad_()
        ops.conv(padded, w, None, *book, rows, 1, False).backward(grad)
        torch.testing.assert_close(padded.grad[:90], exact.grad, rtol=1e-5, atol=1e-5)
        assert not padded.grad[90:].any()
    with pytest.raises(ValueError, match=r"transpose_rulebook: .* it reads 90 rows, got 89"):
        ops.conv_input_grad(grad, w, *book, 89, 1, False)


@pytest.mark.parametrize("groups", [1, 8])
def test_fewer_features_than_the_map_reads_are_refused_before_a_kernel_runs(kernels, groups):
    """A device would read beyond them."""
    layer = Layer("strided", 2, 90, 8 // groups, 8 // groups, stride=2, groups=groups)
    rows, book = layer.book(DEVICE)
    few, w = layer.features[:89].to(DEVICE), layer.weight.to(DEVICE)
    grad, column = torch.randn(rows, 8, device=DEVICE), torch.ones(8, device=DEVICE)
    norm = column, column, None, None, 1e-3
    of_map = *book, rows, 9
    foreign = "the rulebook names rows that these features do not have; .* reads 90 rows, got 89"
    for name, call in {
        "conv": lambda: ops.conv(few, w, None, *book, rows, groups, False),
        "conv_norm": lambda: ops.conv_norm(few, w, None, *norm, *book, rows, groups, True),
        "conv_weight_grad": lambda: ops.conv_weight_grad(few, grad, *book, w.shape, groups, False),
        "max_pool": lambda: ops.max_pool(few, *of_map, False),
        "select_sum": lambda: ops.select_sum(few, few, grad, *book, 9, False),
        "transpose_rulebook": lambda: ops.transpose_rulebook(*book, 89, rows, 9),
    }.items():
        with pytest.raises(ValueError, match=f"{name}: {foreign}"):
            call()
    back = ops.transpose_rulebook(*book, 90, rows, 9)
    few = grad[: rows - 1]
    with pytest.raises(ValueError, match=f"conv: .* reads {rows} rows, got {rows - 1}"):
        ops.conv(few, w, None, *back, 90, groups, False)
    layer = Layer("submanifold", 2, 90, 8 // groups, 8 // groups, groups=groups)
    rows, book = layer.book(DEVICE)
    with pytest.raises(ValueError, match="conv_input_grad: the rulebook has 90 rows, got 89"):
        ops.conv_input_grad(layer.features[:89].to(DEVICE), w, *book, 90, groups, True)


def test_what_follows_a_layer_has_a_value_for_each_output_channel(kernels):
    layer = Layer("submanifold", 2, 20, 4, 4)
    rows, book = layer.book(DEVICE)
    x, w, column = layer.features.to(DEVICE), layer.weight.to(DEVICE), torch.ones(4, device=DEVICE)
    call = lambda bias, *norm: ops.conv_norm(  # noqa: E731
        x, w, bias, *norm, 1e-3, *book, rows, 1, True
    )
    for at, name in enumerate(("bias", "mean", "variance", "gain", "offset")):
        columns = [column] * 5
        columns[at] = torch.ones(3, device=DEVICE)
        with pytest.raises(ValueError, match=f"{name} must have shape \\(4,\\), got \\(3,\\)"):
            call(*columns)


class Named(torch.Tensor):
    """A user's subclass: with numbers, as a plain tensor has."""


def test_a_subclass_of_a_tensor_runs_as_one(kernels, monkeypatch):
    from spconv_lite.kernels.triton import books

    layer = Layer("strided", 2, 90, 8, 8, stride=2)
    plain = layer.run(DEVICE, torch.float32)
    layer.features = layer.features.as_subclass(Named)
    found = layer.run(DEVICE, torch.float32)
    assert type(found[0]) is Named
    assert all(
        torch.equal(a.as_subclass(torch.Tensor), b) for a, b in zip(found, plain, strict=True)
    )

    entered = []
    monkeypatch.setattr(torch.cuda, "device", entered.append)
    monkeypatch.setattr(Named, "is_cuda", True)
    books.on_device(layer.features)
    assert entered == [layer.features.device]


def test_a_rulebook_read_backwards_is_the_callers_own(kernels):
    """A compiled graph writes into what an operator gave it."""
    layer = Layer("strided", 2, 90, 16, 8, stride=2)
    rows, book = layer.book(DEVICE)
    first = ops.transpose_rulebook(*book, 90, rows, 9)
    kept = [part.clone() for part in first]
    for part in first:
        part.fill_(-7)
    again = ops.transpose_rulebook(*book, 90, rows, 9)
    assert torch.equal(again[0], kept[0])
    assert torch.equal(again[1], kept[1])


def test_what_a_capture_makes_is_not_kept_and_what_a_stream_made_is_its_own(monkeypatch):
    """A captured kernel runs at the replay, and another stream has not waited."""
    from spconv_lite.kernels.triton import books

    table, state = SimpleNamespace(is_cuda=True, device=None), SimpleNamespace(cuda_stream=1)
    capturing, count = [True], iter(range(9))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: state)
    ask = lambda: books._kept("lists", table, lambda: next(count))  # noqa: E731
    assert [ask(), ask()] == [0, 1]  # captured: made each time
    capturing[0] = False
    assert [ask(), ask()] == [2, 2]
    state.cuda_stream = 2
    assert [ask(), ask()] == [3, 3]
    capturing[0] = True
    assert ask() == 2  # complete before the capture began


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"rows": 5}, r"conv: the rulebook has 20 rows, got 5"),
        ({"groups": 0}, r"groups must be at most 65535 and divide the 4 output channels, got 0"),
        ({"groups": 3}, r"groups must be at most 65535 and divide the 4 output channels, got 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_a_kernel_runs(kernels, change, error):
    layer = Layer("submanifold", 2, 20, 4, 4)
    rows, book = layer.book(DEVICE)
    x, w = layer.features.to(DEVICE), layer.weight.to(DEVICE)
    settings = {"rows": rows, "groups": 1} | change
    with pytest.raises(ValueError, match=error):
        kernels.conv(x, w, None, ops.Rulebook(*book), *settings.values())


def test_tensors_of_two_devices_are_refused(kernels):
    layer = Layer("submanifold", 2, 20, 4, 4)
    rows, book = layer.book(DEVICE)
    x, w = layer.features.to(DEVICE), layer.weight.to(DEVICE)
    away = "cpu" if ON_GPU else "meta"
    with pytest.raises(ValueError, match=f"features is on {DEVICE}.*, weight on {away}"):
        kernels.conv(x, w.to(away), None, ops.Rulebook(*book), rows, 1)
    with pytest.raises(ValueError, match=f"the rulebook is on {away}"):
        kernels.conv(x, w, None, ops.Rulebook(*(t.to(away) for t in book)), rows, 1)


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
