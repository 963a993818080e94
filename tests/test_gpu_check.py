"""gpu_check loses nothing: a rehearsal with a hanging and a crashing phase."""

import json
import os
import subprocess
import sys
import time
from collections import Counter

import gpu_check
import measure
import pytest
import workspace
from gpu import report

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


def test_a_hanging_phase_is_ended_with_all_that_it_started(tmp_path):
    results = gpu_check.Results(tmp_path)
    marker = f"{time.time_ns()}"
    command = ["sh", "-c", f"sleep 600.{marker} & sleep 600.{marker}"]
    started = time.monotonic()
    verdict = gpu_check.run_phase(gpu_check.Phase("p", command, 1.5), results, started + 60)
    assert verdict == "hung"
    assert time.monotonic() - started < 20
    assert marker not in subprocess.run(["ps", "-ef"], capture_output=True, text=True).stdout


def test_what_lies_beyond_the_deadline_is_counted_as_not_reached(tmp_path):
    results = gpu_check.Results(tmp_path)
    phase = gpu_check.Phase("late", ["true"], 10)
    assert gpu_check.run_phase(phase, results, time.monotonic()) == "not reached"
    assert gpu_check.exit_code(gpu_check.count(results.lines())) == 2


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


def test_the_plan_has_a_process_for_each_file_and_choice_of_kernels():
    packages = workspace.packages(["spconv-lite", "convlstm"])
    names = [phase.name for phase in gpu_check.test_phases(packages)]
    for choice in gpu_check.KERNELS["spconv-lite"]:
        assert f"tests spconv-lite test_kernels {choice}" in names
    assert "tests convlstm test_cuda" in names
    assert len(names) == len(set(names))
    total = gpu_check.plan({"architecture": "90"}, workspace.packages(None))
    assert total[0].name == "ceilings"
    assert total[-1].name.startswith("benchmark")


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
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "gpu" / "kernels.py", "--device", "cpu", "--small"],
        capture_output=True,
        text=True,
        env=os.environ | {"GPU_CHECK_RESULTS": str(results)},
    )
    lines = list(gpu_check.read_lines(results))
    assert done.returncode == 0, [line for line in lines if "error" in line]
    cases = {line["case"] for line in lines}
    for case in (
        "submanifold map, native",
        "convolution forward C64 bfloat16, native",
        "weight gradient C64 float32, torch",
        "loss and gradient [16, 100] bfloat16, native",
        "40 filters, T 10, forward float32, native",
        "frame of 0 M instanced triangles, 64x48, persistent",
    ):
        assert case in cases
    assert all(line["us"] > 0 for line in lines)
