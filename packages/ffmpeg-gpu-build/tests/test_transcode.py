"""Transcoding: exact in frames, explicit about where it ran, whole or not there at all."""

import os
import shutil
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from ffmpeg_gpu_build import (
    Cancelled,
    FfmpegError,
    HardwareError,
    probe,
    read_frames,
    transcode,
    transcode_folder,
)
from ffmpeg_gpu_build.ffmpeg import Ffmpeg
from ffmpeg_gpu_build.media import frames, session
from ffmpeg_gpu_build.media import probing as media
from ffmpeg_gpu_build.media.frames import _decoding
from ffmpeg_gpu_build.media.pipeline import covered, plan_pipeline, proof
from ffmpeg_gpu_build.verification import checks
from ffmpeg_gpu_build.verification.verdict import Verdict

NASTY = ["-i.mp4", "a\nb.mp4", "a b;$(touch x)'\"&|.mp4", "http:x.mp4", "%03d.mp4", "ü.mp4"]


@pytest.fixture(scope="module")
def clip(ffmpeg, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    done = ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=320x180:r=30:d=2", "-f", "lavfi", "-i", "sine=d=2",
        "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", str(path),
    )  # fmt: skip
    assert done.ok, done.err
    return path


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".part-")]


def count(path: Path) -> int:
    return sum(1 for _ in read_frames(path, size=(64, 36), pixels="gray"))


def test_every_frame_arrives_and_the_result_says_where_it_ran(clip, tmp_path):
    seen = []
    done = transcode(clip, tmp_path / "out.mkv", hw="cpu", size=(160, 90), progress=seen.append)
    assert done.frames == 60 == count(tmp_path / "out.mkv")
    assert seen[-1].fraction == 1.0
    assert (done.pipeline.decode, done.pipeline.encode, done.pipeline.encoder) == (
        "cpu", "cpu", "libx264",
    )  # fmt: skip
    media = probe(tmp_path / "out.mkv")
    assert media.video.size == (160, 90)
    assert media.video.rate == Fraction(30)
    assert media.audio == ("aac",)


def test_auto_without_a_gpu_says_why_it_ran_on_the_cpu(clip, tmp_path):
    done = transcode(clip, tmp_path / "out.mp4", quality=40)
    assert done.frames == 60
    assert "no NVIDIA driver" in " ".join(done.notes)


def test_asking_for_cuda_without_a_driver_is_an_error_and_leaves_nothing(clip, tmp_path):
    with pytest.raises(HardwareError, match=r"no NVIDIA driver.*hw='auto'") as caught:
        transcode(clip, tmp_path / "out.mp4", hw="cuda")
    assert caught.value.code == "no-driver"
    assert list(tmp_path.iterdir()) == []


def test_opencl_filters_run_in_the_middle(opencl, clip, tmp_path):
    done = transcode(clip, tmp_path / "out.mp4", hw="opencl", filters="transpose_opencl=dir=clock")
    assert done.pipeline.filter == "opencl"
    assert probe(tmp_path / "out.mp4").video.size == (180, 320)
    with pytest.raises(ValueError, match="needs filters"):
        transcode(clip, tmp_path / "other.mp4", hw="opencl")


@pytest.mark.parametrize("name", NASTY)
def test_file_names_are_only_names(clip, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / name
    os.link(clip, source) if clip.stat().st_dev == tmp_path.stat().st_dev else source.write_bytes(
        clip.read_bytes()
    )
    done = transcode(name, "out" + name, hw="cpu", quality=45, size=(64, 36))
    assert done.frames == 60
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "out" + name])


def test_an_existing_file_is_kept_unless_told_otherwise(clip, tmp_path):
    target = tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="overwrite"):
        transcode(clip, target, hw="cpu")
    assert target.read_bytes() == b"precious"
    transcode(clip, target, hw="cpu", overwrite=True, size=(64, 36))
    assert count(target) == 60


def test_a_bitrate_may_be_a_part_of_a_million(clip, tmp_path):
    done = transcode(clip, tmp_path / "out.mp4", hw="cpu", bitrate="0.5M", size=(64, 36))
    assert done.command[done.command.index("-b:v") + 1] == "0.5M"


