"""Damaged recordings and checkpoints: each is read, or refused with a ValueError or an OSError that
names the file.

python tests/test_fuzz_data.py --seconds 600 --seed 1 --reader pictures
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
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import convlstm
from convlstm.forecasting.recordings import open_recordings
from convlstm.forecasting.training import load_checkpoint

MEMORY = 2 << 30  # bytes more than the process has when it begins
SECONDS = 10  # of the processor for one example; one that waits may do so 60 times as long
FRAMES = (np.arange(3 * 8 * 8, dtype=np.uint8) * 5).reshape(3, 8, 8)
Files = dict[str, bytes]
NUMBERS = [0, 1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
WORDS = [b"", b"-1", b"0", b"1e9", b"nan", b"3.5", b"4294967297", b"9" * 30, b"9" * 5000, b"\0",
         b"\xff\xfe", b"(" * 300, b"'O'", b"'<U9'", b"\n", b"None"]  # fmt: skip


def npy(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def npz() -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, frames=FRAMES.astype(np.float32))
    return out.getvalue()


def picture(form: str, mode: str = "L", more: int = 0, **options: Any) -> bytes:
    """One picture, or an animation of `more` than that."""
    out = io.BytesIO()
    frames = [Image.fromarray(frame).convert(mode) for frame in FRAMES]
    if more:
        options |= {"save_all": True, "append_images": frames[1 : more + 1]}
    frames[0].save(out, form, **options)
    return out.getvalue()


@cache
def checkpoint() -> bytes:
    model = convlstm.next_frame("small", size=(8, 8), filters=1)
    state = {"model": model.keras_config(), "weights": model.state_dict(), "optimizer": {},
             "random": torch.get_rng_state(), "progress": {"step": 3},
             "average": {}, "scale": {"low": 0.0, "high": 1.0}}  # fmt: skip
    out = io.BytesIO()
    torch.save(state, out)
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
            words = bytes(data[:200]).split(b" ")
            words[rng.integers(len(words))] = WORDS[rng.integers(len(WORDS))]
            data[:200] = b" ".join(words)
        if not data:
            break
    return bytes(data)


def damaged_zip(rng: np.random.Generator, whole: bytes) -> bytes:
    """A damaged archive; mostly one of its members, in a sound archive."""
    if rng.random() < 0.3:
        return damaged(rng, whole)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        hurt = names[0 if rng.random() < 0.7 else rng.integers(len(names))]
        for name in names:
            data = old.read(name)
            new.writestr(name, damaged(rng, data) if name == hurt and data else data)
    return out.getvalue()


def folder_of(rng: np.random.Generator) -> Files:
    """A folder of pictures, one of them damaged."""
    ending, form = [("png", "PNG"), ("jpg", "JPEG"), ("tif", "TIFF")][rng.integers(3)]
    whole = picture(form)
    return {f"p{k}.{ending}": damaged(rng, whole) if k == 1 else whole for k in range(3)}


ARRAYS = [npy(FRAMES), npy(FRAMES[..., None] / np.float32(255)), npy(FRAMES[None].repeat(2, 0))]
ANIMATIONS = [
    ("a.gif", picture("GIF", "P", 2)), ("a.tif", picture("TIFF", "L", 2)),
    ("a.tiff", picture("TIFF", "F", 2)), ("a.webp", picture("WEBP", "RGB", 2)),
    ("a.tif", picture("TIFF", "I;16", 1, compression="tiff_lzw")), ("a.png", picture("PNG")),
]  # fmt: skip


def read_frames(path: Path) -> None:
    recordings, _ = open_recordings(path)
    for recording in recordings:
        assert recording[0:2].dtype == np.float32


READERS: dict[str, tuple[Any, Any]] = {
    "arrays": (lambda rng: {"a.npz": damaged_zip(rng, npz())} if rng.random() < 0.3
               else {"a.npy": damaged(rng, ARRAYS[rng.integers(3)])},
               lambda folder: read_frames(next(folder.iterdir()))),
    "animations": (lambda rng: {(a := ANIMATIONS[rng.integers(6)])[0]: damaged(rng, a[1])},
                   lambda folder: read_frames(next(folder.iterdir()))),
    "pictures": (folder_of, read_frames),
    "checkpoint": (lambda rng: {"c.pt": damaged_zip(rng, checkpoint())},
                   lambda folder: load_checkpoint(folder / "c.pt")),
}  # fmt: skip


def one(reader: str, rng: np.random.Generator, folder: Path) -> bool:
    """Whether an example is read all the same. Raises what must not be raised."""
    make, read = READERS[reader]
    files = make(rng)
    folder = folder / "run"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    refusal = None
    try:
        read(folder)
    except (ValueError, OSError) as error:
        refusal = str(error)
    assert {path.name for path in folder.iterdir()} == set(files)
    for name in files:
        (folder / name).unlink()
    folder.rmdir()
    named = refusal is None or "run" in refusal or "infinite values" in refusal
    assert named or "frames must have one size" in refusal, refusal
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


FOUND = {
    "no end of a bracket": ("a.npy", npy(FRAMES).replace(b"8, 8)", b"8, 8(")),
    "more than is there": ("a.npy", npy(FRAMES).replace(b"(3, 8, 8), }   ", b"(10**9, 8, 8), }")),
    "a cut picture": ("p.png", picture("PNG")[:-40]),
    "a cut animation": ("a.gif", picture("GIF", "P", 2)[:-20]),
}


@pytest.mark.parametrize(("name", "content"), FOUND.values(), ids=FOUND)
def test_a_damaged_recording_is_refused_by_name(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_frames(tmp_path / name)


@pytest.mark.parametrize(
    ("part", "value"),
    [("model", {}), ("weights", {}), ("weights", 3), ("scale", {"low": 2.0, "high": 1.0}),
     ("scale", 3), ("weights", {"layers.0.cell.bias": torch.ones(1).expand(1 << 40)})],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused_by_name(part, value, tmp_path):
    state = torch.load(io.BytesIO(checkpoint()), weights_only=True)
    if part == "weights" and isinstance(value, dict) and value:
        value = dict.fromkeys(state["weights"], *value.values())
    torch.save({**state, part: value}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"c\.pt"):
        load_checkpoint(tmp_path / "c.pt")


def run(seconds: float, most: int, seed: int, first: int = 0) -> tuple[int, int]:
    """`fuzz` in a process of its own: what ends that one is a failure here."""
    command = [sys.executable, __file__, "--seconds", seconds, "--most", most, "--seed", seed]
    command += ["--first", first]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tried, read = map(int, done.stdout.split())
    return tried, read


def test_damaged_data_are_refused_by_name_or_read():
    tried, read = run(600, 200, 0)
    assert tried == 200
    assert 0 < read < 200


@pytest.mark.slow
def test_thousands_of_damaged_data():
    tried, _ = run(10**9, 5000, 1)
    assert tried == 5000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=READERS, nargs="+", default=list(READERS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--most", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    print(*fuzz(given.reader, given.seconds, given.most, given.seed, given.first))
