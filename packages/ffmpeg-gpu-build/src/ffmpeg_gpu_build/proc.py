"""Run programs by argument list, never through a shell, and stop them with all their children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import watchdog


@dataclass(frozen=True)
class Finished:
    """What a program left: its exit code (negative: the signal that ended it) and its output."""

    argv: tuple[str, ...]
    rc: int
    out: bytes
    err: str

    @property
    def ok(self) -> bool:
        return self.rc == 0


def start(argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[bytes]:
    """A program in a process group of its own, which ends when we do; see `subprocess.Popen`.

    `finished` must be told when it has ended.
    """
    process = subprocess.Popen(argv, start_new_session=True, **options)
    watchdog.note_process(process.pid)
    return process


def finished(process: subprocess.Popen[bytes]) -> None:
    """A program that `start` started has been waited for."""
    watchdog.forget_process(process.pid)


def stop(process: subprocess.Popen[bytes], patience: float = 3.0) -> None:
    """End a process that was started with its own group: SIGTERM, then SIGKILL, then reap it.

    Without patience SIGKILL at once: for a program that has nothing to put in order.
    """
    if not patience:
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        try:
            process.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float = 120.0,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Finished:
    """Run to the end and keep the output.

    `env` is laid over the current environment. A program that outlives `timeout` seconds is ended
    and its result has rc 124 and a line that says so; Ctrl-C ends it too. Raises FileNotFoundError
    if there is no such program.
    """
    argv = [os.fspath(a) for a in argv]
    process = start(
        argv,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **env} if env else None,
        cwd=cwd,
    )
    rc_on_timeout = None
    try:
        out, err = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        stop(process)
        out, err = process.communicate()
        rc_on_timeout = 124
        err += f"\nended after {timeout:g} seconds without a result\n".encode()
    except BaseException:
        stop(process)
        raise
    finally:
        finished(process)
    rc = process.returncode if rc_on_timeout is None else rc_on_timeout
    words = tuple(map(os.fspath, argv))
    return Finished(words, rc, out, err.decode("utf-8", "replace"))
