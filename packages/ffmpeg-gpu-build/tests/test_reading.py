"""Frames with their times: exact seeks in every container, sizes of the frames themselves, sources
of every kind.
"""

import importlib.util
import io
import os
import stat
import threading
import warnings
from fractions import Fraction

import numpy as np
import pytest

from ffmpeg_gpu_build import FfmpegError, Video, read_frames
from ffmpeg_gpu_build.media.frames import Frame
from ffmpeg_gpu_build.media.sources import opened, require_device

FILM = "testsrc2=size=160x96:rate=25:duration=12"
CLIPS = {
    "a.ts": ["-c:v", "libx264", "-g", "50"],
    "open.ts": ["-c:v", "libx264", "-x264-params", "keyint=50:open-gop=1"],
    "hevc.ts": [
        "-c:v", "libx265", "-preset", "ultrafast",
        "-x265-params", "log-level=none:keyint=50:open-gop=1",
    ],
    "a.vob": ["-c:v", "mpeg2video", "-bf", "2"],
    "a.mpg": ["-c:v", "mpeg1video"],
    "a.avi": ["-c:v", "mpeg4", "-bf", "2"],
    "x264.avi": ["-c:v", "libx264", "-bf", "3", "-g", "50"],
    "a.flv": ["-c:v", "libx264", "-g", "50"],
    "a.mp4": ["-c:v", "libx264", "-g", "50"],
    "refresh.mp4": ["-c:v", "libx264", "-x264-params", "keyint=300:intra-refresh=1"],
    "pieces.mp4": ["-c:v", "libx264", "-movflags", "frag_keyframe+empty_moov"],
    "a.mkv": ["-c:v", "libx264", "-g", "250"],
    "a.gif": [],
    "a.mxf": ["-c:v", "mpeg2video", "-bf", "2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def make(ffmpeg, tmp_path_factory):
    """`make("a.ts")` is that clip of CLIPS, made once."""
    folder = tmp_path_factory.mktemp("clips")

    def one(name):
        if not (folder / name).exists():
            done = ffmpeg.run("-f", "lavfi", "-i", FILM, *CLIPS[name], str(folder / name))
            assert done.ok, done.err
        return folder / name

    return one


@pytest.mark.parametrize("name", CLIPS)
def test_a_seek_is_exact_in_every_container(make, name):
    whole = list(read_frames(make(name), pixels="gray"))
    assert len(whole) == 300
    for index in (1, 40, 101, 299):
        got = next(read_frames(make(name), start=Fraction(index, 25), pixels="gray"))
        assert np.array_equal(got, whole[index])
        assert got.pts == whole[index].pts
        assert got.time == pytest.approx(index / 25)


@pytest.mark.parametrize("name", ["a.ts", "a.mp4", "a.mkv", "a.avi", "a.vob"])
def test_frames_carry_the_times_that_pyav_says(make, name):
    av = pytest.importorskip("av")
    with av.open(str(make(name))) as file:
        wanted = [(f.pts * f.time_base, f.key_frame) for f in file.decode(video=0)]
    frames = read_frames(make(name))
    got = [(f.pts, f.key, f.index) for f in frames]
    assert [g[0] for g in got] == [w[0] for w in wanted]
    assert [g[1] for g in got] == [bool(w[1]) for w in wanted]
    assert [g[2] for g in got] == list(range(300))


def test_a_frame_is_an_array_and_a_tensor_has_its_time_too(make):
    frame = next(read_frames(make("a.mp4"), start=1.0, count=1))
    assert isinstance(frame, Frame)
    assert (frame.pts, frame.time, frame.index) == (1, 1.0, 0)
    assert np.stack([frame, frame]).shape == (2, 96, 160, 3)
    assert frame[:10].pts == 1
    assert np.array(frame).flags.writeable
    tensor = next(read_frames(make("a.mp4"), start=1.0, count=1, torch=True))
    assert (tensor.pts, tensor.key, tuple(tensor.shape)) == (1, frame.key, (96, 160, 3))


@pytest.mark.parametrize(
    ("pixels", "shape", "dtype"),
    [("rgba", (96, 160, 4), np.uint8), ("gray16", (96, 160), np.uint16),
     ("rgb16", (96, 160, 3), np.uint16)],
)  # fmt: skip
def test_pixels_of_other_kinds(make, pixels, shape, dtype):
    frame = next(read_frames(make("a.mp4"), pixels=pixels))
    assert (frame.shape, frame.dtype) == (shape, dtype)


def test_a_start_may_be_of_any_kind_of_number_and_is_within_the_video(make):
    assert len(list(read_frames(make("a.mp4"), start=1e-5))) == 300
    assert len(list(read_frames(make("a.mp4"), start=np.float32(11.5)))) == 12
    with pytest.raises(ValueError, match=r"last frame begins at 11\.96 seconds, got 30"):
        next(read_frames(make("a.mp4"), start=30))
    with pytest.raises(ValueError, match="got inf"):
        read_frames(make("a.mp4"), start=float("inf"))


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("count", 1.5, ValueError), ("count", "3", TypeError), ("count", True, TypeError),
        ("fps", float("inf"), ValueError), ("fps", float("nan"), ValueError),
        ("fps", "10", TypeError), ("fps", 1e12, ValueError),
        ("size", (200_000, 200_000), ValueError),
        ("size", "64x64", TypeError), ("size", 64, TypeError), ("size", (64, None), TypeError),
        ("start", "1", TypeError), ("start", float("nan"), ValueError), ("stream", -1, ValueError),
    ],
)  # fmt: skip
def test_arguments_of_the_wrong_kind_or_value_are_named(make, argument, value, error):
    with pytest.raises(error, match=f"read_frames: {argument} must be"):
        read_frames(make("a.mp4"), **{argument: value})