def test_a_file_is_never_replaced_by_its_own_transcode(clip, tmp_path):
    source = tmp_path / "a.mp4"
    shutil.copy(clip, source)
    (tmp_path / "b.mp4").symlink_to(source)
    before = source.read_bytes()
    for target in (source, tmp_path / "b.mp4"):
        with pytest.raises(ValueError, match="another file than src"):
            transcode(source, target, hw="cpu", overwrite=True)
    assert source.read_bytes() == before


def test_cancelling_ends_ffmpeg_soon_and_leaves_nothing(ffmpeg, tmp_path):
    long = tmp_path / "long.mkv"
    assert ffmpeg.run(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=1280x720:r=30:d=20",
        "-c:v",
        "mpeg4",
        "-q:v",
        "20",
        str(long),
    ).ok
    cancel, seen = threading.Event(), []

    def tell(p):
        seen.append(p)
        cancel.set()

    started = time.monotonic()
    with pytest.raises(Cancelled):
        transcode(long, tmp_path / "out.mp4", hw="cpu", progress=tell, cancel=cancel)
    assert time.monotonic() - started < 15
    assert sorted(p.name for p in tmp_path.iterdir()) == ["long.mkv"]
    with pytest.raises(Cancelled, match=r"0\.2 seconds"):
        transcode(long, tmp_path / "out.mp4", hw="cpu", timeout=0.2)


def test_an_exception_in_the_callback_ends_ffmpeg_and_leaves_nothing(clip, tmp_path):
    def tell(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transcode(clip, tmp_path / "out.mp4", hw="cpu", progress=tell)
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_foreign_files_are_refused_with_the_cause(clip, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:2000])
    with pytest.raises(FfmpegError, match="damaged") as caught:
        transcode(cut, tmp_path / "out.mp4", hw="cpu")
    assert caught.value.code == "damaged"
    with pytest.raises(FileNotFoundError, match="none at"):
        transcode(tmp_path / "gone.mp4", tmp_path / "out.mp4")


def test_a_playlist_in_disguise_opens_no_connection(tmp_path):
    trap = tmp_path / "film.mp4"
    trap.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(FfmpegError) as caught:
        transcode(trap, tmp_path / "out.mp4", hw="cpu", timeout=20)
    assert caught.value.code == "playlist"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hw": "gpu"}, "hw must be auto, cuda"),
        ({"codec": "divx"}, "codec must be one of"),
        ({"size": (161, 90)}, "two even numbers"),
        ({"quality": 99, "hw": "cpu"}, r"quality must be in 0\.\.51"),
        ({"audio": "loud"}, "audio must be"),
        ({"bitrate": "lots"}, "bitrate must be a number"),
        ({"bitrate": "0"}, "bitrate must be a number"),
        ({"bitrate": "0.0M"}, "bitrate must be a number"),
        ({"decode": "cuda", "hw": "cpu"}, "decode must be 'cpu'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(clip, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        transcode(clip, tmp_path / "out.mp4", **arguments)


def test_an_unknown_ending_is_refused(clip, tmp_path):
    with pytest.raises(ValueError, match="must end in one of"):
        transcode(clip, tmp_path / "out.exe")


def test_audio_that_does_not_fit_the_container_is_encoded_and_said(ffmpeg, tmp_path):
    source = tmp_path / "a.mkv"
    assert ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:d=1", "-f", "lavfi", "-i", "sine=d=1",
        "-c:v", "libx264", "-c:a", "pcm_s16le", str(source),
    ).ok  # fmt: skip
    done = transcode(source, tmp_path / "a.mp4", hw="cpu")
    assert probe(tmp_path / "a.mp4").audio == ("aac",)
    assert any("pcm_s16le" in note for note in done.notes)
    transcode(source, tmp_path / "b.mp4", hw="cpu", audio="none")
    assert probe(tmp_path / "b.mp4").audio == ()


