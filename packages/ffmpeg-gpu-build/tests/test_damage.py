"""Nothing is lost in silence: cut, hurt and unfinished files are errors, or notes if wished."""

import os
import random

import numpy as np
import pytest

from ffmpeg_gpu_build import FfmpegError, probe, read_frames, transcode, write_frames
from ffmpeg_gpu_build.ffmpeg import Ffmpeg
from ffmpeg_gpu_build.media import endings, formats
from ffmpeg_gpu_build.media.damage import DamageWarning

FILM = "testsrc2=size=160x96:rate=25:duration=8"
CLIPS = {
    "front.mp4": ["-c:v", "libx264", "-movflags", "+faststart"],
    "pieces.mp4": ["-c:v", "libx264", "-movflags", "frag_keyframe+empty_moov"],
    "a.mov": ["-c:v", "libx264", "-movflags", "+faststart"],
    "a.mkv": ["-c:v", "libx264"],
    "a.webm": ["-c:v", "libvpx", "-b:v", "300k"],
    "a.ts": ["-c:v", "libx264"],
    "hevc.ts": ["-c:v", "libx265", "-x265-params", "log-level=none"],
    "a.avi": ["-c:v", "mpeg4", "-bf", "2"],
    "a.flv": ["-c:v", "libx264"],
    "a.wmv": ["-c:v", "msmpeg4"],
    "a.mxf": ["-c:v", "mpeg2video"],
    "a.gif": [],
}


