"""Whatever ends this process, nothing that it started goes on and no half file is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CODE = """
import sys, time
from pathlib import Path
from ffmpeg_gpu_build import proc, watchdog
folder = Path(sys.argv[1])
half, done = folder / sys.argv[2], folder / "done.mp4"
half.touch(), done.touch()
with watchdog.unfinished(done):
    pass
ended = proc.start(["sleep", "0"])
ended.wait()
proc.finished(ended)
proc.finished(ended)
with watchdog.unfinished(half):
    print(proc.start(["sleep", "60"]).pid, flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(true, seconds=10.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


@pytest.mark.parametrize("name", ["half.mp4", "a\nb ;$(touch x)`y` ü'\"%s\\0101*?[a].mp4", "-rf"])
def test_a_kill_ends_the_programs_and_removes_the_half_file_alone(tmp_path, name):
    here = subprocess.Popen(
        [sys.executable, "-c", CODE, str(tmp_path), name], stdout=subprocess.PIPE
    )
    pid = int(here.stdout.readline())
    assert alive(pid)
    assert (tmp_path / name).exists()
    here.kill()
    here.wait()
    here.stdout.close()
    assert wait_for(lambda: not alive(pid) and os.listdir(tmp_path) == ["done.mp4"])


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_command_leaves_no_ffmpeg_and_no_part(ffmpeg, tmp_path, number):
    source, target = tmp_path / "long.mkv", tmp_path / "out"
    target.mkdir()
    film = "testsrc2=size=640x360:duration=120"
    assert ffmpeg.run("-f", "lavfi", "-i", film, "-c:v", "mpeg4", "-q:v", "5", str(source)).ok
    command = [sys.executable, "-m", "ffmpeg_gpu_build", "transcode", str(source)]
    command += [str(target / "o.mp4"), "--hw", "cpu", "--quality", "0"]
    here = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert wait_for(lambda: any(p.stat().st_size for p in target.iterdir()), 30)

    def children():
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if str(target).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return [pid for pid in found if pid != here.pid and alive(pid)]

    assert children()
    here.send_signal(number)
    here.wait()
    assert wait_for(lambda: not children() and os.listdir(target) == [])


def test_a_forked_child_does_not_keep_the_watchdog_waiting(tmp_path):
    code = (
        "import os, sys, time; from ffmpeg_gpu_build import proc\n"
        "p = proc.start(['sleep', '60'])\n"
        "child = os.fork()\n"
        "if not child: time.sleep(30); os._exit(0)\n"
        "print(p.pid, child, flush=True); time.sleep(60)\n"
    )
    here = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    pid, child = (int(n) for n in here.stdout.readline().split())
    here.kill()
    here.wait()
    here.stdout.close()
    assert wait_for(lambda: not alive(pid))
    os.kill(child, signal.SIGKILL)
