"""Under torchrun: restart after a killed rank, SIGTERM, two hosts, a cable that is pulled."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

from tp_parallel import ParallelContext
from tp_parallel.training import checkpoint, pretrain

pytestmark = pytest.mark.slow

OPTIONS = ["--layers", "2", "--hidden", "16", "--heads", "2", "--seq", "16", "--batch", "4",
           "--steps", "6", "--warmup", "2", "--eval-every", "0", "--dtype", "float64"]  # fmt: skip
LIMIT = 180  # seconds a launch may take on a busy machine

# pretrain whose rank 1 does what {event} says at the start of step 3, in the first attempt only
PROGRAM = """
import ctypes, os, signal, sys, time
if sys.platform == "linux":  # torchrun gives each rank a session of its own: end with torchrun
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
from tp_parallel.training import pretrain

def provider(config, context, chunks):
    stages = pretrain.build_stages(config, context, chunks=chunks)
    def hook(*_):
        if context.step == 3 and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
            {event}
    next(iter(stages[0].layers.values())).register_forward_pre_hook(hook)
    return stages

try:
    report = pretrain.pretrain(pretrain.parse(sys.argv[1:]), provider)
except BaseException as error:
    with open("outcome" + os.environ["RANK"], "a") as file:
        file.write(type(error).__name__ + ": " + str(error))
    raise
sys.exit(143 if report.interrupted else 0)
"""
KILL = "os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGKILL)"
SIGNAL_READY = "open('ready', 'w').close() or time.sleep(1)"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog, again and again. " * 20)
    return path


def command(folder, event, *more, launcher=("--standalone", "--nproc-per-node", "2")):
    program = folder / "program.py"
    program.write_text(PROGRAM.format(event=event))
    return [sys.executable, "-m", "torch.distributed.run", *launcher, str(program),
            "--data", str(folder / "text.txt"), *OPTIONS, *more]  # fmt: skip


def environment(**more):
    return os.environ | {"OMP_NUM_THREADS": "1"} | more


@contextmanager
def ended(*launched):
    """Kills what still runs of `launched` at the end, and with it the ranks."""
    try:
        yield
    finally:
        for process in launched:
            process.kill()
            process.communicate(timeout=LIMIT)


def losses_of(metrics):
    """The last loss written for each step, and the steps in the order they were run."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}, [row["step"] for row in rows]


def unsplit_losses(text):
    torch.set_num_threads(1)
    settings = pretrain.parse(["--data", str(text), *OPTIONS])
    return pretrain.pretrain(settings, context=ParallelContext(device="cpu")).losses


def test_torchrun_restarts_after_a_killed_rank_from_the_last_checkpoint(text, tmp_path):
    launcher = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    done = subprocess.run(
        command(tmp_path, KILL, "--tp", "2", "--save", "run", "--save-every", "2", "--metrics",
                "metrics.jsonl", launcher=launcher),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    losses, order = losses_of(tmp_path / "metrics.jsonl")
    assert order == [0, 1, 2, 2, 3, 4, 5]  # step 3 died, the checkpoint held steps 0 and 1
    assert [losses[step] for step in range(6)] == pytest.approx(unsplit_losses(text), abs=1e-10)


def test_sigterm_to_torchrun_writes_a_checkpoint_from_which_the_run_goes_on(text, tmp_path):
    options = ("--dp", "2", "--zero", "--save", "run", "--metrics", "metrics.jsonl")
    launched = subprocess.Popen(
        command(tmp_path, SIGNAL_READY, *options), cwd=tmp_path, env=environment(),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with ended(launched):
        wait_for(lambda: (tmp_path / "ready").exists(), launched)
        launched.send_signal(signal.SIGTERM)
        _, said = launched.communicate(timeout=LIMIT)
    assert checkpoint.latest(tmp_path / "run") is not None, said[-3000:]
    reached = checkpoint.read_manifest(checkpoint.latest(tmp_path / "run"))["step"]
    assert 4 <= reached <= 5
    again = subprocess.run(
        command(tmp_path, "pass", *options), cwd=tmp_path, env=environment(),
        capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr[-3000:]
    losses, order = losses_of(tmp_path / "metrics.jsonl")
    assert order == list(range(6))
    assert [losses[step] for step in range(6)] == pytest.approx(unsplit_losses(text), abs=1e-10)


@pytest.fixture
def hosts():
    """Two network namespaces joined by a cable: (name, address, interface) of each."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip")
    tag = f"tp{os.getpid() % 100000}"
    names = [f"{tag}a", f"{tag}b"]
    if subprocess.run(["ip", "netns", "add", names[0]], capture_output=True).returncode:
        pytest.skip("this system does not let us make network namespaces")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", names[0], "netns", names[0], "type", "veth",
           "peer", "name", names[1], "netns", names[1])  # fmt: skip
        for number, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [(name, f"10.77.0.{n}", name) for n, name in enumerate(names, start=1)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def launch_on(hosts, folder, event, *more):
    """torchrun on both hosts, one process each; rank 0 is on the first."""
    runs = []
    for number, (name, address, interface) in enumerate(hosts):
        launcher = ("--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number),
                    "--master-addr", hosts[0][1], "--master-port", "29400",
                    "--local-addr", address)  # fmt: skip
        runs.append(subprocess.Popen(
            ["ip", "netns", "exec", name, *command(folder, event, *more, launcher=launcher)],
            cwd=folder, env=environment(GLOO_SOCKET_IFNAME=interface), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        ))  # fmt: skip
    return runs


def wait_for(condition, process):
    end = time.monotonic() + LIMIT
    while not condition():
        assert process.poll() is None, process.communicate(timeout=LIMIT)
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.1)


@pytest.mark.parametrize("grid", [["--tp", "2"], ["--pp", "2"]], ids=["tp2", "pp2"])
def test_two_hosts_train_to_the_numbers_of_one_process(hosts, text, tmp_path, grid):
    runs = launch_on(hosts, tmp_path, "pass", *grid, "--metrics", "metrics.jsonl")
    with ended(*runs):
        said = [run.communicate(timeout=LIMIT)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    losses, _ = losses_of(tmp_path / "metrics.jsonl")
    assert [losses[step] for step in range(6)] == pytest.approx(unsplit_losses(text), abs=1e-10)


def test_a_pulled_cable_ends_both_hosts_within_the_bound_and_names_the_other_rank(
    hosts, text, tmp_path
):
    options = ("--tp", "2", "--timeout", "5", "--save", "run", "--save-every", "2")
    runs = launch_on(hosts, tmp_path, SIGNAL_READY, *options)
    with ended(*runs):
        wait_for(lambda: (tmp_path / "ready").exists(), runs[0])
        ip("-n", hosts[1][0], "link", "set", hosts[1][2], "down")
        # the ranks end by themselves; what holds their launchers is torchrun's own affair
        outcomes = [tmp_path / f"outcome{rank}" for rank in (0, 1)]
        end = time.monotonic() + 60
        while not all(path.exists() and path.read_text() for path in outcomes):
            assert time.monotonic() < end, "a rank hangs"
            time.sleep(0.2)
    said = [path.read_text() for path in outcomes]
    assert "Rank 1 was killed, is stopped or cannot be reached" in said[0]
    assert "step 3" in said[0]
    assert "Rank 0, which keeps the record of all ranks, does not answer" in said[1]
    found = checkpoint.latest(tmp_path / "run")
    assert found.name == "step_00000002"
    checkpoint.verify(found, ParallelContext(device="cpu"))
