"""FFmpeg's configure and make, watched: progress, a full log, and what really was enabled.

The arguments that configure is given: `Plan.configure_line` in description.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import proc
from ..doctor.failures import last_lines
from ..doctor.traps import recognise
from .description import Plan

# the verbs that FFmpeg's makefiles print, one line a file
STEP = re.compile(rb"^(CC|CXX|X86ASM|AS|NVCC|GLSLC|AR|LD|HOSTCC|HOSTLD|BIN2C|MINIFY|GZIP)\t")
STEP_IN_DRY_RUN = re.compile(
    rb'printf "(CC|CXX|X86ASM|AS|NVCC|GLSLC|AR|LD|HOSTCC|HOSTLD|BIN2C|MINIFY|GZIP)\\t%s'
)


class BuildError(RuntimeError):
    """A stage that failed: `code` names the trap if it is known, `log` is the whole log."""

    def __init__(self, message: str, code: str = "unknown", log: Path | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.log = log


@dataclass(frozen=True)
class Step:
    """Where the build stands: files done and to do in this stage, and the seconds left if known."""

    stage: str
    done: int
    total: int
    left: float | None
    text: str


def explain(stage: str, text: str, log: Path) -> BuildError:
    """The error of a stage whose output was `text`: the trap and its cure, or the last lines."""
    found = recognise(text)
    shown = last_lines(text, 12)
    if found:
        return BuildError(
            f"{stage} failed: {found.sentence}\n  cure: {found.cure}\n  log: {log}\n{shown}",
            found.code,
            log,
        )
    return BuildError(f"{stage} failed\n  log: {log}\n{shown}", "unknown", log)


def run_logged(
    stage: str,
    command: Sequence[str],
    cwd: Path,
    log: Path,
    env: Mapping[str, str],
    watch: Callable[[bytes], None] | None = None,
    also: Sequence[Path] = (),
) -> None:
    """Run a command with its output in `log`, each line shown to `watch`.

    Raises BuildError if it fails; `also` are logs that explain the failure (config.log).
    Ctrl-C ends the whole group of processes.
    """
    kept: list[bytes] = []
    with log.open("ab", buffering=0) as file:
        file.write(f"\n== {stage}: {' '.join(command)}\n".encode())
        process = proc.start(
            command,
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                kept.append(line)
                if len(kept) > 4000:
                    del kept[:2000]
                if watch:
                    watch(line)
            process.wait()
        except BaseException:
            proc.stop(process)
            raise
        finally:
            process.stdout.close()
            proc.finished(process)
    if process.returncode:
        text = b"".join(kept).decode("utf-8", "replace")
        for extra in (p for p in also if p.is_file()):
            text += extra.read_text(errors="replace")[-20000:]
        raise explain(stage, text, log)


def enabled(build: Path) -> set[str]:
    """The settings that configure left at 1, from config.h and config_components.h."""
    found: set[str] = set()
    for name in ("config.h", "config_components.h"):
        file = build / name
        if file.is_file():
            found |= set(re.findall(r"^#define (\w+) 1$", file.read_text(), re.M))
    return found


def assert_enabled(plan: Plan, build: Path, log: Path) -> None:
    """Hold configure to what was asked: every requested part is there, or BuildError "dropped".

    configure drops parts with a warning, or with none, and exits 0.
    """
    have = enabled(build)
    gone = {m: c for m, c in plan.component_macros().items() if m not in have}
    if not gone:
        return
    by_component: dict[str, list[str]] = {}
    for macro, component in gone.items():
        by_component.setdefault(component, []).append(macro.removeprefix("CONFIG_").lower())
    text = "; ".join(f"{c}: {', '.join(names)}" for c, names in by_component.items())
    config_log = build / "ffbuild" / "config.log"
    found = recognise(config_log.read_text(errors="replace")) if config_log.is_file() else None
    cure = f"\n  probably: {found.sentence}; {found.cure}" if found else ""
    raise BuildError(
        f"configure ended well but left out what was asked for: {text}{cure}\n  why: {config_log}; "
        "or take the component out (--without)",
        found.code if found else "dropped",
        log,
    )


def licence(build: Path) -> str:
    """The licence that configure decided on, in its words."""
    text = (build / "config.h").read_text()
    match = re.search(r'^#define FFMPEG_LICENSE "(.*)"$', text, re.M)
    return match[1] if match else "unknown"


def steps_to_do(build: Path, env: Mapping[str, str]) -> int:
    """How many files make has still to make, by a dry run; 0 if that is not known."""
    done = proc.run(["make", "-n"], cwd=build, env=env, timeout=300)
    return len(STEP_IN_DRY_RUN.findall(done.out))


def compile_all(
    build: Path,
    log: Path,
    env: Mapping[str, str],
    jobs: int,
    tell: Callable[[Step], None] | None = None,
) -> None:
    """make, with progress; what an earlier run made is not made again. Raises BuildError."""
    total, done, started = steps_to_do(build, env), 0, time.monotonic()

    def watch(line: bytes) -> None:
        nonlocal done
        if STEP.match(line):
            done += 1
            if tell:
                passed = time.monotonic() - started
                left = passed / done * (total - done) if total and done > 20 else None
                name = line.split(b"\t")[-1].strip().decode("utf-8", "replace")
                tell(Step("compile", min(done, total) if total else done, total, left, name))

    run_logged("compile", ["make", f"-j{jobs}"], build, log, env, watch)
