"""Frames out of a video and into one, beside PyAV and imageio-ffmpeg, and the driver floors.

Ours moves raw frames through a pipe from the ffmpeg program, as imageio-ffmpeg does (where it is
installed; it is given the same program). PyAV calls the libraries of its wheel in this process, and
so does our engine "av". CPU time counts the program's too.
"""

import contextlib
import itertools
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

from ffmpeg_gpu_build import Video, read_frames, transcode, write_frames
from ffmpeg_gpu_build.build import binary
from ffmpeg_gpu_build.ffmpeg import Ffmpeg
from ffmpeg_gpu_build.verification.judge import facts

WIDTH, HEIGHT, FRAMES = 1280, 720, 120


def film() -> list[np.ndarray]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    frames = []
    for index in range(FRAMES):
        waves = 60 * np.sin(x / 37 + index / 5) * np.cos(y / 23) + 128
        picture = np.stack([waves, 255 * x / WIDTH, np.roll(waves, index * 3, 1)], axis=2)
        frames.append(picture.astype(np.uint8))
    return frames


def av_read(path: Path, size: tuple[int, int]) -> int:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        made = (
            f.to_ndarray(format="rgb24", width=size[0], height=size[1])
            for f in container.decode(video=0)
        )
        return sum(frame.shape[0] == size[1] for frame in made)


def ours_at(path: Path, numbers: list[int]) -> None:
    with Video(path, engine="av") as video:
        for number in numbers:
            assert video[number].index == number


def av_at(path: Path, numbers: list[int]) -> None:
    """Seek to the key frame before, decode up to the frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        step = int(1 / stream.average_rate / stream.time_base)
        for number in numbers:
            container.seek(number * step, stream=stream)
            found = next(f for f in container.decode(stream) if f.pts >= number * step)
            found.to_ndarray(format="rgb24")


def first_by_pipe(path: Path) -> None:
    with read_frames(path, count=1) as frames:
        next(frames)


def av_write(path: Path, frames: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))


def imageio_rows(bench: Bench, clip: Path, out: tuple[Path, Path], frames: list[np.ndarray]):
    """The same work by imageio-ffmpeg, with the same ffmpeg program."""
    import imageio_ffmpeg

    def read() -> int:
        frames = imageio_ffmpeg.read_frames(str(clip))
        size = next(frames)["size"]
        made = (np.frombuffer(frame, np.uint8).reshape(size[1], size[0], 3) for frame in frames)
        return sum(frame.shape[0] == HEIGHT for frame in made)

    def write() -> None:
        how = {"fps": 25, "codec": "libx264", "quality": None, "output_params": ["-crf", "18"]}
        writer = imageio_ffmpeg.write_frames(str(out[1]), (WIDTH, HEIGHT), **how)
        writer.send(None)
        for frame in frames:
            writer.send(frame)
        writer.close()

    assert read() == FRAMES
    peer = f"peer: imageio-ffmpeg {imageio_ffmpeg.__version__}"
    ours = (
        lambda: sum(1 for _ in read_frames(clip)),
        lambda: write_frames(out[0], frames, overwrite=True),
    )
    bench.compare(f"read {FRAMES} frames 1280x720 rgb, by pipe", ours[0], read, note=peer)
    bench.compare(f"write {FRAMES} frames 1280x720, by pipe", ours[1], write, note=peer, repeats=3)


def av_floors() -> str:
    """Driver and PTX floors of the libraries in PyAV's wheel."""
    folder = Path(av.__file__).parent.parent / "av.libs"
    codec = next(folder.glob("libavcodec*"))
    modules = binary.ptx_modules(next(folder.glob("libavfilter*")))
    floor = binary.ptx_floor(modules)
    return f"driver {binary.nvenc_driver_floor(codec)}, {floor or 'no CUDA filter'}"


