"""The lines of JSON that a phase of gpu_check writes while it runs, one a test or figure, and what
ends its process: the parent starts it again, and what has a line already is left out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

STICKY = 97  # exit code: after this CUDA error every later call would fail
RUN = os.environ.get("GPU_CHECK_RUN", "")
LIMIT_S = float(os.environ.get("GPU_CHECK_TEST_LIMIT", "60"))


def _results() -> Path:
    return Path(os.environ.get("GPU_CHECK_RESULTS", os.devnull))


def write(kind: str, **line: object) -> None:
    with _results().open("a") as file:
        file.write(json.dumps({"kind": kind, "run": RUN, **line}) + "\n")


def write_test(test: str, outcome: str, **more: object) -> None:
    write("test", id=test, outcome=outcome, **more)


def seen() -> set[str]:
    """The tests of this phase that have a line. Half a line, of a process that was killed, counts
    as none."""
    found = set()
    for text in _results().read_text(errors="replace").splitlines() if _results().is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if line.get("kind") == "test" and line.get("run") == RUN:
            found.add(str(line["id"]))
    return found


def device_is_lost() -> bool:
    """Whether this process had a CUDA device that no longer answers."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except RuntimeError:
        return True
    return False
