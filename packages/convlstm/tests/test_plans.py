"""Which way a convolution and a sequence go: by their shape, their dtype and the processor."""

import itertools
import math

import pytest
import torch

from convlstm.sequence import convolutions, plain_loop
from convlstm.sequence.convolutions import WINDOWS, Tile, tile_of
from convlstm.sequence.reference import CellExtras
from convlstm.sequence.spec import CellSpec

AVX512, OTHERS = "avx512", "avx2"


def use(isa, monkeypatch):
    monkeypatch.setattr(convolutions, "FEWEST_TILES", convolutions._fewest_tiles(isa))
    monkeypatch.setattr(convolutions, "_fewest_products", convolutions._fewest_products.__wrapped__)


@pytest.mark.parametrize(
    ("isa", "frames", "size", "kernel", "channels", "calls", "want"),
    [
        (AVX512, 2, (16, 16), (5, 5), 64, 5, Tile(4, 5)),
        (AVX512, 1, (16, 16), (5, 5), 64, 10, Tile(2, 3)),
        (AVX512, 1, (24, 24), (4, 4), 8, 4, Tile(4, 5)),
        (AVX512, 1, (24, 24), (3, 5), 8, 4, Tile(4, 3)),
        (OTHERS, 1, (8, 8), (2, 4), 8, 4, WINDOWS),
        (AVX512, 1, (40, 40), (3, 3), 40, 4, Tile(4, 3)),
        (AVX512, 1, (16, 16), (3, 3), 64, 10, Tile(2, 3)),
        (AVX512, 1, (8, 8), (3, 3), 64, 1, WINDOWS),
        (AVX512, 1, (24, 24), (7, 7), 24, 4, Tile(4, 3)),
        (AVX512, 2, (16, 16), (7, 7), 64, 4, Tile(2, 7)),
        (OTHERS, 1, (16, 16), (3, 3), 64, 10, Tile(2, 3)),
        (OTHERS, 1, (8, 8), (3, 3), 64, 10, Tile(2, 3)),
        (OTHERS, 1, (8, 8), (3, 3), 64, 1, Tile(2, 3)),
        (OTHERS, 1, (20, 20), (5, 5), 64, 10, Tile(4, 5)),
        (OTHERS, 1, (8, 8), (5, 5), 64, 1, Tile(2, 3)),
        (OTHERS, 1, (2, 2), (5, 5), 64, 1, WINDOWS),
        (OTHERS, 1, (24, 24), (1, 1), 64, 9, WINDOWS),
        (OTHERS, 1, (24, 24), (9, 5), 64, 9, WINDOWS),
    ],
)
def test_a_convolution_goes_the_way_of_its_shape_and_processor(
    isa, frames, size, kernel, channels, calls, want, monkeypatch
):
    use(isa, monkeypatch)
    assert tile_of(torch.empty(frames, *size, channels), size, kernel, calls) == want
    low = tile_of(torch.empty(frames, *size, channels).bfloat16(), size, kernel, calls)
    assert low in (WINDOWS, Tile(2, 3))
    assert tile_of(torch.empty(frames, *size, channels).double(), size, kernel, calls) == WINDOWS


@pytest.mark.parametrize("isa", [AVX512, OTHERS], ids=str)
@pytest.mark.parametrize("kernel", [(4, 4), (4, 5), (5, 5)])
def test_kernels_of_5x5_never_go_in_four_parts_in_tiles_of_4x4(kernel, isa, monkeypatch):
    use(isa, monkeypatch)
    for frames, height, width, calls in itertools.product((1, 3), range(1, 19), (1, 7, 16), (1, 9)):
        size = height, width
        tile = tile_of(torch.empty(frames, *size, 8), size, kernel, calls)
        assert tile in (WINDOWS, Tile(2, 3), Tile(4, 5))


@pytest.mark.parametrize(
    ("filters", "kernel", "size", "steps", "want"),
    [
        (64, 5, (8, 8), 3, True),
        (64, 5, (16, 16), 1, True),
        (64, 5, (16, 16), 5, False),
        (32, 5, (32, 32), 5, False),
        (128, 3, (8, 8), 3, True),
        (64, 3, (16, 16), 5, False),
        (4, 3, (8, 8), 4, False),
    ],
)
@pytest.mark.parametrize("beside", [10, math.inf], ids=["others", "avx512"])
def test_the_plain_loop_is_the_floor(filters, kernel, size, steps, want, beside, monkeypatch):
    """Sequences beside whose weights there is too little to compute."""
    monkeypatch.setattr(plain_loop, "HEAVY_BESIDE_STATES", beside)
    spec = CellSpec.make(2, filters, kernel, padding="same")
    x, h = torch.empty(1, steps, filters, *size), torch.empty(1, filters, *size)
    weight = torch.empty(4 * filters, filters, kernel, kernel)
    got = plain_loop.pays(x, h, weight, spec, CellExtras())
    heavy = weight.numel() > plain_loop.HEAVY * steps * math.prod(size)
    assert got == (want if beside == 10 else heavy)
