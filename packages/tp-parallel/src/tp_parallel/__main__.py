"""`tp-parallel`, `python -m tp_parallel`: version, build, and the commands.

tp-parallel pretrain ...   tp-parallel generate ...   tp-parallel convert ...
"""

from __future__ import annotations

import sys
from importlib import import_module

import torch
import torch.distributed as dist

from . import _C, __version__
from .loss import ops

COMMANDS = {"pretrain": "train", "generate": "text from a checkpoint",
            "convert": "Hugging Face to a checkpoint and back"}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that `arguments` name; without one, prints what is here."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in COMMANDS:
        module = import_module(f"{__package__}.training.{arguments[0]}")
        return module.main(arguments[1:])
    if arguments == ["--version"]:
        print(f"tp-parallel {__version__}")
        return 0
    if arguments and arguments != ["--help"]:
        print(f"tp-parallel: no command {arguments[0]!r}; there are {', '.join(COMMANDS)}",
              file=sys.stderr)  # fmt: skip
        return 2
    _print_build()
    for name, does in COMMANDS.items():
        print(f"tp-parallel {name} --help   {does}")
    return 0


def _print_build() -> None:
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


if __name__ == "__main__":
    sys.exit(main())
