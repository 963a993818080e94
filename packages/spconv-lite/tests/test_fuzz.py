"""Hypothesis on layers and coordinates, good and bad; as a script for as long as one likes:

    python tests/test_fuzz.py --seconds 600 --seed 1

Every example ends in the numbers of reference.py, or in a ValueError that names the function;
anything else is a find. Prints how many examples ran, and of which seeds.
"""

from __future__ import annotations

import argparse
import math
import time

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from spconv_lite import ops, reference

pytestmark = pytest.mark.native


@st.composite
def layers(draw):
    """Mostly layers that fit, with sites that are mostly good: distinct and inside."""
    ndim = draw(st.integers(1, 4))
    longest = (200, 30, 9, 5)[ndim - 1]

    def numbers(low, high):
        return draw(st.lists(st.integers(low, high), min_size=ndim, max_size=ndim))

    shape, batch_size = numbers(1, longest), draw(st.integers(1, 3))
    if draw(st.integers(0, 9)) == 0:  # far apart: the hash table, and keys beyond 32 bits
        shape[draw(st.integers(0, ndim - 1))] = draw(st.integers(10**5, 2**31 - 1))
    sites = st.tuples(st.integers(0, batch_size - 1), *(st.integers(0, n - 1) for n in shape))
    rows = draw(st.lists(sites, max_size=60, unique=draw(st.integers(0, 9)) > 0))
    if rows and draw(st.integers(0, 9)) == 0:  # one coordinate somewhere else
        row, axis = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, ndim))
        value = draw(st.integers(-(2**31), 2**31 - 1))
        rows[row] = (*rows[row][:axis], value, *rows[row][axis + 1 :])
    return {
        "indices": torch.tensor(rows, dtype=torch.int32).reshape(-1, ndim + 1),
        "batch_size": batch_size,
        "shape": shape,
        "kernel": (numbers(1, 4), numbers(1, 3), numbers(0, 3), numbers(1, 3)),
        "kind": draw(st.sampled_from(["subm", "conv", "transposed"])),
        "channels": (draw(st.integers(1, 20)), draw(st.integers(1, 20))),
        "threads": draw(st.sampled_from([1, 2, 3])),
    }


def right_sites(layer: dict) -> bool:
    rows = layer["indices"].tolist()
    limits = layer["batch_size"], *layer["shape"]
    inside = all(0 <= x < n for row in rows for x, n in zip(row, limits, strict=True))
    return inside and len(set(map(tuple, rows))) == len(rows)


def check(layer: dict) -> None:
    """Raises AssertionError, or what must not be raised, for a find."""
    ksize, stride, padding, dilation = layer["kernel"]
    indices, shape, kind = layer["indices"], layer["shape"], layer["kind"]
    batch_size, none = layer["batch_size"], [0] * len(shape)
    subm, transposed = kind == "subm", kind == "transposed"
    torch.set_num_threads(layer["threads"])
    refusal = ""
    try:
        if subm:
            out, book = indices, ops.subm_rulebook(indices, batch_size, shape, ksize, dilation)
        else:
            settings_ = ksize, stride, padding, dilation, none, transposed
            out, *book = ops.rulebook(indices, batch_size, shape, *settings_)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("get_indice_pairs: ")
        sizes_unfit = "the kernel does not fit" in refusal or "longer than 2^31" in refusal
        assert sizes_unfit or not right_sites(layer)
        return
    assert right_sites(layer)
    sizes = indices, shape, ksize, stride, padding, dilation
    expected_out, pairs = reference.rulebook(*sizes, subm=subm, transpose=transposed)
    assert torch.equal(out, expected_out)
    volume = math.prod(ksize)
    assert reference.pairs_by_offset(ops.Rulebook(*book), len(out), volume) == pairs
    c_in, c_out = layer["channels"]
    x = torch.randn(len(indices), c_in, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(c_out, *ksize, c_in, dtype=torch.float64, requires_grad=True)
    symmetric = subm and ops.is_symmetric(ksize)
    got = ops.conv(x, weight, None, *book, len(out), 1, symmetric)
    # without a pair nothing is added that could be derived
    exact = reference.convolve(x, weight, None, pairs, len(out)) + 0 * (x.sum() + weight.sum())
    grad = torch.randn_like(got)
    for a, b in zip(
        (got, *torch.autograd.grad(got, (x, weight), grad)),
        (exact, *torch.autograd.grad(exact, (x, weight), grad, allow_unused=True)),
        strict=True,
    ):
        assert torch.allclose(a, torch.zeros_like(a) if b is None else b, rtol=1e-10, atol=1e-10)


def fuzz(seconds: float, first_seed: int) -> tuple[int, list[int]]:
    """Runs for about `seconds`; returns the number of examples and the seeds."""
    end, seeds, examples = time.monotonic() + seconds, [], 0
    before = torch.get_num_threads()

    def counted(layer: dict) -> None:
        nonlocal examples
        examples += 1
        check(layer)

    try:
        while time.monotonic() < end:
            seeds.append(first_seed + len(seeds))
            limits = settings(
                max_examples=200, deadline=None, database=None, suppress_health_check=HealthCheck
            )
            seed(seeds[-1])(limits(given(layers())(counted)))()
    finally:
        torch.set_num_threads(before)
    return examples, seeds


def test_layers_and_coordinates_at_random_are_right_or_refused():
    examples, _ = fuzz(2, 1)
    assert examples >= 50


@pytest.mark.slow
def test_ten_minutes_of_random_layers_and_coordinates_are_right_or_refused():
    examples, seeds = fuzz(600, 1000)
    print(f"{examples} examples, seeds {seeds[0]} to {seeds[-1]}")
    assert examples > 1000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    start = time.monotonic()
    count, used = fuzz(options.seconds, options.seed)
    took = time.monotonic() - start
    print(f"{count} examples in {took:.0f} s, seeds {used[0]} to {used[-1]}: no find")
