"""Frames in and out: the right number, shape and colour, and no process left behind."""

import signal
import subprocess
import threading

import numpy as np
import pytest
import torch

from ffmpeg_gpu_build import FfmpegError, HardwareError, proc, read_frames, write_frames


def picture(width=160, height=90, phase=0.0):
    y, x = np.mgrid[0:height, 0:width]
    red = 60 + 120 * x / width
    green = 90 + 60 * np.sin((x + y) / 40 + phase)
    blue = 200 - 130 * y / height
    return np.stack([red, green, blue], axis=2).round().astype(np.uint8)


def test_what_is_written_comes_back(tmp_path):
    frames = [picture(phase=i / 5) for i in range(12)]
    assert write_frames(tmp_path / "a.mp4", frames, fps=10, quality=8) == 12
    back = list(read_frames(tmp_path / "a.mp4"))
    assert len(back) == 12
    for got, want in zip(back, frames, strict=True):
        assert got.shape == want.shape
        assert np.abs(got.astype(int) - want).mean() < 2.5


@pytest.mark.parametrize("colour", [(200, 30, 30), (30, 200, 30), (30, 30, 200), (128, 128, 128)])
def test_flat_colours_keep_their_colour(tmp_path, colour):
    frame = np.full((64, 64, 3), colour, np.uint8)
    write_frames(tmp_path / "a.mkv", [frame] * 3, quality=4)
    back = next(iter(read_frames(tmp_path / "a.mkv")))
    assert np.abs(back.reshape(-1, 3).mean(axis=0) - colour).max() < 3.5


def test_tensors_gray_and_generators(tmp_path):
    gray = (torch.arange(90).view(90, 1).expand(90, 160) * 2).to(torch.uint8)
    assert write_frames(tmp_path / "g.mkv", (gray for _ in range(5)), quality=10) == 5
    back = list(read_frames(tmp_path / "g.mkv", pixels="gray", torch=True))
    assert isinstance(back[0], torch.Tensor)
    assert back[0].shape == (90, 160)
    assert (back[0].float() - gray.float()).abs().mean() < 3
    back[0][0, 0] = 7  # each tensor owns its memory
    deep = next(iter(read_frames(tmp_path / "g.mkv", pixels="rgb16")))
    assert deep.dtype == np.uint16


def test_size_count_and_start_choose(tmp_path):
    write_frames(tmp_path / "a.mp4", [picture(phase=i) for i in range(30)], fps=30)
    some = list(read_frames(tmp_path / "a.mp4", size=(80, 40), start=0.5, count=4))
    assert [f.shape for f in some] == [(40, 80, 3)] * 4
    assert len(list(read_frames(tmp_path / "a.mp4", fps=10))) == 10


def test_odd_frames_lose_their_last_row_and_column(tmp_path):
    write_frames(tmp_path / "a.mp4", [picture(101, 77)] * 2, quality=8)
    back = next(iter(read_frames(tmp_path / "a.mp4")))
    assert back.shape == (76, 100, 3)
    assert np.abs(back.astype(int) - picture(101, 77)[:76, :100]).mean() < 2.5


def test_a_turned_recording_is_read_upright(ffmpeg, turn, tmp_path):
    write_frames(tmp_path / "a.mp4", [picture()] * 3)
    turned = tmp_path / "turned.mp4"
    turn(tmp_path / "a.mp4", turned, 90)
    frame = next(iter(read_frames(turned)))
    assert frame.shape == (160, 90, 3)
    straight = next(iter(read_frames(tmp_path / "a.mp4")))
    assert min(np.abs(np.rot90(straight, k).astype(int) - frame).mean() for k in (1, 3)) < 1


