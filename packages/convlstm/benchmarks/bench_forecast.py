"""Ten frames from ten: `forecast`, which carries the states, beside all history again each step."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import torch
from measure import Bench

import convlstm

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

AHEAD = 10


@torch.no_grad()
def with_history(model, x):
    """The frames after x (B, T, H, W, C), each from all frames before it, computed anew."""
    history = x
    for _ in range(AHEAD):
        history = torch.cat([history, model(history)[:, -1:]], 1)
    return history[:, x.shape[1] :]


def main() -> None:
    bench = Bench(
        "convlstm forecast",
        "the whole history again for each step",
        versions={"torch": torch.__version__, "threads": str(torch.get_num_threads())},
        repeats=5,
    )
    for preset, batch, size in (("small", 1, 24), ("small", 4, 40), ("seed", 1, 40)):
        torch.manual_seed(0)
        model = convlstm.next_frame(preset, size=(size, size)).eval()
        x = torch.rand(batch, 10, size, size, 1)
        error = (convlstm.forecast(model, x, AHEAD) - with_history(model, x)).abs().max().item()
        assert error < 1e-5, f"the two differ by {error}"
        bench.compare(
            f"{preset}, B {batch}, {size}x{size}, 10 from 10",
            lambda model=model, x=x: convlstm.forecast(model, x, AHEAD),
            lambda model=model, x=x: with_history(model, x),
        )
    bench.finish()


if __name__ == "__main__":
    main()
