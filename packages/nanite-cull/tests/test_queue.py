"""The protocol of the persistent traversal: every order of its steps, threads at tiny capacities,
and the mistakes that such queues are made with, each of which must be found."""

import subprocess
import time

import pytest
import queue_seeds

BUGS = {
    "relaxed_publish": "what is published without a release may be seen before what it stands for",
    "missing_commit": "a reserved slot is read as if it were written",
    "lost_pending": "children that are not counted in time: the end is seen too early",
    "no_overflow_exit": "what was dropped stays pending: nobody stops",
    "stale_after_clear": "commits of the pass before are taken for those of this one",
}


def _built(build, *arguments):
    """A program, or a skip that names what the machine lacks."""
    try:
        return build(*arguments)
    except queue_seeds.NoSanitizer as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    program = _built(queue_seeds.build, "queue_model", folder, "-O2", "-Wall", "-Werror")

    def run(workers, nodes, clusters, batch, tree, bug="none"):
        command = [program, workers, nodes, clusters, batch, tree, bug]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
        states, verdict = done.stdout.strip().split(" states: ")
        return int(states), verdict

    return run


@pytest.fixture(scope="module")
def stress(tmp_path_factory):
    return _built(queue_seeds.build_stress, tmp_path_factory.mktemp("stress"))


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
    code, words = queue_seeds.run(stress, 1, 60, 4)
    assert code == 0, words
    assert int(words.split()[1]) > 100  # dropped: many runs overflow, and none hangs


@pytest.mark.slow
def test_ten_thousand_seeds(stress):
    """Those that have passed before, of the sources as they are, are not run again."""
    assert queue_seeds.go_on(stress, 10_000, float("inf")) == 10_000


def test_seeds_that_passed_are_counted_and_not_run_again(tmp_path, monkeypatch):
    kept, ran = tmp_path / "seeds.json", []
    assert queue_seeds.passed(kept) == 0

    def run(program, first, runs, threads):
        ran.extend(range(first, first + runs))
        return (1, "seed 71: lost") if 71 in ran else (0, "ok")

    monkeypatch.setattr(queue_seeds, "run", run)
    silent = {"kept": kept, "say": lambda words: None}
    assert queue_seeds.go_on(None, 30, time.monotonic() - 1, **silent) == 0
    assert queue_seeds.go_on(None, 30, float("inf"), **silent) == 30
    assert queue_seeds.go_on(None, 50, float("inf"), **silent) == 50
    assert ran == list(range(1, 51))
    with pytest.raises(AssertionError, match="seed 71: lost"):
        queue_seeds.go_on(None, 100, float("inf"), **silent)
    assert queue_seeds.passed(kept) == 70
    monkeypatch.setattr(queue_seeds, "fingerprint", lambda: "of other sources")
    assert queue_seeds.passed(kept) == 0


@pytest.mark.parametrize("bug", BUGS)
def test_threads_find_each_mistake(stress, bug):
    code, words = queue_seeds.run(stress, 1, 60, 4, bug)
    assert code != 0
    assert "data race" in words or "seed" in words
    if bug == "relaxed_publish":
        assert "data race" in words
