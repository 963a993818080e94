"""Damaged profiles, logs, media files and archives: each is read, or refused with an error of this
package that names the file; what only looks at bytes gives a value whatever they are.

python tests/test_fuzz_files.py --seconds 600 --seed 1 --reader media
"""

import argparse
import copy
import faulthandler
import io
import itertools
import json
import re
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffmpeg_gpu_build import FfmpegError, kept
from ffmpeg_gpu_build.build import binary
from ffmpeg_gpu_build.build.description import DescriptionError, resolve
from ffmpeg_gpu_build.build.source import SourceError, unpack
from ffmpeg_gpu_build.build.work import State
from ffmpeg_gpu_build.doctor.failures import diagnose, last_lines
from ffmpeg_gpu_build.doctor.pasted import plain
from ffmpeg_gpu_build.doctor.traps import recognise
from ffmpeg_gpu_build.media.crops import crop_of
from ffmpeg_gpu_build.media.endings import unfinished
from ffmpeg_gpu_build.media.formats import no_reader
from ffmpeg_gpu_build.media.probing import described
from ffmpeg_gpu_build.media.reach import is_playlist
from ffmpeg_gpu_build.media.samples import promised

MEMORY = 1 << 30  # bytes more than the process has when it begins
SECONDS = 10  # of the processor for one example; one that waits may do so 60 times as long
NUMBERS = [0, 1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
WORDS = [b"", b"-1", b"0", b"1e9", b"nan", b"inf", b"9" * 30, b"9" * 5000, b"\0", b"\xff\xfe",
         b"[[" * 500, b"{a = 1}", b'"x"', b"true", b"[1]", b"\n", b"1979-05-27", b"a.b.c = 1",
         b"'''", b"[error]", b"%s{0}{x}", b"../x", b"'" * 500, b"Error " * 100,
         b"A" * 60000]  # fmt: skip
VALUES: list[Any] = [None, True, -1, 0, 1, 3, 0.5, 2**31, 2**63, 10**30, 1e308, float("nan"),
                     float("inf"), "", "\0", "\ud800", "x", "1e9", [], {}, [0], [[]], {"x": 1},
                     "0/0", "1/x", "9" * 5000, "video", "\u00b2", "-90"]  # fmt: skip
Files = dict[str, bytes]


def boxes(*content: tuple[bytes, bytes]) -> bytes:
    return b"".join(struct.pack(">I", 8 + len(data)) + name + data for name, data in content)


def chunks(order: str, *content: tuple[bytes, bytes]) -> bytes:
    return b"".join(
        name + struct.pack(order, len(data)) + data + b"\0" * (len(data) & 1)
        for name, data in content
    )


def element(name: str, data: bytes) -> bytes:
    """One of EBML, its size in eight bytes."""
    return bytes.fromhex(name) + (len(data) | 1 << 56).to_bytes(8, "big") + data


def mp4() -> bytes:
    clap = struct.pack(">8i", 60, 1, 40, 1, 0, 1, 0, 1)
    entry = bytes(24) + struct.pack(">2H", 64, 48) + bytes(50) + boxes((b"clap", clap))
    table = boxes((b"stbl", boxes((b"stsd", bytes(8) + boxes((b"avc1", entry))))))
    media = boxes((b"hdlr", bytes(8) + b"vide" + bytes(12)), (b"minf", table))
    track = boxes((b"trak", boxes((b"mdia", media))))
    index = (b"moov", boxes((b"mvhd", bytes(100))) + track + boxes((b"mvex", b"")))
    return boxes((b"ftyp", b"isom" + bytes(60)), index, (b"moof", bytes(40)), (b"mdat", bytes(80)))


def matroska() -> bytes:
    crops = b"".join(element(name, b"\2") for name in ("54cc", "54dd", "54bb", "54aa"))
    track = element("ae", element("83", b"\1") + element("e0", crops))
    segment = element("18538067", element("1654ae6b", track) + element("ec", bytes(40)))
    return element("1a45dfa3", element("4282", b"webm")) + segment


def avi() -> bytes:
    frames = (
        b"LIST" + struct.pack("<I", 4 + 3 * 16) + b"movi" + chunks("<I", (b"00dc", bytes(8))) * 3
    )
    head = b"LIST" + struct.pack("<I", 24) + b"hdrl" + chunks("<I", (b"avih", bytes(12)))
    more = b"RIFF" + struct.pack("<I", 4 + len(frames)) + b"AVIX" + frames
    body = b"AVI " + head + frames + chunks("<I", (b"idx1", bytes(20)))
    return b"RIFF" + struct.pack("<I", len(body)) + body + more


def mpeg_audio() -> bytes:
    """ID3, a frame of facts and four more of 417 bytes (MP3, 128 kbit/s, 44.1 kHz)."""
    head = b"\xff\xfb\x90\x00"
    facts = (head + bytes(32) + b"Xing" + struct.pack(">3I", 3, 5, 5 * 417)).ljust(417, b"\0")
    return b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + facts + head.ljust(417, b"\0") * 4


def of_dts() -> bytes:
    size = 96  # of a core frame, in bits 46 to 59 of its head
    bits = 0x7FFE8001 << 80 | (size - 1) << 52
    return bits.to_bytes(14, "big").ljust(size, b"\0") * 4


def riff(kind: bytes, content: bytes, name: bytes = b"RIFF", order: str = "<I") -> bytes:
    return name + struct.pack(order, 4 + len(content)) + kind + content


def w64() -> bytes:
    name = bytes.fromhex("726966662e91cf11a5d628db04c10000")
    chunk = (b"fmt " + bytes(12) + struct.pack("<Q", 48)).ljust(48, b"\0")
    return name + struct.pack("<Q", 136) + b"wave" + bytes(12) + chunk * 2


def flv() -> bytes:
    facts = b"\2\0\x0aonMetaData\0\x08filesize\0" + bytes(8)
    tag = b"\x12" + len(facts).to_bytes(3, "big") + bytes(7) + facts
    return (
        b"FLV\1\5\0\0\0\x09\0\0\0\0"
        + tag
        + struct.pack(">I", len(tag))
        + tag
        + struct.pack(">I", len(tag))
    )


def asf() -> bytes:
    facts = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365") + bytes(24) + struct.pack("<Q", 200)
    return (bytes.fromhex("3026b2758e66cf11") + bytes(22) + facts).ljust(200, b"\0")


VOC = b"Creative Voice File\x1a\x1a\0\x0a\1\0\0"
DATA = (b"data", bytes(56))
WHOLE = {  # by their own account, and not when they are cut
    "mp4": mp4(), "matroska": matroska(), "avi": avi(), "mp3": mpeg_audio(), "dts": of_dts(),
    "wav": riff(b"WAVE", chunks("<I", (b"fmt ", bytes(16)), DATA)),
    "rf64": b"RF64\xff\xff\xff\xffWAVE" + chunks("<I", (b"ds64", struct.pack("<Q20x", 104)), DATA),
    "aiff": riff(b"AIFF", chunks(">I", (b"COMM", bytes(18)), DATA), b"FORM", ">I"),
    "caf": b"caff\0\1\0\0" + chunks(">q", (b"desc", bytes(32)), DATA), "w64": w64(),
    "voc": VOC + b"\1\x20\0\0" + bytes(32) + b"\2\x20\0\0" + bytes(32) + b"\0",
    "ivf": b"DKIF\0\0\x20\0VP80" + bytes(20) + (struct.pack("<IQ", 20, 0) + bytes(20)) * 3,
    "roq": b"\x84\x10\xff\xff\xff\xff\x1e\0" + (struct.pack("<HIH", 0x1002, 24, 0) + bytes(24)) * 3,
    "mxf": (b"\x06\x0e\x2b\x34" + bytes(12) + b"\x83\0\0\x20" + bytes(32)) * 3,
    "dirac": (b"BBCD\0" + struct.pack(">II", 33, 33) + bytes(20)) * 3,
    "truehd": (b"\0\x10\0\0\xf8\x72\x6f\xba" + bytes(24)) * 3, "flv": flv(), "asf": asf(),
    "gif": b"GIF89a" + bytes(80) + b";",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(80) + b"IEND\xaeB`\x82",
    "ogg": (b"OggS\0\4" + bytes(20) + b"\1\x40" + bytes(64)) * 2,
    "flic": struct.pack("<IH", 128, 0xAF12) + bytes(122),
    "au": b".snd" + struct.pack(">5I", 24, 80, 1, 8000, 1) + bytes(80),
    "swf": b"FWS\5" + struct.pack("<I", 100) + bytes(92), "dv": b"\x1f\7\0\x3f" + bytes(119_996),
    "y4m": b"YUV4MPEG2 W8 H4 F25:1 C420jpeg\n" + (b"FRAME\n" + bytes(48)) * 2,
    "ts": (b"\x47" + bytes(187)) * 6,
}  # fmt: skip
MEDIA = [
    *WHOLE.values(), b"#EXTM3U\n#EXTINF:1,\na.ts\n" + bytes(60), b"<MPD>" + bytes(80),
    b"fLaC\0\0\0\x22" + bytes(10) + (44100 << 44 | 1000).to_bytes(8, "big") + bytes(60),
    b"TTA1" + struct.pack("<HHHII", 1, 2, 16, 44100, 1000) + bytes(60),
    b"wvpk" + struct.pack("<I4xI4xI", 80, 1000, 9 << 23) + bytes(60),
]  # fmt: skip
LOGS = [
    b"[error] [h264 @ 0x55d] No device available for decoder: device type cuda needed.\n" * 3,
    b"[AVHWDeviceContext @ 0x1] Cannot load libcuda.so.1\nDevice creation failed: -1.\n",
    b"ERROR: ffnvcodec >= 12.1.14.0 not found using pkg-config\n\nIf you think configure made a",
    b"\x1b[31mUnknown encoder 'h264_nvenc'\x1b[0m\r\nframe=  100 fps=25 time=00:00:04 speed=1x\r",
    b'{"log": "No space left on device\\n", "x": "av_interleaved_write_frame(): Broken pipe"}\n',
    "[erreur] Aucun fichier ou dossier de ce type\u2019 : x &quot;\n".encode() * 4,
]
ANSWER = {
    "streams": [
        {"index": 0, "codec_type": "video", "codec_name": "h264", "width": 64, "height": 48,
         "pix_fmt": "yuv420p10le", "avg_frame_rate": "25/1", "r_frame_rate": "50/2",
         "nb_frames": "10", "bits_per_raw_sample": "10", "profile": "High", "field_order": "tt",
         "disposition": {"attached_pic": 0}, "tags": {"alpha_mode": "1"}, "side_data_list": [
             {"displaymatrix": "0: 0 65536 0\n0: -65536 0 0\n0: 0 0 1", "rotation": -90}]},
        {"index": 1, "codec_type": "audio", "codec_name": "aac", "channels": 2,
         "channel_layout": "stereo"},
        {"index": 2, "codec_type": "subtitle", "codec_name": "ass"},
    ],
    "format": {"format_name": "matroska", "duration": "0.4"}, "chapters": [{}],
}  # fmt: skip
PROFILE = b"""summary = "mine"
version = "9.0.2"
cuda = "llvm"
everything = false
components = ["nvenc", "cuda-filters"]
configure = ["--enable-gpl", "--disable-doc"]

[parts]
decoder = ["h264", "vp9@8.0"]
filter = ["scale", "null"]
"""


def elf() -> bytes:
    """A library that needs one other, with a RUNPATH and a module of PTX."""
    strings = b"\0libc.so.6\0$ORIGIN/../lib\0"
    table = 64 + 2 * 56
    rows = [(1, 1), (29, 11), (5, 4096 + table + 64), (0, 0)]
    content = b"".join(struct.pack("<qQ", *row) for row in rows) + strings
    ptx = b"\n.version 5.0\n.target sm_60\n"
    size = table + len(content) + len(ptx)
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 4096, 4096, size, size, 1)
    dynamic = struct.pack("<IIQQQQQQ", 2, 6, table, 4096 + table, 0, 64, 64, 8)
    return head + load + dynamic + content + ptx


