"""Decode and scale on the GPU with 1 to 16 streams at once, beside the CPU of the same machine.

Every stream decodes a 1080p clip and scales it to 640x360: on the GPU with NVDEC and scale_cuda,
frames brought down at the end; on the CPU with swscale, nearest in both so that pixels can be
compared. Frames are counted and thrown away, so that no pipe is measured. Without an NVIDIA GPU it
says so and ends with exit code 3. $FFMPEG names another ffmpeg: then the one on PATH is measured
beside it.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench, Row

from ffmpeg_gpu_build import write_frames
from ffmpeg_gpu_build.ffmpeg import Ffmpeg, file_argument
from ffmpeg_gpu_build.verification import pixels
from ffmpeg_gpu_build.verification.judge import verify
from ffmpeg_gpu_build.verification.verdict import PROVEN

FRAMES, SIZE, SMALL = 250, (1920, 1080), (640, 360)
STREAMS = (1, 2, 4, 8, 16)
CODECS = {"h264": "libx264", "hevc": "libx265"}


def film():
    """A moving picture with slopes, waves and grain."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]].astype(np.float32)
    waves = 60 * np.sin(x / 37) * np.cos(y / 23) + 128
    grain = np.random.default_rng(1).integers(0, 24, SIZE[::-1]).astype(np.float32)
    for index in range(FRAMES):
        picture = np.stack([np.roll(waves, index * 5, 1), 255 * x / SIZE[0], waves + grain], 2)
        yield np.clip(picture, 0, 255).astype(np.uint8)


def command(clip: Path, on_gpu: bool, end: tuple[str, ...]) -> list[str]:
    width, height = SMALL
    if not on_gpu:
        chain = f"scale={width}:{height}:flags=neighbor"
        return ["-v", "error", "-stats", "-i", file_argument(clip), "-vf", chain, *end]
    chain = f"scale_cuda={width}:{height}:interp_algo=nearest,hwdownload,format=nv12"
    hw = ["-hwaccel", "cuda", "-hwaccel_output_format", "cuda"]
    return ["-v", "error", "-stats", *hw, "-i", file_argument(clip), "-vf", chain, *end]


def picture(program: Ffmpeg, clip: Path, on_gpu: bool) -> bytes:
    """All frames of one stream."""
    end = ("-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:1")
    done = program.run(*command(clip, on_gpu, end), timeout=300)
    if not done.ok:
        sys.exit(f"{'GPU' if on_gpu else 'CPU'}: {done.err[-500:]}")
    return done.out


def streams(program: Ffmpeg, clip: Path, count: int, on_gpu: bool) -> float:
    """Frames a second of `count` streams together, start of the programs included."""
    arguments = command(clip, on_gpu, ("-f", "null", "-"))
    started = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        runs = list(pool.map(lambda _: program.run(*arguments, timeout=300), range(count)))
    seconds = time.perf_counter() - started
    for done in runs:
        found = re.findall(r"frame=\s*(\d+)", done.err)
        if not done.ok or not found or int(found[-1]) != FRAMES:
            sys.exit(f"{'GPU' if on_gpu else 'CPU'}: {done.err[-500:]}")
    return count * FRAMES / seconds


def row(case: str, count: int, ours: float, peer: float, note: str) -> Row:
    """A row of frames a second; the times are those of all frames together."""
    made = [
        {"median_ms": count * FRAMES / fps * 1e3, "cpu_ms": 0.0, "spread": 0.0, "fps": fps}
        for fps in (ours, peer)
    ]
    return Row(case, *made, ours / peer, None, f"{ours:.0f} and {peer:.0f} frames/s{note}")


def measure(bench: Bench, program: Ffmpeg, others: list[Ffmpeg], codec: str, clip: Path) -> None:
    gpu, cpu = (picture(program, clip, on_gpu) for on_gpu in (True, False))
    gap = pixels.compare(gpu, cpu)
    bench.fact(f"{codec}: GPU against CPU, grey levels", {"mean": gap.mean, "max": gap.max})
    for count in STREAMS:
        case = f"{codec} 1080p to 360p x{count}"
        on_gpu = streams(program, clip, count, True)
        bench.add(row(case, count, on_gpu, streams(program, clip, count, False), ""))
        for other in others:
            peer = streams(other, clip, count, True)
            bench.add(row(f"{case}, beside {other.version}", count, on_gpu, peer, ", both GPU"))


def main() -> int:
    program = Ffmpeg.at()
    wanted = ["device.cuda", "decode.h264_nvdec", "decode.hevc_nvdec", "filter.scale_cuda"]
    verdicts = {v.path: v for v in verify(program, only=wanted).verdicts}
    bad = [v for v in verdicts.values() if v.status != PROVEN]
    if bad or len(verdicts) < len(wanted):
        print("no GPU benchmark: " + "; ".join(f"{v.path}: {v.sentence}" for v in bad))
        return 3
    plain = shutil.which("ffmpeg")
    others = [Ffmpeg.at(plain)] if plain and os.environ.get("FFMPEG") else []
    bench = Bench("streams", "the CPU of the same machine", versions={"ffmpeg": program.version})
    bench.fact("CPU cores", os.cpu_count())
    with tempfile.TemporaryDirectory() as folder:
        for codec, encoder in CODECS.items():
            able = [p for p in (program, *others) if encoder in p.encoders]
            if not able:
                bench.fact(codec, f"not measured: no {encoder} to make a clip with")
                continue
            clip = Path(folder, f"{codec}.mp4")
            write_frames(clip, film(), codec=codec, quality=24, ffmpeg=able[0])
            measure(bench, program, others, codec, clip)
    bench.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
