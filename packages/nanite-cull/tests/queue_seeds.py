"""Seeded runs of the queue's stress under the thread sanitizer, counted and resumed.

    python packages/nanite-cull/tests/queue_seeds.py [--seeds 10000] [--minutes M] [--count]

What has passed is kept beside the build, for the sources as they are: another run goes on from
there, and a change to one of them begins anew. Exit code 1: a seed failed, and its words.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent / "csrc"
SOURCES = [
    HERE / "queue_stress.cpp",
    CSRC / "cull" / "atomic_queue.h",
    CSRC / "core" / "traversal_queue.h",
    CSRC / "core" / "queue_layout.h",
]
KEPT = HERE.parent / "build" / "queue_seeds.json"
CHUNK = 20  # seeds of a process


class NoSanitizer(RuntimeError):
    """The compiler, or its thread sanitizer, is missing."""


def build(name: str, folder: Path, *options: str) -> Path:
    """A test program of this folder, compiled. Raises NoSanitizer for what the machine lacks."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NoSanitizer("needs a C++ compiler")
    out = folder / name
    done = subprocess.run(
        [compiler, "-std=c++17", *options, "-pthread", f"-I{CSRC}", str(HERE / f"{name}.cpp"),
         "-o", str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0 and "tsan" in done.stderr:
        raise NoSanitizer("needs the compiler's thread sanitizer")
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return out


def build_stress(folder: Path) -> Path:
    return build("queue_stress", folder, "-O1", "-g", "-fsanitize=thread")


def run(program: Path, first: int, runs: int, threads: int, bug: str = "none") -> tuple[int, str]:
    """Exit code and words of `runs` seeds from `first` on."""
    command = [str(c) for c in (program, first, runs, threads, bug)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def threads_of(first: int) -> int:
    """2, 3 or 4, chunk by chunk in turn."""
    return 2 + first // CHUNK % 3


def fingerprint() -> str:
    whole = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES))
    return whole.hexdigest()[:16]


def passed(kept: Path = KEPT) -> int:
    """How many seeds, from the first on, have passed with the sources as they are."""
    try:
        state = json.loads(kept.read_text())
    except (OSError, ValueError):
        return 0
    return int(state["seeds"]) if state.get("sources") == fingerprint() else 0


def _say(words: str) -> None:
    print(words, flush=True)


def go_on(
    program: Path, seeds: int, until: float, kept: Path = KEPT, say: Callable[[str], object] = _say
) -> int:
    """Runs what has not passed yet, up to `seeds` or the monotonic time `until`; how many have.
    Raises AssertionError with a failing run's words."""
    sources, done = fingerprint(), passed(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    while done < seeds and time.monotonic() < until:
        runs = min(CHUNK, seeds - done)
        code, words = run(program, done + 1, runs, threads_of(done))
        assert code == 0, words
        done += runs
        aside = kept.with_suffix(".part")
        aside.write_text(json.dumps({"sources": sources, "seeds": done}) + "\n")
        aside.replace(kept)
        say(f"{done} of {seeds}")
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10_000, help="how many in all")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--count", action="store_true", help="only say how many have passed")
    options = parser.parse_args()
    if options.count:
        print(passed())
        return 0
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    try:
        program = build_stress(KEPT.parent)
        go_on(program, options.seeds, time.monotonic() + 60 * options.minutes)
    except (NoSanitizer, AssertionError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