PACKED = ("", "gz", "xz", "bz2")


@cache
def tarball(form: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(None, f"w:{form}", out) as archive:
        for name, data in (("ffmpeg/configure", b"#!/bin/sh\n"), ("ffmpeg/a/b.c", b"int x;")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("ffmpeg/link")
        link.type, link.linkname = tarfile.SYMTYPE, "a/b.c"
        archive.addfile(link)
    return out.getvalue()


def damaged(rng: np.random.Generator, whole: bytes) -> bytes:
    """Some bytes changed, cut out, doubled; numbers and words that no writer writes."""
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 6))):
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
        kind = rng.integers(7)
        if kind == 0:
            data[at : at + length] = rng.bytes(length)
        elif kind == 1:
            width = 2 ** int(rng.integers(4))
            number = NUMBERS[rng.integers(len(NUMBERS))] % 256**width
            data[at : at + width] = number.to_bytes(width, ("little", "big")[rng.integers(2)])
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4 and rng.random() < 0.2:
            del data[at:]
        elif kind == 5:
            words = bytes(data).split(b" ")
            words[rng.integers(len(words))] = WORDS[rng.integers(len(WORDS))]
            data = bytearray(b" ".join(words))
        if not data:
            break
    return bytes(data)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value below a value of JSON."""
    below = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in below:
        found += [(value, key), *(places(inner) if isinstance(inner, (dict, list)) else ())]
    return found


def changed(rng: np.random.Generator, value: Any) -> bytes:
    """JSON with values taken out, put in the place of others, or made odd; or damaged text."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        there = places(value) if isinstance(value, (dict, list)) else []
        if not there:
            break
        container, key = there[rng.integers(len(there))]
        kind = rng.integers(4)
        if kind == 0:
            del container[key]
        elif kind == 1:
            other, name = there[rng.integers(len(there))]
            container[key] = copy.deepcopy(other[name])
        else:
            container[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    text = json.dumps(value).encode()
    return damaged(rng, text) if rng.random() < 0.1 else text


def a_profile(rng: np.random.Generator) -> Files:
    """A profile, its text damaged, or the value of a key another."""
    if rng.random() < 0.5:
        return {"m.toml": damaged(rng, PROFILE)}
    lines = PROFILE.split(b"\n")
    for _ in range(int(rng.integers(1, 3))):
        at = rng.integers(len(lines))
        key = lines[at].split(b" = ")[0]
        value = json.dumps(VALUES[rng.integers(1, len(VALUES))]).encode()
        lines[at] = (
            key + b" = " + (value if rng.random() < 0.5 else WORDS[rng.integers(len(WORDS))])
        )
    return {"m.toml": b"\n".join(lines)}


def read_profile(path: Path) -> None:
    assert resolve(path).components


def read_log(path: Path) -> None:
    log = path.read_bytes().decode("utf-8", "replace")
    assert isinstance(last_lines(log), str)
    for found in (diagnose(log), recognise(log)):
        assert found is None or found.sentence


def look_at(path: Path) -> None:
    said = unfinished(path), no_reader("probe", (), path, path.name)
    assert all(one is None or str(one) for one in said)
    assert promised(path) is None or min(promised(path)) > 0
    crop = crop_of(path, 0)
    assert crop is None or min(crop.left, crop.right, crop.top, crop.bottom) >= 0
    assert isinstance(is_playlist(path), bool)


def look_into(path: Path) -> None:
    found = binary.dynamic(path)
    assert found is None or all(isinstance(name, str) for name in found.needed)
    assert all(re.fullmatch(r"\d+\.\d+", m.version) for m in binary.ptx_modules(path))


def read_answer(path: Path) -> None:
    try:
        answer = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # `probe` says so before it looks at the answer
        return
    media = described(path, answer)
    assert media.frames is None or media.frames >= 0


def read_kept(path: Path) -> None:
    assert isinstance(State(path, "x").done, list)
    file = kept._file("fuzz", "x")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(path.read_bytes())
    kept.answer("fuzz", "x", lambda: 3)
    file.unlink()


def read_tarball(path: Path) -> None:
    with tempfile.TemporaryDirectory() as into:
        folder = unpack(path, Path(into) / "work")
        assert folder.parent == Path(into) / "work"
        assert [p.name for p in Path(into).iterdir()] == ["work"]


READERS: dict[str, tuple[Any, Any]] = {
    "media": (lambda rng: {"m.bin": damaged(rng, MEDIA[rng.integers(len(MEDIA))])}, look_at),
    "profile": (a_profile, read_profile),
    "log": (lambda rng: {"m.txt": damaged(rng, LOGS[rng.integers(len(LOGS))])}, read_log),
    "answer": (lambda rng: {"m.json": changed(rng, ANSWER)}, read_answer),
    "kept": (lambda rng: {"m.json": changed(rng, {"time": 1, "answer": 2, "fingerprint": "x",
                                                  "done": ["unpack"]})}, read_kept),
    "tarball": (lambda rng: {"m.tar": damaged(rng, tarball(PACKED[rng.integers(4)]))},
                read_tarball),
    "binary": (lambda rng: {"m.so": damaged(rng, elf())}, look_into),
}  # fmt: skip
REFUSALS = DescriptionError, FfmpegError, SourceError, OSError


def one(reader: str, rng: np.random.Generator, folder: Path) -> bool:
    """Whether an example is read all the same. Raises what must not be raised."""
    make, read = READERS[reader]
    ((name, data),) = make(rng).items()
    (folder / name).write_bytes(data)
    refusal = None
    try:
        read(folder / name)
    except REFUSALS as error:
        refusal = str(error)
    assert [path.name for path in folder.iterdir()] == [name]
    (folder / name).unlink()
    assert refusal is None or name in refusal or refusal.startswith(("version", "cuda")), refusal
    return refusal is None


def fuzz(readers: list[str], seconds: float, most: int, seed: int, first: int) -> tuple[int, int]:
    """(examples tried, those read all the same), from number `first` on. Raises what `one` does;
    ends the process where one takes more than SECONDS."""
    status = Path("/proc/self/statm").read_text().split()
    limit = int(status[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    faulthandler.register(signal.SIGPROF, chain=True)  # says where, then ends the process
    end, read = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in itertools.count(first):
            if number == first + most or time.monotonic() > end:
                break
            print(f"\rseed {seed}, example {number} ", end="", file=sys.stderr, flush=True)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            faulthandler.dump_traceback_later(60 * SECONDS, exit=True)
            reader = readers[number % len(readers)]
            read += one(reader, np.random.default_rng([seed, number]), Path(folder))
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    return number - first, read


@pytest.mark.parametrize("kind", WHOLE)
def test_what_the_fuzzer_begins_with_is_whole_and_known_to_be_cut(kind, tmp_path):
    data = WHOLE[kind]
    (tmp_path / "m").write_bytes(data)
    assert unfinished(tmp_path / "m") is None
    (tmp_path / "m").write_bytes(data[:-13])
    assert unfinished(tmp_path / "m")


def test_a_word_without_end_is_cut_before_the_patterns_see_it():
    """They take time by the square of its length: 20,000 characters took 7 seconds."""
    log = f"[info] data:image/png;base64,{'A' * (1 << 20)}\n[error] No space left on device\n"
    assert max(map(len, plain(log).split())) < 400
    assert diagnose(log).code == "disk-full"


def test_an_flv_that_ends_within_its_own_size_is_looked_at(tmp_path):
    for rest in range(9):
        path = tmp_path / "m.flv"
        path.write_bytes(flv()[:13] + bytes(60) + b"\0\x08filesize\0" + bytes(rest))
        look_at(path)


@pytest.mark.parametrize(("said", "seconds"), [("nan", 0), ("inf", 0), ("-3", None), ("0.5", 0.5)])
def test_a_duration_is_a_number_of_seconds_or_none(said, seconds, tmp_path):
    video = {"codec_type": "video", "width": 8, "height": 8, "index": 0, "avg_frame_rate": "8/1"}
    answer = {"format": {"duration": said}, "streams": [video]}
    if seconds == 0:
        with pytest.raises(FfmpegError, match=rf"a\.mp4.*a duration of {said}"):
            described(tmp_path / "a.mp4", answer)
    else:
        media = described(tmp_path / "a.mp4", answer)
        assert (media.seconds, media.frames) == (seconds, seconds and 4)


def run(seconds: float, most: int, seed: int, first: int = 0) -> tuple[int, int]:
    """`fuzz` in a process of its own: what ends that one is a failure here."""
    command = [sys.executable, __file__, "--seconds", seconds, "--most", most, "--seed", seed]
    command += ["--first", first]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tried, read = map(int, done.stdout.split())
    return tried, read


def test_damaged_files_are_refused_by_name_or_read():
    tried, read = run(600, 700, 0)
    assert tried == 700
    assert 0 < read < 700


@pytest.mark.slow
def test_thousands_of_damaged_files():
    tried, _ = run(10**9, 10000, 1)
    assert tried == 10000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=READERS, nargs="+", default=list(READERS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--most", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    print(*fuzz(given.reader, given.seconds, given.most, given.seed, given.first))
