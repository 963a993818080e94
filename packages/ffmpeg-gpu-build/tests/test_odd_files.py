"""Files at the edge of what containers and codecs allow, read whole by both engines."""

import random

import numpy as np
import pytest

from ffmpeg_gpu_build import DamageWarning, FfmpegError, Video, probe, read_frames, transcode
from ffmpeg_gpu_build.ffmpeg import Ffmpeg
from ffmpeg_gpu_build.media.damage import complaints
from ffmpeg_gpu_build.media.endings import unfinished

av = pytest.importorskip("av")
ENGINES = ("pipe", "av")
EVERY = ["-fps_mode", "passthrough"]
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-g", "12"]
SOURCES = {
    "slow.mp4": ["testsrc2=s=160x96:r=1/2:d=40", *X264],
    "slow.gif": ["testsrc2=s=160x96:r=1/2:d=12"],
    "twice.mkv": ["testsrc2=s=160x96:d=3,setpts=floor(N/2)*2/25/TB", *EVERY, "-c:v", "ffv1"],
    "a.h264": ["testsrc2=s=160x96:d=3", *X264, "-bf", "2"],
    "a.m2v": ["testsrc2=s=160x96:d=3", "-c:v", "mpeg2video", "-bf", "2"],
    "a.h263": ["testsrc2=s=176x144:d=3", "-c:v", "h263"],
    "a.mjpeg": ["testsrc2=s=160x96:d=3"],
    "a.swf": ["testsrc2=s=160x96:d=3", "-c:v", "flv1"],
    "a.tiff": ["testsrc2=s=160x96", "-frames:v", "1"],
    "exact.mkv": ["testsrc2=s=160x96:d=2", "-c:v", "ffv1", "-level", "3", "-slicecrc", "1"],
    "a.dv": ["testsrc2=s=720x576:d=0.4", "-c:v", "dvvideo", "-pix_fmt", "yuv420p"],
}  # fmt: skip


@pytest.fixture(scope="module")
def make(ffmpeg, tmp_path_factory):
    """`make("slow.mp4")` is that clip of SOURCES, made once."""
    folder = tmp_path_factory.mktemp("odd")

    def one(name):
        if not (folder / name).exists():
            film, *arguments = SOURCES[name]
            done = ffmpeg.run("-f", "lavfi", "-i", film, *arguments, str(folder / name))
            assert done.ok, done.err
        return folder / name

    return one


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SOURCES)
def test_every_frame_comes_again_by_its_number_and_nothing_is_accused(make, name, engine):
    whole = list(read_frames(make(name), pixels="gray", engine=engine))  # strict
    assert whole
    chance = random.Random(3)
    with Video(make(name), pixels="gray", engine=engine) as video:
        assert len(video) == len(whole)
        for index in (len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(3))):
            assert np.array_equal(video[index], whole[index])
            assert (video[index].pts, video[index].index) == (whole[index].pts, index)


@pytest.mark.parametrize("engine", ENGINES)
def test_frames_of_one_time_are_told_apart_by_number_alone(make, engine):
    with Video(make("twice.mkv"), pixels="gray", engine=engine) as video:
        assert not np.array_equal(video[10], video[11])
        assert video[10].pts == video[11].pts
        for ask in (lambda: video.at(1), lambda: video.between(0, 1)):
            with pytest.raises(FfmpegError, match="do not rise") as caught:
                ask()
            assert caught.value.code == "no-times"


@pytest.mark.parametrize("name", ["a.h264", "a.mjpeg", "a.h263"])
def test_a_stream_without_a_container_is_timed_by_its_rate_and_never_sought(make, name):
    whole = list(read_frames(make(name), pixels="gray", engine="av"))
    step = whole[1].pts - whole[0].pts
    assert [frame.pts for frame in whole] == [
        pytest.approx(k * step, abs=1e-5) for k in range(len(whole))
    ]
    for engine in ENGINES:
        frame = next(read_frames(make(name), pixels="gray", start=whole[50].time, engine=engine))
        assert np.abs(frame.astype(int) - whole[50]).mean() < 1


