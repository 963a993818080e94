"""Decode and scale on the GPU with 1 to 16 streams at once, beside the CPU of the same machine.

Every stream decodes a 1080p clip and scales it to 640x360: on the GPU with NVDEC and scale_cuda,
frames brought down at the end; on the CPU with swscale, nearest in both so that pixels can be
compared. Without an NVIDIA GPU it says so and ends with exit code 3. $FFMPEG names another ffmpeg.
"""

import hashlib
import os
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
from ffmpeg_gpu_build.verdict import PROVEN
from ffmpeg_gpu_build.verification import verify

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


def command(clip: Path, on_gpu: bool) -> list[str]:
    width, height = SMALL
    end = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "pipe:1"]
    if not on_gpu:
        chain = f"scale={width}:{height}:flags=neighbor"
        return ["-v", "error", "-i", file_argument(clip), "-vf", chain, *end]
    chain = f"scale_cuda={width}:{height}:interp_algo=nearest,hwdownload,format=nv12"
    hw = ["-hwaccel", "cuda", "-hwaccel_output_format", "cuda"]
    return ["-v", "error", *hw, "-i", file_argument(clip), "-vf", chain, *end]


def streams(program: Ffmpeg, clip: Path, count: int, on_gpu: bool) -> tuple[float, str]:
    """(frames a second of all streams together, md5 of the first stream's pixels)."""
    started = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        runs = list(
            pool.map(lambda _: program.run(*command(clip, on_gpu), timeout=300), range(count))
        )
    seconds = time.perf_counter() - started
    for done in runs:
        if not done.ok:
            sys.exit(f"{'GPU' if on_gpu else 'CPU'}: {done.err[-500:]}")
    return count * FRAMES / seconds, hashlib.md5(runs[0].out, usedforsecurity=False).hexdigest()


def main() -> int:
    program = Ffmpeg.at()
    wanted = ["device.cuda", "decode.h264_nvdec", "decode.hevc_nvdec", "filter.scale_cuda"]
    verdicts = {v.path: v for v in verify(program, only=wanted).verdicts}
    bad = [v for v in verdicts.values() if v.status != PROVEN]
    if bad or len(verdicts) < len(wanted):
        print("no GPU benchmark: " + "; ".join(f"{v.path}: {v.sentence}" for v in bad))
        return 3
    bench = Bench("streams", "the CPU of the same machine", versions={"ffmpeg": program.version})
    bench.fact("CPU cores", os.cpu_count())
    with tempfile.TemporaryDirectory() as folder:
        for codec in CODECS:
            clip = Path(folder, f"{codec}.mp4")
            write_frames(clip, film(), codec=codec, quality=24, ffmpeg=program)
            for count in STREAMS:
                gpu, gpu_pixels = streams(program, clip, count, True)
                cpu, cpu_pixels = streams(program, clip, count, False)
                frames = count * FRAMES
                ours, peer = (
                    {"median_ms": frames / fps * 1e3, "cpu_ms": 0.0, "spread": 0.0, "fps": fps}
                    for fps in (gpu, cpu)
                )
                same = "pixels equal" if gpu_pixels == cpu_pixels else "pixels differ"
                note = f"{gpu:.0f} and {cpu:.0f} frames/s, {same}"
                bench.add(Row(f"{codec} 1080p to 360p x{count}", ours, peer, gpu / cpu, None, note))
    bench.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