def test_a_second_video_stream_and_one_that_is_not_there(ffmpeg, make, tmp_path):
    both = tmp_path / "both.mkv"
    assert ffmpeg.run(
        "-i", str(make("a.mp4")), "-f", "lavfi", "-i", "color=red:s=64x48:d=1", "-map", "0:v",
        "-map", "1:v", "-c:v", "libx264", str(both),
    ).ok  # fmt: skip
    assert next(read_frames(both, stream=1)).shape == (48, 64, 3)
    with pytest.raises(FfmpegError, match="no such video stream"):
        next(read_frames(both, stream=2))


def test_bytes_file_objects_and_pipes_are_read(make, tmp_path):
    data = make("a.mkv").read_bytes()
    assert len(list(read_frames(data))) == 300
    assert len(list(read_frames(io.BytesIO(data), start=11))) == 25
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(data))
    writer.start()
    assert len(list(read_frames(pipe))) == 300
    writer.join()
    with pytest.raises(ValueError, match="can be read only once"):
        next(read_frames(pipe, start=1))
    with pytest.raises(TypeError, match="src must be a path, bytes"):
        read_frames(7)
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_frames(tmp_path)


def test_a_url_is_opened_only_when_asked_for(make):
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = partial(Quiet, directory=str(make("a.mkv").parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.mkv"
        with pytest.raises(ValueError, match="urls=True opens it"):
            read_frames(address)
        assert len(list(read_frames(address, urls=True))) == 300
        server.shutdown()


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_portrait_keeps_its_shape_and_its_top(make, turn, tmp_path, degrees):
    turned = tmp_path / "turned.mp4"
    turn(make("a.mp4"), turned, degrees)
    straight, frame = next(read_frames(make("a.mp4"))), next(read_frames(turned))
    gaps = [
        np.abs(np.rot90(straight, k).astype(int) - frame).mean()
        for k in range(4)
        if np.rot90(straight, k).shape == frame.shape
    ]
    assert frame.shape == ((160, 96, 3) if degrees % 180 else (96, 160, 3))
    assert min(gaps) < 1


def test_a_turn_that_only_the_frames_know_keeps_the_shape(ffmpeg, tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    y, x = np.mgrid[0:60, 0:100]
    picture = np.stack([x * 2, y * 4, 0 * x + 90], 2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to see it upright
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif, quality=95)
    if int(ffmpeg.version.lstrip("n").partition(".")[0]) < 6:
        return  # this FFmpeg does not read EXIF's turn: nothing to hold
    frame = next(read_frames(tmp_path / "a.jpg"))
    assert frame.shape in ((100, 60, 3), (60, 100, 3))
    want = np.rot90(picture, -1) if frame.shape[0] == 100 else picture
    assert np.abs(want.astype(int) - frame).mean() < 4


def test_a_joined_recording_keeps_all_frames_and_says_that_their_size_changed(ffmpeg, tmp_path):
    parts = []
    for size in ("160x96", "320x192"):
        part = tmp_path / f"{size}.ts"
        film = f"testsrc2=s={size}:d=1"
        assert ffmpeg.run("-f", "lavfi", "-i", film, "-c:v", "libx264", str(part)).ok
        parts.append(part.read_bytes())
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(parts))
    reading = read_frames(joined, strict=False)
    with pytest.warns(UserWarning, match="damaged or not whole"):  # the counters of packets jump
        frames = list(reading)
    assert [f.shape for f in frames] == [(96, 160, 3)] * 50
    assert any("320x192 from frame 25 on: scaled to 160x96" in note for note in reading.notes)
    assert frames[25].pts == frames[0].pts
    with pytest.warns(UserWarning, match="damaged or not whole"):
        scaled = list(read_frames(joined, strict=False, size=(64, 48)))
    assert {f.shape for f in scaled} == {(48, 64, 3)}


def test_square_pixels_on_request(ffmpeg, tmp_path):
    wide = tmp_path / "wide.mkv"
    assert ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=72x58:d=1,setsar=64/45", "-c:v", "libx264", str(wide)
    ).ok
    assert next(read_frames(wide)).shape == (58, 72, 3)
    assert next(read_frames(wide, square=True)).shape == (58, 102, 3)


def test_fields_are_flagged(ffmpeg, tmp_path):
    fields = tmp_path / "fields.mpg"
    assert ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=160x96:r=50:d=1,interlace", "-c:v", "mpeg2video",
        "-flags", "+ildct+ilme", str(fields),
    ).ok  # fmt: skip
    assert all(frame.interlaced for frame in read_frames(fields))


