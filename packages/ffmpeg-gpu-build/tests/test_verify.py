"""Verdicts on the ffmpeg of the machine: OpenCL proven through PoCL, Vulkan judged by pixels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ffmpeg_gpu_build.build import binary, description
from ffmpeg_gpu_build.ffmpeg import Ffmpeg, FfmpegError
from ffmpeg_gpu_build.verification import audio_checks, checks, pixels
from ffmpeg_gpu_build.verification.checks import Machine, check_encoder, check_filter
from ffmpeg_gpu_build.verification.filter_checks import CHECKS, FilterCheck, graph_value
from ffmpeg_gpu_build.verification.judge import SOFTWARE, paths_of, verify
from ffmpeg_gpu_build.verification.report import page, text
from ffmpeg_gpu_build.verification.verdict import Verdict, exit_code

EXACT = (
    "program_opencl",
    "transpose_opencl",
    "overlay_opencl",
    "dilation_opencl",
    "erosion_opencl",
)


@pytest.fixture(scope="module")
def machine(ffmpeg):
    return Machine(ffmpeg, {}, {})


def test_opencl_filters_are_proven_by_pixels(opencl):
    got = {v.path.removeprefix("filter."): v for v in opencl.verdicts}
    for name in (n for n in CHECKS if n.endswith("_opencl")):
        assert got[name].status == "proven", got[name]
        assert got[name].measured["mean"] <= CHECKS[name].mean
    for name in EXACT:
        assert got[name].measured["max"] == 0


def test_a_kernel_is_found_in_any_folder(opencl, machine, monkeypatch, tmp_path):
    folder = tmp_path / "it's [a]; b,c:d\\e = 'f'"
    folder.mkdir()
    kernel = folder / "mirror.cl"
    kernel.write_bytes((description.DATA / "mirror.cl").read_bytes())
    graph = f"program_opencl=source={graph_value(kernel)}:kernel=mirror"
    monkeypatch.setitem(CHECKS, "program_opencl", FilterCheck(graph, "hflip"))
    assert check_filter(machine, "program_opencl").status == "proven"


def test_a_filter_without_a_twin_is_not_tried_and_not_called_proven(opencl):
    got = {v.path: v for v in opencl.verdicts}
    assert got["filter.remap_opencl"].status == "not tried"


def test_the_software_encoder_keeps_every_frame(machine):
    verdict = check_encoder(machine, "libx264")
    assert verdict.status == "proven"
    assert verdict.measured["frames"] == checks.ENCODE_FRAMES
    assert verdict.measured["psnr"] > 35


@pytest.mark.parametrize("name", ["libopus", "libmp3lame"])
def test_an_audio_encoder_keeps_both_tones(machine, name):
    if name not in machine.ffmpeg.encoders:
        pytest.skip(f"this ffmpeg has no {name}")
    verdict = audio_checks.check_audio_encoder(machine, name)
    assert verdict.status == "proven", verdict
    assert verdict.measured["snr"] > 30


def test_audio_encoders_are_judged_with_the_parts_that_small_has(machine, monkeypatch):
    names = {(p.kind, p.name) for p in description.resolve("small", add=["opus"]).parts}
    calls, real = [], Ffmpeg.run
    monkeypatch.setattr(Ffmpeg, "run", lambda self, *a, **k: calls.append(a) or real(self, *a, **k))
    assert audio_checks.check_audio_encoder(machine, "libopus").status == "proven"
    endings = {".mkv": "matroska", ".wav": "wav"}
    for call in calls:
        read, written = call[call.index("-i") + 1], call[-1]
        assert ("demuxer", endings[read[-4:]]) in names
        assert ("muxer", endings[written[-4:]]) in names
        formats = {call[i + 1] for i, text in enumerate(call) if text == "-f"}
        assert formats <= {"wav"}
        codecs = {call[i + 1] for i, text in enumerate(call) if text == "-c:a"}
        assert {("encoder", codec) for codec in codecs} <= names
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda s: s[:, ::-1], "wrong-sound"),
        (lambda s: s * [1, 0], "wrong-sound"),
        (lambda s: np.clip(s * 9, -32768, 32767), "wrong-sound"),
        (lambda s: s[::2], "wrong-count"),
    ],
    ids=["channels exchanged", "one channel silent", "clipped", "half of it lost"],
)
def test_sound_that_is_not_what_went_in_is_broken(machine, monkeypatch, spoil, code):
    sound = np.frombuffer(audio_checks.tones(), "<i2").reshape(-1, 2)
    spoiled = spoil(sound.astype(int)).astype("<i2").tobytes()
    monkeypatch.setattr(audio_checks, "tones", lambda: spoiled)
    verdict = audio_checks.check_audio_encoder(machine, "libopus")
    assert (verdict.status, verdict.code) == ("broken", code)


def test_a_software_decoder_is_held_to_the_same_frames(machine, monkeypatch):
    if "libdav1d" not in machine.ffmpeg.decoders:
        pytest.skip("this ffmpeg has no libdav1d")
    assert checks.check_decoder(machine, "libdav1d").status == "proven"
    assert checks.check_decoder(machine, "libdav1d").measured == {"av1": "equal"}
    monkeypatch.setattr(checks, "DECODERS", {"libdav1d": "vp9"})
    assert checks.check_decoder(machine, "libdav1d").status == "broken"


def test_verify_knows_how_to_judge_all_that_any_component_brings():
    everything = description.resolve("full", add=description.components())
    judged = {f"encode.{name}" for name in SOFTWARE} | {f"decode.{n}" for n in checks.DECODERS}
    rest = set(everything.verification()) - judged
    assert {p for p in rest if not p.endswith(description.DEVICE_SUFFIXES)} == set()


@pytest.mark.parametrize("clip", list(checks.clips()))
def test_our_clips_decode_to_the_frames_that_are_written_down(ffmpeg, clip):
    import hashlib

    fact = checks.clips()[clip]
    done = ffmpeg.run(
        "-i", str(checks.CLIPS / f"{clip}.mkv"), "-f", "rawvideo", "-pix_fmt", fact["pixels"], "-"
    )
    deep = 2 if fact["pixels"].endswith("10le") else 1
    assert len(done.out) == fact["frames"] * deep * pixels.frame_bytes(320, 180)
    if fact.get("exact", True):
        assert hashlib.md5(done.out, usedforsecurity=False).hexdigest() == fact["md5"]


@pytest.mark.parametrize("name", [n for n in CHECKS if n != "hwupload_cuda"])
def test_a_filter_that_does_nothing_would_not_pass(machine, name):
    check = CHECKS[name]
    done = checks._run_filter(machine, check, None)
    if not done.ok:
        pytest.skip(f"this ffmpeg has no {check.cpu}")
    # as many frames as went in: the defaults of a GPU filter and its twin may differ (bwdif)
    assert len(done.out) == pixels.FRAMES * pixels.frame_bytes(*check.size)
    source = checks.source(pixels.FRAMES)
    if len(done.out) != len(source):
        return  # another size: an untouched picture is refused at once
    assert pixels.compare(done.out, source).mean > max(0.5, 1.9 * check.mean)


def test_wrong_pixels_with_exit_code_zero_are_broken(opencl, machine, monkeypatch):
    wrong = FilterCheck("transpose_opencl=dir=clock", "transpose=dir=cclock", size=(180, 320))
    monkeypatch.setitem(CHECKS, "transpose_opencl", wrong)
    verdict = check_filter(machine, "transpose_opencl")
    assert (verdict.status, verdict.code) == ("broken", "wrong-pixels")
    assert verdict.measured["mean"] > 5


def test_a_picture_that_is_one_pixel_aside_is_named():
    frames = np.frombuffer(checks.source(1), np.uint8)[: 320 * 180].reshape(180, 320)
    moved = np.roll(frames, 1, axis=1).tobytes()
    assert checks._shift(moved, frames.tobytes(), (320, 180)) == "1 right"
    assert (
        checks._shift(np.roll(frames, 1, axis=0).tobytes(), frames.tobytes(), (320, 180))
        == "1 down"
    )
    assert checks._shift(frames[::-1].tobytes(), frames.tobytes(), (320, 180)) is None


def test_a_picture_of_another_size_is_broken(opencl, machine, monkeypatch):
    wrong = FilterCheck("pad_opencl=w=352:h=200", "null")
    monkeypatch.setitem(CHECKS, "pad_opencl", wrong)
    assert check_filter(machine, "pad_opencl").code == "wrong-size"


def test_a_part_that_was_asked_for_and_is_not_there_is_broken(ffmpeg):
    report = verify(ffmpeg, only=["filter.no_such_cuda"], expected=["filter.no_such_cuda"])
    assert [(v.status, v.code) for v in report.verdicts] == [("broken", "dropped")]
    assert report.exit_code == 1


def test_a_part_that_is_there_and_can_not_be_judged_is_not_called_dropped(ffmpeg, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(
        "components = ['base']\n[parts]\ndecoder = ['libvpx_vp9']\nencoder = ['libvorbis']\n"
    )
    expected = description.resolve(own).verification()
    assert set(expected) == {"decode.libvpx-vp9", "encode.libvorbis"}
    if "libvpx-vp9" not in ffmpeg.decoders or "libvorbis" not in ffmpeg.encoders:
        pytest.skip("this ffmpeg has no libvpx or no libvorbis")
    report = verify(ffmpeg, only=expected, expected=expected)
    assert {(v.status, v.code) for v in report.verdicts} == {("not tried", "no-judge")}
    assert report.exit_code == 0


def test_a_hwaccel_that_no_clip_shows_is_not_called_dropped(ffmpeg):
    """The distribution's ffmpeg has VP8 on NVDEC, and no VP8 that any of our clips holds."""
    asked = ["decode.vp8_nvdec", "decode.nosuch_nvdec"]
    report = verify(ffmpeg, only=asked, expected=asked)
    assert [v.code for v in report.verdicts] == ["no-judge", "dropped"]


