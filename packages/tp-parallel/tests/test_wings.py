"""The old flat module names lead to the modules in their wings."""

import importlib
import subprocess
import sys

import pytest

from tp_parallel import _moved

MOVED = sorted(_moved._NEW.items())


@pytest.mark.parametrize(("old", "new"), MOVED, ids=[old for old, _ in MOVED])
def test_an_old_module_name_gives_the_very_module_of_its_wing(old, new):
    assert importlib.import_module(old) is importlib.import_module(new)
    package, _, name = old.rpartition(".")
    assert getattr(importlib.import_module(package), name) is sys.modules[new]


def test_old_names_that_are_wings_now_still_offer_what_they_offered():
    from tp_parallel.data_parallel import DataParallel, gather, parallel_apply, replicate, scatter
    from tp_parallel.pipeline import build_stages, evaluate_schedule, layers_of_stage, run_schedule

    functions = (gather, parallel_apply, replicate, scatter, build_stages, evaluate_schedule,
                 layers_of_stage, run_schedule, DataParallel)  # fmt: skip
    assert all(map(callable, functions))


# what `python -m NAME --help` does for each name in a process of its own, torch imported before
COMMANDS = """
import os, runpy, sys, torch

for name in sys.argv[1:]:
    if not os.fork():
        sys.argv = [name, "--help"]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    print("ended with", os.wait()[1], flush=True)
"""


def test_the_commands_run_under_old_and_new_module_names():
    names = ["tp_parallel.pretrain", "tp_parallel.generate", "tp_parallel.training.pretrain"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMANDS, *names], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ended with 0") == len(names), done.stderr
    assert done.stdout.count("--data") >= 2
    assert "--checkpoint" in done.stdout
