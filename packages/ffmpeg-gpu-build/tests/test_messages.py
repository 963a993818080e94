"""The doctor's table: a line of its kind finds every entry, which has a cure and a source."""

import re
from pathlib import Path

import pytest

from ffmpeg_gpu_build import diagnose
from ffmpeg_gpu_build.__main__ import main
from ffmpeg_gpu_build.build import description
from ffmpeg_gpu_build.doctor import FAILURES, TRAPS, recognise

NOISE = "ffmpeg version 9.0.2\n  libavutil 61\n"


@pytest.mark.parametrize("entry", FAILURES, ids=lambda e: e.code)
def test_a_message_of_a_run_is_found_by_its_example(entry):
    found = diagnose(f"{NOISE}{entry.example}\nConversion failed!\n")
    assert found is not None
    assert (found.code, found.status) == (entry.code, entry.status)
    assert "{" not in found.sentence
    assert found.line in entry.example


@pytest.mark.parametrize("entry", TRAPS, ids=lambda e: e.code)
def test_a_message_of_a_build_is_found_by_its_example(entry):
    found = recognise(f"CC\tlibavutil/x.o\n{entry.example}\nmake: leaving\n")
    assert found is not None
    assert (found.code, found.status) == (entry.code, entry.status)
    assert "{" not in found.sentence


@pytest.mark.parametrize("entry", [*FAILURES, *TRAPS], ids=lambda e: e.code)
def test_an_entry_says_its_source_and_its_cure_and_knows_what_it_names(entry):
    known = {e.code for e in (FAILURES if entry in FAILURES else TRAPS)}
    assert entry.source
    assert entry.cure
    assert entry.status in ("broken", "absent")
    assert set(entry.others) <= known
    assert bool(entry.others) == bool(entry.question)
    re.compile(entry.pattern)


# Lines as people post them, with what they mean; none was written for the table.
POSTED = [
    (
        "Impossible to convert between the formats supported by the filter 'Parsed_pad_0' and the "
        "filter 'auto_scale_0'",
        "gpu-filter-then-cpu-filter",
    ),
    (
        "[Parsed_scale_npp_0 @ 0x5] Impossible to convert between the formats supported "
        "by the filter "
        "'graph 0 input from stream 0:0' and the filter 'auto_scaler_0'",
        "gpu-filter-then-cpu-filter",
    ),
    (
        "Impossible to convert between the formats supported by the filter 'auto_scale_0' and the "
        "filter 'Parsed_hwdownload_1'",
        "gpu-filter-then-cpu-filter",
    ),
    (
        "Impossible to convert between the formats supported by the filter 'Parsed_fps_0' and the "
        "filter 'Parsed_scale_cuda_1'",
        "cpu-frames-to-gpu-filter",
    ),
    (
        "host_config.h:143:2: error: #error -- unsupported GNU version! gcc versions "
        "later than 12 are "
        "not supported!\nERROR: failed checking for nvcc.",
        "gcc-too-new",
    ),
    (
        "mathcalls.h(79): error: exception specification is incompatible with that of previous "
        'function "cospi"\nERROR: failed checking for nvcc.',
        "cuda-and-glibc",
    ),
    (
        "ERROR: cuvid requested, but not all dependencies are satisfied: ffnvcodec",
        "headers-too-old",
    ),
    (
        "ERROR: nvenc requested, but not all dependencies are satisfied: ffnvcodec",
        "headers-too-old",
    ),
    ("ERROR: libnpp not found", "npp-retired"),
    ("[h264_nvenc @ 0x5] No capable devices found", "no-capable-device"),
    (
        "[hevc_nvenc @ 0x5589] [error] OpenEncodeSessionEx failed: out of memory (10): "
        "(no details)\n"
        "[hevc_nvenc @ 0x5589] [error] No capable devices found",
        "too-many-encodes",
    ),
    ("[h264_cuvid @ 0x5] Bit depth 10 is not supported.", "gpu-cannot-decode"),
    (
        "ffmpeg: /lib/x86_64-linux-gnu/libm.so.6: version `GLIBC_2.38' not found "
        "(required by ffmpeg)",
        "glibc-too-old",
    ),
    (
        "[h264_nvenc @ 0x7f] Cannot load libnvidia-encode.so.1\n[h264_nvenc @ 0x7f] The minimum "
        "required Nvidia driver for nvenc is 570.0 or newer",
        "no-video-capability",
    ),
    (
        "Driver does not support the required nvenc API version. Required: 12.1 Found: 11.1",
        "driver-too-old",
    ),
    (
        "Unrecognized option 'vsync'.\nError splitting the argument list: Option not found",
        "retired-option",
    ),
    ("[libx264 @ 0x5] width not divisible by 2 (853x480)", "odd-size"),
    (
        "[webm @ 0x5] Only VP8 or VP9 or AV1 video and Vorbis or Opus audio and WebVTT "
        "subtitles are "
        "supported for WebM.",
        "container-refuses-codec",
    ),
    ("Unknown encoder 'h264_nvenc'", "not-built-in"),
    (
        "[AVHWDeviceContext @ 0x5] libva: /usr/lib/dri/i965_drv_video.so init failed",
        "vaapi-driver-missing",
    ),
    (
        "[AVHWDeviceContext @ 0x55] Failed to initialise VAAPI connection: -1 (unknown "
        "libva error).",
        "no-vaapi",
    ),
    ("/usr/bin/ld: cannot find -lx265: No such file or directory", "library-missing"),
    (
        "nvcc fatal   : Unsupported gpu architecture 'compute_30'\nERROR: failed checking "
        "for nvcc.",
        "nvcc-architecture",
    ),
]


