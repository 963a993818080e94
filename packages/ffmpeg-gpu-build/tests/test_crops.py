"""What a container cuts from its pictures, MP4's clean aperture and Matroska's PixelCrop."""

import struct

import numpy as np
import pytest

from ffmpeg_gpu_build import read_frames, transcode
from ffmpeg_gpu_build.media.crops import Crop, crop_of

FILM = ("-f", "lavfi", "-i", "testsrc2=s=160x96:r=5:d=1")
CROPS = [Crop(8, 12, 4, 20), Crop(3, 0, 0, 1)]


def with_clean_aperture(data, crop):
    """An MP4, whose tracks stand behind its pictures, with a box `clap` in its first track."""
    data, low, high, parents = bytearray(data), 0, len(data), []
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        while data[low + 4 : low + 8] != name:
            low += struct.unpack_from(">I", data, low)[0]
        assert low < high
        parents.append(low)
        low += 8 + {b"stsd": 8, b"avc1": 78}.get(name, 0)
    assert data.index(b"mdat") < parents[0]
    wide, high = 160 - crop.left - crop.right, 96 - crop.top - crop.bottom
    right, down = crop.left - crop.right, crop.top - crop.bottom
    clap = struct.pack(">I4s8i", 40, b"clap", wide, 1, high, 1, right, 2, down, 2)
    for at in parents:
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + 40)
    end = parents[-1] + struct.unpack_from(">I", data, parents[-1])[0] - 40
    return bytes(data[:end]) + clap + bytes(data[end:])


def element(identifier, content):
    length = (identifier.bit_length() + 7) // 8
    return (
        identifier.to_bytes(length, "big") + (len(content) | 1 << 56).to_bytes(8, "big") + content
    )


def with_pixel_crop(data, crop):
    """A Matroska file whose tracks have PixelCrop; without its index, whose places are moved."""
    from ffmpeg_gpu_build.media.crops import _elements

    def again(data, path):
        made = b""
        for name, content in _elements(data):
            if name in (0x114D9B74, 0x1C53BB6B, 0xEC):
                continue
            if path and name == path[0]:
                content = again(content, path[1:])
            if not path[1:] and path and name == path[0]:
                sides = (crop.left, crop.right, crop.top, crop.bottom)
                names = (0x54CC, 0x54DD, 0x54BB, 0x54AA)
                for side, value in zip(names, sides, strict=True):
                    content += element(side, bytes([value]))
            made += element(name, content)
        return made

    return again(data, (0x18538067, 0x1654AE6B, 0xAE, 0xE0))


@pytest.fixture(scope="module", params=["a.mp4", "a.mkv"])
def plain(request, ffmpeg, tmp_path_factory):
    clip = tmp_path_factory.mktemp("crops") / request.param
    assert ffmpeg.run(*FILM, "-c:v", "libx264", "-g", "3", str(clip)).ok
    return clip


@pytest.fixture(params=CROPS, ids=str)
def cropped(request, plain, tmp_path):
    make = with_clean_aperture if plain.suffix == ".mp4" else with_pixel_crop
    clip = tmp_path / plain.name
    clip.write_bytes(make(plain.read_bytes(), request.param))
    return clip, request.param


def test_the_container_says_what_it_cuts(plain, cropped):
    assert crop_of(plain, 0) is None
    assert crop_of(*cropped[:1], 0) == cropped[1]
    assert crop_of(*cropped[:1], 1) is None


def test_pictures_are_cut_by_pyav_as_by_the_program_from_7_1_on(plain, cropped):
    pytest.importorskip("av")
    program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    clip, crop = cropped
    whole = list(read_frames(plain, engine="av", pixels="gray"))
    for wish in ({"engine": "av"}, {"ffmpeg": program}, {"engine": "av", "start": 0.4}):
        frames = list(read_frames(clip, pixels="gray", **wish))
        for frame, full in zip(frames, whole[5 - len(frames) :], strict=True):
            cut = full[crop.top : 96 - crop.bottom, crop.left : 160 - crop.right]
            assert np.array_equal(frame, cut)
    by_bytes = next(read_frames(clip.read_bytes(), engine="av"))
    assert by_bytes.shape == (96 - crop.top - crop.bottom, 160 - crop.left - crop.right, 3)


