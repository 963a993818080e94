"""Every wrong input is refused with a message that says what was wrong, or has a meaning."""

import subprocess
import sys

import pytest
import torch

import spconv_lite as sp
from spconv_lite import ops

pytestmark = pytest.mark.native


def sites(*rows):
    return torch.tensor(rows, dtype=torch.int32)


def subm(indices, batch_size=1, shape=(4, 4), ksize=(3, 3)):
    return ops.subm_rulebook(indices, batch_size, list(shape), list(ksize), [1] * len(ksize))


def message(error, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    return str(caught.value)


GOOD = sites([0, 0, 0], [0, 1, 2])


def test_wrong_dtype():
    assert message(TypeError, subm, GOOD.long()) == (
        "get_indice_pairs: indices must be int32, got torch.int64; use indices.int()"
    )


def test_wrong_rank():
    assert message(ValueError, subm, GOOD[0]) == (
        "get_indice_pairs: indices must have shape (N, 3), columns batch and 2 coordinates, got "
        "(3,)"
    )
    assert message(ValueError, subm, GOOD, shape=(4, 4, 4), ksize=(3, 3, 3)) == (
        "get_indice_pairs: indices must have shape (N, 4), columns batch and 3 coordinates, got "
        "(2, 3)"
    )


def test_negative_coordinate():
    assert message(ValueError, subm, sites([0, 0, 0], [0, 1, -2])) == (
        "get_indice_pairs: indices row 1 is (0, 1, -2), outside batch_size 1 and spatial_shape "
        "(4, 4); "
        "drop such points or enlarge the grid"
    )


def test_coordinate_beyond_the_grid():
    assert message(ValueError, subm, sites([0, 0, 0], [0, 4, 0])) == (
        "get_indice_pairs: indices row 1 is (0, 4, 0), outside batch_size 1 and spatial_shape (4, "
        "4); "
        "drop such points or enlarge the grid"
    )


@pytest.mark.parametrize("batch", [-1, 2])
def test_batch_index_beyond_batch_size(batch):
    assert message(ValueError, subm, sites([batch, 1, 1]), batch_size=2) == (
        f"get_indice_pairs: indices row 0 is ({batch}, 1, 1), outside batch_size 2 and "
        "spatial_shape "
        "(4, 4); drop such points or enlarge the grid"
    )


def test_duplicates_are_refused_with_both_rows():
    assert message(ValueError, subm, sites([0, 1, 1], [0, 2, 2], [0, 3, 3], [0, 2, 2])) == (
        "get_indice_pairs: indices rows 1 and 3 are both (0, 2, 2); a site may occur once: merge "
        "duplicates with spconv_lite.coalesce"
    )


def test_empty_input_gives_empty_output():
    empty = sites().reshape(0, 3)
    book = subm(empty)
    assert [t.numel() for t in book] == [0, 0, 1]
    out, *book = ops.rulebook(empty, 1, [4, 4], [3, 3], [2, 2], [1, 1], [1, 1], [0, 0], False)
    assert out.shape == (0, 3)
    y = ops.conv(torch.ones(0, 2), torch.ones(5, 3, 3, 2), None, *book, 0, 1, False)
    assert y.shape == (0, 5)


def test_a_grid_of_more_than_2_to_31_cells_is_right():
    shape = [4096, 4096, 4096]
    indices = sites([0, 0, 0, 0], [0, 4095, 4095, 4095])
    pair_in, pair_out, offset = subm(indices, 1, shape, (3, 3, 3))
    assert [pair_in.tolist(), pair_out.tolist()] == [[0, 1], [0, 1]]
    y = ops.conv(
        torch.tensor([[1.0], [1000.0]]),
        torch.ones(1, 3, 3, 3, 1),
        None,
        pair_in,
        pair_out,
        offset,
        2,
        1,
        True,
    )
    assert y.flatten().tolist() == [1.0, 1000.0]


def test_a_grid_of_more_than_2_to_63_cells_is_refused():
    shape = [2**21, 2**21, 2**21]
    assert message(ValueError, subm, sites([0, 0, 0, 0]), 1, shape, (3, 3, 3)) == (
        "get_indice_pairs: batch_size 1 and spatial_shape [2097152, 2097152, 2097152] have more "
        "than "
        "2^63 - 1 cells; use larger voxels"
    )


def test_settings_out_of_range():
    assert message(ValueError, subm, GOOD, ksize=(3, 0)) == (
        "get_indice_pairs: ksize must be 2 integers of at least 1, got [3, 0]"
    )
    assert message(ValueError, subm, GOOD, batch_size=0) == (
        "get_indice_pairs: batch_size must be at least 1, got 0"
    )
    assert message(
        ValueError, ops.rulebook, GOOD, 1, [4, 4], [5, 5], [1, 1], [0, 0], [1, 1], [0, 0], False
    ) == (
        "get_indice_pairs: the kernel does not fit: spatial_shape [4, 4] with ksize [5, 5], "
        "padding "
        "[0, 0] and dilation [1, 1] gives [0, 0]; enlarge the grid or the padding"
    )


def test_settings_whose_products_pass_64_bits_are_refused():
    plane = [2**31 - 1, 2**31 - 1, 1], [3, 3, 1]
    far = [2**30, 2**30, 1]  # with such a margin on all sides, lines of one word are 2^64
    assert message(ValueError, ops.subm_rulebook, sites([0, 0, 0, 0]), 1, *plane, far) == (
        "get_indice_pairs: the grid and the reach of the kernel around it are more than 2^63 - 1 "
        "words of 64 cells; use larger voxels"
    )
    assert message(ValueError, ops.subm_rulebook, sites([5, 0]), 1, [1], [2], [2**62]) == (
        "get_indice_pairs: dilation must be at most 2^31 - 1, got [4611686018427387904]"
    )
    four = sites([0, 0, 0, 0, 0])
    assert message(ValueError, subm, four, 1, [4] * 4, [2**16] * 4) == (
        "get_indice_pairs: a kernel of (65536, 65536, 65536, 65536) has more than 2^24 cells; use "
        "a smaller one"
    )


def test_offsets_that_lead_from_the_grid_cost_no_margin():
    book = ops.subm_rulebook(sites([5, 0]), 2**39, [1], [2], [2**31 - 1])
    assert [t.tolist() for t in book] == [[0], [0], [0, 0, 1]]


def test_steps_that_lead_from_a_vast_grid_are_not_taken():
    """Their lines would pass 64 bits; a sanitizer sees whether they are worked out all the same."""
    vast, far, ones, zeros = [1, 2**30, 2**30, 1], [2**31 - 1, 1, 1, 1], [1] * 4, [0] * 4
    corner = sites([0, 0, 5, 2**30 - 1, 0])
    for transpose in (False, True):
        out, *book = ops.rulebook(corner, 1, vast, ones, ones, zeros, far, zeros, transpose)
        assert torch.equal(out, corner)
        assert [t.tolist() for t in book] == [[0], [0], [0, 1]]
    book = ops.subm_rulebook(corner, 1, vast, [3, 1, 1, 1], far)
    assert [t.tolist() for t in book] == [[0], [0], [0, 0, 1, 1]]


def test_a_rulebook_with_more_offsets_than_memory_is_refused():
    many = torch.stack(torch.unravel_index(torch.arange(2100), (1, 64, 64)), 1).int()
    words = (
        "get_indice_pairs: 2100 output sites and a kernel of (4096, 4096) need a rulebook of more "
        "than 1 GiB; use a smaller kernel or split the batch"
    )
    assert message(ValueError, subm, many, 1, (64, 64), (4096, 4096)) == words
    ones, zeros, half = [1, 1], [0, 0], [2048, 2048]
    strided = [64, 64], [4096, 4096], ones, half, ones, zeros, False
    assert " output sites and a kernel of (4096, 4096) need" in message(
        ValueError, ops.rulebook, many, 1, *strided
    )


LONG_KERNELS = """
import resource, torch
from spconv_lite import ops
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n, kernel, stride, padding = 65_000, 2**20, 1000, 2**19
rows = torch.stack([torch.zeros(40), torch.arange(40) * 1601], 1).int()
ops.rulebook(rows, 1, [n], [3], [1], [1], [1], [0], False)
before = peak()
out, pair_in, pair_out, ends = ops.rulebook(
    rows, 1, [n], [kernel], [stride], [padding], [1], [0], False
)
k = torch.repeat_interleave(torch.arange(kernel), ends.diff())
got = torch.stack([k, pair_in.long(), out[pair_out.long(), 1].long()])
i, o = torch.meshgrid(torch.arange(40), torch.arange((n + 2 * padding - kernel) // stride + 1))
k = rows[i, 1] + padding - o * stride
expected = torch.stack([k, i, o])[:, (k >= 0) & (k < kernel)]
order = lambda pairs: pairs[:, (pairs[0] * 64 + pairs[1]).argsort()]
assert torch.equal(order(got), order(expected))
print("strided", len(pair_in), (peak() - before) // 1024)
square = torch.stack(torch.unravel_index(torch.arange(300) * 13, (1, 64, 64)), 1).int()
_, _, ends = ops.subm_rulebook(square, 1, [64, 64], [2048, 2048], [1, 1])
print("submanifold", ends[-1].item(), (peak() - before) // 1024)
"""


def test_kernels_of_millions_of_cells_cost_what_their_pairs_do():
    """Time and memory of a long kernel grow with its pairs and its rulebook, here 8 and 67 MB."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LONG_KERNELS],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    strided, submanifold = (line.split() for line in done.stdout.splitlines())
    assert strided[:2] == ["strided", str(40 * 66)]
    assert submanifold[:2] == ["submanifold", str(300**2)]
    assert int(strided[2]) <= 150  # MiB
    assert int(submanifold[2]) <= 400


def test_a_rulebook_whose_offsets_do_not_rise_is_not_transposed():
    pair_in, pair_out = torch.zeros(4, dtype=torch.int32), torch.zeros(4, dtype=torch.uint8)
    offset = torch.tensor([0, 10**9, 0, 4])
    assert message(ValueError, ops.transpose_rulebook, pair_in, pair_out, offset, 1, 1, 3) == (
        "transpose_rulebook: block_offset must rise from 0 to the 4 pairs; it belongs to another "
        "rulebook"
    )


def test_a_rulebook_of_other_rows_is_not_transposed():
    pair_in, pair_out, offset = subm(GOOD)
    other = "; it belongs to another rulebook"
    turn = ops.transpose_rulebook
    assert message(ValueError, turn, pair_in + 1, pair_out, offset, 2, 2, 9) == (
        "transpose_rulebook: pair_in holds row 2, but the input has 2 rows" + other
    )
    assert message(ValueError, turn, pair_in, pair_out + 1, offset, 2, 2, 9) == (
        "transpose_rulebook: pair_out leads to row 2, but the output has 2 rows" + other
    )


def test_no_channels_give_no_features_and_no_gradients():
    book = subm(GOOD)
    for c_in, c_out in ((2, 0), (0, 2), (0, 0)):
        x, weight = torch.ones(2, c_in), torch.ones(c_out, 3, 3, c_in)
        y = ops.conv(x, weight, None, *book, 2, 1, True)
        assert torch.equal(y, torch.zeros(2, c_out))
        for symmetric in (True, False):
            back = ops.conv_input_grad(y, weight, *book, 2, 1, symmetric)
            assert torch.equal(back, torch.zeros(2, c_in))
        turned = ops.conv_weight_grad(x, y, *book, weight.shape, 1, True)
        assert torch.equal(turned, torch.zeros(weight.shape))


def test_features_that_do_not_fit():
    book = subm(GOOD)
    weight = torch.ones(5, 3, 3, 2)
    assert message(ValueError, ops.conv, torch.ones(2, 3), weight, None, *book, 2, 1, True) == (
        "conv: features must have 2 channels for a weight of shape (5, 3, 3, 2) and groups 1, got "
        "(2, 3)"
    )
    assert message(
        TypeError, ops.conv, torch.ones(2, 2), weight.double(), None, *book, 2, 1, True
    ) == (
        "conv: features and weight must be of one floating dtype, got torch.float32 and "
        "torch.float64; "
        "convert one of them or use torch.autocast"
    )
    assert message(TypeError, ops.conv, GOOD, weight.int(), None, *book, 2, 1, True) == (
        "conv: features and weight must be of one floating dtype, got torch.int32 and torch.int32; "
        "convert one of them or use torch.autocast"
    )


def test_a_rulebook_of_other_features_is_refused():
    pair_in, pair_out, offset = subm(GOOD)
    weight = torch.ones(5, 3, 3, 2)
    foreign = (
        "spconv_lite: the rulebook names rows that these features do not have; build it for these "
        "indices"
    )
    for book, rows in (
        ((pair_in + 7, pair_out, offset), 2),
        ((pair_in - 7, pair_out, offset), 2),
        ((pair_in, pair_out + 9, offset), 2),
        ((pair_in, pair_out, offset.flip(0)), 2),
    ):
        assert (
            message(ValueError, ops.conv, torch.ones(rows, 2), weight, None, *book, 2, 1, True)
            == foreign
        )
    assert message(
        ValueError, ops.conv, torch.ones(2, 2), weight, None, *subm(GOOD), 300, 1, True
    ) == (
        "conv: block_offset must be contiguous int64 of shape (19,) on cpu, got int64 (10,) on cpu"
    )


def test_the_private_module_refuses_wrong_kinds():
    floats, strided = torch.ones(3, 3), torch.ones(3, 6, dtype=torch.int32)[:, ::2]
    settings = (
        2,
        1,
        [1, 1, 4, 4],
        [1, 1, 4, 4],
        [1, 1, 3, 3],
        [1] * 4,
        [0, 0, 1, 1],
        [1] * 4,
        0,
        1,
    )
    build = ops._C.build_rulebook
    assert message(TypeError, build, floats, floats, *settings) == (
        "get_indice_pairs: indices must be contiguous int32 of shape (N, 3) on cpu, got float32 "
        "(3, 3) on cpu"
    )
    assert message(ValueError, build, strided, strided, *settings) == (
        "get_indice_pairs: indices must be contiguous int32 of shape (N, 3) on cpu, got "
        "non-contiguous "
        "int32 (3, 3) on cpu"
    )
    built = build(GOOD, GOOD, *settings)
    pairs = torch.empty(2, dtype=torch.int32), torch.empty(2, dtype=torch.uint8), torch.empty(10)
    words = (
        "get_indice_pairs: out_indices must be contiguous int32 of shape (2, 3) on cpu, got int32 "
        "(1, 3) on cpu"
    )
    assert message(ValueError, built.write_compact, GOOD[:1].clone(), *pairs) == words
    padded = torch.empty(2, 9, 2, dtype=torch.int32), torch.empty(9, dtype=torch.int32)
    assert message(ValueError, built.write_padded, GOOD[:1].clone(), *padded) == words
    padded = torch.empty(2, 10, 2, dtype=torch.int32), torch.empty(10, dtype=torch.int32)
    assert message(ValueError, built.write_padded, GOOD.clone(), *padded) == (
        "get_indice_pairs: indice_num must be contiguous int32 of shape (9,) on cpu, got int32 "
        "(10,) on cpu"
    )


def test_a_tensor_checks_its_parts():
    x = torch.ones(2, 3)
    make = sp.SparseConvTensor
    assert message(TypeError, make, x.int(), GOOD, [4, 4], 1) == (
        "SparseConvTensor: features must be floating point, got torch.int32"
    )
    assert message(ValueError, make, x[0], GOOD, [4, 4], 1) == (
        "SparseConvTensor: features must have shape (N, C), got (3,)"
    )
    assert message(TypeError, make, x, GOOD.float(), [4, 4], 1) == (
        "SparseConvTensor: indices must be int32 or int64, got torch.float32"
    )
    assert message(ValueError, make, x, GOOD, [4, 4, 4], 1) == (
        "SparseConvTensor: indices must have shape (N, 4) for spatial_shape [4, 4, 4], got (2, 3)"
    )
    assert message(ValueError, make, torch.ones(5, 3), GOOD, [4, 4], 1) == (
        "SparseConvTensor: features and indices must have as many rows, got 5 and 2"
    )
    assert message(TypeError, make, x.to("meta"), GOOD, [4, 4], 1) == (
        "SparseConvTensor: features and indices must be on one device, got meta and cpu"
    )
    assert message(ValueError, make, x, GOOD.long() + 2**32, [4, 4], 1) == (
        "SparseConvTensor: indices must fit int32; a coordinate passes 2^31 - 1"
    )


def test_keys_are_checked():
    x = sp.SparseConvTensor(torch.ones(2, 3), GOOD, [4, 4], 1)
    y = sp.SubMConv2d(3, 3, 3, indice_key="a")(x)
    assert message(ValueError, sp.SubMConv2d(3, 3, (1, 3), indice_key="a"), y) == (
        "SubMConv2d: indice_key 'a' was made with another kernel_size: [3, 3], here [1, 3]; give "
        "this "
        "layer its own indice_key"
    )
    assert message(ValueError, sp.SparseConv2d(3, 3, 3, padding=1, indice_key="a"), y) == (
        "SparseConv2d: indice_key 'a' is taken; only submanifold layers share a key, give this "
        "layer its own"
    )
    assert message(ValueError, sp.SparseInverseConv2d(3, 3, 3, indice_key="b"), y) == (
        "SparseInverseConv2d: indice_key 'b' must name an earlier convolution or pool that is not "
        "submanifold; known keys: ['a']"
    )
    assert message(ValueError, sp.SubMConv3d(3, 3, 3), x) == (
        "SubMConv3d: input must have 3 spatial axes, got [4, 4]"
    )
    assert message(ValueError, sp.SubMConv2d(4, 3, 3), x) == (
        "SubMConv2d: input must have 4 channels, got (2, 3)"
    )
