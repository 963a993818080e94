"""The 40-filter model on a GPU: fused, and as a CUDA graph, beside the plain torch loop; last, with
Triton's gates.

Without an NVIDIA GPU it says so and ends with exit code 3.
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from measure import Bench
from plain_loop import PlainSeedModel

import convlstm
from convlstm import _C
from convlstm.sequence.gates import set_cuda_gates

BATCH, STEPS, SIZE = 5, 10, 40


def waited(call):
    """The call, and the wait for the device: what a user of its result sees."""

    def run():
        call()
        torch.cuda.synchronize()

    return run


def inference(model, x):
    def run():
        with torch.no_grad():
            model(x)

    return waited(run)


def training(model, x, y):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def run():
        optimizer.zero_grad()
        (model(x) - y).abs().mean().backward()
        optimizer.step()

    return waited(run)


def main() -> None:
    if not torch.cuda.is_available() or not _C.cuda_architectures:
        print("no GPU benchmark: it needs a CUDA device and a build with CUDA kernels")
        sys.exit(3)
    versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    versions |= {"gpu": torch.cuda.get_device_name()}
    bench = Bench("convlstm on a GPU", "plain torch loop, eager", versions=versions, repeats=30)
    torch.manual_seed(0)
    ours = convlstm.next_frame("seed", keras_example=True, size=(SIZE, SIZE))
    plain = PlainSeedModel()
    plain.load(ours)
    for layer in ours.layers[0:8:2]:
        layer.plan = "fused"
    ours, plain = ours.cuda().eval(), plain.cuda().eval()
    x, y = (torch.rand(BATCH, STEPS, SIZE, SIZE, 1, device="cuda") for _ in range(2))
    xp, yp = (t.movedim(-1, 2).contiguous() for t in (x, y))
    with torch.no_grad():
        error = (ours(x) - plain(xp).movedim(2, -1)).abs().max().item()
    assert error < 2e-3, f"the two models differ by {error}"  # cuDNN may compute in TF32
    bench.fact("largest difference of the two models", f"{error:.1g}")
    case = f"B {BATCH}, T {STEPS}, {SIZE}x{SIZE}"
    peer = inference(plain, xp)
    bench.compare(f"{case}, inference, fused", inference(ours, x), peer, warmup=5)
    graph = convlstm.graphed(ours, x)
    bench.compare(f"{case}, inference, graph", waited(lambda: graph(x)), peer, warmup=5)
    ours.train(), plain.train()
    bench.compare(
        f"{case}, training step, fused", training(ours, x, y), training(plain, xp, yp), warmup=5
    )
    graphed = torch.cuda.make_graphed_callables(ours, (x,))
    bench.compare(
        f"{case}, training step, graph", training(graphed, x, y), training(plain, xp, yp), warmup=5
    )
    if importlib.util.find_spec("triton"):
        set_cuda_gates("triton")
        ours.eval(), plain.eval()
        gates = f"{case}, inference, Triton's gates"
        bench.compare(f"{gates}, fused", inference(ours, x), peer, warmup=5)
        graph = convlstm.graphed(ours, x)
        bench.compare(f"{gates}, graph", waited(lambda: graph(x)), peer, warmup=5)
    bench.finish()


if __name__ == "__main__":
    main()
