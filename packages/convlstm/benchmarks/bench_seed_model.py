"""The 40-filter next-frame model beside the same model as a plain torch loop."""

import copy
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from measure import Bench
from plain_loop import PlainSeedModel

import convlstm
from convlstm import _C
from convlstm.keras_layers import BatchNorm

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pair(size):
    torch.manual_seed(0)
    ours = convlstm.next_frame("seed", keras_example=True, size=(size, size))
    plain = PlainSeedModel()
    plain.load(ours)
    return ours, plain


def inference(model, x):
    def run():
        with torch.no_grad():
            return model(x)

    return run


def training(model, x, y):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def run():
        optimizer.zero_grad()
        loss = (model(x) - y).abs().mean()
        loss.backward()
        optimizer.step()
        return loss

    return run


def main() -> None:
    bench = Bench(
        "convlstm seed model",
        "plain torch loop over cat([x, h])",
        versions={"torch": torch.__version__, "threads": str(torch.get_num_threads())},
        repeats=5,
    )
    bench.fact("instruction set", _C.isa())
    for size, steps in ((40, 10), (64, 10), (40, 20)):
        x = torch.rand(5, steps, size, size, 1)
        y = torch.rand(5, steps, size, size, 1)
        xp, yp = x.movedim(-1, 2).contiguous(), y.movedim(-1, 2).contiguous()
        ours, plain = pair(size)
        ours.eval(), plain.eval()
        with torch.no_grad():
            error = (ours(x) - plain(xp).movedim(2, -1)).abs().max().item()
        assert error < 1e-5, f"the two models differ by {error}"
        case = f"B 5, T {steps}, {size}x{size}"
        repeats = None if steps * size == 400 else 3
        bench.compare(
            f"{case}, inference", inference(ours, x), inference(plain, xp), repeats=repeats
        )
        if _C.has_bfloat16():
            low = copy.deepcopy(ours)
            for layer in low.layers:
                if not isinstance(layer, BatchNorm):  # as Keras: statistics stay float32
                    layer.to(torch.bfloat16)
            with torch.no_grad():
                error = (low(x.bfloat16()).float() - ours(x)).abs().max().item()
            bench.fact(f"{case}: largest difference of bfloat16 from float32", f"{error:.1g}")
            half = inference(low, x.bfloat16())
            bench.compare(f"{case}, inference, bfloat16", half, inference(plain, xp), repeats=3)
            bench.compare(
                f"{case}, bfloat16 beside our float32", half, inference(ours, x), repeats=5
            )
        ours.train(), plain.train()
        bench.compare(
            f"{case}, training step", training(ours, x, y), training(plain, xp, yp),
            repeats=repeats,
        )  # fmt: skip
    bench.finish()


if __name__ == "__main__":
    main()
