"""What this process started ends with it, however it ends: also by SIGKILL, HUP or a crash.

One `/bin/sh` in a session of its own reads our notes from a pipe. Its end of file means that we are
gone: it kills the process groups that are noted and removes the unfinished files. (A parent death
signal would be bound to the thread that started a program, not to the process.)
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# "p" and "P" note and forget a process group, "f" and "F" a file, whose bytes stand in octal.
SCRIPT = r"""
groups=' ' files=' '
while read -r verb what; do
  case $verb in
    p) groups="$groups$what " ;;
    f) files="$files$what " ;;
    P) case $groups in *" $what "*) groups="${groups%% "$what" *} ${groups#* "$what" }" ;; esac ;;
    F) case $files in *" $what "*) files="${files%% "$what" *} ${files#* "$what" }" ;; esac ;;
  esac
done
for group in $groups; do kill -KILL -"$group" 2>/dev/null; done
for file in $files; do
  name=$(printf '%b.' "$file")
  rm -f -- "${name%.}"
done
"""

_lock = threading.Lock()
_pipe: int | None = None


def _reset() -> None:
    """A forked child has its own watchdog: holding this one's pipe would keep it waiting."""
    global _pipe, _lock
    if _pipe is not None:
        with contextlib.suppress(OSError):
            os.close(_pipe)
    _pipe, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_reset)


def _start() -> int:
    reading, writing = os.pipe()
    try:
        subprocess.Popen(
            ["/bin/sh", "-c", SCRIPT],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            close_fds=True,
        ).returncode = 0  # never waited for: it outlives us
    finally:
        os.close(reading)
    return writing


def _tell(verb: str, what: str) -> None:
    global _pipe
    with _lock:
        if _pipe is None:
            _pipe = _start()
        try:
            os.write(_pipe, f"{verb} {what}\n".encode("ascii"))
        except BrokenPipeError:  # somebody ended it: the next note goes to another
            os.close(_pipe)
            _pipe = None


def note_process(pid: int) -> None:
    """Kill this process group when we are gone."""
    _tell("p", str(pid))


def forget_process(pid: int) -> None:
    """The process has ended."""
    _tell("P", str(pid))


@contextmanager
def unfinished(file: Path) -> Iterator[None]:
    """Remove the file if we are gone before this block ends."""
    text = re.sub(
        rb"[^\w/.-]",
        lambda m: b"\\0%03o" % m[0][0],
        os.fsencode(os.path.abspath(file)),
        flags=re.ASCII,
    ).decode("ascii")
    _tell("f", text)
    try:
        yield
    finally:
        _tell("F", text)
