"""Damaged Keras files: each is refused with a ValueError, or read; none ends the interpreter.

python tests/test_fuzz_files.py --seconds 600 --seed 1
"""

import argparse
import io
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

import convlstm

ARCHIVE = Path(__file__).with_name("keras_fixtures.tar.xz")
MEMORY = 3 << 30  # bytes more than the process has when it begins


def sources() -> list[tuple[str, bytes]]:
    """(ending, contents) of small files of every writer."""
    found = []
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            name = Path(member.name)
            if name.suffix in (".keras", ".h5") and not name.name.endswith(".weights.h5"):
                found.append((name.suffix, archive.extractfile(member).read()))
    return found


def damaged(rng: np.random.Generator, whole: bytes) -> bytes:
    """Some bytes changed, cut out, doubled, or the end missing."""
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(len(data)))
        length = int(rng.integers(1, 9))
        kind = rng.integers(5)
        if kind == 0:
            data[at : at + length] = rng.bytes(length)
        elif kind == 1:
            data[at] = [0, 0xFF, 0x80, 0x7F][rng.integers(4)]
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif rng.random() < 0.2:
            del data[at:]
        if not data:
            return b""
    return bytes(data)


def example(rng: np.random.Generator, whole: bytes) -> bytes:
    """A damaged file; of a `.keras` archive mostly one of its members, in a sound archive."""
    if not zipfile.is_zipfile(io.BytesIO(whole)) or rng.random() < 0.3:
        return damaged(rng, whole)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        hurt = names[rng.integers(len(names))]
        for name in names:
            data = old.read(name)
            new.writestr(name, damaged(rng, data) if name == hurt else data)
    return out.getvalue()


def fuzz(seconds: float, most: int, seed: int, first: int) -> tuple[int, int]:
    """(files tried, files that were read all the same), from the example `first` on. Raises what
    is no ValueError."""
    status = Path("/proc/self/statm").read_text().split()
    limit = int(status[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    files, end = sources(), time.monotonic() + seconds
    tried = read = 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while tried < most and time.monotonic() < end:
            rng = np.random.default_rng([seed, first + tried])
            ending, whole = files[rng.integers(len(files))]
            path = Path(folder) / f"m{ending}"
            path.write_bytes(example(rng, whole))
            try:
                convlstm.load_keras(path)
                read += 1
            except ValueError:
                pass
            except BaseException:
                print(f"seed {seed}, example {first + tried}", file=sys.stderr, flush=True)
                raise
            tried += 1
    return tried, read


def run(seconds: float, most: int, seed: int, first: int = 0) -> tuple[int, int]:
    """`fuzz` in a process of its own: what ends that one is a failure here."""
    command = [sys.executable, __file__, "--seconds", seconds, "--most", most, "--seed", seed]
    command += ["--first", first]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tried, read = map(int, done.stdout.split())
    return tried, read


def test_damaged_files_are_refused_with_a_value_error_or_read():
    tried, read = run(600, 300, 0)
    assert tried == 300
    assert 0 < read < 300


@pytest.mark.parametrize("example", [20021])
def test_files_on_which_hdf5_itself_ends_the_process(example):
    """HDF5 2.0's library writes through a null pointer when it reads a text of no known kind."""
    assert run(600, 1, 1, example)[0] == 1


@pytest.mark.slow
def test_thousands_of_damaged_files():
    tried, _ = run(10**9, 1000, 1)
    assert tried == 1000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--most", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    print(*fuzz(given.seconds, given.most, given.seed, given.first))
