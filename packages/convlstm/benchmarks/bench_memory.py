"""What a training step of the 40-filter model keeps for its backward pass."""

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


def kept_bytes(model, x) -> int:
    """Bytes of the distinct storages that autograd keeps, parameters and input left out."""
    own = {t.untyped_storage().data_ptr() for t in [x, *model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}
    alive = []  # while the graph lives, an address belongs to one storage

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = model(x).square().mean()
    del loss
    return sum(kept.values())


def main() -> None:
    bench = Bench(
        "convlstm memory", "plain torch loop", versions={"torch": torch.__version__}, repeats=1
    )
    size, batch = 24, 2
    for steps in (10, 20):
        x = torch.rand(batch, steps, size, size, 1)
        plain = PlainSeedModel()
        rows = {"plain": kept_bytes(plain, x.movedim(-1, 2).contiguous())}
        for recompute in (False, True):
            ours = convlstm.next_frame("seed", keras_example=True, size=(size, size))
            for layer in ours.layers[0:8:2]:
                layer.recompute = recompute
            rows["recompute" if recompute else "ours"] = kept_bytes(ours, x)
        state = batch * steps * size * size * 40 * 4
        for name in ("ours", "recompute"):
            ratio = rows[name] / rows["plain"]
            bench.fact(f"T {steps}: {name} / plain loop, bytes kept", f"{ratio:.2f}")
        bench.fact(
            f"T {steps}: recompute, in outputs of one layer", f"{rows['recompute'] / state:.1f}"
        )
    bench.finish()


if __name__ == "__main__":
    main()
