"""What people hand over who have not read the documentation."""

import io
import pickle

import numpy as np
import pytest

from ffmpeg_gpu_build import FfmpegError, Video, probe, read_frames, write_frames
from ffmpeg_gpu_build.__main__ import main
from ffmpeg_gpu_build.media.sources import opened


@pytest.fixture(scope="module")
def clip(ffmpeg, tmp_path_factory):
    made = tmp_path_factory.mktemp("clip") / "a.mkv"
    film = "testsrc2=s=64x48:d=1"
    assert ffmpeg.run("-f", "lavfi", "-i", film, "-c:v", "libx264", str(made)).ok
    return made


@pytest.fixture(scope="module")
def frame(clip):
    return next(read_frames(clip, start=0.4))


def test_a_frame_keeps_its_time_on_the_way_to_another_process(frame):
    again = pickle.loads(pickle.dumps(frame))
    assert np.array_equal(again, frame)
    for name in ("pts", "time", "index", "key", "interlaced"):
        assert getattr(again, name) == getattr(frame, name)


def test_a_sum_of_a_frame_is_a_number_and_a_sum_of_frames_is_a_frame(frame):
    assert type(frame.mean()) is np.float64
    assert np.ndim(frame.max()) == 0
    assert not hasattr(frame.sum(), "pts")
    assert (frame + 1).pts == frame.astype(float).pts == frame.pts
    assert frame.mean(axis=2).shape == (48, 64)


@pytest.mark.parametrize("count", [10**12, 10**30])
def test_a_count_beyond_all_frames_takes_all(clip, count):
    assert len(list(read_frames(clip, count=count))) == 25


def test_a_rate_that_leaves_no_frame_is_named(clip):
    with pytest.raises(FfmpegError, match="fps=1/10000 leaves no frame"):
        next(read_frames(clip, fps=1e-4))


@pytest.mark.parametrize(
    ("src", "error", "message"),
    [
        (b"", FfmpegError, "'0 bytes' is empty"),
        (io.StringIO("text"), TypeError, "must be opened in binary"),
    ],
)
def test_sources_that_hold_nothing(src, error, message):
    with pytest.raises(error, match=message):
        next(read_frames(src))


def test_memory_with_gaps_is_read(clip):
    data = clip.read_bytes()
    spread = bytearray(2 * len(data))
    spread[::2] = data
    assert len(list(read_frames(memoryview(spread)[::2]))) == 25
    with opened("read_frames", memoryview(np.zeros((3, 4), np.uint8))) as source:
        assert source.name == "12 bytes"


def test_an_index_that_is_no_whole_number_is_named(clip):
    video = Video(clip)
    assert video[np.int64(3)].index == 3
    with pytest.raises(TypeError, match="index must be a whole number or a slice, got 3"):
        video[3.0]


@pytest.mark.parametrize(
    ("name", "frames", "wish", "error", "message"),
    [
        ("a.mp4", 5, {}, TypeError, "write_frames: frames must be an iterable, got int"),
        ("a.mp4", [None], {}, TypeError, "write_frames: frame 0 must be uint8"),
        ("a.xyz", None, {}, ValueError, "write_frames: dst must end in one of"),
        ("a.webm", None, {}, ValueError, "write_frames: .webm holds"),
        ("a.mp4", None, {"quality": "high"}, TypeError, "write_frames: quality must be a whole"),
        ("a.mp4", None, {"quality": 52}, ValueError, "write_frames: quality must be in 0"),
    ],
)
def test_wrong_arguments_are_named_by_the_function_that_was_called(
    tmp_path, name, frames, wish, error, message
):
    pictures = [np.zeros((32, 32, 3), np.uint8)] if frames is None else frames
    with pytest.raises(error, match=message):
        write_frames(tmp_path / name, pictures, **wish)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_called_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder"):
        probe(tmp_path)


def test_the_doctor_takes_no_film_for_a_log(clip, capsys):
    assert main(["doctor", str(clip)]) == 1
    assert "is no text" in capsys.readouterr().out
