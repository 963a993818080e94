"""Builds and runs programs of simulated CUDA kernels, plain and under sanitizers.

A program is one C++ file that includes cusim_test.h and kernels written with native/device.h. It is
built three times by clang: plain, with AddressSanitizer and UndefinedBehaviorSanitizer, and with
ThreadSanitizer (the simulator's scheduler without). Objects are kept in a build folder and remade
when a file they were made from has changed; ccache is used where it is installed.

    python tests/cuda_sim/simulate.py PROGRAM.cpp [-I DIR] [--flavour tsan] [--seeds 20] [CASE ...]
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "cuda_sim"

FLAVOURS: dict[str, list[str]] = {
    "plain": [],
    "asan": [
        "-fsanitize=address,undefined,unsigned-integer-overflow",
        "-fno-sanitize-recover=undefined,unsigned-integer-overflow",
        f"-fsanitize-ignorelist={HERE / 'ignorelist.txt'}",
    ],
    "tsan": ["-fsanitize=thread"],
}
COMMON = [
    "-std=c++17",
    "-gline-tables-only",
    "-O1",
    "-fno-omit-frame-pointer",
    "-Wall",
    "-Wextra",
    "-Werror",
]

INSTALL = "on Debian: apt-get install clang-19 libclang-rt-19-dev"

# Exit codes of a program; a sanitizer's report has one of its own.
CLEAN, SIMULATOR_ERROR, WRONG_RESULT, SANITIZER_REPORT = 0, 3, 4, 66

RUN_ENVIRONMENT = {
    "ASAN_OPTIONS": f"exitcode={SANITIZER_REPORT}:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": f"exitcode={SANITIZER_REPORT}:print_stacktrace=1",
    # TSan sleeps a second at exit unless told otherwise.
    "TSAN_OPTIONS": f"exitcode={SANITIZER_REPORT}:halt_on_error=1:atexit_sleep_ms=0",
}


@dataclass(frozen=True)
class Outcome:
    """How one case ended: ``code`` as above, ``output`` what it wrote to standard error."""

    code: int
    output: str


@functools.cache
def compiler() -> str | None:
    """The clang++ that builds the programs: $CUSIM_CXX, clang++-19 or clang++; None without one."""
    wanted = os.environ.get("CUSIM_CXX")
    names = [wanted] if wanted else ["clang++-19", "clang++"]
    return next((found for name in names if (found := shutil.which(name))), None)


@functools.cache
def missing() -> str | None:
    """Why programs cannot be built here, for ``pytest.mark.skipif``; None where they can.

    Raises RuntimeError with the same words where $CI is set: there nothing may go unseen.
    """
    reason = _missing()
    if reason is not None and os.environ.get("CI", "") not in ("", "0", "false"):
        raise RuntimeError(reason)
    return reason


def _missing() -> str | None:
    cxx = compiler()
    if cxx is None:
        return f"the CUDA simulator needs clang++-19 (or clang++, or $CUSIM_CXX): {INSTALL}"
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.cpp"
        probe.write_text("int main() {}\n")
        for flavour, flags in FLAVOURS.items():
            command = [cxx, *flags, str(probe), "-o", str(probe.with_suffix(""))]
            if subprocess.run(command, capture_output=True).returncode:
                return f"{cxx} lacks the sanitizer libraries of flavour {flavour}: {INSTALL}"
    return None


def build(
    program: Path,
    flavour: str,
    include_dirs: Sequence[Path] = (),
    build_dir: Path = BUILD,
    link: Sequence[str] = (),
) -> Path:
    """Builds ``program`` (a .cpp file) in a flavour and returns the executable.

    link: archives and linker options behind the program, such as the CPU twin of its kernels.
    Raises RuntimeError with the command and the compiler's messages when it does not compile.
    """
    program = program.resolve()
    folder = build_dir / flavour
    folder.mkdir(parents=True, exist_ok=True)
    flags = FLAVOURS[flavour]
    includes = [f"-I{d.resolve()}" for d in (HERE, ROOT / "cmake" / "include", *include_dirs)]
    base = [*COMMON, "-DNATIVE_CUDA_SIM=1", *includes]

    # The scheduler must not be instrumented by TSan: it would be a party to every race.
    runtime_flags = ["-DCUSIM_TSAN=1"] if flavour == "tsan" else flags
    runtime = _compile(HERE / "runtime.cpp", folder / "runtime.o", [*base, *runtime_flags])
    # Two programs of one name in different packages must not share objects.
    name = f"{program.stem}-{hashlib.sha256(str(program).encode()).hexdigest()[:8]}"
    kernels = _compile(program, folder / f"{name}.o", [*base, *flags])
    executable = folder / name
    archives = [Path(name) for name in link if not name.startswith("-")]
    if not _newer(executable, [runtime, kernels, *archives]):
        _produce(executable, [_cxx(), *flags, str(runtime), str(kernels), *link])
    return executable


def cases(executable: Path) -> list[str]:
    """The names of the cases that a program has."""
    listed = subprocess.run([executable, "--list"], capture_output=True, text=True, check=True)
    return listed.stdout.split()


def run(
    executable: Path, case: str, *, seed: int = 1, seeds: int = 1, timeout: float = 120
) -> Outcome:
    """Runs one case with the seeds ``seed .. seed+seeds-1``, up to the first that fails."""
    command = [str(executable), case, "--seed", str(seed), "--seeds", str(seeds)]
    environment = {**os.environ, **RUN_ENVIRONMENT}
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=timeout, env=environment
    )
    return Outcome(done.returncode, done.stderr)


def _cxx() -> str:
    found = compiler()
    if found is None:
        raise RuntimeError(f"simulate.build: {missing()}")
    return found


def _compile(source: Path, target: Path, flags: Sequence[str]) -> Path:
    depfile = target.with_suffix(".d")
    command_file = target.with_suffix(".cmd")
    launcher = ["ccache"] if shutil.which("ccache") else []
    command = [*launcher, _cxx(), *flags, "-c", str(source)]
    text = shlex.join(command)
    if depfile.exists() and command_file.exists() and command_file.read_text() == text:
        rule = depfile.read_text().replace("\\\n", " ").split(": ", 1)[1]
        if _newer(target, [Path(name) for name in rule.split()]):
            return target
    aside = depfile.with_name(f"{depfile.name}.{os.getpid()}")
    _produce(target, [*command, "-MMD", "-MF", str(aside)])
    aside.replace(depfile)
    command_file.write_text(text)
    return target


def _newer(target: Path, sources: Sequence[Path]) -> bool:
    if not target.exists():
        return False
    made = target.stat().st_mtime_ns
    return all(source.exists() and source.stat().st_mtime_ns < made for source in sources)


def _produce(target: Path, command: Sequence[str]) -> None:
    """Runs ``command -o`` aside and renames, so that a parallel run never sees half a file."""
    aside = target.with_name(f"{target.name}.{os.getpid()}")
    full = [*command, "-o", str(aside)]
    done = subprocess.run(full, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        aside.unlink(missing_ok=True)
        raise RuntimeError(f"{shlex.join(full)}\n{done.stdout}{done.stderr}")
    aside.replace(target)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line in the module's docstring; exits 1 when a case is not clean."""
    parser = argparse.ArgumentParser(description="Run simulated CUDA kernels under sanitizers.")
    parser.add_argument("program", type=Path, help="a .cpp file with CUSIM_CASEs")
    parser.add_argument("cases", nargs="*", help="which cases (default: all)")
    parser.add_argument("-I", dest="include", type=Path, action="append", default=[])
    parser.add_argument("--link", action="append", default=[], help="archive or linker option")
    parser.add_argument("--flavour", choices=FLAVOURS, action="append", help="default: all three")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(argv)
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    failed = 0
    for flavour in options.flavour or FLAVOURS:
        executable = build(options.program, flavour, options.include, link=options.link)
        for case in options.cases or cases(executable):
            outcome = run(executable, case, seed=options.seed, seeds=options.seeds)
            print(f"{flavour:6} {case:50} {'clean' if outcome.code == CLEAN else 'FAILED'}")
            if outcome.code != CLEAN:
                failed = 1
                print(outcome.output)
    return failed


if __name__ == "__main__":
    sys.exit(main())
