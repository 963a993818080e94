"""Soaks: what is a leak is found, and each of them runs for two seconds without losing anything."""

import json
import os
import subprocess
import sys

import pytest
import soaking
import workspace
from soaking import Sample, verdict

SMALL = {
    "nanite-cull/benchmarks/soak_streaming.py": ["--level", "5", "--share", "2"],
    "nanite-cull/benchmarks/soak_viewer.py": ["--clients", "3"],
    "ffmpeg-gpu-build/benchmarks/soak_batch.py": [],
    "resnet-zoo/benchmarks/soak_cache.py": ["--processes", "4"],
}


def samples(mib=lambda t: 100.0, descriptors=lambda t: 20, processes=lambda t: 3):
    """A quarter of an hour, every ten seconds, around a saw of 6 MiB."""
    return [
        Sample(t, mib(t) + t % 70 / 10, int(descriptors(t)), 8, int(processes(t)))
        for t in range(0, 900, 10)
    ]


@pytest.mark.parametrize(
    ("of", "leaks"),
    [
        (samples(), []),
        (samples(mib=lambda t: 100 + t / 60), ["memory"]),  # a mebibyte a minute
        (
            samples(mib=lambda t: 100 + 50 * min(t, 100) / 100),
            [],
        ),  # a cache that is filled at first
        (samples(mib=lambda t: 200 - t / 60), []),
        (samples(descriptors=lambda t: 20 + t / 100), ["descriptors"]),
        (samples(descriptors=lambda t: 20 + t // 10 % 5), []),
        (samples(processes=lambda t: 3 + t / 200), ["processes"]),
    ],
)
def test_what_grows_is_a_leak_and_what_goes_up_and_down_is_none(of, leaks):
    assert verdict(of)[1] == leaks


def test_a_family_is_a_process_with_all_that_it_started():
    script = "import subprocess; subprocess.run(['sh', '-c', 'echo; read x; exit'])"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        mine = soaking.family(os.getpid())
        assert child.pid in mine
        assert len(soaking.family(child.pid)) == 2
        assert soaking.look(child.pid, 0.0).mib > 1
        child.stdin.close()


@pytest.mark.parametrize("script", SMALL, ids=lambda script: script.rsplit("_", 1)[1])
def test_a_soak_loses_nothing_in_two_seconds(script, tmp_path):
    record = tmp_path / "record.json"
    command = [sys.executable, workspace.ROOT / "packages" / script, "--minutes", "0.033"]
    done = subprocess.run(
        [*command, "--json", record, *SMALL[script]],
        env=workspace.tool_environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seen = json.loads(record.read_text())
    assert seen["lost"] == []
    assert sum(seen["done"].values()) > 0
    assert {"machine", "versions", "date", "commit", "memory_kib_a_minute", "descriptors"} <= set(
        seen
    )
