"""Damaged scans: each is read, or refused with a ValueError or an OSError that names the file.

python tests/test_fuzz_files.py --seconds 600 --seed 1 --reader ply
"""

import argparse
import faulthandler
import io
import itertools
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from spconv_lite.data.scans import read_points

MEMORY = 1 << 30  # bytes more than the process has when it begins
SECONDS = 10  # of the processor for one example; one that waits may do so 60 times as long
POINTS = np.linspace(0, 1, 20, dtype="<f4").reshape(5, 4)
ROWS = "\n".join(" ".join(map(str, row)) for row in POINTS.tolist()) + "\n"


def npy(points: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, points)
    return out.getvalue()


def ply(form: str, body: bytes) -> bytes:
    fields = "".join(f"property float {name}\n" for name in ("x", "y", "z", "intensity"))
    faces = "element face 1\nproperty list uchar int vertex_indices\n"
    return f"ply\nformat {form} 1.0\nelement vertex 5\n{fields}{faces}end_header\n".encode() + body


def pcd(form: str, body: bytes) -> bytes:
    head = "VERSION .7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
    return f"# .PCD v.7\n{head}WIDTH 5\nHEIGHT 1\nPOINTS 5\nDATA {form}\n".encode() + body


SCANS = {
    "npy": [("m.npy", npy(POINTS)), ("m.npy", npy(POINTS.astype("f8")))],
    "bin": [("m.bin", POINTS.tobytes()), ("m.pcd.bin", POINTS.tobytes())],
    "ply": [("m.ply", ply("ascii", ROWS.encode())),
            ("m.ply", ply("binary_little_endian", POINTS.tobytes()))],
    "pcd": [("m.pcd", pcd("ascii", ROWS.encode())), ("m.pcd", pcd("binary", POINTS.tobytes()))],
}  # fmt: skip
NUMBERS = [0, 1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
WORDS = [b"", b"-1", b"0", b"1e9", b"nan", b"3.5", b"4294967297", b"9" * 30, b"9" * 5000, b"\0",
         b"\xff\xfe", b"x y z", b"(" * 300, b"float", b"double", b"U", b"8", b"list",
         b"O", b"'O'", b"\n", b"None"]  # fmt: skip


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
        else:
            words = bytes(data).split(b" ")
            words[rng.integers(len(words))] = WORDS[rng.integers(len(WORDS))]
            data = bytearray(b" ".join(words))
        if not data:
            break
    return bytes(data)


def one(kind: str, rng: np.random.Generator, folder: Path) -> bool:
    """Whether an example is read all the same. Raises what must not be raised."""
    name, whole = SCANS[kind][rng.integers(len(SCANS[kind]))]
    path = folder / name
    path.write_bytes(damaged(rng, whole))
    columns = [None, None, None, 4, 5, 3][rng.integers(6)] if kind == "bin" else None
    points, refusal = None, ""
    try:
        points = read_points(path, columns)
    except (ValueError, OSError) as error:
        refusal = str(error)
    assert [p.name for p in folder.iterdir()] == [name]
    path.unlink()
    if points is None:
        assert name in refusal, refusal
        return False
    assert points.dtype == np.float32
    assert points.ndim == 2
    assert points.shape[1] in (3, 4)
    return True


def fuzz(kinds: list[str], seconds: float, most: int, seed: int, first: int) -> tuple[int, int]:
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
            kind = kinds[number % len(kinds)]
            read += one(kind, np.random.default_rng([seed, number]), Path(folder))
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
    return number - first, read


FOUND = {
    "an unknown type": ("m.pcd", pcd("binary", POINTS.tobytes()).replace(b"F F", b"F X")),
    "a list that is too short": ("m.pcd", pcd("ascii", b"").replace(b"SIZE 4", b"SIZE")),
    "a size that numpy does not have": ("m.pcd", pcd("binary", b"").replace(b"SIZE 4", b"SIZE 9")),
    "no number": ("m.ply", ply("ascii", b"").replace(b"vertex 5", b"vertex five")),
    "a negative number": ("m.ply", ply("ascii", ROWS.encode()).replace(b"vertex 5", b"vertex -1")),
    "a property without a name": ("m.ply", ply("ascii", b"").replace(b"float x", b"float")),
    "rows of several lengths": ("m.ply", ply("ascii", b"1 2 3 4\n1 2\n" * 3)),
    "no end of a bracket": ("m.npy", npy(POINTS).replace(b"4)", b"4(")),
    "more than is there": ("m.npy", npy(POINTS).replace(b"(5, 4), }    ", b"(99999999, 4)}")),
}


@pytest.mark.parametrize(("name", "content"), FOUND.values(), ids=FOUND)
def test_what_the_fuzzer_found_is_refused_by_name(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_points(tmp_path / name)


def run(seconds: float, most: int, seed: int, first: int = 0) -> tuple[int, int]:
    """`fuzz` in a process of its own: what ends that one is a failure here."""
    command = [sys.executable, __file__, "--seconds", seconds, "--most", most, "--seed", seed]
    command += ["--first", first]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tried, read = map(int, done.stdout.split())
    return tried, read


def test_damaged_scans_are_refused_by_name_or_read():
    tried, read = run(600, 400, 0)
    assert tried == 400
    assert 0 < read < 400


@pytest.mark.slow
def test_thousands_of_damaged_scans():
    tried, _ = run(10**9, 10000, 1)
    assert tried == 10000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=SCANS, nargs="+", default=list(SCANS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--most", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    print(*fuzz(given.reader, given.seconds, given.most, given.seed, given.first))
