"""What it costs to bring frames from the ffmpeg program here, by each way that a program offers.

Ours is one run of ffmpeg that decodes and converts, with a reader that does nothing with the bytes;
the peer is PyAV's loop, which decodes and converts in this process. CPU time of both processes.
Shared memory without a file is not among the ways: ffmpeg writes front to back, so a ring needs its
muxer to wait for the reader, and none does.
"""

import fcntl
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from bench_frames import FRAMES, HEIGHT, WIDTH, av_read, film
from measure import Bench

from ffmpeg_gpu_build import read_frames, write_frames
from ffmpeg_gpu_build.ffmpeg import Ffmpeg

BYTES = {"rgb24": WIDTH * HEIGHT * 3, "yuv420p": WIDTH * HEIGHT * 3 // 2}
DIRECT = ("-avioflags", "direct")  # FFmpeg's own buffer is passed by


def command(program: Ffmpeg, clip: Path, form: str, *output: str) -> list[str]:
    return [
        str(program.path), "-nostdin", "-v", "error", "-i", str(clip), "-vf", f"format={form}",
        *program.every_frame, *output,
    ]  # fmt: skip


def drained(read, size: int) -> int:
    """The number of pictures of this size that `read`, which fills a buffer, gives."""
    memory = memoryview(np.empty(size, np.uint8))
    total = 0
    while got := read(memory):
        total += got
    return total // size


def pipe(program: Ffmpeg, clip: Path, form: str, size: int, *output: str, wide: int = 1 << 20):
    with subprocess.Popen(
        command(program, clip, form, *output, "pipe:1"), stdout=subprocess.PIPE
    ) as run:
        if wide:
            fcntl.fcntl(run.stdout.fileno(), fcntl.F_SETPIPE_SZ, wide)
        assert drained(lambda m: os.readv(run.stdout.fileno(), [m]), size) == FRAMES


def unix_socket(program: Ffmpeg, clip: Path, form: str, size: int, *output: str) -> None:
    here, there = socket.socketpair()
    with here, subprocess.Popen(command(program, clip, form, *output, "pipe:1"), stdout=there):
        there.close()
        assert drained(here.recv_into, size) == FRAMES


def file_in_memory(program: Ffmpeg, clip: Path, form: str, size: int, *output: str) -> None:
    """The whole film in a memfd, mapped here: the reader copies nothing, and touches each page."""
    number = os.memfd_create("film")
    target = f"file:/dev/fd/{number}"
    subprocess.run(
        command(program, clip, form, *output, "-y", target), pass_fds=(number,), check=True
    )
    with mmap.mmap(number, 0) as memory:
        pictures = np.frombuffer(memory, np.uint8).reshape(FRAMES, size)
        assert pictures[:, ::4096].any()
        del pictures
    os.close(number)


def converted(program: Ffmpeg, clip: Path) -> None:
    """yuv420p out of the pipe, made rgb24 here by PyAV's swscale."""
    output = ("-c:v", "wrapped_avframe", "-f", "yuv4mpegpipe", "pipe:1")
    with subprocess.Popen(
        command(program, clip, "yuv420p", *output), stdout=subprocess.PIPE
    ) as run:
        fcntl.fcntl(run.stdout.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
        with run.stdout as stream:
            stream.readline()
            for _ in range(FRAMES):
                assert stream.readline() == b"FRAME\n"
                picture = np.frombuffer(stream.read(BYTES["yuv420p"]), np.uint8)
                frame = av.VideoFrame.from_ndarray(picture.reshape(-1, WIDTH), format="yuv420p")
                assert frame.to_ndarray(format="rgb24").shape[0] == HEIGHT


def main() -> None:
    program = Ffmpeg.at()
    versions = {"ffmpeg": program.version, "av": av.__version__, "kernel": os.uname().release}
    bench = Bench("transport", f"PyAV {av.__version__}", versions=versions, repeats=5)
    raw, y4m = ("-f", "rawvideo"), ("-c:v", "wrapped_avframe", "-f", "yuv4mpegpipe")
    rgb, yuv = (("rgb24", BYTES["rgb24"]), ("yuv420p", BYTES["yuv420p"]))
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.mp4")
        write_frames(clip, film())
        none = command(program, clip, "rgb24", "-f", "null", "-")
        ways = {
            "no transport at all": lambda: subprocess.run(none, check=True),
            "rgb24, pipe of 1 MiB": partial(pipe, program, clip, *rgb, *raw),
            "rgb24, pipe of 64 KiB": partial(pipe, program, clip, *rgb, *raw, wide=0),
            "rgb24, pipe, unbuffered": partial(pipe, program, clip, *rgb, *raw, *DIRECT),
            "rgb24, Unix socket": partial(unix_socket, program, clip, *rgb, *raw),
            "rgb24, file in memory": partial(file_in_memory, program, clip, *rgb, *raw),
            "yuv420p, pipe": partial(pipe, program, clip, *yuv, *raw),
            "yuv420p, pipe, no packet": partial(pipe, program, clip, yuv[0], yuv[1] + 6, *y4m),
            "yuv420p so, rgb24 here": partial(converted, program, clip),
            "yuv420p, file in memory": partial(file_in_memory, program, clip, *yuv, *raw),
            "read_frames": lambda: sum(1 for _ in read_frames(clip)),
            "read_frames, engine av": lambda: sum(1 for _ in read_frames(clip, engine="av")),
        }
        for name, way in ways.items():
            bench.compare(name, way, lambda: av_read(clip, (WIDTH, HEIGHT)))
        bench.finish()


if __name__ == "__main__":
    main()
