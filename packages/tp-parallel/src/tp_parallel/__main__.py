"""`python -m tp_parallel`: version, build and where the commands are."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from . import _C, __version__, ops


def main() -> int:
    backends = [name for name, there in (("gloo", dist.is_gloo_available()),
                                         ("nccl", dist.is_nccl_available())) if there]  # fmt: skip
    print(f"tp-parallel {__version__}, torch {torch.__version__}")
    kernels = ops.isa() + (f", CUDA {_C.cuda_architectures}" if _C.cuda_architectures else "")
    print(f"loss kernels: {kernels}")
    print(f"CUDA devices: {torch.cuda.device_count()}; torch threads: {torch.get_num_threads()}")
    print(f"torch.distributed back ends: {', '.join(backends) or 'none'}")
    print("train:    python -m tp_parallel.pretrain --help")
    print("generate: python -m tp_parallel.generate --help")
    return 0


if __name__ == "__main__":
    sys.exit(main())
