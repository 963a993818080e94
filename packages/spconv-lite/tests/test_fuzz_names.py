"""Hypothesis on what stands under spconv's names: layers as modules, inverses, pools, tables, sums,
dense tensors, points, hash tables, on coordinates good and bad; as a script for as long as one
likes:

    python tests/test_fuzz_names.py --seconds 600 --seed 1

The definition here is a dictionary from sites to rows. Every example ends in its numbers, forward
and in the gradient of the features, or in a ValueError; anything else is a find.
"""

import itertools
import math
import sys
import warnings
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

import spconv_lite as sp
from spconv_lite import reference

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # of an installed spconv
    from spconv_lite.compat.tree import TREE

sys.path.insert(0, str(Path(__file__).resolve().parent))
from random_layers import fuzz, layers, main, right_sites

pytestmark = pytest.mark.native
NAMES = TREE["spconv.pytorch"]() | TREE["spconv.pytorch.functional"]()


def name_of(kind: str, ndim: int):
    return NAMES[f"{kind}{ndim}d"]


def table(indices: torch.Tensor, rows: torch.Tensor) -> dict:
    return dict(zip(map(tuple, indices.tolist()), rows, strict=True))


def tables_of(tensor) -> dict:
    return table(tensor.indices, tensor.features)


def by_pairs(book, rows: torch.Tensor, out_rows: int) -> list[list[torch.Tensor]]:
    """The input rows that each output row meets."""
    met: list[list[torch.Tensor]] = [[] for _ in range(out_rows)]
    for pairs in book:
        for i, o in pairs:
            met[o].append(rows[i])
    return met


