"""Batches under random cancels and a full disk for minutes: a result is whole or is not there.

    python packages/ffmpeg-gpu-build/benchmarks/soak_batch.py --minutes 15 --json FILE

A folder of short clips is transcoded again and again into a file system of 2 MiB (a tmpfs where one
can be mounted, else a folder, and the record says so). Each batch is cancelled at a random moment
or not at all, finds the disk nearly full or not, and sometimes meets a damaged clip. After each:
what is there has all its frames, no part of a file and no process is left.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from soaking import Soak, family

import ffmpeg_gpu_build
from ffmpeg_gpu_build import FfmpegError, read_frames, transcode_folder, write_frames
from ffmpeg_gpu_build.ffmpeg import Ffmpeg

CLIPS, FRAMES, SIZE = 4, 48, (160, 120)
DISK = 2 << 20  # bytes
LEFT = 24 << 10  # of a disk that is nearly full: less than one result


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Makes `folder` a file system of DISK bytes, where that is allowed; whether it is one."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_sources(folder: Path) -> dict[str, int]:
    """Clips of noise, which compresses badly; name -> frames, 0 for the damaged one."""
    random_state = np.random.default_rng(0)
    frames = {}
    for number in range(CLIPS):
        count = FRAMES + 7 * number
        still = random_state.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        moving = (np.roll(still, 3 * t, axis=1) for t in range(count))
        write_frames(folder / f"clip{number}.mp4", moving, fps=24)
        frames[f"clip{number}.mp4"] = count
    whole = (folder / "clip0.mp4").read_bytes()
    (folder / "damaged.mp4").write_bytes(whole[: len(whole) // 3])
    return frames | {"damaged.mp4": 0}


def fill(target: Path) -> None:
    """Takes the disk but for LEFT bytes."""
    room = os.statvfs(target)
    size = max(0, room.f_bavail * room.f_frsize - LEFT)
    with open(target / "filler.bin", "wb") as file:
        file.write(bytes(size))


def batch(soak: Soak, source: Path, target: Path, small: bool, draw: random.Random) -> None:
    """One batch under what the dice say."""
    cancel, fills = threading.Event(), small and draw.random() < 0.3
    if fills:
        fill(target)
    timer = threading.Timer(draw.uniform(0.05, 4.0), cancel.set)
    if draw.random() < 0.6:
        timer.start()
    items = transcode_folder(
        source, target, sessions=2, hw="cpu", overwrite=draw.random() < 0.3, cancel=cancel
    )
    timer.cancel()
    timed_out = cancel.is_set()
    (target / "filler.bin").unlink(missing_ok=True)
    soak.done["batches"] += 1
    for item in items:
        code = getattr(item.error, "code", "")
        if item.error is None:
            soak.done["made" if item.result else "already there"] += 1
        elif item.src.name == "damaged.mp4" and isinstance(item.error, FfmpegError):
            soak.done["damaged clip refused"] += 1
        elif type(item.error).__name__ == "Cancelled" and timed_out:
            soak.done["cancelled"] += 1
        elif code == "disk-full" and small:
            soak.done["disk was full"] += 1
        else:
            soak.lost.append(f"{item.src.name}: {type(item.error).__name__}: {item.error}"[:400])


def check(soak: Soak, target: Path, frames: dict[str, int]) -> None:
    """What is there is whole, and nothing else is there."""
    for path in sorted(target.iterdir()):
        if path.name not in frames:
            soak.lost.append(f"left behind: {path.name}")
        elif sum(1 for _ in read_frames(path)) != frames[path.name]:
            soak.lost.append(f"{path.name} is not whole")
        else:
            soak.done["found whole"] += 1
    left = len(family(os.getpid())) - 1
    if left > 1:  # the watchdog of parts may stay
        soak.lost.append(f"{left} processes are left")


def main() -> int:
    program = Ffmpeg.at(None)
    soak = Soak(
        "soak_batch",
        {"ffmpeg-gpu-build": ffmpeg_gpu_build.__version__, "FFmpeg": program.version},
    )
    draw = random.Random(soak.options.seed)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        source.mkdir()
        target.mkdir()
        frames = make_sources(source)
        with small_disk(target) as small:
            soak.done["a full disk was tried"] = int(small)
            while soak.goes_on():
                batch(soak, source, target, small, draw)
                check(soak, target, frames)
                for path in target.iterdir():
                    if draw.random() < 0.5:
                        path.unlink()
    return soak.finish()


if __name__ == "__main__":
    sys.exit(main())
