"""Whatever ends this process, nothing that it started goes on and no half file is left."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from ffmpeg_gpu_build import Cancelled, FfmpegError, transcode, transcode_folder, write_frames

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


def wait_for(true, seconds=60.0) -> bool:
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


@pytest.fixture(scope="module")
def long(ffmpeg, tmp_path_factory):
    """A film that takes longer to transcode than any test waits: one second, again and again."""
    folder = tmp_path_factory.mktemp("long")
    film, second, source = "testsrc2=size=640x360:duration=1", folder / "a.mkv", folder / "long.mkv"
    assert ffmpeg.run("-f", "lavfi", "-i", film, "-c:v", "mpeg4", "-q:v", "5", str(second)).ok
    assert ffmpeg.run("-stream_loop", "119", "-i", str(second), "-c", "copy", str(source)).ok
    return source


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_command_leaves_no_ffmpeg_and_no_part(long, tmp_path, number):
    target = tmp_path / "out"
    target.mkdir()
    command = [sys.executable, "-m", "ffmpeg_gpu_build", "transcode", str(long)]
    command += [str(target / "o.mp4"), "--hw", "cpu", "--quality", "0"]
    here = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert wait_for(lambda: any(p.stat().st_size for p in target.iterdir()), 120)

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


# Where a transcode stands: before it probes, plans (and tries devices), looks at what it wrote.
STEPS = ("probe", "plan_pipeline", "supervise", "require_whole")
HELD = """
import os, subprocess, sys, time
from pathlib import Path
from ffmpeg_gpu_build import proc
from ffmpeg_gpu_build.media import transcoding
name, waiting = sys.argv[1], Path(sys.argv[2])
real = getattr(transcoding, name)
def held(*a, **k):
    done = real(*a, **k)
    child = proc.start(["sh", "-c", "sleep 60; exit # " + str(waiting)])
    waiting.write_text(str(child.pid))
    time.sleep(60)
    return done
setattr(transcoding, name, held)
from ffmpeg_gpu_build.__main__ import main
sys.exit(main(["transcode", *sys.argv[3:]]))
"""
ENDED = [
    (step, number)
    for step in STEPS
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGKILL)
]
QUICK = {
    ("probe", signal.SIGHUP), ("plan_pipeline", signal.SIGTERM), ("supervise", signal.SIGKILL),
    ("require_whole", signal.SIGKILL),
}  # fmt: skip


@pytest.fixture(scope="module")
def short(ffmpeg, tmp_path_factory):
    clip = tmp_path_factory.mktemp("clip") / "short.mkv"
    film = "testsrc2=size=64x48:duration=1"
    assert ffmpeg.run("-f", "lavfi", "-i", film, "-c:v", "mpeg4", str(clip)).ok
    return clip


@pytest.mark.parametrize(
    ("step", "number"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in ENDED],
)
def test_whatever_ends_a_transcode_at_any_step_leaves_nothing(short, tmp_path, step, number):
    waiting, target = tmp_path / "waiting", tmp_path / "out"
    target.mkdir()
    command = [sys.executable, "-c", HELD, step, str(waiting), str(short), str(target / "o.mp4")]
    here = subprocess.Popen([*command, "--hw", "cpu"], stderr=subprocess.DEVNULL)
    assert wait_for(lambda: waiting.exists() and waiting.read_text(), 120)
    child = int(waiting.read_text())
    assert alive(child)
    here.send_signal(number)
    here.wait()
    assert wait_for(lambda: os.listdir(target) == [])
    assert wait_for(lambda: not alive(child))


def noise():
    import numpy as np

    chance = np.random.default_rng(1)
    return (chance.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(30))


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts", ".gif"])
@pytest.mark.parametrize("step", ["transcode", "write_frames"])
def test_a_full_disk_leaves_no_part(short, full_disk, step, suffix):
    work = {
        "transcode": lambda to: transcode(short, to, hw="cpu", quality=0, size=(640, 480)),
        "write_frames": lambda to: write_frames(to, noise(), quality=1),
    }[step]
    with pytest.raises(FfmpegError) as caught:
        work(full_disk / f"a{suffix}")
    assert caught.value.code == "disk-full"
    assert os.listdir(full_disk) == []


def test_a_folder_on_a_full_disk_is_told_file_by_file_and_leaves_no_part(short, full_disk):
    done = transcode_folder(short.parent, full_disk, hw="cpu", quality=0, size=(640, 480))
    assert [item.error.code for item in done] == ["disk-full"]
    assert os.listdir(full_disk) == []


def test_a_cache_on_a_full_disk_keeps_nothing_and_stops_nobody(
    short, full_disk, tmp_path, monkeypatch
):
    fill(full_disk)
    monkeypatch.setenv("XDG_CACHE_HOME", str(full_disk))
    assert transcode(short, tmp_path / "o.mkv", hw="auto").frames == 25
    ours = full_disk / "ffmpeg-gpu-build"  # drivers keep caches of their own beside it
    assert [path for path in ours.rglob("*") if path.is_file()] == []


def test_a_log_that_found_no_room_is_no_sign_of_a_whole_source(
    short, full_disk, tmp_path, monkeypatch
):
    fill(full_disk)
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(FfmpegError, match="temporary files") as caught:
        transcode(short, target / "o.mkv", hw="cpu")
    assert caught.value.code == "disk-full"
    assert os.listdir(target) == []


def test_a_run_that_was_cancelled_is_that_where_the_log_found_no_room_too(
    short, full_disk, tmp_path, monkeypatch
):
    fill(full_disk)
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        transcode(short, tmp_path / "o.mkv", hw="cpu", size=(1920, 1080), cancel=stop)


def test_a_log_on_a_file_system_that_does_not_tell_its_room_is_whole(short, tmp_path, monkeypatch):
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = ["mount", "-t", "ramfs", "ramfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only where a file system can be mounted")
    try:
        assert os.statvfs(folder).f_bavail == 0
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        assert transcode(short, tmp_path / "o.mkv", hw="cpu").frames == 25
    finally:
        subprocess.run(["umount", str(folder)], check=True)