@pytest.mark.parametrize(
    ("decoders", "verdict"),
    [(None, ("broken", "undecodable")), (frozenset(), ("not tried", "no-cpu-decoder"))],
    ids=["its decoder is there", "it has no decoder"],
)
@pytest.mark.parametrize("name", ["libx264", "libopus"])
def test_what_was_encoded_and_is_not_decoded_is_broken(
    ffmpeg, monkeypatch, name, decoders, verdict
):
    """The clip is spoiled behind the encoder's back."""
    real = Ffmpeg.run

    def run(self, *arguments, **options):
        done = real(self, *arguments, **options)
        written = Path(str(arguments[-1]).removeprefix("file:"))
        if written.name == "clip.mkv":
            written.write_bytes(b"no clip")
        return done

    program = Ffmpeg(ffmpeg.path, ffmpeg.env)
    if decoders is not None:
        program.__dict__["decoders"] = decoders
    monkeypatch.setattr(Ffmpeg, "run", run)
    judge = audio_checks.check_audio_encoder if name == "libopus" else check_encoder
    found = judge(Machine(program, {}, {}), name)
    assert (found.status, found.code) == verdict


def test_all_paths_of_this_ffmpeg_are_listed_once(ffmpeg):
    paths = paths_of(ffmpeg)
    assert len(paths) == len(set(paths)) > 60
    expected = {"device.opencl", "encode.libx264", "encode.h264_nvenc", "decode.h264_nvdec"}
    assert expected | {"decode.h264_cuvid", "filter.scale_cuda"} <= set(paths)