def test_a_program_that_does_not_cut_is_noted(ffmpeg, cropped, tmp_path):
    clip, crop = cropped
    reading = read_frames(clip)
    shape = next(reading).shape
    made = transcode(clip, tmp_path / "made.mp4", hw="cpu")
    if shape == (96, 160, 3):
        assert any(f"the container cuts {crop}" in note for note in reading.notes)
        assert any(f"the container cuts {crop}" in note for note in made.notes)
    else:
        assert shape == (96 - crop.top - crop.bottom, 160 - crop.left - crop.right, 3)
        assert reading.notes == []
        assert not any("cuts" in note for note in made.notes)


def test_bytes_that_are_cut_are_damaged_as_a_file_is(ffmpeg, tmp_path):
    from ffmpeg_gpu_build import FfmpegError

    clip = tmp_path / "a.gif"
    assert ffmpeg.run(*FILM, str(clip)).ok
    data = clip.read_bytes()
    assert len(list(read_frames(data))) == 5
    with pytest.raises(FfmpegError, match="end mark"):
        list(read_frames(data[:-1]))


def test_a_head_that_ends_anywhere_has_no_crop(cropped, tmp_path):
    short, data = tmp_path / f"short{cropped[0].suffix}", cropped[0].read_bytes()
    for size in range(0, 400, 3):
        short.write_bytes(data[:size])
        assert crop_of(short, 0) in (None, cropped[1])


def box(name, content):
    return struct.pack(">I4s", 8 + len(content), name) + content


def moov_of(wide, right=0):
    """The tracks of an MP4 whose pictures of 160x96 have a clean aperture."""
    clap = box(b"clap", struct.pack(">8i", wide, 1, 96, 1, right, 1, 0, 1))
    entry = box(b"avc1", bytes(24) + struct.pack(">2H", 160, 96) + bytes(50) + clap)
    stbl = box(b"stbl", box(b"stsd", bytes(8) + entry))
    hdlr = box(b"hdlr", bytes(8) + b"vide" + bytes(12))
    return box(b"trak", box(b"mdia", hdlr + box(b"minf", stbl)))


def test_a_size_that_no_box_can_have_ends_the_search(tmp_path):
    clip, ftyp, moov = tmp_path / "a.mp4", box(b"ftyp", b"isom" + bytes(4)), moov_of(140)
    long = struct.pack(">I4sQ", 1, b"moov", 16 + len(moov))
    short = (struct.pack(">I4s", size, b"moov") for size in (8 + len(moov), 0))
    for head in (*short, long):
        clip.write_bytes(ftyp + head + moov)
        assert crop_of(clip, 0) == Crop(10, 10, 0, 0)
    for head in (
        *(struct.pack(">I4s", size, b"moov") for size in range(1, 8)),
        *(struct.pack(">I4sQ", 1, b"moov", size) for size in (0, 8, 15, 1 << 40, (1 << 64) - 1)),
        *(struct.pack(">I4sQ", 1, b"free", size) for size in (1 << 62, (1 << 64) - 1)),
    ):
        clip.write_bytes(ftyp + head + moov)
        assert crop_of(clip, 0) is None
    for wide, right in ((0, 0), (-100, 0), (140, 11)):  # nothing is left, or it lies outside
        clip.write_bytes(ftyp + box(b"moov", moov_of(wide, right)))
        assert crop_of(clip, 0) is None


@pytest.mark.parametrize(("left", "found"), [(b"\0\7", Crop(7, 0, 0, 0)), (b"\7" * 5000, None)])
def test_a_number_of_matroska_has_eight_bytes_at_most(tmp_path, left, found):
    entry = element(0x83, b"\0\1") + element(0xE0, element(0x54CC, left))
    clip = tmp_path / "a.mkv"
    clip.write_bytes(
        element(0x1A45DFA3, b"") + element(0x18538067, element(0x1654AE6B, element(0xAE, entry)))
    )
    assert crop_of(clip, 0) == found
