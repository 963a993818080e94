"""The end of a script that closes nothing: gloo's threads must end before the interpreter does.

A thread of gloo lets go of an operation's tensors after the call that waited for it has returned,
and where it is the last to hold one it needs the interpreter. Finding that ending, it is ended by
`pthread_exit` inside a destructor, which C++ answers with "terminate called without an active
exception". A process group that nobody holds joins its threads; where a group is held by others
(FSDP2, an optimizer), its threads are waited for until they sleep.
"""

from __future__ import annotations

import atexit
import functools
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_NAME = "pt_gloo_runloop"
_QUIET = 5  # looks in a row at which no thread may be at work
_LOOK = 0.002  # seconds between two, in which a thread that waits for the interpreter gets it
_MOST = 10.0  # seconds


living: weakref.WeakSet[Any] = weakref.WeakSet()  # contexts that are not closed


@functools.cache
def close_at_exit() -> None:
    """Closes what is `living` when the interpreter ends."""

    def end() -> None:
        for context in list(living):
            context.close()
        _wait_until_quiet()

    atexit.register(end)


def _wait_until_quiet() -> None:
    quiet, until = 0, time.monotonic() + _MOST
    while quiet < _QUIET and time.monotonic() < until:
        states = list(_gloo_threads())
        if not states:
            return
        quiet = 0 if "R" in states or "D" in states else quiet + 1
        time.sleep(_LOOK)


def _gloo_threads() -> Iterator[str]:
    """The state of each thread of gloo in this process, as Linux tells it; elsewhere none."""
    for task in Path("/proc/self/task").glob("*"):
        with suppress(OSError):  # it has ended
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
            if name == _NAME:
                yield rest.split()[0]
