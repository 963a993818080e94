"""Hypothesis on layers and coordinates, good and bad; as a script for as long as one likes:

    python tests/test_fuzz.py --seconds 600 --seed 1

Every example ends in the numbers of reference.py, or in a ValueError that names the function;
anything else is a find. Prints how many examples ran, and of which seeds.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from spconv_lite import ops, reference

sys.path.insert(0, str(Path(__file__).resolve().parent))
from random_layers import fuzz, layers, main, right_sites

pytestmark = pytest.mark.native


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


def test_layers_and_coordinates_at_random_are_right_or_refused():
    examples, _ = fuzz(2, 1, layers(), check)
    assert examples >= 50


@pytest.mark.slow
def test_ten_minutes_of_random_layers_and_coordinates_are_right_or_refused():
    examples, seeds = fuzz(600, 1000, layers(), check)
    print(f"{examples} examples, seeds {seeds[0]} to {seeds[-1]}")
    assert examples > 1000


if __name__ == "__main__":
    main(__doc__, layers(), check)
