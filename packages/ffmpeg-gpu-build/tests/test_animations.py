"""Animated pictures out and in, and HDR brought to SDR."""

import io

import numpy as np
import pytest
from PIL import Image

from ffmpeg_gpu_build import FfmpegError, Video, probe, read_frames, transcode, write_frames
from ffmpeg_gpu_build.ffmpeg import Ffmpeg


@pytest.fixture(scope="module")
def program():
    """One that writes all three: the program of imageio-ffmpeg."""
    return Ffmpeg.at(pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe())


def moving(count=8, alpha=False):
    """A square that moves over four flat colours."""
    for index in range(count):
        frame = np.zeros((48, 64, 4 if alpha else 3), np.uint8)
        frame[:24, :, 0], frame[24:, :, 1], frame[:, 32:, 2] = 200, 180, 160
        frame[10:20, 4 * index : 4 * index + 10] = 255
        if alpha:
            frame[:, :, 3] = 255
            frame[28:40, 20:40, 3] = 0
        yield frame


@pytest.mark.parametrize(("name", "worst"), [("a.gif", 3), ("a.apng", 0), ("a.webp", 12)])
def test_frames_become_an_animated_picture_as_pillow_reads_it(tmp_path, program, name, worst):
    assert write_frames(tmp_path / name, moving(), fps=10, quality=2, ffmpeg=program) == 8
    data = (tmp_path / name).read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.n_frames == 8
        for index, frame in enumerate(moving()):
            picture.seek(index)
            got = np.asarray(picture.convert("RGB")).astype(int)
            assert np.abs(got - frame).mean() <= worst
        assert picture.info.get("duration", 100) == 100
    back = list(read_frames(tmp_path / name, ffmpeg=program))
    assert len(back) == 8
    assert np.abs(back[5].astype(int) - list(moving())[5]).mean() <= worst


def test_transparency_stays_in_what_can_hold_it(tmp_path, program):
    for name in ("a.apng", "a.webp", "a.gif"):
        write_frames(tmp_path / name, moving(3, alpha=True), ffmpeg=program)
        with Image.open(tmp_path / name) as picture:
            alpha = np.asarray(picture.convert("RGBA"))[:, :, 3]
        assert alpha[:26].min() == 255
        assert alpha[30:38, 22:38].max() == 0
    with pytest.raises(ValueError, match=r"\(H, W, 3\) or \(H, W\)"):
        write_frames(tmp_path / "a.mp4", moving(3, alpha=True), ffmpeg=program)


def test_a_film_becomes_a_gif_without_its_sound(tmp_path, program):
    film = tmp_path / "a.mkv"
    done = program.run(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=1", "-f", "lavfi", "-i", "sine=d=1", str(film)
    )
    assert done.ok, done.err
    made = transcode(film, tmp_path / "a.gif", size=(32, 24), ffmpeg=program)
    assert made.frames == 10
    assert "sound is left out" in made.notes
    with Image.open(tmp_path / "a.gif") as picture:
        assert (picture.size, picture.n_frames) == ((32, 24), 10)
    with pytest.raises(ValueError, match="hw='cpu'"):
        transcode(film, tmp_path / "b.gif", hw="cuda", ffmpeg=program)


def test_an_ffmpeg_that_cannot_write_it_says_so(tmp_path, program):
    lacking = Ffmpeg(program.path)
    lacking.encoders = frozenset({"libx264"})
    with pytest.raises(FfmpegError, match="no gif encoder") as caught:
        write_frames(tmp_path / "a.gif", moving(), ffmpeg=lacking)
    assert caught.value.code == "not-built-in"


@pytest.fixture(scope="module")
def pq(program, tmp_path_factory):
    """(a film, the same in PQ and BT.2020 with white at 100 cd/m2)."""
    if not {"zscale", "tonemap"} <= program.filters or "libx265" not in program.encoders:
        pytest.skip("this ffmpeg has no zscale or no libx265")
    folder = tmp_path_factory.mktemp("hdr")
    plain = "smptebars=s=128x72:r=10:d=1,format=yuv420p,setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"  # noqa: E501
    up = "zscale=transfer=linear:npl=100,format=gbrpf32le,zscale=primaries=2020,zscale=transfer=smpte2084:matrix=2020_ncl:range=tv,format=yuv420p10le"  # noqa: E501
    for name, chain, codec in (
        ("sdr.mkv", plain, "libx264"),
        ("pq.mkv", f"{plain},{up}", "libx265"),
    ):
        done = program.run(
            "-f", "lavfi", "-i", chain, "-c:v", codec, "-crf", "8", str(folder / name)
        )
        assert done.ok, done.err
    return folder / "sdr.mkv", folder / "pq.mkv"


def test_hdr_becomes_sdr_on_request_and_is_noted_otherwise(pq, program, tmp_path):
    sdr, film = pq
    assert probe(film, ffmpeg=program).video.transfer == "smpte2084"
    made = transcode(film, tmp_path / "a.mkv", hdr="sdr", hw="cpu", ffmpeg=program)
    assert any("tone-mapped to BT.709" in note for note in made.notes)
    assert not any("washed out" in note for note in made.notes)
    kept = transcode(film, tmp_path / "b.mkv", hw="cpu", ffmpeg=program)
    assert any("--hdr sdr" in note for note in kept.notes)
    assert probe(tmp_path / "a.mkv", ffmpeg=program).video.transfer == "bt709"

    def gap(name):
        pairs = zip(
            read_frames(name, ffmpeg=program), read_frames(sdr, ffmpeg=program), strict=True
        )
        return np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairs])

    assert gap(tmp_path / "a.mkv") < 25 < gap(tmp_path / "b.mkv")
    with pytest.raises(ValueError, match="hdr must be keep or sdr"):
        transcode(film, tmp_path / "c.mkv", hdr="yes", ffmpeg=program)


def test_frames_of_hdr_are_toned_down_on_request(pq, program):
    sdr, film = pq
    for pixels, top in (("rgb", 255), ("rgb16", 65535)):
        wish = {"pixels": pixels, "ffmpeg": program}

        def gap(pixels=pixels, top=top, wish=wish, **more):
            pairs = zip(read_frames(film, **wish, **more), read_frames(sdr, **wish), strict=True)
            return np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs]) * 255 / top

        assert gap(hdr="sdr") < 25 < gap()
    assert np.array_equal(
        next(read_frames(sdr, hdr="sdr", ffmpeg=program)), next(read_frames(sdr, ffmpeg=program))
    )
    whole = list(read_frames(film, hdr="sdr", ffmpeg=program))
    with Video(film, hdr="sdr", ffmpeg=program) as video:
        assert np.array_equal(video[7], whole[7])
    with pytest.raises(ValueError, match="read_frames: hdr must be keep or sdr"):
        read_frames(film, hdr="yes", ffmpeg=program)


def test_pyav_without_the_filters_of_hdr_says_so(pq, program, monkeypatch):
    pytest.importorskip("av")
    from ffmpeg_gpu_build.media import frames

    monkeypatch.setattr(frames, "av_filters", lambda: {"tonemap"})
    with pytest.raises(FfmpegError, match="PyAV's has no zscale") as caught:
        next(read_frames(pq[1], hdr="sdr", engine="av", ffmpeg=program))
    assert caught.value.code == "not-built-in"