def test_a_decoder_is_found_wherever_the_linker_put_its_name(ffmpeg, tmp_path, monkeypatch):
    library = tmp_path / "libavcodec.so"
    library.write_bytes(b"\x7fELF\xd5\xffav1_nvdec\0h264_nvdec\0mjpeg_nvdec\0")
    monkeypatch.setattr(binary, "libraries", lambda *_: {"libavcodec": library})
    found = [p for p in paths_of(ffmpeg) if p.endswith("_nvdec")]
    assert found == ["decode.h264_nvdec", "decode.av1_nvdec", "decode.mjpeg_nvdec"]


def test_exit_codes_tell_broken_from_missing():
    good = Verdict("filter.a", "proven", "pixels", "")
    gone, bad = replace(good, path="encode.b", status="absent"), replace(good, status="broken")
    assert exit_code([good, gone]) == 0
    assert exit_code([good, gone], ["filter.a"]) == 0
    assert exit_code([good, gone], ["encode.*"]) == 3
    assert exit_code([good], ["filter.typo"]) == 3
    assert exit_code([bad, gone], ["encode.b"]) == 1


def test_the_reports_carry_every_verdict_and_escape_it(opencl):
    evil = Verdict("filter.<script>", "broken", "x", "<b>&", measured={"a": "<i>"})
    report = replace(opencl, verdicts=(*opencl.verdicts, evil))
    html = page(report)
    assert "<script>" not in html
    assert "&lt;b&gt;&amp;" in html
    assert html.count("<tr class=") == len(report.verdicts)
    table = text(report)
    assert all(v.path in table for v in report.verdicts)
    assert "1 broken" in table
    assert json.loads(json.dumps(report.as_dict()))["counts"]["broken"] == 1


def test_a_program_that_is_not_there_or_does_not_start_is_an_error(tmp_path):
    with pytest.raises(FfmpegError, match="no ffmpeg at"):
        Ffmpeg.at(tmp_path)
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\necho 'libx.so: cannot open' >&2; exit 127\n")
    broken.chmod(0o755)
    with pytest.raises(FfmpegError, match=r"does not start: libx\.so"):
        verify(broken)


def test_the_pattern_uses_the_range_and_moves():
    clip = pixels.pattern(3)
    assert np.unique(clip).size > 180
    assert np.abs(clip[0].astype(int) - clip[2]).mean() > 2
    flat = pixels.compare(bytes(10), bytes(10))
    assert (flat.mean, flat.max, flat.distinct) == (0.0, 0, 1)
    with pytest.raises(ValueError, match="one size"):
        pixels.compare(b"a", b"ab")