@pytest.mark.parametrize(
    ("name", "codec", "holds"),
    [
        ("a.mov", "av1", "h264 or hevc"),  # SVT-AV1 1.4 never ends after the refused header
        ("a.avi", "hevc", "h264 or av1 or vp9"),  # read back as raw pixels, exit code 0
        ("a.webm", "h264", "vp9 or av1"),
        ("a.ts", "vp9", "h264 or hevc"),
    ],
)
def test_a_codec_that_the_container_does_not_hold_is_refused_by_name(
    clip, tmp_path, name, codec, holds
):
    with pytest.raises(ValueError, match=f"holds {holds}, not {codec}"):
        transcode(clip, tmp_path / name, codec=codec, hw="cpu", timeout=20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("audio", "container", "target", "expected"),
    [("pcm_bluray", "m2ts", "a.mkv", "aac"), ("flac", "mkv", "a.mp4", "flac")],
)
def test_audio_is_copied_only_where_the_container_takes_it(
    ffmpeg, tmp_path, audio, container, target, expected
):
    source = tmp_path / f"in.{container}"
    done = ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:d=1", "-f", "lavfi", "-i", "sine=d=1:r=48000",
        "-c:v", "libx264", "-c:a", audio, "-ac", "2", str(source),
    )  # fmt: skip
    assert done.ok, done.err
    transcode(source, tmp_path / target, hw="cpu")
    assert probe(tmp_path / target).audio == (expected,)


def test_subtitles_of_mp4_are_written_as_text_that_matroska_takes(ffmpeg, tmp_path):
    words, source = tmp_path / "a.srt", tmp_path / "a.mp4"
    words.write_text("1\n00:00:00,000 --> 00:00:00,500\nhello\n")
    done = ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:d=1", "-i", str(words), "-c:v", "libx264",
        "-c:s", "mov_text", str(source),
    )  # fmt: skip
    assert done.ok, done.err
    made = transcode(source, tmp_path / "a.mkv", hw="cpu")
    assert probe(tmp_path / "a.mkv").subtitle_codecs == ("subrip",)
    assert any("mov_text" in note for note in made.notes)
    bare = Ffmpeg(ffmpeg.path)
    bare.decoders = ffmpeg.decoders - {"mov_text"}  # as the small profile is
    made = transcode(source, tmp_path / "b.mkv", hw="cpu", ffmpeg=bare)
    assert probe(tmp_path / "b.mkv").subtitles == 0
    assert any("mov_text do not go into matroska: left out" in note for note in made.notes)


def test_fonts_go_into_matroska_and_what_is_left_out_is_said(ffmpeg, tmp_path):
    font, source = tmp_path / "a.ttf", tmp_path / "in.mkv"
    font.write_bytes(b"a font")
    done = ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:d=1,setparams=color_trc=smpte2084", "-map", "0",
        "-map", "0", "-c:v", "libx264", "-color_trc", "smpte2084", "-attach", str(font),
        "-metadata:s:t", "mimetype=font/ttf", str(source),
    )  # fmt: skip
    assert done.ok, done.err
    kept = transcode(source, tmp_path / "a.mkv", hw="cpu")
    assert probe(tmp_path / "a.mkv").attachments == 1
    assert any("1 further video stream(s) left out" in note for note in kept.notes)
    assert any("HDR (PQ) is not tone-mapped" in note for note in kept.notes)
    made = transcode(source, tmp_path / "a.mp4", hw="cpu")
    assert any("1 attachment(s) do not go into mp4" in note for note in made.notes)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_a_variable_rate_keeps_its_frames(ffmpeg, tmp_path, ending):
    source = tmp_path / "in.mkv"
    done = ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=2", "-vf", "select='not(mod(n,3))+eq(n,1)'",
        *ffmpeg.frame_times("vfr"), "-c:v", "libx264", str(source),
    )  # fmt: skip
    assert done.ok, done.err
    frames = count(source)
    assert frames < 10
    assert transcode(source, tmp_path / f"out{ending}", hw="cpu").frames == frames


