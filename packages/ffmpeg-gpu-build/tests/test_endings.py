"""Files that end within a chunk, or in which a chunk is not where it should be, are damaged: by
their own account, whichever engine reads them.
"""

import random

import numpy as np
import pytest

from ffmpeg_gpu_build import DamageWarning, FfmpegError, Video, read_audio, read_frames, transcode
from ffmpeg_gpu_build.media.damage import complaints
from ffmpeg_gpu_build.media.endings import unfinished

av = pytest.importorskip("av")
ENGINES = ("pipe", "av")
FILM = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=3"]
TONE = ["-f", "lavfi", "-i", "sine=duration=2"]
QUIET265 = ["-c:v", "libx265", "-x265-params", "log-level=none"]
FILMS = {
    "a.avi": ["-c:v", "mpeg4"],
    "two.avi": [*TONE, "-c:v", "mjpeg", "-c:a", "pcm_u8"],
    "a.ivf": ["-c:v", "libvpx"],
    "a.roq": ["-s", "128x128", "-r", "30", "-pix_fmt", "yuvj444p"],
    "a.mxf": ["-c:v", "mpeg2video"],
    "a.drc": ["-f", "dirac", "-c:v", "vc2"],
    "pieces.mp4": ["-c:v", "libx264", "-movflags", "frag_keyframe+empty_moov", "-g", "5"],
}
SOUNDS = {
    **{f"a.{end}": [] for end in ("wav", "aiff", "au", "caf", "w64", "voc", "mp3", "mp2")},
    "rf64.wav": ["-rf64", "always"],
    "plain.mp3": ["-write_xing", "0"],
    "slow.mp3": ["-ar", "22050"],
    "a.thd": ["-strict", "-2", "-c:a", "truehd"],
    "a.dts": ["-strict", "-2", "-c:a", "dca"],
    "a.flac": [],
    "a.tta": [],
    "a.wv": [],
}


@pytest.fixture(scope="module")
def make(ffmpeg, tmp_path_factory):
    """`make("a.avi")` is that clip of FILMS or SOUNDS, made once."""
    folder = tmp_path_factory.mktemp("endings")

    def one(name):
        if not (folder / name).exists():
            source = FILM if name in FILMS else TONE
            done = ffmpeg.run(*source, *{**FILMS, **SOUNDS}[name], str(folder / name))
            assert done.ok, done.err
        return folder / name

    return one


def read_all(path, engine="pipe"):
    sound = path.name in SOUNDS
    return list(read_audio(path) if sound else read_frames(path, size=(32, 32), engine=engine))


@pytest.mark.parametrize("name", [*FILMS, *SOUNDS])
def test_a_whole_file_is_whole_by_its_own_account(make, name):
    assert unfinished(make(name)) is None
    for engine in ENGINES if name in FILMS else ["pipe"]:
        assert read_all(make(name), engine)  # strict