def test_nothing_runs_before_the_first_frame_is_asked_for_and_nothing_after_the_last(make):
    frames = read_frames(make("a.mp4"))
    first = next(frames)
    assert first.index == 0
    with frames:
        next(frames)
    with pytest.raises(StopIteration):
        next(frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read_frames(make("a.mp4"), count=3))) == 3


@pytest.mark.parametrize("name", ["a.ts", "open.ts", "hevc.ts", "a.avi", "a.mp4", "a.gif", "a.vob"])
def test_any_frame_by_number_and_by_time(make, name):
    whole = list(read_frames(make(name), pixels="gray"))
    with Video(make(name), pixels="gray") as video:
        assert len(video) == 300
        assert video.times == pytest.approx([f.time for f in whole])
        for number in (200, 3, 4, 50, -1, 0):
            frame = video[number]
            assert np.array_equal(frame, whole[number])
            assert (frame.index, frame.pts) == (number % 300, whole[number].pts)
        assert video.at(4.0).index == 100
        assert video.at(4.039).index == 100
        assert video.at(1000).index == 299
        assert [f.index for f in video.between(1, 1.2)] == [25, 26, 27, 28, 29]
        assert [f.index for f in video[10:16:2]] == [10, 12, 14]
        assert 0 in video.keys
        assert video.count_exactly() == 300
        assert video.exact
        with pytest.raises(IndexError, match="within 300 frames, got 300"):
            video[300]
        with pytest.raises(ValueError, match="time must be at least 0"):
            video.at(-1)


