"""pytest plugin of gpu_check: a line of JSON before and after every test, and a limit for each.

A test that outlasts $GPU_CHECK_TEST_LIMIT seconds ends the process, with every thread's stack on
stderr: a kernel that hangs cannot be interrupted from within. After a failure the device is asked
whether it still answers; after a sticky CUDA error every later test would fail, so the process ends
with code 97. gpu_check then starts it again, and tests that have a line already are left out.
"""

from __future__ import annotations

import faulthandler
import os

import pytest
from gpu.lines import LIMIT_S, STICKY, device_is_lost, seen, write_test

_STDERR = os.fdopen(os.dup(2), "w")  # before pytest captures it
_seconds: dict[str, float] = {}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    before = seen()
    done = [item for item in items if item.nodeid in before]
    if done:
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in before]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    write_test(item.nodeid, "started")
    faulthandler.dump_traceback_later(LIMIT_S, exit=True, file=_STDERR)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    if report.failed:
        detail = str(report.longrepr)[-3000:]
        write_test(report.nodeid, "failed", when=report.when, detail=detail)
        if device_is_lost():
            print(f"{report.nodeid}: the device no longer answers", file=_STDERR, flush=True)
            os._exit(STICKY)
    elif report.skipped:
        why = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        write_test(report.nodeid, "skipped", detail=str(why)[-300:])
    elif report.when == "call":
        write_test(report.nodeid, "passed", seconds=round(_seconds[report.nodeid], 3))
