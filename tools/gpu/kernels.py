"""Times of single kernels on a device, a line each: sparse convolution (lidar of 120,000 sites, 64
channels), the loss (bfloat16 [8192, 50304]), the gates and a culled frame, by every choice of
kernels there is.

Each choice is a test of gpu_check's: one that raises has failed and does not stop the next, one
that hangs or loses the device ends this process, which is started again and goes on behind it.
`--device cpu --small`: the same lines come from the CPU kernels: for a test of this file.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from gpu import lines

Cases = Iterator[tuple[str, Callable[[], object]]]


def write(case: str, **facts: object) -> None:
    print(f"{case}: {facts}", flush=True)
    lines.write("kernel", case=case, **facts)


def microseconds(call: Callable[[], object], device: str, repeats: int = 20) -> list[float]:
    """Of each repeat after three warm-ups, by CUDA events: what the device works, not the host."""
    times = []
    for turn in range(3 + repeats):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
            begin.record()
            call()
            end.record()
            end.synchronize()
            took = begin.elapsed_time(end) * 1e3
        else:
            started = time.perf_counter()
            call()
            took = (time.perf_counter() - started) * 1e6
        if turn >= 3:
            times.append(took)
    return times


def convolution(device: str, kernels: str, small: bool) -> Cases:
    from spconv_lite import street
    from spconv_lite.kernels import ops

    ops.set_kernels(device, kernels)
    indices = torch.from_numpy(street.voxel_sites(300 if small else 120_000)).to(device)
    shape = [int(n) + 1 for n in indices[:, 1:].max(0).values]
    grid = 1, shape, [3] * 3, [1] * 3
    yield f"submanifold map, {kernels}", lambda: ops.subm_rulebook(indices, *grid)
    book = ops.subm_rulebook(indices, *grid)
    rows, channels = len(indices), 64
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x = torch.randn(rows, channels, device=device).to(dtype)
        w = torch.randn(channels, 3, 3, 3, channels, device=device).to(dtype)
        name = f"C{channels} {str(dtype).removeprefix('torch.')}, {kernels}"
        yield (
            f"convolution forward {name}",
            lambda x=x, w=w: ops.conv(x, w, None, *book, rows, 1, True),
        )
        yield (
            f"input gradient {name}",
            lambda x=x, w=w: ops.conv_input_grad(x, w, *book, rows, 1, True),
        )
        yield (
            f"weight gradient {name}",
            lambda x=x, w=w: ops.conv_weight_grad(x, x, *book, w.shape, 1, True),
        )


def loss(device: str, kernels: str, small: bool) -> Cases:
    import torch.nn.functional as F

    from tp_parallel import ParallelContext, vocab_parallel_cross_entropy
    from tp_parallel.loss import ops

    if device == "cuda":
        ops.set_cuda_kernels(kernels)
    rows, columns = (16, 100) if small else (8192, 50304)
    context = ParallelContext(device=device)
    logits = torch.randn(rows, columns, device=device, dtype=torch.bfloat16).requires_grad_()
    target = torch.randint(columns, (rows,), device=device)
    settings = {"context": context, "vocab_size": columns}
    name = f"[{rows}, {columns}] bfloat16, {kernels}"

    def both(function: Callable[[], torch.Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(), logits)

    yield (
        f"loss and gradient {name}",
        both(lambda: vocab_parallel_cross_entropy(logits, target, **settings).sum()),
    )
    if kernels == "torch":
        yield f"F.cross_entropy {name}", both(lambda: F.cross_entropy(logits, target))


def gates(device: str, kernels: str, small: bool) -> Cases:
    from convlstm import ConvLSTM2d
    from convlstm.sequence.gates import set_cuda_gates

    plan = "fused"
    if kernels == "torch":
        plan = "loop"
    elif device == "cuda":
        set_cuda_gates(kernels)
    side = 8 if small else 64
    layer = ConvLSTM2d(1, 40, 3, return_sequences=True, plan=plan).to(device).eval()
    x = torch.randn(4, 10, 1, side, side, device=device)
    with torch.no_grad():
        yield f"40 filters, T 10, forward float32, {kernels}", lambda: layer(x)
        if kernels == "triton":
            half, narrow = layer.to(torch.bfloat16), x.to(torch.bfloat16)
            yield f"40 filters, T 10, forward bfloat16, {kernels}", lambda: half(narrow)


def frame(device: str, kernels: str, small: bool) -> Cases:
    """Culling, drawing and the way back of a picture, after its equality with the CPU's is seen."""
    import nanite_cull as nc
    from nanite_cull import meshes

    asset, side = nc.build(*meshes.planet(3 if small else 8)), 2 if small else 320
    places = torch.eye(4, dtype=torch.float64).repeat(side * side, 1, 1)
    steps = 3.0 * torch.arange(side, dtype=torch.float64)
    places[:, 0, 3], places[:, 1, 3] = steps.repeat(side), steps.repeat_interleave(side)
    scene = nc.Scene()
    scene.add(asset, places.numpy())
    size = (64, 48) if small else (1920, 1080)
    camera = nc.Camera.look_at((-3, -3, 6), (15, 15, 0))
    expected = nc.Renderer(*size, max_candidate_nodes=1 << 20).render(scene, camera)
    million = asset.statistics()["source_triangles"] * len(scene) // 10**6
    for traversal in ("levels", "persistent"):
        renderer = nc.Renderer(
            *size, device=device, traversal=traversal, max_candidate_nodes=1 << 20
        )
        if (renderer.render(scene, camera).visibility != expected.visibility).any():
            raise RuntimeError(f"{traversal}: the picture differs from the CPU's")
        yield (
            f"frame of {million} M instanced triangles, {size[0]}x{size[1]}, {traversal}",
            lambda renderer=renderer: renderer.render(scene, camera),
        )


def run(family: Callable[[str, str, bool], Cases], kernels: str, device: str, small: bool) -> bool:
    """The lines of one choice; whether it ran to its end."""
    name = f"{family.__name__}, {kernels}"
    lines.write_test(name, "started")
    faulthandler.dump_traceback_later(lines.LIMIT_S, exit=True)
    try:
        for case, call in family(device, kernels, small):
            times = microseconds(call, device, 2 if small else 20)
            write(case, us=round(statistics.median(times), 1), least=round(min(times), 1))
    except Exception as error:
        why = f"{type(error).__name__}: {error}"[-800:]
        write(name, error=why)
        lines.write_test(name, "failed", detail=why)
        if lines.device_is_lost():
            os._exit(lines.STICKY)
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    lines.write_test(name, "passed")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a test of this file")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device answers")
        return 3
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    choices = ("triton", "native", "torch") if options.device == "cuda" else ("native", "torch")
    every = [(family, kernels) for family in (convolution, loss, gates) for kernels in choices]
    before = lines.seen()
    ended = [
        run(family, kernels, options.device, options.small)
        for family, kernels in [*every, (frame, "native")]
        if f"{family.__name__}, {kernels}" not in before
    ]
    return 0 if all(ended) else 1


if __name__ == "__main__":
    sys.exit(main())
