"""`convlstm`, or `python -m convlstm`: versions by default, and the commands."""

from __future__ import annotations

import argparse
import os
import sys

import torch

from . import _C, __version__  # type: ignore[attr-defined]


def show_version() -> int:
    """Version, build, CUDA and threads, one a line."""
    built = _C.cuda_architectures
    cuda = f"compiled for {built}, never run" if built else "not in this build (GPU=ON builds them)"
    if built and not torch.cuda.is_available():
        cuda += f"; no CUDA device answers torch {torch.__version__}"
    print(f"convlstm {__version__}")
    print(f"instruction set   {_C.isa()}")
    print(f"CUDA kernels      {cuda}")
    print(f"torch             {torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    print(f"threads           {torch.get_num_threads()}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    from . import environment
    from .forecasting import commands

    parser = argparse.ArgumentParser(
        prog="convlstm",
        description="ConvLSTM for PyTorch: train next-frame models, forecast, exchange with Keras.",
    )
    parser.add_argument("--version", action="version", version=f"convlstm {__version__}")
    sub = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in (
        commands.add_train,
        commands.add_predict,
        commands.add_gif,
        commands.add_export,
        commands.add_import,
        environment.add_doctor,
        environment.add_env,
        environment.add_kernel,
    ):
        add(sub)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0 done, 1 failed, 2 wrong arguments."""
    options = make_parser().parse_args(arguments)
    if not hasattr(options, "run"):
        return show_version()
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of stdout left: `convlstm predict run | head`
        _leave_stdout()
        return 0
    except (ValueError, OSError, RuntimeError) as error:
        print(f"convlstm: {error}", file=sys.stderr)
        _leave_stdout()
        return 1
    except KeyboardInterrupt:
        print("convlstm: interrupted; the last checkpoint is kept", file=sys.stderr)
        return 130


def _leave_stdout() -> None:
    """What could not be printed is dropped: Python tries again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
