"""Two networks at lidar 120k on a GPU, maps included: spconv's 14 layers of 64 to 256 channels, and
SECOND's middle encoder. float16, bfloat16 and tf32; inference and a training step.

The CUDA kernels, and then Triton's, beside this package's plain torch operators (gather, matrix
product and scatter in the same dtype); last, the CUDA kernels beside spconv where it can be
imported. Results are compared first; kernels that differ or raise leave a fact, and exit code 1
after all other rows. Without a GPU and a build with CUDA kernels it says so and ends with exit code
3; `--device cpu --sites 300` runs the whole script with the CPU kernels, to find its faults.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import torch
from measure import Bench
from networks import second_encoder
from torch import nn

import spconv_lite as sp
from spconv_lite import ops, plain, street

SHAPE = [41, 1440, 1440]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32}
BY = {"native": "", "triton": ", by Triton"}  # in the name of a row


def fourteen_layers(library: ModuleType) -> nn.Module:
    """The network of spconv's own benchmark: two submanifold layers of each width, then a pool; no
    BatchNorm. Pools of 3 with padding, so that 41 cells allow all six."""
    layers, before = [], 4
    for stage, width in enumerate(range(64, 257, 32)):
        if stage:
            layers.append(library.SparseMaxPool3d(3, 2, 1))
        for channels in (before, width):
            key = f"stage{stage}"
            layers.append(library.SubMConv3d(channels, width, 3, bias=False, indice_key=key))
        before = width
    return library.SparseSequential(*layers)


NETWORKS = {"SECOND encoder": second_encoder, "14 layers": fourteen_layers}


def choices(device: str) -> list[str]:
    """The kernels that are measured there."""
    has_triton = device == "cuda" and importlib.util.find_spec("triton") is not None
    return ["native", "triton"] if has_triton else ["native"]


@contextmanager
def kernels(device: str, name: str) -> Iterator[None]:
    """Runs spconv-lite by these kernels; plain torch in the dtype of the features throughout."""
    before = sp.set_kernels(device, name)
    narrow = mock.patch.object(plain, "_wide", lambda *tensors: list(tensors))
    try:
        with narrow if name == "torch" else nullcontext():
            yield
    finally:
        sp.set_kernels(device, before)


class Runner:
    """One network of one library on the device; `around` chooses what runs it."""

    def __init__(
        self,
        library: ModuleType,
        make: Callable[[ModuleType], nn.Module],
        indices: torch.Tensor,
        dtype: torch.dtype,
        around: Callable[[], object] = nullcontext,
    ) -> None:
        torch.manual_seed(0)
        self.library, self.indices, self.around = library, indices, around
        self.net = make(library).to(indices.device, dtype)
        for weight in self.net.parameters():  # float16 would lose what 14 layers of fewer than 27
            if weight.ndim > 1:  # neighbours leave of the usual weights' products
                weight.data *= 3
        # 14 layers make 5,700 of it at most, a tenth of float16's largest number
        self.features = 10 * torch.randn(len(indices), 4).to(indices.device, dtype)

    def forward(self):
        return self.net(self.library.SparseConvTensor(self.features, self.indices, SHAPE, 1))

    def infer(self):
        with self.around(), torch.no_grad():
            self.net.eval()
            out = self.forward()
            wait(self.indices)
        return out

    def step(self):
        with self.around():
            self.net.train()
            self.net.zero_grad()
            self.forward().features.float().square().mean().backward()
            wait(self.indices)


def wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def peer_library(device: str) -> ModuleType | None:
    """spconv, where it can be imported and run."""
    if device != "cuda":
        return None
    try:
        import spconv.constants
        import spconv.pytorch
    except ImportError:
        return None
    spconv.constants.SPCONV_ALLOW_TF32 = True
    return spconv.pytorch


def compare(bench: Bench, choice: str, name: str, dtype_name: str, indices: torch.Tensor) -> None:
    """One choice of kernels beside plain torch."""
    device, dtype, make = indices.device.type, DTYPES[dtype_name], NETWORKS[name]
    ours = Runner(sp, make, indices, dtype, lambda: kernels(device, choice))
    peer = Runner(sp, make, indices, dtype, lambda: kernels(device, "torch"))
    case = f"{name}, {dtype_name}"
    rows = {f"{case}, {what}{BY[choice]}": what for what in ("inference", "training step")}
    if not any(map(bench.wants, rows)):
        return
    a, b = ours.infer(), peer.infer()
    assert torch.equal(a.indices, b.indices), f"{case}: the kinds of kernels find other sites"
    error = (a.features.float() - b.features.float()).norm() / b.features.float().norm()
    assert error < 0.05, f"{case}: the kinds of kernels differ by {error:.2g} relative"
    bench.fact(f"{case}{BY[choice]}: relative difference from plain torch", f"{error:.1g}")
    for row, what in rows.items():
        bench.compare(row, *(call_of(runner, what) for runner in (ours, peer)), warmup=3)


def beside_spconv(bench: Bench, name: str, dtype_name: str, indices: torch.Tensor) -> None:
    """The compiled kernels beside spconv's, which has no bfloat16."""
    device, dtype, make = indices.device.type, DTYPES[dtype_name], NETWORKS[name]
    library = peer_library(device)
    if library is None or dtype == torch.bfloat16:
        return
    ours = Runner(sp, make, indices, dtype, lambda: kernels(device, "native"))
    theirs = Runner(library, make, indices, dtype)
    for what in ("inference", "training step"):
        calls = (call_of(runner, what) for runner in (ours, theirs))
        bench.compare(f"{name}, {dtype_name}, {what}, beside spconv", *calls, warmup=3)


def call_of(runner: Runner, what: str) -> Callable[[], object]:
    return runner.infer if what == "inference" else runner.step


def survived(bench: Bench, what: str, function: Callable[..., None], *arguments: object) -> bool:
    """Whether a call ended well; where it raised, the fact is kept and the next rows follow."""
    try:
        function(bench, *arguments)
    except Exception as error:
        bench.fact(f"{what}: failed", f"{type(error).__name__}: {error}"[-500:])
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sites", type=int, default=120_000)
    options, sys.argv[1:] = parser.parse_known_args()
    versions = {"torch": torch.__version__, "spconv-lite": sp.__version__}
    if options.device == "cuda":
        if not torch.cuda.is_available() or not ops._C.cuda_architectures:
            print("no GPU benchmark: it needs a CUDA device and a build with CUDA kernels")
            sys.exit(3)
        versions |= {"cuda": str(torch.version.cuda), "gpu": torch.cuda.get_device_name()}
    title = f"networks, lidar of {options.sites} sites"
    if options.device == "cpu":
        title += ", a trial on the CPU"
    bench = Bench(title, "plain torch, gather-matmul-scatter", versions=versions, repeats=7)
    torch.set_float32_matmul_precision("high")  # tf32
    indices = torch.from_numpy(street.voxel_sites(options.sites)).to(options.device)
    cases = list(itertools.product(NETWORKS, DTYPES))
    ended = [
        survived(bench, ", ".join(case) + BY[choice], compare, choice, *case, indices)
        for choice in choices(options.device)
        for case in cases
    ]
    for case in cases:
        ended.append(survived(bench, ", ".join(case), beside_spconv, *case, indices))
    bench.finish()
    sys.exit(0 if all(ended) else 1)


if __name__ == "__main__":
    main()