@pytest.fixture(scope="module")
def clips(ffmpeg, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, arguments in CLIPS.items():
        done = ffmpeg.run("-f", "lavfi", "-i", FILM, *arguments, str(folder / name))
        assert done.ok, done.err
    return folder


@pytest.mark.parametrize("name", CLIPS)
def test_a_whole_file_is_not_accused(clips, name):
    assert endings.unfinished(clips / name) is None
    frames = read_frames(clips / name, size=(32, 32))
    assert len(list(frames)) == 200
    assert frames.notes == []


@pytest.mark.parametrize("part", [0.5, 0.83])
@pytest.mark.parametrize("name", CLIPS)
def test_a_file_that_is_cut_is_an_error_after_its_last_frame(clips, tmp_path, name, part):
    data = (clips / name).read_bytes()
    cut = tmp_path / name
    cut.write_bytes(data[: int(len(data) * part) | 1])
    came = []
    with pytest.raises(FfmpegError, match="damaged or not whole") as caught:
        came.extend(frame.index for frame in read_frames(cut, size=(32, 32)))
    assert caught.value.code == "damaged"
    frames = read_frames(cut, size=(32, 32), strict=False)
    with pytest.warns(DamageWarning):
        count = len(list(frames))
    assert 0 < count < 200
    assert f"{count} frames have been read" in str(caught.value)
    assert "not whole" in frames.notes[0]


@pytest.mark.parametrize("name", ["front.mp4", "a.mkv", "a.ts", "a.avi"])
def test_a_transcode_of_a_cut_file_writes_nothing_unless_told(clips, tmp_path, name):
    data = (clips / name).read_bytes()
    cut = tmp_path / name
    cut.write_bytes(data[: len(data) // 2 | 1])
    with pytest.raises(FfmpegError, match="damaged or not whole") as caught:
        transcode(cut, tmp_path / "out.mkv", hw="cpu")
    assert caught.value.code == "damaged"
    assert os.listdir(tmp_path) == [name]
    made = transcode(cut, tmp_path / "out.mkv", hw="cpu", strict=False)
    assert 0 < made.frames < 200
    assert any("damaged or not whole" in note for note in made.notes)


@pytest.mark.parametrize("name", ["front.mp4", "a.mkv", "a.ts", "a.avi", "hevc.ts", "a.gif"])
def test_bytes_that_were_changed_are_found(clips, tmp_path, name):
    data = bytearray((clips / name).read_bytes())
    chance = random.Random(1)
    for _ in range(60):
        data[chance.randrange(len(data) // 4, len(data) * 3 // 4)] ^= 0x55
    hurt = tmp_path / name
    hurt.write_bytes(data)
    with pytest.raises(FfmpegError):
        list(read_frames(hurt, size=(32, 32)))


def test_a_hole_in_the_middle_is_found_from_a_start_too(clips, tmp_path):
    data = bytearray((clips / "a.mkv").read_bytes())
    middle = len(data) * 3 // 4
    data[middle : middle + 3000] = bytes(3000)
    hurt = tmp_path / "a.mkv"
    hurt.write_bytes(data)
    with pytest.raises(FfmpegError, match="damaged"):
        list(read_frames(hurt, start=1, size=(32, 32)))


def test_a_codec_or_container_that_this_ffmpeg_lacks_is_not_called_damaged(ffmpeg, clips, tmp_path):
    program = Ffmpeg(ffmpeg.path)
    program.decodable = frozenset({"h264"})
    with pytest.raises(FfmpegError, match="without a decoder of gif") as caught:
        transcode(clips / "a.gif", tmp_path / "out.mp4", hw="cpu", ffmpeg=program)
    assert caught.value.code == "not-built-in"


@pytest.mark.parametrize("name", [n for n in CLIPS if n != "a.webm"])
def test_a_file_without_a_reader_here_is_named_by_its_kind(ffmpeg, clips, name):
    program = Ffmpeg(ffmpeg.path)
    assert formats.no_reader("x", program.demuxers, clips / name, name) is None
    program.demuxers = frozenset()
    error = formats.no_reader("x", program.demuxers, clips / name, name)
    assert error.code == "not-built-in"


def test_a_gif_that_this_ffmpeg_does_not_open_is_not_called_damaged(ffmpeg, tmp_path):
    program = Ffmpeg(ffmpeg.path)
    program.demuxers = frozenset()
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(500))
    with pytest.raises(FfmpegError, match="without a reader of gif files"):
        list(read_frames(tmp_path / "a.gif", ffmpeg=program))


def test_a_sound_track_that_nobody_decodes_is_left_out_with_a_note(ffmpeg, tmp_path):
    two, phone = tmp_path / "two.mov", tmp_path / "phone.mov"
    done = ffmpeg.run(
        "-f", "lavfi", "-i", FILM, "-f", "lavfi", "-i", "sine=440:d=8", "-f", "lavfi", "-i",
        "sine=880:d=8", "-map", "0", "-map", "1", "-map", "2", "-c:v", "libx264", "-c:a", "aac",
        str(two),
    )  # fmt: skip
    assert done.ok, done.err
    data = bytearray(two.read_bytes())
    last = data.rfind(b"stsd")
    for old, new in ((b"mp4a", b"apac"), (b"esds", b"dapa")):
        at = data.find(old, last)
        data[at : at + 4] = new
    phone.write_bytes(data)
    made = transcode(phone, tmp_path / "a.mp4", hw="cpu")
    assert made.frames == 200
    assert probe(tmp_path / "a.mp4").audio == ("aac",)
    assert any("audio stream 1" in note and "left out" in note for note in made.notes)


@pytest.mark.parametrize(
    ("target", "codec", "audio", "expected"),
    [("a.webm", "vp9", "auto", "opus"), ("a.mkv", "h264", "opus", "opus"),
     ("a.mp4", "h264", "aac", "aac")],
)  # fmt: skip
def test_six_channels_stay_six(ffmpeg, tmp_path, target, codec, audio, expected):
    film = tmp_path / "film.mkv"
    done = ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:d=1", "-f", "lavfi", "-i",
        "anoisesrc=d=1,aformat=channel_layouts=5.1(side)", "-c:v", "libx264", "-c:a", "ac3",
        str(film),
    )  # fmt: skip
    assert done.ok, done.err
    made = transcode(film, tmp_path / target, codec=codec, audio=audio, hw="cpu")
    (track,) = probe(tmp_path / target).tracks
    assert (track.codec, track.channels) == (expected, 6)
    assert "480k" in made.command


def test_text_chapters_and_metadata_go_into_mp4_and_hevc_is_called_hvc1(ffmpeg, tmp_path):
    words, facts, source = tmp_path / "a.srt", tmp_path / "a.txt", tmp_path / "a.mkv"
    words.write_text("1\n00:00:00,000 --> 00:00:00,500\nhello\n")
    facts.write_text(
        ";FFMETADATA1\ntitle=A film\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=900\ntitle=One\n"
    )
    done = ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:d=1", "-i", str(words), "-i", str(facts), "-map",
        "0", "-map", "1", "-map_metadata", "2", "-map_chapters", "2", "-c:v", "libx264", "-c:s",
        "subrip", str(source),
    )  # fmt: skip
    assert done.ok, done.err
    made = transcode(source, tmp_path / "a.mp4", codec="hevc", hw="cpu")
    assert probe(tmp_path / "a.mp4").subtitle_codecs == ("mov_text",)
    assert any("written as mov_text" in note for note in made.notes)
    data = (tmp_path / "a.mp4").read_bytes()
    assert b"hvc1" in data
    assert b"A film" in data
    assert b"One" in data


def test_fields_are_deinterlaced_with_a_note(ffmpeg, tmp_path):
    source = tmp_path / "a.mpg"
    done = ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=160x96:r=50:d=1,interlace", "-c:v", "mpeg2video",
        "-flags", "+ildct+ilme", str(source),
    )  # fmt: skip
    assert done.ok, done.err
    made = transcode(source, tmp_path / "a.mp4", hw="cpu")
    assert any("deinterlaced" in note for note in made.notes)
    assert not any(frame.interlaced for frame in read_frames(tmp_path / "a.mp4"))


def test_a_symlink_is_followed_also_one_that_names_no_file_yet(tmp_path):
    frames = [np.full((32, 32, 3), 90, np.uint8)] * 3
    (tmp_path / "real").mkdir()
    for overwrite in (False, True):
        link = tmp_path / "link.mp4"
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / "real" / "film.mp4")
        assert write_frames(link, frames, overwrite=overwrite) == 3
        assert link.is_symlink()
    assert os.listdir(tmp_path / "real") == ["film.mp4"]
    (tmp_path / "lost.mp4").symlink_to(tmp_path / "nowhere" / "film.mp4")
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_frames(tmp_path / "lost.mp4", frames)
    (tmp_path / "ring.mp4").symlink_to(tmp_path / "ring.mp4")
    with pytest.raises(FileNotFoundError, match="leads nowhere"):
        write_frames(tmp_path / "ring.mp4", frames)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(IsADirectoryError):
        write_frames(tmp_path / "folder.mp4", frames)