def test_a_reader_that_is_left_is_not_waited_for():
    # ffmpeg blocked on its pipe is as deaf to SIGTERM as this shell
    deaf = ["sh", "-c", "trap '' TERM; echo ready; sleep 60"]
    process = subprocess.Popen(deaf, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"ready\n"
    proc.stop(process, patience=0)
    assert process.returncode == -signal.SIGKILL
    proc.stop(process, patience=0)  # again: nothing to do
    process.stdout.close()


def test_leaving_the_loop_early_ends_ffmpeg(tmp_path):
    from pathlib import Path

    write_frames(tmp_path / "early.mp4", [picture()] * 200)
    frames = read_frames(tmp_path / "early.mp4", size=(1600, 900))
    next(frames)
    frames.close()
    name = str(tmp_path / "early.mp4").encode()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert name not in process.read_bytes()
        except OSError:
            continue  # it ended meanwhile


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        ([], ValueError, "must not be empty"),
        ([np.zeros((32, 32, 3))], TypeError, "must be uint8, got float64"),
        ([torch.zeros(32, 32, 3)], TypeError, r"must be uint8, got torch\.float32"),
        ([torch.zeros(32, 32, 3, dtype=torch.bfloat16)], TypeError, r"got torch\.bfloat16"),
        ([np.zeros((3, 32, 32), np.uint8)], ValueError, "move channels last"),
        ([np.zeros((32, 32, 4), np.uint8)], ValueError, r"\(H, W, 3\) or \(H, W\)"),
        ([np.zeros((8, 8, 3), np.uint8)], ValueError, "at least 16x16"),
        (
            [np.zeros((32, 32, 3), np.uint8), np.zeros((32, 64, 3), np.uint8)],
            ValueError,
            "frame 1 is",
        ),
    ],
)
def test_wrong_frames_are_refused_and_leave_nothing(tmp_path, frames, error, message):
    with pytest.raises(error, match=message):
        write_frames(tmp_path / "a.mp4", frames)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_generator_is_the_error_that_is_seen(tmp_path):
    def frames():
        yield picture()
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        write_frames(tmp_path / "a.mp4", frames())
    assert list(tmp_path.iterdir()) == []


def test_frames_are_made_in_the_thread_that_asked(tmp_path):
    def frames():
        for _ in range(3):
            assert threading.current_thread() is threading.main_thread()
            assert not torch.is_grad_enabled()
            yield torch.full((32, 32, 3), 9, dtype=torch.uint8)

    with torch.no_grad():
        assert write_frames(tmp_path / "a.mp4", frames()) == 3


def test_ctrl_c_in_the_generator_ends_ffmpeg_and_leaves_nothing(tmp_path):
    def frames():
        yield picture()
        signal.raise_signal(signal.SIGINT)
        yield picture()

    with pytest.raises(KeyboardInterrupt):
        write_frames(tmp_path / "a.mp4", frames())
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_that_breaks_in_the_generator_is_its_own_error(tmp_path):
    def frames():
        yield picture()
        raise BrokenPipeError("mine")

    with pytest.raises(BrokenPipeError, match="mine"):
        write_frames(tmp_path / "a.mp4", frames())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -1, float("inf"), float("nan"), "fast", 1e-9])
def test_a_rate_that_is_none_is_refused_by_name(tmp_path, fps):
    with pytest.raises(ValueError, match="fps must be a number above 0"):
        write_frames(tmp_path / "a.mp4", [picture()], fps=fps)


def test_reading_refuses_what_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(FfmpegError):
        next(iter(read_frames(tmp_path / "a.mp4")))
    with pytest.raises(ValueError, match="pixels must be"):
        next(iter(read_frames(tmp_path / "a.mp4", pixels="cmyk")))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("size", (0, 0)),
        ("size", (-1, 32)),
        ("size", (32.5, 32)),
        ("size", (32,)),
        ("fps", 0),
        ("fps", -25),
        ("start", -1),
        ("count", 0),
    ],
)
def test_arguments_that_make_no_frames_are_refused_by_name(tmp_path, argument, value):
    write_frames(tmp_path / "a.mp4", [picture()])
    with pytest.raises(ValueError, match=f"read_frames: {argument} must be"):
        read_frames(tmp_path / "a.mp4", **{argument: value})


def test_hardware_that_is_not_there_is_an_error_not_a_fallback(tmp_path):
    with pytest.raises(HardwareError, match="no NVIDIA driver"):
        write_frames(tmp_path / "a.mp4", [picture()], hw="cuda")
    write_frames(tmp_path / "a.mp4", [picture()] * 2, hw="auto")
    with pytest.raises(HardwareError, match="no NVIDIA driver"):
        next(iter(read_frames(tmp_path / "a.mp4", hw="cuda")))
    assert len(list(read_frames(tmp_path / "a.mp4", hw="auto"))) == 2