@pytest.mark.parametrize(("log", "code"), POSTED)
def test_what_people_post_is_recognised(log, code):
    found = recognise(log) or diagnose(log)
    assert found is not None
    assert found.code == code


def test_a_line_that_means_several_things_asks_what_decides(tmp_path, capsys):
    log = tmp_path / "log.txt"
    log.write_text("[h264_nvenc @ 0x5] No capable devices found\n")
    assert main(["doctor", str(log)]) == 0
    out = capsys.readouterr().out
    assert "What does -loglevel verbose say" in out
    assert "gpu-has-no-encoder" in out
    assert "too-many-encodes" in out


def test_errors_come_before_warnings_and_other_lines():
    log = "[info] in.mp4: No such file or directory\n[x @ 0x5] [error] Cannot load libcuda.so.1\n"
    assert diagnose(log).code == "no-driver"
    assert diagnose("[warning] Permission denied\n").code == "no-permission"


def test_the_cure_of_an_old_driver_is_not_the_build_that_needs_a_newer_one():
    log = "Driver does not support the required nvenc API version. Required: 12.1 Found: 11.1"
    assert "--headers 11.1" in diagnose(log).cure


DATA = Path(__file__).parent / "data"
POSTED_ELSEWHERE = [
    message
    for name in ("posted", "posted_later", "posted_third", "posted_fourth", "posted_fifth")
    for message in description._load(DATA / f"{name}.toml")["message"]
]


def test_lists_that_the_table_was_not_made_from_are_known():
    unknown, wrong = [], []
    for message in POSTED_ELSEWHERE:
        found = recognise(message["log"]) or diagnose(message["log"])
        if found is None:
            unknown.append(message["thread"])
        elif found.code not in message["right"]:
            wrong.append((message["thread"], found.code))
    assert len(POSTED_ELSEWHERE) >= 335
    assert wrong == []
    assert len(unknown) <= 0.05 * len(POSTED_ELSEWHERE), unknown


def test_the_two_lists_share_no_line_but_what_ffmpeg_words_in_one_way():
    examples = {entry.example.strip() for entry in (*FAILURES, *TRAPS)}
    firsts = [message["log"].splitlines()[0].strip() for message in POSTED_ELSEWHERE]
    assert sum(line in examples for line in firsts) <= 0.05 * len(firsts)
