"""What a registered operator costs above its kernel, on CPU tensors without grad."""

import time

import peer
import torch
from measure import Bench

from spconv_lite import ops


def burst(call, count: int = 200) -> float:
    """Seconds a call, over one burst."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def least(call, bursts: int = 60) -> float:
    call()
    return min(burst(call) for _ in range(bursts))


def main() -> None:
    torch.set_num_threads(1)
    bench = Bench("call overhead", "the kernel alone", versions=peer.versions())
    indices = torch.tensor([[0, 1], [0, 2], [0, 4]], dtype=torch.int32)
    book = ops.subm_rulebook(indices, 1, [8], [3], [1])
    x, weight = torch.randn(3, 4), torch.randn(4, 3, 4)
    out, grad = torch.empty(3, 4), torch.randn(3, 4)
    to_weight = torch.empty(4, 3, 4)
    cases = {
        "conv": (
            lambda: ops.conv(x, weight, None, *book, 3, 1, True),
            lambda: ops._C.convolve(x, weight, None, *book, out, 1, 1),
        ),
        "conv_input_grad": (
            lambda: ops.conv_input_grad(grad, weight, *book, 3, 1, True),
            lambda: ops._C.convolve_back(grad, weight, *book, True, out, 1, 1),
        ),
        "conv_weight_grad": (
            lambda: ops.conv_weight_grad(x, grad, *book, (4, 3, 4), 1, True),
            lambda: ops._C.correlate(x, grad, *book, to_weight, 1, 1),
        ),
    }
    with torch.no_grad():
        for name, (operator, kernel) in cases.items():
            above = 1e6 * (least(operator) - least(kernel))
            bench.fact(f"{name}, microseconds above the kernel", round(above, 2))
    bench.finish()


if __name__ == "__main__":
    main()