def convolved(layer, rows, book, out_rows):
    weight = layer.weight
    if layer.conv1x1:
        weight = weight.reshape(layer.in_channels, layer.out_channels).t()
    weight = weight.reshape(layer.out_channels, -1, layer.in_channels // layer.groups)
    parts = [
        reference.convolve(x, w, None, book, out_rows)
        for x, w in zip(rows.chunk(layer.groups, 1), weight.chunk(layer.groups), strict=True)
    ]
    out = torch.cat(parts, 1) + 0 * rows.sum()
    return out if layer.bias is None else out + layer.bias


def sizes_of(case, subm):
    ksize, stride, padding, dilation = case["kernel"]
    one = [1] * len(ksize)
    return (ksize, one, [0] * len(ksize), dilation) if subm else (ksize, stride, padding, dilation)


def a_layer(case, x):
    ksize, stride, padding, dilation = case["kernel"]
    kind = {"subm": "SubMConv", "conv": "SparseConv", "transposed": "SparseConvTranspose"}
    layer = name_of(kind[case["kind"]], x.ndim)(
        x.features.shape[1], case["out"], ksize, stride, padding, dilation, case["groups"]
    ).double()
    got = layer(x)
    subm, transposed = case["kind"] == "subm", case["kind"] == "transposed"
    out, book = reference.rulebook(
        x.indices, x.spatial_shape, *sizes_of(case, subm), subm=subm, transpose=transposed
    )
    assert layer.conv1x1 or torch.equal(got.indices, out)
    if layer.conv1x1:
        out, book = x.indices, [[(i, i) for i in range(len(x.indices))]]
    return tables_of(got), table(out, convolved(layer, x.features, book, len(out)))


def an_inverse(case, x):
    ksize, stride, padding, dilation = case["kernel"]
    channels = x.features.shape[1]
    sizes = ksize, stride, padding, dilation
    down = name_of("SparseConv", x.ndim)(channels, channels, *sizes, indice_key="k").double()
    if down.conv1x1:
        return {}, {}
    down.weight.requires_grad_(False)
    up = name_of("SparseInverseConv", x.ndim)(channels, case["out"], ksize, "k").double()
    middle = down(x)
    got = up(middle)
    _, book = reference.rulebook(x.indices, x.spatial_shape, *sizes)
    turned = [[(o, i) for i, o in pairs] for pairs in book]
    assert torch.equal(got.indices, x.indices)
    right = convolved(up, middle.features, turned, len(x.indices))
    return tables_of(got), table(x.indices, right)


def a_pool(case, x):
    ksize, stride, padding, dilation = case["kernel"]
    kind = case["draws"][0] % 2
    pool = name_of(("SparseMaxPool", "SparseAvgPool")[kind], x.ndim)(
        ksize, stride, padding, dilation
    )
    got = pool(x)
    out, book = reference.rulebook(x.indices, x.spatial_shape, ksize, stride, padding, dilation)
    reduce = (lambda rows: rows.amax(0), lambda rows: rows.mean(0))[kind]
    met = by_pairs(book, x.features, len(out))
    return tables_of(got), table(out, [reduce(torch.stack(rows)) for rows in met])


def a_global_pool(case, x):
    kind = case["draws"][0] % 2
    got = NAMES[("SparseGlobalMaxPool", "SparseGlobalAvgPool")[kind]]()(x)
    right = x.features.new_zeros((x.batch_size, x.features.shape[1])) + 0 * x.features.sum()
    for sample in range(x.batch_size):
        rows = x.features[x.indices[:, 0] == sample]
        if len(rows):
            right[sample] = rows.mean(0) if kind else rows.amax(0)
    return dict(enumerate(got)), dict(enumerate(right))


def a_merge(case, x):
    reduce = ("sum", "mean", "max", "first")[case["draws"][0] % 4]
    found = defaultdict(list)
    for site, row in zip(map(tuple, x.indices.tolist()), x.features, strict=True):
        found[site].append(row)
    merge = {
        "sum": lambda rows: rows.sum(0),
        "mean": lambda rows: rows.mean(0),
        "max": lambda rows: rows.amax(0),
        "first": lambda rows: rows[0],
    }[reduce]
    got = sp.coalesce(x, reduce)
    assert got.indices.tolist() == sorted(map(list, found))
    return tables_of(got), {site: merge(torch.stack(rows)) for site, rows in found.items()}


def other_sites(case, x):
    """Some of the sites, and some beside them."""
    draws = itertools.cycle(case["draws"])
    picked = x.indices[[next(draws) % 2 == 0 for _ in range(len(x.indices))]].clone()
    if len(picked):
        axis = next(draws) % x.ndim
        moved = (picked[:, 1 + axis].long() + next(draws)) % x.spatial_shape[axis]
        picked[:, 1 + axis] = moved.int()
    return sp.SparseConvTensor(
        x.features.new_ones((len(picked), x.features.shape[1])) / 3,
        picked,
        x.spatial_shape,
        x.batch_size,
    )


def a_sum(case, x):
    y = other_sites(case, x)
    got = NAMES["sparse_add"](x, y) if case["draws"][0] % 2 else sp.AddTableMisaligned()([y, x])
    right = tables_of(x)
    for site, row in tables_of(y).items():
        right[site] = right[site] + row if site in right else row
    return tables_of(got), right


def a_join(case, x):
    y = other_sites(case, x)
    got = sp.JoinTableMisaligned()([x, y])
    mine, theirs = tables_of(x), tables_of(y)
    zero = x.features.new_zeros(x.features.shape[1])
    right = {s: torch.cat([mine.get(s, zero), theirs.get(s, zero)]) for s in mine | theirs}
    return tables_of(got), right


def a_dense_tensor(case, x):
    if x.batch_size * x.spatial_size > 10**6:
        return {}, {}
    got = NAMES["ToDense"]()(x).movedim(1, -1)
    right = tables_of(x)
    assert int((got.detach() != 0).any(-1).sum()) == len(right)
    return {site: got[site] for site in right}, right


def at_points(case, x):
    """Points within a cell of sites, or anywhere."""
    draws = itertools.cycle(case["draws"])
    nearest = next(draws) % 2 == 0
    near = x.indices[:5].double()
    points = near[:, 1:] + torch.tensor(
        [[next(draws) % 1000 / 400 - 0.75 for _ in range(x.ndim)] for _ in near]
    ).double().reshape(len(near), x.ndim)
    batch = near[:, 0].int()
    got = sp.voxel_to_point(x, points, batch, nearest=nearest)
    sites, right = tables_of(x), []
    for sample, point in zip(batch.tolist(), points.tolist(), strict=True):
        total, weights = x.features.new_zeros(x.features.shape[1]), 0.0
        base = point if nearest else [p - 0.5 for p in point]
        for corner in itertools.product((0,) if nearest else (0, 1), repeat=x.ndim):
            cell = [math.floor(b) + c for b, c in zip(base, corner, strict=True)]
            weight = math.prod(1 - abs(b - c) for b, c in zip(base, cell, strict=True))
            weight = 1.0 if nearest else weight
            if (sample, *cell) in sites:
                total, weights = total + weight * sites[(sample, *cell)], weights + weight
        right.append(total / weights if weights else total)
    return dict(enumerate(got)), dict(enumerate(right))


def onto_coordinates(case, x):
    ksize, stride, padding, dilation = case["kernel"]
    layer = name_of("SparseConv", x.ndim)(
        x.features.shape[1], case["out"], ksize, stride, padding, dilation
    ).double()
    out, book = reference.rulebook(x.indices, x.spatial_shape, ksize, stride, padding, dilation)
    wanted = out[[case["draws"][i % 4] % 3 > 0 for i in range(len(out))]].flip(0).contiguous()
    got = layer(x, coordinates=wanted)
    assert torch.equal(got.indices, wanted)
    everything = table(
        out, reference.convolve(x.features, layer.weight, layer.bias, book, len(out))
    )
    return tables_of(got), {s: everything[s] for s in map(tuple, wanted.tolist())}


def a_hash_table(case, x):
    held, right = sp.HashTable("cpu", torch.int64, torch.float64), {}
    for step in range(3):
        keys = torch.tensor([d * (step + 1) % 7 - 3 for d in case["draws"]])
        values = torch.arange(len(keys)).double() + step
        held.insert(keys, values)
        right.update(zip(keys.tolist(), values, strict=True))
    keys, values, count = held.items()
    assert keys.tolist() == sorted(right)
    assert count.item() == len(right)
    return dict(zip(keys.tolist(), values, strict=True)), right


USES = [
    a_layer, an_inverse, a_pool, a_global_pool, a_merge, a_sum, a_join, a_dense_tensor, at_points,
    onto_coordinates, a_hash_table,
]  # fmt: skip


@st.composite
def uses(draw):
    case = draw(layers())
    per_group, case["groups"] = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2, 3]))
    case["in"] = per_group * case["groups"]
    case["out"] = draw(st.sampled_from([case["groups"], 2 * case["groups"], case["in"]]))
    case["draws"] = draw(st.lists(st.integers(0, 10**6), min_size=4, max_size=4))
    case["use"] = draw(st.sampled_from(USES))
    return case


