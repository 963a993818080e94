"""pytest plugin of gpu_check: a line of JSON before and after every test, and a limit for each.

A test that outlasts $GPU_CHECK_TEST_LIMIT seconds ends the process, with every thread's stack on
stderr: a kernel that hangs cannot be interrupted from within. After a failure the device is asked
whether it still answers; after a sticky CUDA error every later test would fail, so the process ends
with code 97. gpu_check then starts it again, and tests that have a line already are left out.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path

import pytest

STICKY = 97
_RESULTS = Path(os.environ.get("GPU_CHECK_RESULTS", os.devnull))
_RUN = os.environ.get("GPU_CHECK_RUN", "")
_LIMIT_S = float(os.environ.get("GPU_CHECK_TEST_LIMIT", "60"))
_STDERR = os.fdopen(os.dup(2), "w")  # before pytest captures it
_seconds: dict[str, float] = {}


def _write(test: str, outcome: str, **more: object) -> None:
    line = {"kind": "test", "run": _RUN, "id": test, "outcome": outcome, **more}
    with _RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _seen() -> set[str]:
    if not _RESULTS.is_file():
        return set()
    lines = [json.loads(line) for line in _RESULTS.read_text().splitlines()]
    return {line["id"] for line in lines if line.get("kind") == "test" and line["run"] == _RUN}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seen = _seen()
    done = [item for item in items if item.nodeid in seen]
    if done:
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in seen]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    _write(item.nodeid, "started")
    faulthandler.dump_traceback_later(_LIMIT_S, exit=True, file=_STDERR)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    if report.failed:
        detail = str(report.longrepr)[-3000:]
        _write(report.nodeid, "failed", when=report.when, detail=detail)
        if _device_is_lost():
            print(f"{report.nodeid}: the device no longer answers", file=_STDERR, flush=True)
            os._exit(STICKY)
    elif report.skipped:
        why = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _write(report.nodeid, "skipped", detail=str(why)[-300:])
    elif report.when == "call":
        _write(report.nodeid, "passed", seconds=round(_seconds[report.nodeid], 3))


def _device_is_lost() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except RuntimeError:
        return True
    return False
