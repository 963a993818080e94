"""What Hypothesis draws for spconv-lite, and how long it runs: shared by test_fuzz*.py."""

from __future__ import annotations

import argparse
import time

import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st


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


def fuzz(seconds: float, first_seed: int, cases, check) -> tuple[int, list[int]]:
    """Runs `check` on `cases` for about `seconds`; returns the number of examples and the
    seeds."""
    end, seeds, examples = time.monotonic() + seconds, [], 0
    before = torch.get_num_threads()

    def counted(case: dict) -> None:
        nonlocal examples
        examples += 1
        check(case)

    try:
        while time.monotonic() < end:
            seeds.append(first_seed + len(seeds))
            limits = settings(
                max_examples=200, deadline=None, database=None, suppress_health_check=HealthCheck
            )
            seed(seeds[-1])(limits(given(cases)(counted)))()
    finally:
        torch.set_num_threads(before)
    return examples, seeds


def main(description: str, cases, check) -> None:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    start = time.monotonic()
    count, used = fuzz(options.seconds, options.seed, cases, check)
    took = time.monotonic() - start
    print(f"{count} examples in {took:.0f} s, seeds {used[0]} to {used[-1]}: no find")
