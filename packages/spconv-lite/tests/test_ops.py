"""The registered operators against reference.py, and what torch demands of an operator."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spconv_lite import ops, reference

pytestmark = pytest.mark.native

SETTINGS = {"deadline": None, "max_examples": 60}


@st.composite
def layers(draw):
    ndim = draw(st.integers(1, 4))
    longest = (300, 40, 12, 6)[ndim - 1]
    numbers = lambda low, high: st.lists(st.integers(low, high), min_size=ndim, max_size=ndim)  # noqa: E731
    kind = draw(st.sampled_from(["subm", "conv", "transposed"]))
    return {
        "shape": draw(numbers(1, longest)),
        "batch_size": draw(st.integers(1, 3)),
        "count": draw(st.integers(0, 300)),
        "seed": draw(st.integers(0, 9999)),
        "ksize": draw(numbers(1, 4)),
        "stride": draw(numbers(1, 3)),
        "padding": draw(numbers(0, 2)),
        "dilation": draw(numbers(1, 3)),
        "subm": kind == "subm",
        "transpose": kind == "transposed",
    }


def build(indices, batch_size, shape, ksize, stride, padding, dilation, subm, transpose):
    if subm:
        return indices, ops.Rulebook(
            *ops.subm_rulebook(indices, batch_size, shape, ksize, dilation)
        )
    none = [0] * len(shape)
    out, *book = ops.rulebook(
        indices, batch_size, shape, ksize, stride, padding, dilation, none, transpose
    )
    return out, ops.Rulebook(*book)


def fits(shape, ksize, stride, padding, dilation, subm, transpose):
    """Whether the output has at least one cell on every axis."""
    sizes = shape, ksize, stride, padding, dilation
    if transpose:
        return min(ops.get_deconv_output_size(*sizes, [0] * len(shape))) > 0
    return subm or min(ops.get_conv_output_size(*sizes)) > 0


@settings(**SETTINGS)
@given(layers())
def test_rulebooks_equal_the_reference(sparse, layer):
    shape, batch_size = layer.pop("shape"), layer.pop("batch_size")
    indices = sparse.random_sites(layer.pop("count"), batch_size, shape, layer.pop("seed"))
    if not fits(shape, **layer):
        with pytest.raises(ValueError, match="the kernel does not fit"):
            build(indices, batch_size, shape, **layer)
        return
    out, book = build(indices, batch_size, shape, **layer)
    expected_out, expected = reference.rulebook(indices, shape, **layer)
    assert torch.equal(out, expected_out)
    volume = math.prod(layer["ksize"])
    assert reference.pairs_by_offset(book, out.shape[0], volume) == expected
    none = [0] * len(shape)
    padded_out, pairs, number = ops.get_indice_pairs(
        indices, batch_size, shape, *(layer[k] for k in ("ksize", "stride", "padding", "dilation")),
        none, layer["subm"], layer["transpose"],
    )  # fmt: skip
    assert torch.equal(padded_out, expected_out)
    assert number.tolist() == [len(found) for found in expected]
    for k, found in enumerate(expected):
        assert sorted(pairs[:, k, : len(found)].T.tolist()) == sorted(map(list, found))
        assert (pairs[:, k, len(found) :] == -1).all()


@settings(**SETTINGS)
@given(layers())
def test_turning_a_rulebook_twice_gives_its_pairs_again(sparse, layer):
    shape, batch_size = layer.pop("shape"), layer.pop("batch_size")
    indices = sparse.random_sites(layer.pop("count"), batch_size, shape, layer.pop("seed"))
    if not fits(shape, **layer):
        with pytest.raises(ValueError, match="the kernel does not fit"):
            build(indices, batch_size, shape, **layer)
        return
    out, book = build(indices, batch_size, shape, **layer)
    volume, rows = math.prod(layer["ksize"]), (indices.shape[0], out.shape[0])
    turned = ops.Rulebook(*ops.transpose_rulebook(*book, *rows, volume))
    pairs = reference.pairs_by_offset(book, rows[1], volume)
    swapped = [sorted((o, i) for i, o in found) for found in pairs]
    assert [
        sorted(found) for found in reference.pairs_by_offset(turned, rows[0], volume)
    ] == swapped
    again = ops.transpose_rulebook(*turned, rows[1], rows[0], volume)
    assert reference.pairs_by_offset(ops.Rulebook(*again), rows[1], volume) == pairs


def test_a_hash_table_that_grows_keeps_every_site_and_leaves_nothing_behind(sparse):
    shape = [100_000, 100_000, 50]  # far beyond a dense grid, and far more output sites than rows
    indices = torch.randint(0, 50, (90, 4), generator=torch.Generator().manual_seed(0)).int()
    indices[:, 0] = 0
    indices = torch.unique(indices * torch.tensor([1, 1999, 1999, 1], dtype=torch.int32), dim=0)
    settings = {"ksize": [4] * 3, "stride": [2] * 3, "padding": [0] * 3, "dilation": [1] * 3}
    layer = settings | {"subm": False, "transpose": True}
    expected, pairs = reference.rulebook(indices, shape, **layer)
    small = sparse.random_sites(50, 1, [9, 9, 9], 0)
    for _ in range(3):
        out, book = build(indices, 1, shape, **layer)
        assert torch.equal(out, expected)
        assert reference.pairs_by_offset(book, len(out), 64) == pairs
        plain = {"ksize": [3] * 3, "stride": [1] * 3, "padding": [1] * 3, "dilation": [1] * 3}
        plain |= {"subm": False, "transpose": False}
        sites, _ = build(small, 1, [9, 9, 9], **plain)
        assert torch.equal(sites, reference.rulebook(small, [9, 9, 9], **plain)[0])


@st.composite
def sparse_steps(draw):
    """Layers whose steps and kernels are long beside the grid: most offsets lead nowhere."""
    ndim = draw(st.integers(1, 2))
    numbers = lambda low, high: st.lists(st.integers(low, high), min_size=ndim, max_size=ndim)  # noqa: E731
    kind = draw(st.sampled_from(["subm", "conv", "transposed"]))
    return {
        "shape": draw(numbers(1, 90)),
        "count": draw(st.integers(1, 40)),
        "seed": draw(st.integers(0, 9999)),
        "ksize": draw(numbers(1, (100, 20)[ndim - 1])),
        "stride": draw(numbers(1, 12)),
        "padding": draw(numbers(0, 60)),
        "dilation": draw(numbers(1, 12)),
        "subm": kind == "subm",
        "transpose": kind == "transposed",
    }


@settings(**SETTINGS)
@given(sparse_steps())
def test_long_steps_and_kernels_equal_the_reference(sparse, layer):
    shape = layer.pop("shape")
    indices = sparse.random_sites(layer.pop("count"), 1, shape, layer.pop("seed"))
    if not fits(shape, **layer):
        with pytest.raises(ValueError, match="the kernel does not fit"):
            build(indices, 1, shape, **layer)
        return
    out, book = build(indices, 1, shape, **layer)
    expected_out, expected = reference.rulebook(indices, shape, **layer)
    assert torch.equal(out, expected_out)
    assert reference.pairs_by_offset(book, len(out), math.prod(layer["ksize"])) == expected


def test_sites_of_words_and_groups_side_by_side_are_told_apart(sparse):
    """x lines of 1 to 5 words of 64 cells: windows reach into the next word and the next group of
    64 words, never into the next line."""
    for length in (63, 64, 65, 127, 128, 129, 300):
        indices = sparse.random_sites(300, 2, [9, length], length)
        for ksize in ([3, 3], [1, 33], [3, 70], [4, 6]):
            settings = {"ksize": ksize, "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}
            layer = settings | {"subm": True, "transpose": False}
            _, book = build(indices, 2, [9, length], **layer)
            _, expected = reference.rulebook(indices, [9, length], **layer)
            assert reference.pairs_by_offset(book, 300, math.prod(ksize)) == expected


@pytest.mark.parametrize("subm", [True, False])
def test_grids_of_2_to_63_cells_and_small_ones_join_the_same_pairs(sparse, subm):
    """Three far corners of the largest grid hold the same sites as a grid of their own size."""
    side = 2**21 - 1  # 2^63 cells and a little less
    near = sparse.random_sites(150, 1, [7, 8, 9], 0)
    layer = {"ksize": [3, 3, 3], "stride": [1] * 3, "padding": [1] * 3, "dilation": [2, 1, 1]}
    layer |= {"subm": subm, "transpose": False}
    _, expected = reference.rulebook(near, [7, 8, 9], **layer)
    for corner in ([0, 0, 0], [side - 7, 0, side - 9], [side - 7, side - 8, side - 9]):
        far = near + torch.tensor([0, *corner], dtype=torch.int32)
        out, book = build(far, 1, [side] * 3, **layer)
        if subm:
            assert reference.pairs_by_offset(book, 150, 27) == expected
            continue
        expected_out, pairs = reference.rulebook(far, [side] * 3, **layer)
        assert torch.equal(out, expected_out)
        assert reference.pairs_by_offset(book, len(out), 27) == pairs


@pytest.fixture
def case(sparse):
    """A strided layer in float64 with everything an operator takes."""
    indices = sparse.random_sites(40, 2, [6, 7], 1)
    out, *book = ops.rulebook(indices, 2, [6, 7], [3, 2], [2, 1], [1, 0], [1, 1], [0, 0], False)
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(  # noqa: E731
        *shape, dtype=torch.float64, generator=generator, requires_grad=True
    )
    return indices, out, book, draw(40, 4), draw(6, 3, 2, 2), draw(6), draw(out.shape[0], 6)


@pytest.mark.once
def test_gradcheck_and_gradgradcheck_of_every_convolution_operator(case):
    indices, out, book, x, weight, bias, grad = case
    m, n = out.shape[0], indices.shape[0]
    functions = {
        "conv": (lambda *a: ops.conv(*a, *book, m, 2, False), (x, weight, bias)),
        "input": (lambda *a: ops.conv_input_grad(*a, *book, n, 2, False), (grad, weight)),
        "weight": (lambda *a: ops.conv_weight_grad(*a, *book, weight.shape, 2, False), (x, grad)),
        "max": (lambda *a: ops.max_pool(*a, *book, m, 6, False), (x,)),
    }
    for name, (function, inputs) in functions.items():
        assert torch.autograd.gradcheck(function, inputs), name
        assert torch.autograd.gradgradcheck(function, inputs), name


@pytest.mark.once
def test_opcheck_passes_for_every_operator(case):
    indices, out, book, x, weight, bias, grad = case
    m, n = out.shape[0], indices.shape[0]
    geometry = (2, [6, 7], [3, 2], [2, 1], [1, 0], [1, 1], [0, 0])
    names = torch.ops.spconv_lite
    columns = [bias, bias, bias.abs(), bias, bias]  # bias, mean, variance, gain and offset
    calls = [
        (names.get_indice_pairs, (indices, *geometry, False, False)),
        (names.get_indice_pairs, (indices, *geometry, True, False)),
        (names.subm_rulebook, (indices, 2, [6, 7], [3, 3], [1, 1])),
        (names.rulebook, (indices, *geometry, True)),
        (names.transpose_rulebook, (*book, n, m, 6)),
        (names.conv, (x, weight, bias, *book, m, 2, False)),
        (
            names.conv_norm,
            (*(t.detach() for t in (x, weight, *columns)), 1e-5, *book, m, 2, True),
        ),
        (names.conv_input_grad, (grad, weight, *book, n, 2, False)),
        (names.conv_weight_grad, (x, grad, *book, list(weight.shape), 2, False)),
        (names.max_pool, (x, *book, m, 6, False)),
        (names.select_sum, (x, x.detach(), grad.detach()[:, :4], *book, 6, False)),
        (names.select_sum, (grad, grad.detach(), x.detach()[:, [0] * 6], *book, 6, True)),
    ]
    assert {str(op) for op, _ in calls} == {f"spconv_lite.{name}" for name in _registered()}
    for op, arguments in calls:
        torch.library.opcheck(op, arguments)


def _registered() -> set[str]:
    schemas = torch._C._jit_get_all_schemas()
    return {s.name.split("::")[1] for s in schemas if s.name.startswith("spconv_lite::")}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_dtypes_sum_in_float32_and_round_once(case, dtype):
    indices, out, book, x, weight, bias, grad = case
    m, n = out.shape[0], indices.shape[0]
    x, weight, bias, grad = (t.detach().to(dtype) for t in (x, weight, bias, grad))
    wide = [t.float() for t in (x, weight, bias, grad)]
    assert torch.equal(
        ops.conv(x, weight, bias, *book, m, 2, False),
        ops.conv(*wide[:3], *book, m, 2, False).to(dtype),
    )
    assert torch.equal(
        ops.conv_input_grad(grad, weight, *book, n, 2, False),
        ops.conv_input_grad(wide[3], wide[1], *book, n, 2, False).to(dtype),
    )
    assert torch.equal(
        ops.conv_weight_grad(x, grad, *book, weight.shape, 2, False),
        ops.conv_weight_grad(wide[0], wide[3], *book, weight.shape, 2, False).to(dtype),
    )


def test_strided_views_give_the_result_of_their_copies(case):
    indices, out, book, x, weight, bias, _ = case
    m = out.shape[0]
    expected = ops.conv(x, weight, bias, *book, m, 2, False)
    wide_x = x.detach().repeat_interleave(2, 1)[:, ::2]
    turned = weight.detach().transpose(0, 3).contiguous().transpose(0, 3)
    assert [wide_x.is_contiguous(), turned.is_contiguous()] == [False, False]
    assert torch.equal(ops.conv(wide_x, turned, bias, *book, m, 2, False), expected)
    wide_indices = indices.repeat_interleave(2, 1)[:, ::2]
    geometry = (2, [6, 7], [3, 2], [2, 1], [1, 0], [1, 1], [0, 0], False)
    for a, b in zip(
        ops.rulebook(wide_indices, *geometry), ops.rulebook(indices, *geometry), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("channels", [(1, 1), (3, 5), (16, 16), (24, 40), (64, 8)])
def test_float32_agrees_with_float64_for_all_tile_shapes(sparse, channels, groups):
    c_in, c_out = (c * groups for c in channels)
    indices = sparse.random_sites(900, 2, [8, 9, 10], 3)
    book = ops.subm_rulebook(indices, 2, [8, 9, 10], [3, 3, 3], [1, 1, 1])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(900, c_in, generator=generator, dtype=torch.float64)
    grad = torch.randn(900, c_out, generator=generator, dtype=torch.float64)
    weight = torch.randn(c_out, 3, 3, 3, channels[0], generator=generator, dtype=torch.float64)
    _, pairs = reference.rulebook(
        indices, [8, 9, 10], [3] * 3, [1] * 3, [1] * 3, [1] * 3, subm=True
    )
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        a, w, g = x.to(dtype), weight.to(dtype), grad.to(dtype)
        got = (
            ops.conv(a, w, None, *book, 900, groups, True),
            ops.conv_input_grad(g, w, *book, 900, groups, True),
            ops.conv_weight_grad(a, g, *book, w.shape, groups, True),
        )
        exact = _reference_all(x, weight, grad, pairs, groups)
        for value, expected in zip(got, exact, strict=True):
            assert (value - expected).abs().max() <= tolerance * expected.abs().max()


def _reference_all(x, weight, grad, pairs, groups):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    parts = zip(x.chunk(groups, 1), weight.chunk(groups, 0), strict=True)
    y = torch.cat([reference.convolve(a, w, None, pairs, len(x)) for a, w in parts], 1)
    return (y.detach(), *torch.autograd.grad(y, (x, weight), grad))


@pytest.mark.parametrize("subm", [True, False])
def test_results_have_the_same_bits_for_1_2_and_8_threads(sparse, subm):
    indices = sparse.random_sites(5000, 2, [20, 21, 22], 5)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 20, generator=generator)
    weight = torch.randn(24, 3, 3, 3, 20, generator=generator)
    ones, before, results = [1] * 3, torch.get_num_threads(), []
    for threads in (1, 2, 8, 2, 8):
        torch.set_num_threads(threads)
        try:
            out, book = build(indices, 2, [20, 21, 22], [3] * 3, [2] * 3, ones, ones, subm, False)
            y = ops.conv(x, weight, None, *book, out.shape[0], 1, subm)
            grad = torch.cos(y)
            results.append(
                (
                    out,
                    *book,
                    y,
                    ops.conv_input_grad(grad, weight, *book, 5000, 1, subm),
                    ops.conv_weight_grad(x, grad, *book, weight.shape, 1, subm),
                )
            )
        finally:
            torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("subm", [True, False])
def test_rulebooks_are_the_same_for_1_2_and_8_threads_as_a_bitmap_and_as_a_hash_table(sparse, subm):
    near = sparse.random_sites(40_000, 1, [31, 61, 91], 7)  # odd: no output beyond
    far = near + torch.tensor([0, 2**20, 2**20, 2**20], dtype=torch.int32)
    ones, before, results = [1] * 3, torch.get_num_threads(), []
    for threads in (1, 2, 8):
        torch.set_num_threads(threads)
        try:
            for indices, shape in ((near, [31, 61, 91]), (far, [2**21 - 2] * 3)):
                out, book = build(indices, 1, shape, [3] * 3, [2] * 3, ones, ones, subm, False)
                results.append((out - (2**20 if subm else 2**19) * (indices is far), *book))
        finally:
            torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(results[0][0][:, 1:], other[0][:, 1:])
        assert all(torch.equal(a, b) for a, b in zip(results[0][1:], other[1:], strict=True))