def test_a_file_system_without_hard_links_keeps_the_result(clip, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert transcode(clip, tmp_path / "out.mp4", hw="cpu", size=(64, 36)).frames == 60
    assert count(tmp_path / "out.mp4") == 60
    part = tmp_path / ".part-1.mp4"
    part.write_bytes(b"late")
    with pytest.raises(FileExistsError):  # another run was first
        session._claim(part, tmp_path / "out.mp4")


def test_a_turned_picture_is_decoded_where_it_is_put_upright(
    ffmpeg, turn, clip, tmp_path, monkeypatch
):
    turned = tmp_path / "turned.mp4"
    turn(clip, turned, 90)
    video = probe(turned).video
    assert video.turned
    assert video.size == (180, 320)
    assert not probe(clip).video.turned
    fake_proofs(monkeypatch, ALL_CUDA)
    plan = plan_pipeline(ffmpeg, video, hw="auto", codec="h264")
    assert (plan.decode, plan.encode) == ("cpu", "cuda")
    assert "-hwaccel_output_format" not in plan.before
    assert any("stored turned" in note for note in plan.notes)
    with pytest.raises(HardwareError, match=r"stored turned.*decode='cpu'"):
        plan_pipeline(ffmpeg, video, hw="cuda", codec="h264")
    plan = plan_pipeline(ffmpeg, video, hw="cuda", codec="h264", decode="cpu")
    assert plan.decode == "cpu"
    monkeypatch.setattr(frames, "proof", lambda *_: Verdict("x", "proven", "", ""))
    assert _decoding(ffmpeg, probe(clip).video, "cuda", "")[0]
    assert _decoding(ffmpeg, video, "auto", "") == ([], "")
    with pytest.raises(HardwareError, match="stored turned"):
        _decoding(ffmpeg, video, "cuda", "")


@pytest.mark.parametrize(
    ("codec", "pixels", "profile", "code"),
    [
        ("h264", "yuv420p", "High", "pixels"),
        ("h264", "yuvj420p", "Main", "pixels"),
        ("h264", "yuv420p", "Constrained Baseline", "pixels"),
        ("h264", "yuv420p", "Baseline", "other-profile"),  # slices in any order: no GPU has them
        ("h264", "yuv420p", "unknown", "other-profile"),
        ("h264", "yuv420p10le", "High 10", "other-pixels"),
        ("h264", "yuv422p", "High 4:2:2", "other-pixels"),
        ("hevc", "yuv420p10le", "Main 10", "pixels"),
        ("hevc", "yuv422p10le", "Rext", "other-pixels"),
        ("mpeg2video", "yuv420p", "Simple", "pixels"),
        ("mpeg4", "yuv420p", "Advanced Simple Profile", "other-profile"),
        ("vc1", "yuv420p", "Advanced", "other-pixels"),  # no clip shows it
    ],
)
def test_the_proof_of_a_decoder_is_of_its_clips_pixels_and_profiles(codec, pixels, profile, code):
    """Where there is no file whose own frames are tried: a stream."""
    video = media.VideoStream(0, codec, (64, 48), pixels, 8, Fraction(25), None, profile=profile)
    found = covered(Verdict("decode", "proven", "pixels", ""), video)
    assert found.code == code
    assert (found.status == "proven") == (code == "pixels")


@pytest.mark.parametrize("name", list(checks.clips()))
def test_the_clips_have_the_profiles_that_are_written_of_them(name):
    fact, video = checks.clips()[name], probe(checks.CLIPS / f"{name}.mkv").video
    assert (video.pixels, video.profile) == (fact["pixels"], fact["profile"])


@pytest.mark.parametrize(
    ("rows", "turned"),
    [
        (("65536 0 0", "0 65536 0"), False),
        (("0 65536 0", "-65536 0 0"), True),
        (("-65536 0 0", "0 -65536 0"), True),  # upside down
        (("-65536 0 0", "0 65536 0"), True),  # mirrored: its rotation alone would not say so
    ],
)
def test_a_display_matrix_says_whether_a_picture_is_turned(rows, turned):
    text = "".join(f"\n0000000{i}: {row}" for i, row in enumerate((*rows, "0 0 1073741824")))
    assert media._turned({"side_data_list": [{"displaymatrix": text + "\n"}]}) is turned


@pytest.mark.parametrize(
    ("pixels", "codec", "said"),
    [
        ("yuv420p10le", "ffv1", ["10 bits are written as 8"]),
        ("yuva420p", "ffv1", ["the transparency of yuva420p is left out"]),
        ("yuv420p", "ffv1", []),
    ],
)
def test_what_does_not_reach_the_result_is_said(ffmpeg, tmp_path, pixels, codec, said):
    source = tmp_path / "in.mkv"
    done = ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:d=1", "-pix_fmt", pixels, "-c:v", codec, str(source)
    )
    assert done.ok, done.err
    assert list(transcode(source, tmp_path / "out.mp4", hw="cpu").notes) == said


def test_odd_sizes_become_even_and_say_so(ffmpeg, tmp_path):
    source = tmp_path / "odd.mkv"
    assert ffmpeg.run("-f", "lavfi", "-i", "testsrc=s=101x77:d=1", "-c:v", "ffv1", str(source)).ok
    done = transcode(source, tmp_path / "even.mp4", hw="cpu")
    assert probe(tmp_path / "even.mp4").video.size == (100, 76)
    assert any("odd size" in note for note in done.notes)


