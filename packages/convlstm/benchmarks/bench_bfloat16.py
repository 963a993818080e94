"""What bfloat16 could bring to training at most: the products of a step alone, by torch.

Rows "tiles": products of Winograd's filtering, tiles of 2x2 in bfloat16 beside the tiles of 4x4
that float32 has. Rows "direct": torch's whole convolutions, bfloat16 beside float32. Without
AVX512-BF16 or AMX torch computes bfloat16 in software.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import torch
from measure import Bench

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# batch, channels in, filters, kernel, height, width
SHAPES = [(5, 40, 40, 3, 40, 40), (2, 64, 64, 5, 16, 16), (1, 64, 64, 1, 32, 32)]
PASSES = ("forward", "input gradient", "weight gradient")


def tiles(shape, out, dtype):
    """A call for each pass: the products of all tiles of `out` outputs a side."""
    batch, channels, filters, kernel, height, width = shape
    rows = batch * -(-height // out) * -(-width // out)
    parts = ((kernel + 2) // 3) ** 2  # of 3x3
    inputs, gates = (channels + filters) * parts, 4 * filters
    places = (out + 2) ** 2
    for m, k, n in ((rows, inputs, gates), (rows, gates, inputs), (inputs, rows, gates)):
        a, b = (torch.randn(places, *size).to(dtype) for size in ((m, k), (k, n)))
        yield lambda a=a, b=b: torch.bmm(a, b)


def direct(shape, dtype):
    """A call for each pass: the convolution of input and state side by side, channels last."""
    batch, channels, filters, kernel, height, width = shape
    layout = {"dtype": dtype, "memory_format": torch.channels_last}
    x = torch.randn(batch, channels + filters, height, width).to(**layout)
    w = torch.randn(4 * filters, channels + filters, kernel, kernel).to(**layout)
    pads = [kernel // 2, kernel // 2]
    y = torch.nn.functional.conv2d(x, w, None, 1, pads)
    yield lambda: torch.nn.functional.conv2d(x, w, None, 1, pads)
    for wanted in ([True, False, False], [False, True, False]):
        yield lambda wanted=wanted: torch.ops.aten.convolution_backward(
            y, x, w, None, [1, 1], pads, [1, 1], False, [0, 0], 1, wanted
        )


def main() -> None:
    versions = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    bench = Bench("convlstm bfloat16 products", "the same in float32", versions=versions, repeats=3)
    low, full = torch.bfloat16, torch.float32
    for shape in SHAPES:
        batch, channels, filters, kernel, height, width = shape
        case = f"B{batch} {channels}-{filters} k{kernel} {height}x{width}"
        ways = [("direct", direct(shape, low), direct(shape, full))]
        if kernel > 1:
            ways.insert(0, ("tiles", tiles(shape, 2, low), tiles(shape, 4, full)))
        for way, ours, peer in ways:
            for name, call, other in zip(PASSES, ours, peer, strict=True):
                bench.compare(f"{case} {way}, {name}", call, other)
    bench.finish()


if __name__ == "__main__":
    main()