def test_an_index_that_is_wrong_makes_no_wrong_frame(make, monkeypatch):
    from ffmpeg_gpu_build.media import video as module
    from ffmpeg_gpu_build.media.index import Index, index

    true = index(read_program(), *source_of(make("a.mkv")))
    shifted = Index(tuple(p + Fraction(1, 100) for p in true.pts), true.keys, False)
    real = module.index
    monkeypatch.setattr(module, "index", lambda *a: real(*a) if a[3] else shifted)
    video = Video(make("a.mkv"), pixels="gray")
    assert not video.exact
    assert video[77].pts == true.pts[77]
    assert video.exact


def read_program():
    from ffmpeg_gpu_build.ffmpeg import Ffmpeg

    return Ffmpeg.at()


def source_of(path):
    with opened("test", path) as source:
        return source, 0


@pytest.fixture(scope="module")
def embedded():
    """The program whose FFmpeg is nearest to what PyAV carries: pixels are equal bit by bit."""
    pytest.importorskip("av")
    return pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()


QUICK = ("open.ts", "hevc.ts", "a.vob", "a.avi", "x264.avi", "a.mp4", "a.gif")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CLIPS]
)
def test_the_engines_give_the_same_frames(make, embedded, name):
    for wish in ({"count": 60}, {"start": 7.3, "count": 9}):
        here = read_frames(make(name), engine="av", **wish)
        there = read_frames(make(name), ffmpeg=embedded, **wish)
        assert (here.engine, there.engine) == ("av", "pipe")
        frames = list(there)
        assert len(frames) == wish["count"]
        for got, want in zip(here, frames, strict=True):
            assert np.array_equal(got, want)
            assert (got.pts, got.key, got.index) == (want.pts, want.key, want.index)
            assert got.time == pytest.approx(want.time)


@pytest.mark.parametrize(
    "wish",
    [{"pixels": "gray"}, {"pixels": "rgba"}, {"pixels": "rgb16"}, {"pixels": "gray16"},
     {"size": (50, 38)}, {"fps": 10}, {"square": True}],
    ids=str,
)  # fmt: skip
def test_the_engines_agree_on_shape_rate_and_pixels(make, embedded, wish):
    here = list(read_frames(make("a.vob"), engine="av", count=30, **wish))
    there = list(read_frames(make("a.vob"), ffmpeg=embedded, count=30, **wish))
    assert len(here) == len(there) == 30
    for got, want in zip(here, there, strict=True):
        assert (got.shape, got.dtype, got.pts) == (want.shape, want.dtype, want.pts)
        assert np.array_equal(got, want)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_the_engines_turn_a_recording_the_same_way(make, embedded, turn, tmp_path, degrees):
    turned = tmp_path / "turned.mp4"
    turn(make("a.mp4"), turned, degrees)
    here = next(read_frames(turned, engine="av"))
    there = next(read_frames(turned, ffmpeg=embedded))
    assert np.array_equal(here, there)
    assert (here.shape[0] > here.shape[1]) == (degrees != 180)


def test_random_access_by_pyav_is_that_of_the_program(make):
    pytest.importorskip("av")
    for name in ("open.ts", "a.mkv", "a.avi"):
        with Video(make(name), engine="av", pixels="gray") as here, Video(make(name)) as there:
            assert here.times == there.times
            assert here.keys == there.keys
            whole = list(read_frames(make(name), engine="av", pixels="gray"))
            for index in (250, 3, 120, -1, 121):
                assert np.array_equal(here[index], whole[index])
    assert here.engine == "av"


