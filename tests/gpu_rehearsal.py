"""A run of gpu_check without a GPU. Beside phases and tests that pass: a phase that hangs, one that
crashes, a test that hangs and one that ends its process.

    python tests/gpu_rehearsal.py OUT [PACKAGE]     results in OUT, with the GPU tests of a package
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import workspace  # noqa: E402
from gpu_check import SKIPPED, Phase, run_all, test_phases  # noqa: E402

TESTS = '''"""Written by gpu_rehearsal.py."""

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


def phases(out: Path, names: list[str]) -> list[Phase]:
    """The shape of gpu_check's own plan."""

    def play(*words: str) -> list[str]:
        return [sys.executable, __file__, *words]

    environment = {"PYTHONPATH": str(ROOT / "tools"), "GPU_CHECK_TEST_LIMIT": "3"}
    written = out.parent / "rehearsal" / "test_rehearsal.py"
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "gpu.pytest_plugin"]
    pytest += ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(written.parent)]
    return [
        Phase("ceilings", play("row"), 20),
        Phase("a phase that hangs", play("hang"), 3),
        Phase("a phase that crashes", play("crash"), 20),
        Phase("rehearsed tests: write", play("tests", str(written)), 20),
        Phase("rehearsed tests", [*pytest, str(written)], 240, environment, tests=True),
        *(test_phases(workspace.packages(names))[:1]),
        Phase("a script that lacks something", ["sh", "-c", f"exit {SKIPPED}"], 20),
        Phase("benchmark", play("row"), 20),
    ]


def play(what: str, *arguments: str) -> None:
    """What a phase does in the place of a device."""
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
    if sys.argv[1] in ("row", "hang", "crash", "tests"):
        play(*sys.argv[1:])
    else:
        results = Path(sys.argv[1]).resolve()
        none = {"gpu": "none: a rehearsal", "architecture": "90"}
        sys.exit(run_all(none, phases(results, sys.argv[2:]), results))
