"""gpu_check loses nothing: a rehearsal with a hanging and a crashing phase."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gpu_check
import measure
import pytest
import workspace
from gpu import lines, prepare, report

ROOT = workspace.ROOT


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "gpu_rehearsal.py", out, "tp-parallel"],
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - started < 480
    lines = [json.loads(line) for line in (out / "gpu-check.jsonl").read_text().splitlines()]
    return done, lines, out


def test_a_rehearsal_loses_no_phase_to_one_that_hangs_and_one_that_crashes(rehearsed):
    done, lines, _ = rehearsed
    verdicts = {line["name"]: line["verdict"] for line in lines if line["kind"] == "phase"}
    assert verdicts["ceilings"] == verdicts["benchmark"] == "passed"
    assert verdicts["a phase that hangs"] == "hung"
    assert verdicts["a phase that crashes"] == "crashed"
    assert verdicts["a script that lacks something"] == "skipped"
    assert sum(line["kind"] == "row" for line in lines) == 2
    assert done.returncode == 1


def test_a_rehearsal_loses_no_test_to_one_that_hangs_and_one_that_ends_its_process(rehearsed):
    _, lines, _ = rehearsed
    outcomes = {
        line["id"].split("::")[-1]: line["outcome"]
        for line in lines
        if line["kind"] == "test" and line["run"] == "rehearsed tests"
    }
    assert outcomes == {
        "test_before": "passed",
        "test_that_hangs": "hung",
        "test_between": "passed",
        "test_that_ends_its_process": "crashed",
        "test_that_fails": "failed",
        "test_after": "passed",
    }


def test_the_results_are_few_files_in_the_folder_that_was_named(rehearsed):
    _, lines, out = rehearsed
    assert sorted(path.name for path in out.iterdir()) == ["gpu-check.jsonl", "gpu-check.log"]
    assert lines[0]["kind"] == "machine"
    assert lines[-1]["kind"] == "summary"


def command_lines() -> Iterator[str]:
    """Of all that runs here; a bare Debian has no ps."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            yield path.read_text(errors="replace").replace("\0", " ")


def test_a_hanging_phase_is_ended_with_all_that_it_started(tmp_path):
    results = gpu_check.Results(tmp_path)
    marker = f"{time.time_ns()}"
    command = ["sh", "-c", f"sleep 600.{marker} & sleep 600.{marker}"]
    started = time.monotonic()
    verdict = gpu_check.run_phase(gpu_check.Phase("p", command, 1.5), results, started)
    assert verdict == "hung"
    assert time.monotonic() - started < 20
    assert not [line for line in command_lines() if marker in line]


def test_what_lies_beyond_the_deadline_is_counted_as_not_reached(tmp_path):
    results = gpu_check.Results(tmp_path)
    phase, began = gpu_check.Phase("late", ["true"], 10), time.monotonic() - gpu_check.LIMIT_S
    assert gpu_check.run_phase(phase, results, began) == "not reached"
    assert gpu_check.exit_code(gpu_check.count(results.lines())) == 2


def test_a_kind_of_phase_that_had_its_share_leaves_the_rest_to_the_next(tmp_path):
    results, began = gpu_check.Results(tmp_path), time.monotonic()
    slow = [gpu_check.Phase(f"a {n}", ["sleep", "9"], 5, end_s=2) for n in range(3)]
    next_one = gpu_check.Phase("b", ["true"], 5, end_s=20)
    verdicts = [gpu_check.run_phase(phase, results, began) for phase in (*slow, next_one)]
    assert verdicts == ["hung", "not reached", "not reached", "passed"]


def test_files_of_tests_run_side_by_side_and_what_they_say_stays_apart(tmp_path):
    side = [
        gpu_check.Phase(n, ["sh", "-c", f"echo {n}1; sleep 3; echo {n}2"], 9, at_once=2)
        for n in "ab"
    ]
    started = time.monotonic()
    assert gpu_check.run_all({}, [*side, gpu_check.Phase("c", ["true"], 9)], tmp_path) == 0
    assert time.monotonic() - started < 5.5
    said = (tmp_path / "gpu-check.log").read_text()
    assert "a1\na2\n" in said
    assert "b1\nb2\n" in said


