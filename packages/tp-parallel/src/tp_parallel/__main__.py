"""`python -m tp_parallel`: version, build and where the commands are."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from . import _C, __version__  # type: ignore[attr-defined]
from .loss import ops


def main() -> int:
    backends = [name for name, there in (("gloo", dist.is_gloo_available()),
                                         ("nccl", dist.is_nccl_available())) if there]  # fmt: skip
    print(f"tp-parallel {__version__}, torch {torch.__version__}")
    built = _C.cuda_architectures
    cuda = f"compiled for {built}, never run" if built else "not in this build (GPU=ON builds them)"
    if not torch.cuda.is_available():
        cuda += f"; no CUDA device answers torch {torch.__version__}"
    print(f"loss kernels on the CPU: {ops.isa()}; torch threads: {torch.get_num_threads()}")
    print(f"loss kernels on CUDA: {cuda}")
    print(f"torch.distributed back ends: {', '.join(backends) or 'none'}")
    print("train:    python -m tp_parallel.pretrain --help")
    print("generate: python -m tp_parallel.generate --help")
    return 0


if __name__ == "__main__":
    sys.exit(main())