@pytest.mark.parametrize("engine", ENGINES)
def test_columns_that_the_codec_crops_away_are_not_shown(ffmpeg, make, tmp_path, engine):
    """libavcodec keeps six of them, to have rows aligned, unless it is told not to."""
    crop = "h264_metadata=crop_left=6:crop_right=10:crop_top=4:crop_bottom=8"
    clip, cut = tmp_path / "a.mp4", tmp_path / "cut.mp4"
    assert ffmpeg.run("-f", "lavfi", "-i", "testsrc2=s=160x96:d=1", *X264, str(clip)).ok
    assert ffmpeg.run("-i", str(clip), "-c", "copy", "-bsf:v", crop, str(cut)).ok
    (before, *_), (after, *_) = (list(read_frames(c, engine=engine)) for c in (clip, cut))
    assert after.shape == (84, 144, 3)
    assert np.array_equal(before[4:88, 6:150], after)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_picture_turned_by_37_degrees_has_its_time(ffmpeg, tmp_path, engine):
    """FFmpeg asks for a sample of it, in the middle of the line that tells the time base."""
    program = Ffmpeg.at(pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe())
    clip, turned = tmp_path / "a.mp4", tmp_path / "turned.mp4"
    assert ffmpeg.run("-f", "lavfi", "-i", "testsrc2=s=160x96:d=1", *X264, str(clip)).ok
    done = program.run("-display_rotation", "37", "-i", str(clip), "-c", "copy", str(turned))
    assert done.ok, done.err
    for reader in (ffmpeg, program):
        times = [f.time for f in read_frames(turned, engine=engine, ffmpeg=reader)]
        assert times == pytest.approx([k / 25 for k in range(25)])
        with Video(turned, engine=engine, ffmpeg=reader) as video:
            assert video[20].index == 20


@pytest.mark.parametrize("engine", ENGINES)
def test_a_joined_recording_is_not_thinned_out_by_a_start(ffmpeg, tmp_path, engine):
    part, joined = tmp_path / "part.ts", tmp_path / "joined.ts"
    assert ffmpeg.run("-f", "lavfi", "-i", "testsrc2=s=160x96:d=2", *X264, str(part)).ok
    joined.write_bytes(part.read_bytes() * 2)
    with pytest.warns(DamageWarning):  # the counters of packets jump
        frames = list(read_frames(joined, start=1, strict=False, engine=engine))
    assert len(frames) == 25 + 50


