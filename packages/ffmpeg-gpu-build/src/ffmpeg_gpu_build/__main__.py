"""The command: `ffmpeg-gpu-build`, or `python -m ffmpeg_gpu_build`."""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
import threading
from collections.abc import Sequence

from . import __version__

EXIT_USAGE, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from . import commands

    top = argparse.ArgumentParser(
        prog="ffmpeg-gpu-build",
        description="Build an FFmpeg with GPU paths, prove each path by pixels, and use it.",
        epilog="exit codes: 0 done; 1 failed, or a path is broken; 2 a wrong argument; "
        "3 a required path is not proven; 130 interrupted",
    )
    top.add_argument("--version", action="version", version=f"ffmpeg-gpu-build {__version__}")
    inside = top.add_subparsers(dest="command", metavar="COMMAND")
    for name, (summary, arguments, function) in commands.COMMANDS.items():
        sub = inside.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=inspect.cleandoc(function.__doc__ or ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        arguments(sub)
        sub.set_defaults(function=function)
    return top


def about() -> str:
    """Version, and the ffmpeg that would be used."""
    from .ffmpeg import Ffmpeg, FfmpegError

    try:
        program = Ffmpeg.at()
        found = f"{program.version} at {program.path} ({program.licence})"
    except FfmpegError as error:
        found = str(error)
    return f"ffmpeg-gpu-build {__version__}\nffmpeg: {found}\nsee --help for the commands"


def _terminated(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is in the help."""
    from .ffmpeg import FfmpegError

    top = parser()
    arguments = top.parse_args(argv)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, _terminated)  # ends what was started, as Ctrl-C does
    try:
        if arguments.command:
            code = arguments.function(arguments)
        else:
            print(about())
            code = 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted; nothing half-made was left", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ValueError as error:
        print(f"ffmpeg-gpu-build: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:  # `| head` has seen enough
        _leave_stdout()
        return EXIT_FAILED
    except (FfmpegError, OSError) as error:
        print(f"ffmpeg-gpu-build: {error}", file=sys.stderr)
        _leave_stdout()
        return EXIT_FAILED


def _leave_stdout() -> None:
    """What could not be printed is dropped: Python tries again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
