"""Logs as people paste them mean the same as they were written."""

import re

import pytest

from ffmpeg_gpu_build import diagnose
from ffmpeg_gpu_build.doctor import FAILURES, TRAPS, pasted, recognise
from ffmpeg_gpu_build.doctor.failures import END

LINE = "[h264_nvenc @ 0x55d4] OpenEncodeSessionEx failed: out of memory (10): (no details)"


@pytest.mark.parametrize(
    "given",
    [
        LINE.replace("@", "\x1b[31m@\x1b[0m").replace("out of", "\x1b[1mout\x1b[0m of"),
        LINE.replace("out of", "#033[31mout#033[0m of"),
        LINE.replace("out of", "^[[31mout^[[0m of"),
        LINE + "\r\n",
        "frame=1\rframe=2\r" + LINE + "\r",
        LINE.replace(" ", "\u00a0"),
        "\ufeff" + LINE,
        f'{{"stderr": "{LINE}\\nConversion failed!"}}',
        f"[b'{LINE}\\r\\n', b'Conversion failed!\\n']",
        f"Mar 03 10:11:12 nas ffmpeg[4242]: {LINE}",
        f"2026-11-30 10:11:12,345 - worker-3 - ERROR - {LINE}",
        f"> > {LINE}",
        f"    {LINE}    ",
        f"| {LINE} |",
    ],
)
def test_what_surrounds_a_message_does_not_hide_it(given):
    assert diagnose(given).code == "too-many-encodes"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("Unknown decoder \u2018hevc_cuvid\u2019", "not-built-in"),
        ("No such filter: &#39;scale_cuda&#39;", "not-built-in"),
        ("No such filter: \\u0027scale_npp\\u0027", "npp-retired"),
        ("lib.so: version `GLIBC_2.34\u2019 not found", "glibc-too-old"),
    ],
)
def test_quotes_are_those_of_the_program(given, code):
    assert diagnose(given).code == code


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("ffmpeg: a.mp4: Нет такого файла или каталога", "no-such-file"),
        ("a.mp4: 没有那个文件或目录", "no-such-file"),
        ("av_interleaved_write_frame(): Aucun espace disponible sur le périphérique", "disk-full"),
        ("/dev/dri/renderD128: Permiso denegado", "no-permission"),
        ("Errore di segmentazione (core dump creato)", "crash"),
        ("zsh: Falha de segmentação  ffmpeg -i a", "crash"),
        ("段错误", "crash"),
        ("./x.sh: ligne 2 :  311 Instruction non permise ffmpeg", "cpu-too-old"),
        ("Недопустимая инструкция (стек памяти сброшен на диск)", "cpu-too-old"),
        ("./x.sh: line 4: 21788 Killed                  ffmpeg -i a.mkv b.mp4", "killed"),
        ("./x.sh: línea 4: 21788 Terminado (killed)       ffmpeg -i a b", "killed"),
        ("bash: ./ffmpeg: 无法执行二进制文件: 可执行文件格式错误", "other-architecture"),
        ("/usr/bin/ld : ne peut trouver -lvpl : Aucun fichier ou dossier", "library-missing"),
        ("/usr/bin/ld: 找不到 -lx264: 没有那个文件或目录", "library-missing"),
        ("/usr/bin/ld: impossibile trovare -lva", "library-missing"),
        ("E: No se ha podido localizar el paquete libfdk-aac-dev", "no-such-package"),
        ("E: 无法定位软件包 libvpl-dev", "no-such-package"),
        ("zsh: comando non trovato: nvcc\nbash: nvcc: comando non trovato", "no-nvcc"),
        (
            "x: erreur fatale : ffnvcodec/dynlink_loader.h : Aucun fichier ou dossier de ce nom",
            "headers-too-old",
        ),
        ("x.c:1:2: 致命错误\uff1a nvEncodeAPI.h: No such file or directory", "headers-too-old"),
    ],
)
def test_systems_speak_other_languages(given, code):
    found = recognise(given) or diagnose(given)
    assert found is not None
    assert found.code == code


def test_every_translation_is_told_from_all_others_and_keeps_its_name():
    for said, english in pasted._phrases():
        name = "libx264-dev" if "\\g<a>" in english else ""
        assert bool(name) == ("a" in said.groupindex), said.pattern
    assert len(pasted._phrases()) >= 130


@pytest.mark.parametrize("entry", [*FAILURES, *TRAPS], ids=lambda e: e.code)
def test_an_example_is_plain_already(entry):
    assert pasted.plain(entry.example) == entry.example


def test_a_long_log_is_made_plain_in_no_time():
    import time

    log = "[info] frame=  100 fps= 25 q=28.0 size=    1024kB time=00:00:04.00\n" * 40_000
    begin = time.process_time()
    assert diagnose(log) is None
    assert time.process_time() - begin < 8


def test_a_path_of_windows_is_not_torn():
    log = r"C:\new\nvidia\ffmpeg.exe: Unknown encoder 'h264_nvenc'"
    assert re.search(r"C:\\new", diagnose(log).line)


def test_breaks_that_a_terminal_made_do_not_hide_a_message():
    text = "ERROR - worker 12 of 16 ended: " + LINE + " and the queue goes on without it"
    log = "\n".join(line[i : i + 80] for line in [text] * 3 for i in range(0, len(line), 80))
    assert diagnose(log).code == "too-many-encodes"
    assert "\n" not in diagnose(log).line
    assert pasted.unwrapped("a" * 70 + "\n" + "b" * 69 + "\n") == "a" * 70 + "\n" + "b" * 69 + "\n"


def test_lines_of_one_length_are_no_wrapped_line():
    log = ("x" * 79 + "\n") * 4
    assert pasted.unwrapped(log) == log


@pytest.mark.parametrize("place", ["begin", "error", "end"])
def test_a_long_log_is_read_at_its_ends_and_its_errors_everywhere(place):
    line = {"error": "[out#0 @ 0x5] [error] ", "begin": "", "end": ""}[place]
    line += "av_interleaved_write_frame(): No space left on device"
    many = [f"[h264 @ 0x5] [verbose] frame {number} of a film" for number in range(40_000)]
    before = {"begin": 0, "error": 20_000, "end": 40_000}[place]
    log = [*many[:before], line, *many[before:]]
    assert len("\n".join(log)) > 3 * END
    found = diagnose("\n".join(log))
    assert found is not None
    assert found.code == diagnose(line).code