@pytest.mark.parametrize("name", [n for n in (*FILMS, *SOUNDS) if n != "pieces.mp4"])
def test_a_file_that_ends_within_a_chunk_says_so(make, tmp_path, name):
    data, chance, cut = make(name).read_bytes(), random.Random(name), tmp_path / name
    told = name in ("a.flac", "a.tta", "a.wv")  # by what comes, not by where it ends
    if not told:
        where = [chance.randrange(len(data) // 4, len(data) - 8) for _ in range(24)]
        missed = 0
        for at in where:
            cut.write_bytes(data[:at])
            missed += unfinished(cut) is None
        assert missed <= (2 if name in ("plain.mp3", "a.mp2", "a.thd", "a.dts") else 0)
    cut.write_bytes(data[: len(data) * 57 // 100 | 1])
    for engine in ENGINES if name in FILMS else ["pipe"]:
        with pytest.raises(FfmpegError) as caught:
            read_all(cut, engine)
        assert caught.value.code == "damaged"


def _headers_of_avi(data):
    """Where the chunks of the first list of pictures begin."""
    at = data.index(b"movi") + 4
    while data[at + 2 : at + 4] in (b"dc", b"wb"):
        yield at
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + (length & 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["a.avi", "two.avi"])
def test_zeros_over_the_head_of_a_chunk_lose_no_frame_in_silence(make, tmp_path, name, engine):
    """FFmpeg's demuxer looks for the next chunk that it knows, without a word."""
    data = bytearray(make(name).read_bytes())
    at = list(_headers_of_avi(bytes(data)))[30]
    data[at - 200 : at + 200] = bytes(400)
    hurt = tmp_path / name
    hurt.write_bytes(data)
    with pytest.raises(FfmpegError, match="damaged or not whole") as caught:
        read_all(hurt, engine)
    assert caught.value.code == "damaged"
    with pytest.warns(DamageWarning, match="no chunk begins|damaged"):
        assert len(list(read_frames(hurt, strict=False, engine=engine))) >= 70
    with pytest.raises(FfmpegError, match="damaged or not whole"):
        transcode(hurt, tmp_path / "out.mkv", hw="cpu")


def test_a_chunk_that_lacks_its_even_byte_is_no_damage(make, tmp_path):
    """Some writers of AVI leave it out; FFmpeg's demuxer finds the next chunk all the same."""
    data = make("a.avi").read_bytes()
    begin = data.index(b"movi") + 4
    end = data.index(b"idx1")
    chunks, last = [], end
    for at in reversed(list(_headers_of_avi(data))):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.insert(0, data[at : at + 8 + length])
        last = at
    assert last == begin
    body = b"".join(chunks)
    bare = bytearray(data[:begin] + body + data[end:])
    for place, less in ((4, 8), (begin - 8, begin - 4)):
        bare[place : place + 4] = (
            (len(bare) - less) if place == 4 else (begin + len(body) - less)
        ).to_bytes(4, "little")
    (tmp_path / "a.avi").write_bytes(bare)
    assert unfinished(tmp_path / "a.avi") is None


@pytest.mark.parametrize("engine", ENGINES)
def test_a_hole_over_the_head_of_a_fragment_does_not_end_the_film(make, tmp_path, engine):
    data = bytearray(make("pieces.mp4").read_bytes())
    at = [i for i in range(len(data) - 4) if data[i : i + 4] == b"moof"][5] - 4
    data[at : at + 8] = bytes(8)
    hurt = tmp_path / "pieces.mp4"
    hurt.write_bytes(data)
    with pytest.raises(FfmpegError, match="no box begins at byte"):
        read_all(hurt, engine)
    hurt.write_bytes(data[: at + 3] if data[at : at + 3].strip(b"\0") else data[:at] + b"\0\0\x02")
    with pytest.raises(FfmpegError, match="within the head of a box"):
        read_all(hurt, engine)


@pytest.mark.parametrize(
    ("name", "size"), [("live.wav", 0xFFFFFFFF), ("sox.wav", 0x7FFFF024), ("pipe.wav", 0)]
)
def test_sound_from_a_pipe_does_not_know_its_size(make, tmp_path, name, size):
    data = bytearray(make("a.wav").read_bytes())
    data[4:8] = size.to_bytes(4, "little")
    at = data.index(b"data") + 4
    data[at : at + 4] = (size and size - 36 if size < 1 << 31 else size).to_bytes(4, "little")
    (tmp_path / name).write_bytes(data)
    assert unfinished(tmp_path / name) is None


def test_the_facts_of_an_flv_say_its_size(ffmpeg, tmp_path):
    clip, cut = tmp_path / "a.flv", tmp_path / "cut.flv"
    assert ffmpeg.run(*FILM, "-c:v", "flv1", str(clip)).ok
    data = clip.read_bytes()
    assert unfinished(clip) is None
    last = len(data) - 4 - int.from_bytes(data[-4:], "big")
    cut.write_bytes(data[:last])  # between two tags
    assert f"says {len(data)} bytes, {last} are there" in unfinished(cut)


def test_an_end_that_an_old_demuxer_calls_an_error_of_reading_is_none(make, tmp_path):
    """FFmpeg 5.1 ends every RoQ so. Where not all was read it stays an error."""
    film = tmp_path / "a.roq"
    film.write_bytes(bytes(1000))
    said = "[AVIOContext @ 0x5] [verbose] Statistics: {} bytes read, 0 seeks\n"
    line = "[error] file:/a.roq: Input/output error\n"
    assert complaints(line + said.format(1000), film) == []
    assert complaints(line + said.format(900), film) == [line.strip()]
    assert complaints(line, film) == [line.strip()]


@pytest.mark.parametrize("name", ["a.flac", "a.dts", "a.thd"])
def test_a_hole_in_sound_is_found_by_what_is_missing(make, tmp_path, name):
    data = bytearray(make(name).read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 4] = bytes(len(data) // 4)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FfmpegError, match="damaged or not whole"):
        read_all(tmp_path / name)


@pytest.mark.parametrize("name", ["a.flac", "a.wv"])
def test_sound_that_ends_between_two_frames_is_held_against_its_header(make, tmp_path, name):
    whole = list(read_audio(make(name)))
    count = sum(map(len, whole))
    data = bytearray(make(name).read_bytes())
    more = count + 10_000
    if name == "a.flac":
        data[21:26] = ((data[21] >> 4 << 36) + more).to_bytes(5, "big")
    else:
        data[12:16] = more.to_bytes(4, "little")
    longer = tmp_path / name
    longer.write_bytes(data)
    for wish in ({}, {"start": 0.5}, {"rate": 16000}):
        with pytest.raises(FfmpegError, match="damaged or not whole"):
            list(read_audio(longer, **wish))
        assert list(read_audio(make(name), **wish))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("codec", ["av1", "cineform", "hevc"])
def test_a_cut_film_of_any_codec_is_damaged_and_not_without_a_decoder(
    ffmpeg, tmp_path, codec, engine
):
    made = {
        "av1": ("a.mp4", ["-c:v", "libsvtav1", "-preset", "10"], "libsvtav1"),
        "cineform": ("a.mov", ["-s", "128x96", "-c:v", "cfhd"], "cfhd"),
        "hevc": ("a.mp4", QUIET265, "libx265"),
    }
    name, arguments, encoder = made[codec]
    if encoder not in ffmpeg.encoders:
        pytest.skip(f"this ffmpeg has no {encoder}")
    clip, cut = tmp_path / name, tmp_path / f"cut-{name}"
    film = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.6"]
    done = ffmpeg.run(*film, *arguments, "-movflags", "+faststart", str(clip))
    assert done.ok, done.err
    data = clip.read_bytes()
    moov, mdat = data.index(b"moov"), data.index(b"mdat")
    stsd = data.index(b"stsd")
    for at in (moov + 100, stsd - 4, stsd + 20, stsd + 60, mdat - 10, mdat + 9, mdat + 200):
        cut.write_bytes(data[:at])
        for ask in (lambda: list(read_frames(cut, engine=engine)), lambda: Video(cut)[0]):
            with pytest.raises(FfmpegError) as caught:
                ask()
            assert caught.value.code == "damaged", str(caught.value)


@pytest.mark.parametrize("part", [0.5, 0.999])
@pytest.mark.parametrize("name", ["av1.mp4", "hevc.mp4", "h264.mp4"])
def test_both_engines_give_all_frames_of_a_damaged_film(ffmpeg, tmp_path, name, part):
    """A decoder of several threads loses those that were under way when a packet is refused."""
    codecs = {
        "av1.mp4": ["-c:v", "libsvtav1", "-preset", "10"],
        "hevc.mp4": QUIET265,
        "h264.mp4": ["-c:v", "libx264"],
    }
    if codecs[name][1] not in ffmpeg.encoders:
        pytest.skip(f"this ffmpeg has no {codecs[name][1]}")
    if name == "av1.mp4" and int(ffmpeg.version.lstrip("n").split(".")[0]) > 8:
        pytest.skip("FFmpeg 9 gives more frames of a damaged AV1 than PyAV's FFmpeg 8")
    clip, cut = tmp_path / name, tmp_path / f"cut-{name}"
    done = ffmpeg.run(*FILM, *codecs[name], "-movflags", "+faststart", str(clip))
    assert done.ok, done.err
    data = clip.read_bytes()
    cut.write_bytes(data[: int(len(data) * part)])
    with pytest.warns(DamageWarning):
        here = list(read_frames(cut, pixels="gray", strict=False, engine="av"))
    with pytest.warns(DamageWarning):
        there = list(read_frames(cut, pixels="gray", strict=False))
    assert [frame.pts for frame in here] == [frame.pts for frame in there]
    same = sum(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    assert same >= len(here) - 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_new_size_is_noted_beside_other_notes(ffmpeg, tmp_path, engine):
    """A WebM whose transparency is left out, and whose picture grows."""
    parts = []
    for number, size in enumerate(("64x48", "96x64", "64x48", "128x96")):
        part = tmp_path / f"{number}.h264"
        film = f"testsrc2=size={size}:rate=25:duration=0.2"
        done = ffmpeg.run("-f", "lavfi", "-i", film, "-c:v", "libx264", "-bf", "0", str(part))
        assert done.ok, done.err
        parts.append(part.read_bytes())
    film = tmp_path / "a.h264"
    film.write_bytes(b"".join(parts))
    frames = read_frames(film, engine=engine)
    frames.notes.append("another note")
    assert len(list(frames)) == 20
    new = [note for note in frames.notes if "scaled to 64x48" in note]
    assert [note.split()[3] for note in new] == ["96x64", "128x96"]


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac"])
def test_a_start_beyond_the_end_of_the_sound_is_refused_as_that_of_pictures(make, name):
    for start in (2.5, 100, 10**6):
        with pytest.raises(ValueError, match="start must be within the sound, which ends at 2"):
            list(read_audio(make(name), start=start))
    assert sum(map(len, read_audio(make(name), start=1.9))) > 4000
