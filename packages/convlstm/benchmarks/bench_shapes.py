"""Shapes of one layer beside the plain torch loop: never slower, forward and backward."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import torch.nn.functional as F
from measure import Bench
from plain_loop import PlainConvLSTM

import convlstm

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# batch, steps, channels in, filters, kernel, height, width
SHAPES = [
    (1, 4, 1, 4, 3, 8, 8),
    (1, 10, 1, 16, 3, 16, 16),
    (2, 10, 3, 8, 3, 12, 20),
    (8, 5, 4, 8, 1, 8, 8),
    (16, 10, 8, 16, 3, 4, 4),
    (4, 8, 16, 16, 3, 16, 16),
    (4, 8, 16, 16, 5, 16, 16),
    (1, 20, 32, 32, 3, 16, 16),
    (8, 4, 32, 64, 3, 8, 8),
    (2, 5, 64, 64, 3, 16, 16),
    (2, 5, 64, 64, 5, 16, 16),
    (1, 5, 64, 64, 1, 32, 32),
    (2, 4, 1, 64, 5, 32, 32),
    (1, 3, 128, 128, 3, 8, 8),
    (1, 4, 40, 40, 3, 40, 40),
    (1, 4, 3, 24, 7, 24, 24),
    (1, 4, 16, 37, 3, 23, 19),
    (2, 4, 2, 12, 3, 33, 31),
    (1, 2, 16, 32, 3, 64, 64),
    (32, 3, 4, 12, 3, 10, 10),
    (1, 5, 32, 32, 5, 32, 32),
    (2, 4, 64, 64, 5, 32, 32),
]


# What a cell may have besides: ours, and the peer's options for the same.
CELLS = {
    "dropout": ({"dropout": 0.2, "recurrent_dropout": 0.2}, {"dropout": 0.2}),
    "layer norm": ({"norm": "layer"}, {"groups": 1}),
    "group norm": ({"norm": "group", "norm_groups": 4}, {"groups": 4}),
    "silu": ({"activation": "silu"}, {"activation": F.silu}),
}
CELL_SHAPES = [(2, 10, 3, 8, 3, 12, 20), (1, 4, 40, 40, 3, 40, 40), (2, 5, 64, 64, 5, 16, 16)]


def compare(bench: Bench, shape: tuple[int, ...], cell: str = "") -> None:
    batch, steps, channels, filters, kernel, height, width = shape
    torch.manual_seed(0)
    options, peer_options = CELLS.get(cell, ({}, {}))
    ours = convlstm.ConvLSTM2d(
        channels, filters, kernel, padding="same", return_sequences=True, **options
    )
    plain = PlainConvLSTM(channels, filters, kernel, **peer_options)
    plain.load(ours)
    x = torch.rand(batch, steps, channels, height, width)
    with torch.no_grad():
        error = (ours.eval()(x) - plain.eval()(x)).abs().max().item()
    bound = 3e-5 if "norm" in cell else 1e-5  # a norm divides by the spread of what it gets
    assert error < bound, f"the two differ by {error}"
    ours.train(), plain.train()

    def forward(model):
        with torch.no_grad():
            model(x)

    def both(model):
        model.zero_grad()
        model(x).square().mean().backward()

    case = f"B{batch} T{steps} {channels}-{filters} k{kernel} {height}x{width} {cell}".rstrip()
    for name, call in (("forward", forward), ("training", both)):
        bench.compare(
            f"{case} {name}",
            lambda call=call: call(ours),
            lambda call=call: call(plain),
            warmup=2,
        )


def main() -> None:
    bench = Bench(
        "convlstm shapes",
        "plain torch loop over cat([x, h])",
        versions={"torch": torch.__version__, "threads": str(torch.get_num_threads())},
        repeats=9,
    )
    for shape in SHAPES:
        compare(bench, shape)
    for cell in CELLS:
        for shape in CELL_SHAPES:
            compare(bench, shape, cell)
    ratios = [row.cpu_ratio for row in bench.rows]
    if ratios:
        bench.fact("slowest ratio by CPU time", f"{min(ratios):.2f}")
        bench.fact("rows", len(ratios))
    bench.finish()


if __name__ == "__main__":
    main()
