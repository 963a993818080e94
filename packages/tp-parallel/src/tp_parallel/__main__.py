"""`tp-parallel`, `python -m tp_parallel`: version, build, and the commands.

tp-parallel pretrain ...   tp-parallel generate ...   tp-parallel convert ...
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import torch
import torch.distributed as dist

from . import _C, __version__
from .grid.errors import CheckpointError
from .loss import ops

COMMANDS = {"pretrain": "train", "generate": "text from a checkpoint",
            "convert": "Hugging Face to a checkpoint and back"}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that `arguments` name; without one, prints what is here.

    Exit status: the command's; 2 with one sentence on stderr where an option, a file or the grid
    does not fit; 130 after Ctrl-C. What breaks off a run of several ranks keeps its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    name = f"tp-parallel {arguments[0]}" if arguments[:1] and arguments[0] in COMMANDS else ""
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of stdout left: `tp-parallel generate ... | head`
        _leave_stdout()
        return 0
    except (ValueError, OSError, ImportError, CheckpointError) as error:
        print(f"{name or 'tp-parallel'}: {error}", file=sys.stderr)
        _leave_stdout()
        return 2
    except KeyboardInterrupt:
        print(f"{name or 'tp-parallel'}: interrupted", file=sys.stderr)
        return 130


def _leave_stdout() -> None:
    """What could not be printed is dropped: Python tries again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        module = import_module(f"{__package__}.training.{arguments[0]}")
        return module.main(arguments[1:])
    if arguments == ["--version"]:
        print(f"tp-parallel {__version__}")
        return 0
    if arguments and arguments[0] not in ("--help", "-h"):
        kind = "option" if arguments[0].startswith("-") else "command"
        print(f"tp-parallel: no {kind} {arguments[0]!r}; there are {', '.join(COMMANDS)}, "
              "--version and --help", file=sys.stderr)  # fmt: skip
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