def main() -> None:
    program = Ffmpeg.at()
    versions = {"ffmpeg": program.version, "av": av.__version__, "numpy": np.__version__}
    bench = Bench("frames", f"PyAV {av.__version__}", versions=versions, repeats=5)
    frames = film()
    with tempfile.TemporaryDirectory() as folder:
        clip, a, b = (Path(folder, name) for name in ("clip.mp4", "a.mp4", "b.mp4"))
        write_frames(clip, frames, overwrite=True)
        size = (WIDTH, HEIGHT)
        for count in (sum(1 for _ in read_frames(clip)), av_read(clip, size)):
            assert count == FRAMES, count
        bench.compare(
            f"read {FRAMES} frames 1280x720 rgb",
            lambda: sum(1 for _ in read_frames(clip)),
            lambda: av_read(clip, size),
        )
        bench.compare(
            f"read {FRAMES} frames, engine av",
            lambda: sum(1 for _ in read_frames(clip, engine="av")),
            lambda: av_read(clip, size),
        )
        numbers = random.Random(1).sample(range(FRAMES), 8)
        bench.compare(
            "8 frames at random, engine av",
            lambda: ours_at(clip, numbers),
            lambda: av_at(clip, numbers),
        )
        bench.compare(
            "first frame, engine av",
            lambda: next(read_frames(clip, engine="av")),
            lambda: next(av.open(str(clip)).decode(video=0)).to_ndarray(format="rgb24"),
        )
        bench.compare(
            "first frame by pipe",
            lambda: first_by_pipe(clip),
            lambda: program.run(
                "-v", "error", "-i", str(clip), "-frames:v", "1", "-f", "rawvideo",
                "-pix_fmt", "rgb24", "pipe:1",
            ),
            note="peer: the bare ffmpeg command",
        )  # fmt: skip
        short = Path(folder, "short.mp4")
        program.run("-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=3", "-y", str(short))
        bench.compare(
            "transcode of 3 seconds, not the first",
            lambda: transcode(short, a, overwrite=True),
            lambda: program.run(
                "-v", "error", "-y", "-i", str(short), "-c:v", "libx264", "-crf", "23", str(b)
            ),
            note="peer: the bare ffmpeg command; hw='auto', proofs kept",
        )
        small = (320, 180)
        bench.compare(
            f"read {FRAMES} frames, scaled to 320x180",
            lambda: sum(1 for _ in read_frames(clip, size=small)),
            lambda: av_read(clip, small),
        )
        bench.compare(
            f"write {FRAMES} frames 1280x720 x264 crf 18",
            lambda: write_frames(a, frames, overwrite=True),
            lambda: av_write(b, frames),
            repeats=3,
        )
        os.environ["IMAGEIO_FFMPEG_EXE"] = str(program.path)
        with contextlib.suppress(ImportError):
            imageio_rows(bench, clip, (a, b), frames)
        bench.compare(
            "first frame of a file",
            lambda: next(itertools.islice(read_frames(clip), 1)),
            lambda: next(av.open(str(clip)).decode(video=0)).to_ndarray(format="rgb24"),
        )
        if os.environ.get("FFMPEG") and shutil.which("ffmpeg"):
            plain = Ffmpeg.at(shutil.which("ffmpeg"))
            bench.compare(
                "start and end of ffmpeg",
                lambda: program.run("-version"),
                lambda: plain.run("-version"),
                note=f"peer: the distribution's {plain.version}",
            )
        bench.compare(
            f"transcode {FRAMES} frames to 640x360",
            lambda: transcode(clip, a, hw="cpu", size=(640, 360), overwrite=True),
            lambda: program.run(
                "-v", "error", "-y", "-i", str(clip), "-vf", "scale=640:360", "-crf", "23", str(b)
            ),
            note="peer: the bare ffmpeg command",
            repeats=3,
        )
    found = facts(program)
    floors = f"driver {found.nvenc_driver_floor}, {found.ptx}"
    bench.fact(f"floors of ffmpeg {found.version}", floors)
    bench.fact(f"floors of PyAV {av.__version__}", av_floors())
    bench.finish()


if __name__ == "__main__":
    main()