def test_the_second_command_runs_what_the_first_did_not_reach(tmp_path):
    """And the build, as a machine comes bare."""
    names = "build: ninja", "tests a", "tests b", "benchmark c", "kernels"
    phases = [gpu_check.Phase(name, ["true"], 5) for name in names]
    results = gpu_check.Results(tmp_path)
    for name, verdict in zip(names, ("passed", "failed", "hung", "not reached"), strict=False):
        results.add(kind="phase", name=name, verdict=verdict)
    left = [phase.name for phase in gpu_check.left_over(phases, [results.path])]
    assert left == ["build: ninja", "tests b", "benchmark c", "kernels"]


def test_a_phase_that_says_too_much_leaves_a_log_that_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "MOST_WORDS", 1000)
    results = gpu_check.Results(tmp_path)
    for name in ("first", "second"):
        command = ["sh", "-c", f"echo begin {name}; yes | head -c 99999; echo end {name}"]
        assert gpu_check.run_phase(gpu_check.Phase(name, command, 9), results, time.monotonic())
    said = results.log.read_text()
    assert len(said) < 3000
    for part in ("begin first", "end first", "begin second", "end second"):
        assert part in said


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ({"passed": 3}, 0),
        ({"passed": 3, "skipped": 1}, 2),
        ({"skipped": 4}, 2),
        ({}, 2),
        ({"passed": 3, "hung": 1}, 1),
        ({"passed": 3, "skipped": 1, "failed": 1}, 1),
        ({"passed": 3, "crashed": 1}, 1),
    ],
)
def test_skipped_and_failed_things_are_in_the_exit_code(counts, code):
    assert gpu_check.exit_code(Counter(counts)) == code


def test_half_a_line_of_a_killed_process_is_left_out(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"kind": "row"}\n{"kind": "te')
    assert list(gpu_check.read_lines(path)) == [{"kind": "row"}]


def test_half_a_line_spoils_neither_the_next_nor_the_restart(tmp_path, monkeypatch):
    results = gpu_check.Results(tmp_path)
    with results.path.open("a") as file:
        file.write('{"kind": "te')
    results.add(kind="test", run=lines.RUN, id="a", outcome="hung")
    monkeypatch.setenv("GPU_CHECK_RESULTS", str(results.path))
    assert [line["id"] for line in results.lines()] == ["a"]
    assert lines.seen() == {"a"}


def test_the_plan_has_a_process_for_each_file_and_choice_of_kernels():
    packages = workspace.packages(["spconv-lite", "convlstm"])
    names = [phase.name for phase in gpu_check.test_phases(packages)]
    for choice in gpu_check.KERNELS["spconv-lite"]:
        assert f"tests spconv-lite test_kernels {choice}" in names
    assert "tests convlstm test_cuda" in names
    assert len(names) == len(set(names))


def test_the_plan_is_cheap_first_and_no_kind_can_take_the_share_of_the_next(tmp_path, monkeypatch):
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "a-sm_90").touch()
    monkeypatch.setattr(gpu_check, "CARRY", tmp_path)
    total = gpu_check.plan({"architecture": "90"}, workspace.packages(None))
    kinds = list(dict.fromkeys(phase.name.split()[0].rstrip(":") for phase in total))
    sanitizers = ["memcheck", "racecheck", "initcheck", "synccheck"]
    assert kinds == [*list(gpu_check.ENDS_S)[:-1], *sanitizers]
    ends = list(gpu_check.ENDS_S.values())
    assert ends == sorted(ends)
    assert ends[-1] == gpu_check.LIMIT_S <= 480  # of the 600 of one command
    for phase in total:
        kind = phase.name.split()[0].rstrip(":")
        late = 20 if "install" in phase.name else 0  # what was built is installed in any case
        assert phase.end_s == gpu_check.ENDS_S.get(kind, gpu_check.LIMIT_S) + late, phase.name
        if phase.tests:  # a test that hangs is ended before its phase
            limit = float(phase.environment["GPU_CHECK_TEST_LIMIT"])
            assert 2 * limit < phase.cap_s, phase.name
    tests = [phase for phase in total if phase.name.startswith("tests")]
    assert all(phase.name.endswith("test_triton") for phase in tests[:3])
    assert tests[-1].name == "tests spconv-lite test_many_rows"
    assert [phase.at_once for phase in tests[-2:]] == [gpu_check.TESTS_AT_ONCE, 1]


