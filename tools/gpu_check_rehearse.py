"""What a rehearsal of gpu_check does in the place of a device: writes a row, hangs, crashes, or
writes a test file in which one test hangs and one ends its process."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

TESTS = '''"""Written by gpu_check --rehearse."""

import os
import signal
import time


def test_before():
    assert True


def test_that_hangs():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def test_between():
    assert True


def test_that_ends_its_process():
    os.kill(os.getpid(), signal.SIGSEGV)


def test_that_fails():
    assert 1 == 2


def test_after():
    assert True
'''


def main(what: str, *arguments: str) -> None:
    if what == "row":
        row = {"kind": "row", "run": os.environ["GPU_CHECK_RUN"], "case": "a row", "ours": 1.0}
        with Path(os.environ["GPU_CHECK_RESULTS"]).open("a") as file:
            file.write(json.dumps(row) + "\n")
    elif what == "hang":
        if os.fork() == 0:  # a child that holds on to the pipe hangs too
            time.sleep(600)
        time.sleep(600)
    elif what == "crash":
        os.abort()
    elif what == "tests":
        path = Path(arguments[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TESTS)


if __name__ == "__main__":
    main(*sys.argv[1:])
