"""Real clips: counts, times and pixels of both engines beside PyAV's own, at the start, after
seeks, at the end; what is damaged is said so.

`python tests/fetch_corpus.py FOLDER` fetches them; FFMPEG_GPU_BUILD_CORPUS names the folder.
"""

import os
import random
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from ffmpeg_gpu_build import FfmpegError, Video, read_frames
from ffmpeg_gpu_build.ffmpeg import Ffmpeg
from ffmpeg_gpu_build.media.probing import is_cover

av = pytest.importorskip("av")
pytestmark = pytest.mark.slow

FOLDER = os.environ.get("FFMPEG_GPU_BUILD_CORPUS", "")
REAL = sorted(Path(FOLDER).iterdir()) if FOLDER else []
SEEKS = 20
# Clip -> why PyAV itself gives no reference for it
WITHOUT_REFERENCE = {
    "iss634.webp": "FFmpeg 8, which PyAV 18.1 carries, reads no animated WebP",
    "movie-hello.ogg": "PyAV's own loop ends at an empty packet, with an error",
}
# Clip -> why it is damaged though PyAV's own loop ends without an error
DAMAGED_UNSAID = {
    "test_extents_transparency.gif": "a picture reaches over the edge and is cut",
    "fli_overflow.fli": "a chunk of a wrong size is passed over",
    "breakdance.flv": "the first 100 kB of a longer file",
    "sample.ts": "begins in the middle: its first pictures refer to what is not there",
}


@pytest.fixture(scope="module")
def program():
    """The program of imageio-ffmpeg: nearest to what PyAV carries."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    return Ffmpeg.at(imageio_ffmpeg.get_ffmpeg_exe())


def last_name(clip):
    return clip.name.rpartition("--")[2]


@lru_cache(maxsize=1)  # the engines come one after the other
def reference(clip):
    """(pts, upright gray pixels) of each frame by PyAV alone, and whether it met an error."""
    found, failed = [], False
    try:
        with av.open(str(clip), metadata_errors="ignore") as file:
            stream = next(s for s in file.streams.video if not is_cover(s))
            for frame in file.decode(stream):
                turns = round(frame.rotation / 90)
                time = frame.dts if file.format.name == "avi" else frame.pts
                known = None if time is None else time * stream.time_base
                found.append((known, np.rot90(frame.to_ndarray(format="gray"), turns)))
    except (av.FFmpegError, StopIteration):
        failed = True
    return found, failed


def all_of(clip, **wish):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(read_frames(clip, pixels="gray", strict=False, **wish))


def same(frames, known):
    assert len(frames) == len(known)
    for frame, (pts, pixels) in zip(frames, known, strict=True):
        assert pts is None or frame.pts == pts
        assert np.array_equal(frame, pixels)


@pytest.mark.parametrize("engine", ["pipe", "av"])
@pytest.mark.parametrize("clip", REAL, ids=lambda p: p.name)
def test_a_real_clip_is_that_of_pyav(clip, engine, program):
    known, failed = reference(clip)
    if last_name(clip) in WITHOUT_REFERENCE:
        pytest.skip(WITHOUT_REFERENCE[last_name(clip)])
    if failed or not known or last_name(clip) in DAMAGED_UNSAID:
        with pytest.raises(FfmpegError):
            list(read_frames(clip, engine=engine, ffmpeg=program))
        return
    frames = list(read_frames(clip, pixels="gray", engine=engine, ffmpeg=program))  # strict
    same(frames, known)
    chance = random.Random(len(known))
    with Video(clip, pixels="gray", engine=engine, ffmpeg=program) as video:
        assert len(video) == len(known)
        for index in [chance.randrange(len(known)) for _ in range(SEEKS)] + [len(known) - 1]:
            frame = video[index]
            assert np.array_equal(frame, known[index][1])
            assert frame.pts == frames[index].pts


def test_there_are_enough_real_clips():
    if not FOLDER:
        pytest.skip("no corpus: python tests/fetch_corpus.py FOLDER, FFMPEG_GPU_BUILD_CORPUS")
    assert len(REAL) >= 60


@pytest.mark.parametrize("engine", ["pipe", "av"])
@pytest.mark.parametrize("clip", REAL, ids=lambda p: p.name)
def test_a_real_clip_that_is_cut_is_said_to_be_damaged(clip, engine, program, tmp_path):
    known, failed = reference(clip)
    if failed or len(known) < 2 or last_name(clip) in (*WITHOUT_REFERENCE, *DAMAGED_UNSAID):
        pytest.skip("no whole film")
    data = clip.read_bytes()
    cut = tmp_path / clip.name
    cut.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(FfmpegError):
        list(read_frames(cut, size=(64, 64), engine=engine, ffmpeg=program))
