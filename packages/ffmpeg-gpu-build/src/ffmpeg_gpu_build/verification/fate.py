"""FATE: run FFmpeg's own tests on a finished build, those that need no samples."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import proc
from ..build import make
from ..build.work import State

LIBRARIES = (
    "libavcodec",
    "libavdevice",
    "libavfilter",
    "libavformat",
    "libavutil",
    "libswresample",
    "libswscale",
)


@dataclass(frozen=True)
class Fate:
    """Counts of a run; `failed` names each failure with what is known of it."""

    passed: int
    failed: dict[str, str]

    @property
    def total(self) -> int:
        """Tests that ran."""
        return self.passed + len(self.failed)


def library_path(objects: Path) -> str:
    """LD_LIBRARY_PATH of a build tree: without all seven folders most tests fail with 127."""
    return ":".join(str(objects / name) for name in LIBRARIES)


def list_tests(objects: Path, samples: Path | None = None) -> list[str]:
    """Names of the tests that this configuration can run ("fate-acodec-pcm-s16le", ...).

    Raises BuildError if there is no configured build.
    """
    if not (objects / "ffbuild" / "config.mak").is_file():
        raise make.BuildError(f"fate: no build in {objects}; run `ffmpeg-gpu-build build` first")
    command = ["make", "-s", "fate-list", *([f"SAMPLES={samples}"] if samples else [])]
    done = proc.run(command, cwd=objects, env=_environment(objects), timeout=300)
    names = done.out.decode("utf-8", "replace").split()
    return [n for n in names if n.startswith("fate-")]


def _environment(objects: Path) -> dict[str, str]:
    old = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": ":".join([library_path(objects), *([old] if old else [])])}


def run(
    work: Path,
    *,
    only: str = "",
    samples: Path | None = None,
    jobs: int = 2,
    tell: Callable[[make.Step], None] | None = None,
) -> Fate:
    """Run the tests whose name matches the regular expression `only` on the build in `work`.

    Raises BuildError if the build is not finished or no test matches.
    """
    objects = work / "objects"
    state = work / "state.json"
    if not state.is_file() or "compile" not in State(state, _print_of(state)).done:
        raise make.BuildError(f"fate: the build in {work} is not finished", "not-built")
    wanted = [n for n in list_tests(objects, samples) if re.search(only, n)]
    if not wanted:
        raise make.BuildError(f"fate: no test matches {only!r}", "no-test")
    done = 0

    def watch(line: bytes) -> None:
        nonlocal done
        if line.startswith(b"TEST\t"):
            done += 1
            if tell:
                name = line.split(b"\t")[-1].strip().decode("utf-8", "replace")
                tell(make.Step("fate", done, len(wanted), None, name))

    log = work / "fate.txt"
    log.unlink(missing_ok=True)
    command = ["make", "-k", f"-j{jobs}", *([f"SAMPLES={samples}"] if samples else []), *wanted]
    with contextlib.suppress(make.BuildError):  # a failed test fails make: the log names it
        make.run_logged("fate", command, objects, log, _environment(objects), watch)
    text = log.read_text(errors="replace")
    broken = set(re.findall(r"\[[^\]\n]*?(fate-[\w.+-]+)\] Error", text)) & set(wanted)
    return Fate(len(wanted) - len(broken), {n: _reason(objects, n, text) for n in sorted(broken)})


def _print_of(state: Path) -> str:
    try:
        return str(json.loads(state.read_text())["fingerprint"])
    except (ValueError, KeyError):
        return ""


def _reason(objects: Path, name: str, log: str) -> str:
    """What is known of a failed test: another output than the reference, or its last error."""
    test = name.removeprefix("fate-")
    if re.search(rf"^\+\+\+ tests/data/fate/{re.escape(test)}\t", log, re.M):
        return "its output differs from the reference"
    errors = objects / "tests" / "data" / "fate" / f"{test}.err"
    text = errors.read_text(errors="replace").strip() if errors.is_file() else ""
    return text.splitlines()[-1] if text else "no output"