def test_a_folder_is_done_file_by_file_and_one_bad_file_ends_nothing(clip, tmp_path):
    src, dst = tmp_path / "in", tmp_path / "out"
    (src / "deep").mkdir(parents=True)
    for name in ("a.mp4", "a.mkv", "deep/b.mp4"):
        (src / name).write_bytes(clip.read_bytes())
    (src / "bad.mp4").write_bytes(b"no film")
    (src / "notes.txt").write_text("no film either")
    arguments = {"hw": "cpu", "size": (64, 36), "quality": 45, "sessions": 2}
    items = transcode_folder(src, dst, **arguments)
    assert len(items) == 4
    assert [i.src.name for i in items if i.error] == ["bad.mp4"]
    made = sorted(str(p.relative_to(dst)) for p in dst.rglob("*.mp4"))
    assert made == ["a.mkv.mp4", "a.mp4.mp4", "deep/b.mp4"]
    again = transcode_folder(src, dst, **arguments)
    assert [i.result for i in again if not i.error] == [None, None, None]


def test_a_folder_inside_its_source_is_not_done_again(clip, tmp_path):
    shutil.copy(clip, tmp_path / "a.MTS")
    arguments = {"hw": "cpu", "size": (64, 36), "quality": 45}
    for again in (False, True):
        items = transcode_folder(tmp_path, tmp_path / "out", **arguments)
        assert [(i.src.name, i.error) for i in items] == [("a.MTS", None)]
        assert (items[0].result is None) == again
    with pytest.raises(ValueError, match="another folder than src"):
        transcode_folder(tmp_path, tmp_path / "out" / "..", **arguments)


def test_two_sources_that_would_have_one_name_are_refused_before_the_first(tmp_path):
    for name in ("a.mkv", "a.mp4", "a.mkv.webm"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"'a\.mkv' and 'a\.mkv\.webm' would both become"):
        transcode_folder(tmp_path, tmp_path / "out")


def test_an_ending_that_no_file_can_have_is_refused_before_the_first(clip, tmp_path):
    for arguments in ({"suffix": "mp4"}, {"suffix": ".webm"}, {"codec": "av1", "suffix": ".mov"}):
        with pytest.raises(ValueError, match=r"must end in|holds"):
            transcode_folder(clip.parent, tmp_path, **arguments)


def test_a_cancelled_batch_begins_no_further_file(tmp_path, monkeypatch):
    for index in range(6):
        (tmp_path / f"{index}.mp4").touch()
    begun, cancel = [], threading.Event()

    def one(source, target, **_):
        begun.append(source)
        cancel.set()
        raise Cancelled("ffmpeg was ended: cancelled")

    monkeypatch.setattr("ffmpeg_gpu_build.media.batch.transcode", one)
    items = transcode_folder(tmp_path, tmp_path / "out", sessions=1, cancel=cancel)
    assert len(begun) == 1
    assert all(isinstance(i.error, Cancelled) for i in items)


def test_a_batch_keeps_to_its_sessions_on_every_device(tmp_path, monkeypatch):
    src = tmp_path / "in"
    src.mkdir()
    for index in range(12):
        (src / f"{index}.mp4").touch()
    running, most, lock = {"0": 0, "1": 0}, {"0": 0, "1": 0}, threading.Lock()

    def slow(source, target, *, device, **_):
        with lock:
            running[device] += 1
            most[device] = max(most[device], running[device])
        time.sleep(0.05)
        with lock:
            running[device] -= 1

    monkeypatch.setattr("ffmpeg_gpu_build.media.batch.transcode", slow)
    items = transcode_folder(src, tmp_path / "out", sessions=2, devices=("0", "1"))
    assert len(items) == 12
    assert most == {"0": 2, "1": 2}


