"""The protocol of the persistent traversal: every order of its steps, threads at tiny capacities,
and the mistakes that such queues are made with, each of which must be found."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
BUGS = {
    "relaxed_publish": "what is published without a release may be seen before what it stands for",
    "missing_commit": "a reserved slot is read as if it were written",
    "lost_pending": "children that are not counted in time: the end is seen too early",
    "no_overflow_exit": "what was dropped stays pending: nobody stops",
    "stale_after_clear": "commits of the pass before are taken for those of this one",
}


def _build(name, folder, *options):
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    out = folder / name
    done = subprocess.run(
        [compiler, "-std=c++17", *options, "-pthread", f"-I{HERE.parent / 'csrc'}",
         str(HERE / f"{name}.cpp"), "-o", str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0 and "tsan" in done.stderr:
        pytest.skip("needs the compiler's thread sanitizer")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    program = _build("queue_model", tmp_path_factory.mktemp("model"), "-O2", "-Wall", "-Werror")

    def run(workers, nodes, clusters, batch, tree, bug="none"):
        command = [program, workers, nodes, clusters, batch, tree, bug]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
        states, verdict = done.stdout.strip().split(" states: ")
        return int(states), verdict

    return run


@pytest.fixture(scope="module")
def stress(tmp_path_factory):
    program = _build(
        "queue_stress", tmp_path_factory.mktemp("stress"), "-O1", "-g", "-fsanitize=thread"
    )

    def run(first, runs, threads, bug="none"):
        command = [str(c) for c in (program, first, runs, threads, bug)]
        return subprocess.run(command, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("tree", range(4))
def test_no_order_of_steps_loses_repeats_or_hangs(model, tree):
    """Two workers, both producers and consumers, two passes over one queue, room or not."""
    states = 0
    for capacities in ((4, 4, 1), (4, 4, 2), (4, 4, 3), (3, 4, 2), (2, 4, 2), (4, 2, 2), (4, 3, 2),
                       (1, 1, 1), (2, 1, 1), (1, 4, 2)):  # fmt: skip
        count, verdict = model(2, *capacities, tree)
        assert verdict == "ok", capacities
        states += count
    assert states > 20_000


@pytest.mark.slow
def test_no_order_of_steps_of_three_workers_does(model):
    for tree in (0, 3):
        count, verdict = model(3, 4, 4, 2, tree)
        assert verdict == "ok"
        assert count > 300_000


@pytest.mark.parametrize("bug", BUGS)
def test_the_model_finds_each_mistake(model, bug):
    tight = (2, 4, 1) if bug == "no_overflow_exit" else (4, 4, 2)
    verdict = model(2, *tight, 2, bug)[1]
    assert verdict in {"lost", "twice", "garbage", "hangs", "count"}
    if bug == "no_overflow_exit":
        assert verdict == "hangs"


def test_threads_at_tiny_capacities_are_ordered_and_lose_nothing(stress):
    done = stress(1, 60, 4)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[1]) > 100  # dropped: many runs overflow, and none hangs


@pytest.mark.slow
def test_ten_thousand_seeds(stress):
    for first in range(1, 10_001, 1000):
        done = stress(first, 1000, 2 + first // 1000 % 3)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("bug", BUGS)
def test_threads_find_each_mistake(stress, bug):
    done = stress(1, 60, 4, bug)
    assert done.returncode != 0
    assert "data race" in done.stderr or "seed" in done.stdout
    if bug == "relaxed_publish":
        assert "data race" in done.stderr
