"""The command line: exit codes, machine-readable output, help."""

import importlib
import json
import os
import re
import subprocess
import sys

import pytest

import ffmpeg_gpu_build
from ffmpeg_gpu_build import FfmpegError, _moved, write_frames
from ffmpeg_gpu_build.__main__ import main, parser
from ffmpeg_gpu_build.commands import COMMANDS
from ffmpeg_gpu_build.ffmpeg import find


def test_verify_writes_json_and_html_and_answers_by_exit_code(tmp_path, capsys):
    arguments = ["verify", "--only", "encode.libopus", "--only", "encode.libx264", "--jobs", "1"]
    report, html = tmp_path / "r.json", tmp_path / "r.html"
    assert main([*arguments, "--json", str(report), "--html", str(html)]) == 0
    answer = json.loads(report.read_text())
    assert [v["status"] for v in answer["verdicts"]] == ["proven", "proven"]
    assert "2 proven" in capsys.readouterr().out
    assert "encode.libx264" in html.read_text()
    assert main([*arguments, "--require", "encode.h264_nvenc"]) == 3
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["proven"] == 2


def test_verify_against_a_profile_says_what_was_dropped(tmp_path, capsys):
    profile = tmp_path / "mine.toml"
    profile.write_text("components = ['x264']\n[parts]\nfilter = ['nothing_cuda']\n")
    assert main(["verify", "--profile", str(profile), "--only", "filter.nothing_cuda"]) == 1
    assert "asked for, but not in this FFmpeg" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "filter.nothing"], "no path filter.nothing"),
        (["--device", "cuda"], "KIND=NAME"),
        (["--device", "gpu=1"], "one of cuda"),
        (["--device", "cuda=-1"], "number of a GPU"),
        (["--json", "/nowhere/r.json"], "no folder to write"),
    ],
)
def test_verify_refuses_what_it_would_only_ignore(capsys, arguments, message):
    assert main(["verify", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_ffmpeg_without_any_path_gets_its_report(tmp_path, capsys):
    bare = tmp_path / "ffmpeg"
    bare.write_text("#!/bin/sh\necho 'ffmpeg version 9.0.2'\n")
    bare.chmod(0o755)
    arguments = ["verify", "--ffmpeg", str(bare), "--json", "-"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["verdicts"] == []
    assert main([*arguments, "--require", "encode.h264_nvenc"]) == 3


@pytest.mark.parametrize("command", [["verify", "--jobs"], ["build", "--jobs"], ["fate", "--jobs"]])
def test_no_jobs_at_all_is_a_wrong_argument(capsys, command):
    with pytest.raises(SystemExit):
        main([*command, "0"])
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["plan", "--show", "apt"], []])
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    command = [sys.executable, "-m", "ffmpeg_gpu_build", *arguments]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_wrapper_script_is_not_said_to_lack_nvenc(ffmpeg, tmp_path, capsys):
    if "h264_nvenc" not in ffmpeg.encoders:
        pytest.skip("this ffmpeg has no NVENC")
    wrapper = tmp_path / "ffmpeg"
    wrapper.write_text(f'#!/bin/sh\nexec {ffmpeg.path} "$@"\n')
    wrapper.chmod(0o755)
    main(["verify", "--ffmpeg", str(wrapper), "--only", "encode.libx264"])
    out = capsys.readouterr().out
    assert "NVENC needs driver: unknown" in out
    assert "this is a script" in out
    main(["verify", "--only", "encode.libx264"])
    assert "this is a script" not in capsys.readouterr().out


def test_a_program_that_is_no_ffmpeg_gets_no_report(capsys):
    assert main(["verify", "--ffmpeg", "/bin/true", "--json", "-"]) == 1
    answer = capsys.readouterr()
    assert (answer.out, "is no ffmpeg" in answer.err) == ("", True)


def test_a_folder_called_ffmpeg_is_not_taken_for_the_program(ffmpeg, tmp_path, monkeypatch):
    (tmp_path / "ffmpeg" / "bin").mkdir(parents=True)  # FFmpeg's sources, or a build's prefix
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FFMPEG", raising=False)
    assert find().is_absolute()
    monkeypatch.setenv("FFMPEG", "")
    assert find().is_absolute()
    with pytest.raises(FfmpegError, match="ffmpeg/bin/ffmpeg"):
        find("ffmpeg")


def test_a_wrong_pattern_of_tests_is_a_wrong_argument(capsys, tmp_path):
    assert main(["fate", "--work", str(tmp_path), "--only", "("]) == 2
    assert "--only takes a regular expression" in capsys.readouterr().err


def test_doctor_reads_a_log(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text("x\n[h264_nvenc @ 0x1] OpenEncodeSessionEx failed: out of memory (10)\n")
    assert main(["doctor", str(log)]) == 0
    out = capsys.readouterr().out
    assert "too-many-encodes" in out
    log.write_text("nvcc fatal   : Unsupported gpu architecture 'compute_60'\n")
    assert main(["doctor", str(log)]) == 0
    assert "compute_60" in capsys.readouterr().out
    log.write_text("all is well\n")
    assert main(["doctor", str(log)]) == 1


def test_doctor_without_a_log_asks_the_machine(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"device\.opencl: (proven|absent)", out)
    assert "NVENC needs driver" in out


def test_transcode_and_probe_of_a_file_and_a_folder(tmp_path, capsys):
    import numpy as np

    source = tmp_path / "in"
    source.mkdir()
    write_frames(source / "a.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 6)
    assert main(["transcode", str(source / "a.mp4"), str(tmp_path / "b.mkv"), "--hw", "cpu"]) == 0
    assert "6 frames" in capsys.readouterr().out
    assert main(["probe", str(tmp_path / "b.mkv")]) == 0
    assert json.loads(capsys.readouterr().out)["video"]["size"] == [64, 64]
    out = str(tmp_path / "out")
    assert main(["transcode", str(source), out, "--hw", "cpu", "--suffix", ".mkv"]) == 0
    assert "1 of 1 files" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.mkv").is_file()
    (source / "bad.mp4").write_bytes(b"")
    assert main(["transcode", str(source), out, "--hw", "cpu", "--suffix", ".mkv"]) == 1


def test_errors_are_one_sentence_on_stderr(tmp_path, capsys):
    assert main(["transcode", str(tmp_path / "no.mp4"), str(tmp_path / "o.mp4")]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "none at" in err
    assert main(["plan", "--profile", "tiny"]) == 2
    assert "take one of full, small" in capsys.readouterr().err
    assert main(["verify", "--ffmpeg", str(tmp_path)]) == 1


@pytest.mark.parametrize("show", ["all", "configure", "apt", "verify", "recipe"])
def test_plan_shows_each_list(capsys, show):
    assert main(["plan", "--show", show]) == 0
    out = capsys.readouterr().out
    expected = {"apt": "libx264-dev", "verify": "filter.scale_cuda", "recipe": "schema_version: 1"}
    assert expected.get(show, "--enable-cuda-llvm") in out


def test_help_names_every_command_and_teaches_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert "exit codes" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_explains_every_option(name):
    sub = parser()._subparsers._group_actions[0].choices[name]
    silent = [a.option_strings for a in sub._actions if a.option_strings and not a.help]
    assert not silent
    assert not any(line.startswith(" ") for line in sub.epilog.splitlines())


def test_the_module_says_what_it_would_use(capsys):
    assert main([]) == 0
    assert "ffmpeg-gpu-build" in capsys.readouterr().out


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, ffmpeg_gpu_build; "
        "bad = {'numpy', 'torch', 'matplotlib', 'subprocess'} & set(sys.modules); "
        "assert not bad, bad; ffmpeg_gpu_build.verify; ffmpeg_gpu_build.transcode; "
        "assert callable(ffmpeg_gpu_build.verify) and callable(ffmpeg_gpu_build.probe)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_an_ffmpeg_on_the_path_the_one_in_a_wheel_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("FFMPEG", raising=False)
    found = find()
    assert "imageio_ffmpeg" in found.parts
    with pytest.raises(FfmpegError, match="no ffmpeg at 'mine'"):  # one that is named is that one
        find("mine")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(FfmpegError, match="pip install imageio-ffmpeg"):
        find()


def test_the_old_module_names_give_the_modules_in_the_wings():
    for old, new in _moved.MOVED.items():
        assert importlib.import_module(old) is importlib.import_module(new)
    assert ffmpeg_gpu_build.frames is importlib.import_module("ffmpeg_gpu_build.media.frames")
    from ffmpeg_gpu_build.media import PROTOCOLS, Video, probe, require_whole
    from ffmpeg_gpu_build.verification import Report, facts, verify

    assert all(callable(f) for f in (probe, require_whole, facts, Report, Video))
    assert PROTOCOLS[0] == "-protocol_whitelist"
    assert verify is ffmpeg_gpu_build.verify
    with pytest.raises(ImportError):
        importlib.import_module("ffmpeg_gpu_build.never_was")


def test_a_folder_without_videos_is_no_success(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no video")
    assert main(["transcode", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "src has no videos" in said.err


def test_a_result_that_nobody_takes_ends_in_one_sentence():
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ffmpeg_gpu_build"],
            env=environment, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.stderr == "ffmpeg-gpu-build: [Errno 28] No space left on device\n"
    assert done.returncode == 1