def test_what_is_written_has_the_users_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_frames(tmp_path / "a.mp4", [np.full((32, 32, 3), 90, np.uint8)] * 3)
    finally:
        os.umask(old)
    assert (tmp_path / "a.mp4").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["pipe.mkv", "pipe.mp4", "pipe.ts"])
def test_a_pipe_is_written_to_and_never_renamed_over(clips, tmp_path, name):
    import threading

    pipe = tmp_path / name
    os.mkfifo(pipe)
    came = []
    reader = threading.Thread(target=lambda: came.append(pipe.read_bytes()))
    reader.start()
    assert transcode(clips / "a.mkv", pipe, hw="cpu", size=(64, 48)).frames == 200
    reader.join()
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == [name]
    (tmp_path / f"copy{pipe.suffix}").write_bytes(came[0])
    assert sum(1 for _ in read_frames(tmp_path / f"copy{pipe.suffix}")) == 200


def test_a_device_that_is_full_is_an_error_and_stays_a_device(clips, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full: only Linux has it")
    link = tmp_path / "full.mkv"
    link.symlink_to("/dev/full")
    with pytest.raises(FfmpegError):
        transcode(clips / "a.mkv", link, hw="cpu", size=(64, 48), overwrite=True)
    assert os.path.exists("/dev/full")
    assert not os.path.isfile("/dev/full")


@pytest.mark.parametrize("name", ["front.mp4", "a.mkv", "a.ts", "a.avi", "a.flv", "a.gif"])
@pytest.mark.parametrize("how", ["cut", "changed"])
def test_what_is_lost_is_found_by_pyav_too(clips, tmp_path, name, how):
    pytest.importorskip("av")
    data = bytearray((clips / name).read_bytes())
    chance = random.Random(2)
    for _ in range(60):
        if how == "changed":
            data[chance.randrange(len(data) // 4, len(data) * 3 // 4)] ^= 0x55
    hurt = tmp_path / name
    hurt.write_bytes(data if how == "changed" else data[: len(data) * 6 // 10])
    with pytest.raises(FfmpegError):
        list(read_frames(hurt, size=(32, 32), engine="av"))


def test_a_picture_library_that_has_no_demuxer_for_a_film_is_not_damage(ffmpeg, tmp_path):
    film = tmp_path / "a.webp"
    film.write_bytes(b"RIFF\x60\0\0\0WEBPVP8X\x0a\0\0\0\x02" + bytes(9) + b"ANIM" + bytes(900))
    error = formats.no_reader("x", {"webp_pipe"}, film, "a.webp")
    assert error.code == "not-built-in"
    assert "webp_anim" in str(error)


def test_metadata_that_is_not_read_is_no_lost_picture():
    from ffmpeg_gpu_build.media.damage import complaints

    said = "[webp @ 0x5] [error] invalid TIFF header in EXIF data: Invalid data found\n"
    assert complaints(said) == []
    assert complaints("[webp @ 0x5] [error] invalid chunk\n") != []


def test_a_matroska_that_is_cut_is_told_by_its_segment(clips, tmp_path):
    from ffmpeg_gpu_build.media.endings import unfinished

    assert unfinished(clips / "a.mkv") is None
    cut = tmp_path / "a.mkv"
    cut.write_bytes((clips / "a.mkv").read_bytes()[:-1])
    assert "Segment should end" in unfinished(cut)
    cut.write_bytes(b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7 + bytes(200))
    assert unfinished(cut) is None  # a live stream does not know its size


def test_an_animation_of_autodesk_says_its_size(tmp_path):
    from ffmpeg_gpu_build.media.endings import unfinished

    film = tmp_path / "a.fli"
    film.write_bytes((200).to_bytes(4, "little") + b"\x11\xaf" + bytes(194))
    assert unfinished(film) is None
    film.write_bytes(film.read_bytes()[:-1])
    assert "says 200 bytes, 199 are there" in unfinished(film)


@pytest.mark.parametrize(
    "pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv411p", "gray", "yuv420p10le", "gray10le"]
)
def test_frames_of_a_y4m_have_one_size(ffmpeg, tmp_path, pixels):
    """Of an odd size, where chroma is rounded up."""
    whole, cut = tmp_path / "whole.y4m", tmp_path / "cut.y4m"
    film = ["-f", "lavfi", "-i", "testsrc2=size=65x33:rate=25:duration=0.4", "-strict", "-1"]
    done = ffmpeg.run(*film, "-pix_fmt", pixels, str(whole))
    assert done.ok, done.err
    assert endings.unfinished(whole) is None
    data = whole.read_bytes()
    for lost in (1, len(data) * 7 // 10 | 1):
        cut.write_bytes(data[:-lost])
        for engine in ("av", "pipe"):
            with pytest.raises(FfmpegError, match="a Y4M file that ends within a frame"):
                list(read_frames(cut, size=(32, 32), engine=engine))