def test_what_an_index_does_not_have_stops_nothing_else_that_travels(tmp_path, monkeypatch):
    pytest.importorskip("meshoptimizer")
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    monkeypatch.setattr(prepare, "programs", list)
    monkeypatch.setattr(prepare, "PYTHON_PACKAGES", ("no-such-package-of-any-index",))
    ran = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(prepare.subprocess, "run", lambda command: ran)
    (tmp_path / "ffmpeg").touch()
    assert prepare.prepare(tmp_path / "carry", "90", tmp_path / "ffmpeg") == 1
    assert list((tmp_path / "carry" / "python" / "meshoptimizer").glob("*.so"))
    assert (tmp_path / "carry" / "ffmpeg").is_file()


def test_the_report_makes_result_files_and_tables_of_the_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "ROOT", tmp_path)
    row = {"case": "lidar", "ours": {"median_ms": 2.0}, "peer": {"median_ms": 5.0}, "ratio": 2.5}
    lines = [
        {"kind": "machine", "date": "2031-01-02", "gpu": "some GPU", "architecture": "90"},
        {"kind": "ceiling", "label": "copy", "value": 4.3, "unit": "TB/s"},
        {"kind": "row", "run": "benchmark spconv-lite gpu_networks", "benchmark": "networks"}
        | {"peer_name": "spconv", "versions": {"torch": "2.11"}, "note": ""}
        | row,
        {"kind": "test", "run": "tests a", "id": "t", "outcome": "started"},
        {"kind": "test", "run": "tests a", "id": "t", "outcome": "passed"},
        {"kind": "phase", "name": "kernels", "verdict": "hung"},
    ]
    path = tmp_path / "gpu-check.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report.report([path]) == 0
    results = tmp_path / "packages" / "spconv-lite" / "benchmarks" / "results"
    result = json.loads((results / "gpu-networks-2031-01-02.json").read_text())
    assert result["machine"]["ceilings"] == {"copy": "4.3 TB/s"}
    assert result["rows"][0]["ours"] == {"median_ms": 2.0}
    said = capsys.readouterr().out
    assert "| lidar | 2 | 5 | 2.50x |" in said
    assert "tests a: 1 passed" in said
    assert "kernels: 1 phase hung" in said


def test_a_row_is_kept_at_once_whatever_becomes_of_the_script(tmp_path, monkeypatch):
    monkeypatch.setenv("GPU_CHECK_RESULTS", str(tmp_path / "r.jsonl"))
    monkeypatch.setattr(sys, "argv", ["bench"])
    bench = measure.Bench("b", "a peer")
    bench.compare("first", ours=lambda: None, repeats=2)
    (line,) = gpu_check.read_lines(tmp_path / "r.jsonl")
    assert (line["kind"], line["case"], line["ours"]["runs"]) == ("row", "first", 2)


def test_nobody_switches_cudnn_off_by_setting_another_of_its_flags():
    """torch.backends.cudnn.flags has enabled=False for a default."""
    for path in ROOT.glob("packages/*/**/*.py"):
        if "build" not in path.parts:
            for call in path.read_text().split("cudnn.flags(")[1:]:
                assert "enabled=" in call.split(")")[0], path


def test_the_times_of_single_kernels_are_written_line_by_line(tmp_path):
    """With the CPU kernels, so that the first run on a GPU finds none of the script's faults."""
    results = tmp_path / "r.jsonl"
    hung = {"kind": "test", "run": "kernels", "id": "gates, torch", "outcome": "hung"}
    results.write_text(json.dumps(hung) + "\n")  # before this process was started again
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "gpu" / "kernels.py", "--device", "cpu", "--small"],
        capture_output=True,
        text=True,
        env=os.environ | {"GPU_CHECK_RESULTS": str(results), "GPU_CHECK_RUN": "kernels"},
    )
    every = list(gpu_check.read_lines(results))
    assert done.returncode == 0, [line for line in every if "error" in line]
    ends = {line["id"]: line["outcome"] for line in every if line["kind"] == "test"}
    assert ends.pop("gates, torch") == "hung"
    assert set(ends.values()) == {"passed"}
    times = [line for line in every if line["kind"] == "kernel"]
    cases = {line["case"] for line in times}
    for case in (
        "submanifold map, native",
        "convolution forward C64 bfloat16, native",
        "weight gradient C64 float32, torch",
        "loss and gradient [16, 100] bfloat16, native",
        "40 filters, T 10, forward float32, native",
        "frame of 0 M instanced triangles, 64x48, persistent",
    ):
        assert case in cases
    assert "40 filters, T 10, forward float32, torch" not in cases
    assert all(line["us"] > 0 for line in times)