def test_a_frame_of_the_engine_owns_its_pixels(make):
    pytest.importorskip("av")
    clip = make("a.gif")
    pure = list(read_frames(clip, engine="av", pixels="rgba", count=20))
    hurt = read_frames(clip, engine="av", pixels="rgba", count=20)
    for frame, want in zip(hurt, pure, strict=True):
        assert np.array_equal(frame, want)
        frame[:] = 7  # the decoder must not build the next picture on this


def test_the_engine_is_refused_where_it_cannot_be(make, monkeypatch):
    import sys

    with pytest.raises(ValueError, match="engine must be pipe or av, got 'gpu'"):
        read_frames(make("a.mp4"), engine="gpu")
    with pytest.raises(ValueError, match="engine='av' decodes on the CPU"):
        read_frames(make("a.mp4"), engine="av", hw="auto")
    monkeypatch.setitem(sys.modules, "av", None)
    for ask in (read_frames, Video):
        with pytest.raises(FfmpegError, match="pip install av") as caught:
            ask(make("a.mp4"), engine="av")
        assert caught.value.code == "no-av"


@pytest.mark.parametrize("engine", ["pipe", "av"])
def test_a_comment_after_the_last_picture_of_a_gif_is_no_frame(make, tmp_path, engine):
    pytest.importorskip("av")
    data = make("a.gif").read_bytes()
    assert data.endswith(b";")
    (tmp_path / "a.gif").write_bytes(data[:-1] + b"\x21\xfe\x03abc\0;")
    with Video(tmp_path / "a.gif", engine=engine) as video:
        assert len(video) == 300
        assert video.exact


def test_a_device_is_opened_by_its_own_reader(ffmpeg):
    """FFmpeg's device of test pictures stands for a camera: it too is read once, from no file."""
    for engine in ("pipe", "av") if importlib.util.find_spec("av") else ("pipe",):
        frames = list(read_frames("lavfi:testsrc2=s=64x48:r=10:d=1", engine=engine, size=(32, 24)))
        assert [frame.time for frame in frames] == pytest.approx([k / 10 for k in range(10)])
        with pytest.raises(ValueError, match="can be read only once"):
            next(read_frames("lavfi:testsrc2=s=64x48:d=1", engine=engine, start=0.5))


def test_a_camera_is_known_by_its_node(tmp_path):
    node = tmp_path / "video0"
    try:
        os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(81, 0))
    except OSError:
        pytest.skip("only where a device node can be made")
    with opened("test", node) as source:
        assert (source.device, source.again) == ("v4l2", False)
        assert source.given(())[-4:] == ("-f", "v4l2", "-i", str(node))
    with opened("test", f"v4l2:{node}") as source:
        assert source.given(())[-4:] == ("-f", "v4l2", "-i", str(node))
    with pytest.raises(ValueError, match="src must be a file"):
        Video(node)


def test_what_is_no_camera_and_what_no_ffmpeg_reads_is_refused_by_name(ffmpeg, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is none at '/dev/video99'; cameras here"):
        read_frames("v4l2:/dev/video99")
    with pytest.raises(FileNotFoundError, match="cameras here"):
        read_frames("/dev/video99")
    plain = tmp_path / "plain"
    plain.write_bytes(b"no device")
    with opened("test", f"v4l2:{plain}") as source:
        with pytest.raises(FfmpegError, match="without which this ffmpeg was built") as caught:
            require_device("test", source, {"mov", "lavfi"}, "this ffmpeg")
        assert caught.value.code == "not-built-in"
    if "v4l2" in ffmpeg.demuxers:
        with pytest.raises(FfmpegError, match="gives no pictures") as caught:
            next(read_frames(f"v4l2:{plain}"))
        assert caught.value.code == "not-a-camera"
    (tmp_path / "v4l2:film").write_bytes(b"a file of that name")
    with opened("test", str(tmp_path / "v4l2:film")) as source:
        assert source.device == ""