@pytest.mark.parametrize("engine", ENGINES)
def test_a_wrong_checksum_is_found_by_both_engines_each_time(make, tmp_path, engine):
    data = bytearray(make("exact.mkv").read_bytes())
    data[len(data) * 2 // 3] ^= 0x55
    hurt = tmp_path / "a.mkv"
    hurt.write_bytes(data)
    for _ in range(2):  # PyAV leaves out what it said last
        with pytest.raises(FfmpegError, match="damaged"):
            list(read_frames(hurt, engine=engine))
    assert list(read_frames(make("exact.mkv"), engine=engine))


def test_a_damaged_file_is_not_taken_for_its_whole_neighbour(make, tmp_path):
    """PyAV's log is one for all readings: what is overheard is held against the program."""
    level = av.logging.get_level()
    data = bytearray(make("exact.mkv").read_bytes())
    data[len(data) * 2 // 3] ^= 0x55
    (tmp_path / "a.mkv").write_bytes(data)
    hurt = read_frames(tmp_path / "a.mkv", engine="av")
    whole = read_frames(make("exact.mkv"), engine="av")
    assert sum(1 for _ in zip(whole, hurt, strict=False)) == 50
    assert list(whole) == []
    with pytest.raises(FfmpegError, match="damaged"):
        list(hurt)
    assert av.logging.get_level() == level


def test_a_dv_file_that_ends_within_a_frame(make, tmp_path):
    assert unfinished(make("a.dv")) is None
    cut = tmp_path / "a.dv"
    cut.write_bytes(make("a.dv").read_bytes()[:-1000])
    assert "ends within a frame" in unfinished(cut)


@pytest.mark.parametrize(
    "line",
    [
        "[rawvideo @ 0x5] [error] Application provided invalid, non monotonically increasing dts "
        "to muxer in stream 0: 3 >= 3",
        "[h261 @ 0x5] [error] warning: first frame is no keyframe",
    ],
)
def test_what_says_nothing_of_the_picture_is_no_complaint(line):
    assert complaints(line) == []


@pytest.mark.parametrize(("codec", "name"), [("libvpx", "vp8"), ("libvpx-vp9", "vp9")])
def test_the_transparency_of_a_webm_is_read_or_noted(ffmpeg, tmp_path, codec, name):
    clip = tmp_path / "a.webm"
    film = "color=red:s=64x48:d=0.4,format=yuva420p,geq=lum='lum(X,Y)':a='if(gt(X,32),255,0)'"
    if not {codec} <= ffmpeg.encoders & ffmpeg.decoders:
        pytest.skip(f"this ffmpeg has no {codec}")
    done = ffmpeg.run(
        "-f", "lavfi", "-i", film, "-c:v", codec, "-auto-alt-ref", "0", "-pix_fmt", "yuva420p",
        str(clip),
    )  # fmt: skip
    assert done.ok, done.err
    frame = next(read_frames(clip, pixels="rgba"))
    assert (frame[:, :30, 3].max(), frame[:, 36:, 3].min()) == (0, 255)
    here = read_frames(clip, pixels="rgba", engine="av")
    assert next(here)[..., 3].min() == 255
    assert any("transparency is left out" in note for note in here.notes)
    made = transcode(clip, tmp_path / "a.mp4", hw="cpu")
    assert f"the transparency of {name} is left out" in made.notes


def test_a_transcode_notes_what_does_not_fit_the_target(ffmpeg, make, tmp_path):
    facts, source = tmp_path / "a.txt", tmp_path / "a.mkv"
    facts.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=900\ntitle=One\n")
    done = ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:d=1", "-f", "lavfi", "-i",
        "anoisesrc=d=1,aformat=channel_layouts=2.1", "-i", str(facts), "-map_chapters", "2",
        "-c:v", "libx264", "-c:a", "flac", str(source),
    )  # fmt: skip
    assert done.ok, done.err
    assert probe(source).chapters == 1
    notes = transcode(source, tmp_path / "a.ts", hw="cpu").notes
    assert "1 chapter(s) do not go into mpegts: left out" in notes
    assert "audio stream 0: 2.1 is mixed to 3.0" in notes
    double = transcode(make("twice.mkv"), tmp_path / "b.mp4", hw="cpu")
    assert any("75 frames were decoded" in note for note in double.notes)
    assert transcode(make("slow.mp4"), tmp_path / "c.mp4", hw="cpu").notes == ()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cover_is_no_video_and_a_video_beside_it_is_read(ffmpeg, make, tmp_path, engine):
    cover, song, film = (tmp_path / name for name in ("a.jpg", "a.mp3", "a.mkv"))
    made = [
        ["-f", "lavfi", "-i", "color=red:s=64x64", "-frames:v", "1", str(cover)],
        ["-f", "lavfi", "-i", "sine=d=1", "-i", str(cover), "-map", "0", "-map", "1", "-c:v",
         "copy", "-disposition:v", "attached_pic", str(song)],
        ["-i", str(make("twice.mkv")), "-attach", str(cover), "-c", "copy",
         "-metadata:s:t", "mimetype=image/jpeg", "-metadata:s:t", "filename=cover.jpg", str(film)],
    ]  # fmt: skip
    for arguments in made:
        done = ffmpeg.run(*arguments)
        assert done.ok, done.err
    with pytest.raises(FfmpegError, match="no such video stream"):
        next(read_frames(song, engine=engine))
    assert next(read_frames(film, engine=engine)).shape == (96, 160, 3)
    with pytest.raises(FfmpegError, match="no such video stream"):
        next(read_frames(film, stream=1, engine=engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_frames_without_times_of_their_own_follow_those_before(ffmpeg, tmp_path, engine):
    """Matroska has no times before zero: FFmpeg 5 wrote them, and reads none there."""
    clip, early = tmp_path / "a.mkv", tmp_path / "early.mkv"
    assert ffmpeg.run("-f", "lavfi", "-i", "testsrc2=s=64x48:d=1", *X264, str(clip)).ok
    ffmpeg.run(
        "-i", str(clip), "-c", "copy", "-output_ts_offset", "-0.4", "-avoid_negative_ts",
        "disabled", str(early),
    )  # fmt: skip
    frames = list(read_frames(early, engine=engine, strict=False))
    assert len(frames) in (15, 25)
    if len(frames) == 25:
        assert [f.time for f in frames[:10]] == pytest.approx([k / 25 for k in range(10)])


def test_an_empty_file_is_called_that(tmp_path):
    (tmp_path / "a.mp4").touch()
    for ask in (lambda path: next(read_frames(path)), probe):
        with pytest.raises(FfmpegError, match="is empty"):
            ask(tmp_path / "a.mp4")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_picture_that_no_filter_takes_is_an_error_of_ours(ffmpeg, tmp_path, engine):
    """swscale makes no column of a line."""
    line = tmp_path / "a.png"
    arguments = ["-f", "lavfi", "-i", "color=s=8192x4", "-frames:v", "1", "-pix_fmt", "pal8"]
    assert ffmpeg.run(*arguments, str(line)).ok
    assert next(read_frames(line, engine=engine)).shape == (4, 8192, 3)
    with pytest.raises(FfmpegError, match="filter"):
        next(read_frames(line, size=(16, 2048), engine=engine))