def test_a_full_disk_is_named_and_leaves_nothing(clip, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only where a small file system can be mounted")
    try:
        with pytest.raises(FfmpegError, match="the disk is full") as caught:
            transcode(clip, small / "out.mkv", hw="cpu", quality=2)
        assert caught.value.code == "disk-full"
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def fake_proofs(monkeypatch, proven):
    def answer(program, stage, device=""):
        status = "proven" if stage in proven else "absent"
        return Verdict(stage, status, "x", "it is not there")

    monkeypatch.setattr("ffmpeg_gpu_build.media.pipeline.proof", answer)


ALL_CUDA = {"device.cuda", "decode.h264_nvdec", "encode.h264_nvenc", "filter.scale_cuda"}


@pytest.mark.parametrize(
    ("proven", "stages", "chain"),
    [
        (ALL_CUDA, ("cuda", "cuda", "cuda"), "scale_cuda=w=160:h=90:format=nv12"),
        (
            ALL_CUDA - {"encode.h264_nvenc"},  # an H100: decodes and scales, does not encode
            ("cuda", "cuda", "cpu"),
            "scale_cuda=w=160:h=90:format=nv12,hwdownload,format=nv12,format=yuv420p",
        ),
        (
            ALL_CUDA - {"decode.h264_nvdec"},
            ("cpu", "cuda", "cuda"),
            "format=nv12,hwupload,scale_cuda=w=160:h=90:format=nv12",
        ),
        (
            ALL_CUDA - {"filter.scale_cuda"},
            ("cuda", "cpu", "cuda"),
            "hwdownload,format=nv12,scale=160:90,format=nv12,hwupload",
        ),
        ({"device.cuda"}, ("cpu", "cpu", "cpu"), "scale=160:90,format=yuv420p"),
    ],
)
def test_auto_puts_each_proven_stage_on_the_gpu(monkeypatch, ffmpeg, clip, proven, stages, chain):
    fake_proofs(monkeypatch, proven)
    video = probe(clip).video
    plan = plan_pipeline(ffmpeg, video, hw="auto", codec="h264", size=(160, 90))
    assert (plan.decode, plan.filter, plan.encode) == stages
    assert plan.filters == chain
    assert ("-hwaccel_output_format" in plan.before) == (stages[0] == "cuda")
    if stages != ("cuda", "cuda", "cuda"):
        assert plan.notes


def test_a_proof_is_tried_once_a_process(ffmpeg, monkeypatch):
    first = proof(ffmpeg, "encode.h264_nvenc")
    monkeypatch.setattr("ffmpeg_gpu_build.media.pipeline.check_encoder", None)
    assert proof(ffmpeg, "encode.h264_nvenc") is first


def test_an_ffmpeg_that_decodes_av1_on_a_gpu_only_says_so(ffmpeg, tmp_path):
    program = Ffmpeg(ffmpeg.path)
    program.decoders = frozenset({"av1", "h264"})  # as the small profile has them
    source = checks.CLIPS / "av1.mkv"
    for hw in ("cpu", "auto"):
        with pytest.raises(FfmpegError, match="--with dav1d") as caught:
            transcode(source, tmp_path / "out.mp4", hw=hw, ffmpeg=program)
        assert caught.value.code == "no-cpu-decoder"
    with pytest.raises(FfmpegError, match="--with dav1d"):
        next(read_frames(source, ffmpeg=program))
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_is_not_there_is_named_with_the_way_to_it(ffmpeg, clip, tmp_path):
    program = Ffmpeg(ffmpeg.path)
    program.encoders = frozenset({"libx264"})
    with pytest.raises(FfmpegError, match=r"libvpx-vp9.*--with vpx") as caught:
        transcode(clip, tmp_path / "out.webm", codec="vp9", hw="cpu", ffmpeg=program)
    assert caught.value.code == "not-built-in"


@pytest.mark.parametrize("kind", ["upright", "turned", "ten bits", "sound alone"])
def test_without_ffprobe_pyav_says_the_same(ffmpeg, turn, clip, tmp_path, monkeypatch, kind):
    if ffmpeg.probe_path is None:
        pytest.skip("no ffprobe: apt-get install ffmpeg")
    source = {"upright": clip, "ten bits": checks.CLIPS / "hevc10.mkv"}.get(kind)
    if kind == "turned":
        source = tmp_path / "turned.mp4"
        turn(clip, source, 90)
    if kind == "sound alone":
        source = tmp_path / "a.wav"
        assert ffmpeg.run("-f", "lavfi", "-i", "sine=d=1", str(source)).ok
    said = probe(source)
    monkeypatch.setattr(Ffmpeg, "probe_path", None)
    assert probe(source) == said
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    with pytest.raises(FfmpegError, match="damaged or of an unknown format"):
        probe(tmp_path / "bad.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(FfmpegError, match="pip install av"):
        probe(source)