def check(case: dict) -> None:
    """Raises AssertionError, or what must not be raised, for a find."""
    torch.set_num_threads(case["threads"])
    features = torch.randn(len(case["indices"]), case["in"], dtype=torch.float64)
    features.requires_grad_()
    x = sp.SparseConvTensor(features, case["indices"], case["shape"], case["batch_size"])
    use, right_input = case["use"], right_sites(case)
    if not right_input and use is a_merge:  # duplicates are what it is for
        limits = torch.tensor([case["batch_size"], *case["shape"]])
        right_input = bool(((x.indices >= 0) & (x.indices < limits)).all())
    refusal = ""
    try:
        got, right = use(case, x)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        unfit = any(
            why in refusal for why in ("does not fit", "longer than 2^31", "2^63 - 1 cells")
        )
        foreign = any(w in refusal for w in ("outside batch_size", "are both", "site twice"))
        assert unfit or (foreign and not right_input)
        return
    assert right_input or use is a_hash_table or not right
    assert got.keys() == right.keys()
    if not right:
        return
    got, right = (torch.stack([side[key] for key in right]) for side in (got, right))
    assert torch.allclose(got, right, rtol=1e-10, atol=1e-10)
    if not right.requires_grad:
        return
    noise = torch.randn_like(right)
    grads = [
        torch.autograd.grad(side, features, noise, retain_graph=True)[0] for side in (got, right)
    ]
    assert torch.allclose(*grads, rtol=1e-10, atol=1e-10)


def test_what_stands_under_spconvs_names_is_right_or_refused():
    examples, _ = fuzz(2, 1, uses(), check)
    assert examples >= 50


@pytest.mark.slow
def test_ten_minutes_of_what_stands_under_spconvs_names():
    examples, seeds = fuzz(600, 5000, uses(), check)
    print(f"{examples} examples, seeds {seeds[0]} to {seeds[-1]}")
    assert examples > 1000


if __name__ == "__main__":
    main(__doc__, uses(), check)
