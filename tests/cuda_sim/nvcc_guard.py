"""Compiles CUDA files without running them, and holds every kernel to its budget of registers.

Every file is compiled by nvcc with all warnings as errors, spills and local memory among them. What
ptxas reports for each kernel is compared with a budget file kept beside the kernels:

    python tests/cuda_sim/nvcc_guard.py --budget FILE.json csrc/cuda/conv.cu [-I DIR]
    python tests/cuda_sim/nvcc_guard.py --budget FILE.json csrc/cuda/conv.cu --update

Exit codes: 0 within the budget, 1 not, 2 no nvcc.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INCLUDES = (ROOT / "cmake" / "include",)
ARCHITECTURES = ("sm_90",)
FLAGS = [
    "-std=c++17",
    "-O3",
    "-Xptxas",
    "-v,-warn-spills,-warn-lmem-usage",
    "-Werror",
    "all-warnings",
]


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture: registers a thread, bytes of the rest."""

    registers: int
    shared: int = 0
    stack: int = 0
    spill: int = 0


# architecture -> demangled kernel -> usage
Report = dict[str, dict[str, Usage]]


class GuardError(RuntimeError):
    """A file does not compile clean, or a kernel is not within its budget."""


@functools.cache
def nvcc() -> str | None:
    """Path of nvcc: $NVCC, the PATH, $CUDA_HOME/bin or /usr/local/cuda/bin; None without one."""
    if wanted := os.environ.get("NVCC"):
        return wanted
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    return shutil.which("nvcc") or next(
        (found for home in homes if home and (found := shutil.which("nvcc", path=f"{home}/bin"))),
        None,
    )


def missing() -> str | None:
    """Why nothing can be compiled here, for ``pytest.mark.skipif``; None where it can."""
    return None if nvcc() else "the compile guard needs nvcc (on PATH, in $CUDA_HOME or $NVCC)"


@functools.cache
def release() -> str:
    """The release of nvcc, such as ``13.0``: register counts are comparable within one only."""
    said = subprocess.run([_nvcc(), "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"release (\d+\.\d+)", said.stdout)
    if not found:
        raise GuardError(f"nvcc_guard: cannot read a release from {_nvcc()} --version")
    return found.group(1)


def compile_kernels(
    source: Path,
    architecture: str = ARCHITECTURES[0],
    include_dirs: Sequence[Path] = (),
    defines: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> dict[str, Usage]:
    """Compiles one .cu or .cuh file for one architecture; returns the usage of its kernels.

    Raises GuardError with nvcc's words when there is a warning, a spill or use of local memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kernels.cubin"
        output = [*flags, "-cubin", "-o", str(target)]
        said = _run(source, architecture, include_dirs, defines, output)
    return parse_ptxas(said)


def ptx(
    source: Path,
    architecture: str = ARCHITECTURES[0],
    include_dirs: Sequence[Path] = (),
    flags: Sequence[str] = (),
) -> str:
    """The PTX of one file: to look for instructions that a kernel relies on."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kernels.ptx"
        _run(source, architecture, include_dirs, (), [*flags, "-ptx", "-o", str(target)])
        return target.read_text()


def measure(
    sources: Sequence[Path],
    architectures: Sequence[str] = ARCHITECTURES,
    include_dirs: Sequence[Path] = (),
    flags: Sequence[str] = (),
) -> Report:
    """Usage of every kernel of the files, by architecture."""
    return {
        arch: {
            name: usage
            for source in sources
            for name, usage in compile_kernels(source, arch, include_dirs, (), flags).items()
        }
        for arch in architectures
    }


def parse_ptxas(text: str) -> dict[str, Usage]:
    """Reads ``ptxas -v``: demangled kernel name -> usage. Device functions are left out."""
    usage: dict[str, Usage] = {}
    kernel: str | None = None
    stack = spill = 0
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '([^']+)'", line):
            kernel, stack, spill = found.group(1), 0, 0
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line):
            stack, spill = int(found.group(1)), int(found.group(2))
        elif kernel and (found := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            usage[kernel] = Usage(
                int(found.group(1)), int(shared.group(1)) if shared else 0, stack, spill
            )
            kernel = None
    return dict(zip(_demangle(list(usage)), usage.values(), strict=True))


def compare(budget: dict, report: Report, compiler: str) -> list[str]:
    """What is wrong, one sentence each; empty when every kernel is within the budget.

    With another release of nvcc than the budget's, registers are not compared.
    """
    same_compiler = budget["nvcc"] == compiler
    wrong = []
    for arch, kernels in report.items():
        allowed = budget["kernels"].get(arch)
        if allowed is None:
            wrong.append(f"{arch}: the budget has no such architecture; add it with --update")
            continue
        for name, usage in kernels.items():
            if name not in allowed:
                wrong.append(f"{arch}: {name}: not in the budget; add it with --update")
                continue
            for what, used in asdict(usage).items():
                limit = allowed[name].get(what, 0)
                if used > limit and (what != "registers" or same_compiler):
                    unit = "" if what == "registers" else " bytes of"
                    wrong.append(
                        f"{arch}: {name}: uses {used}{unit} {what}, the budget allows {limit}; "
                        "make it smaller, or accept it with --update"
                    )
        gone = sorted(set(allowed) - set(kernels))
        wrong += [f"{arch}: {name}: in the budget but not compiled; use --update" for name in gone]
    return wrong


def check(
    budget_file: Path,
    sources: Sequence[Path],
    architectures: Sequence[str] = ARCHITECTURES,
    include_dirs: Sequence[Path] = (),
    flags: Sequence[str] = (),
) -> Report:
    """Compiles the files and holds them to the budget file; returns what was measured.

    Raises GuardError that names each kernel outside its budget.
    """
    report = measure(sources, architectures, include_dirs, flags)
    wrong = compare(json.loads(budget_file.read_text()), report, release())
    if wrong:
        raise GuardError("\n".join([f"{budget_file.name}: not within the budget", *wrong]))
    return report


def update(budget_file: Path, report: Report) -> None:
    """Writes the measured usage as the new budget, sorted: a change reads well in a diff.

    Registers are rounded up to a multiple of 8, the unit in which devices hand them out, and get
    one unit more: ptxas was seen to choose 182 or 188 for one kernel from run to run.
    """
    kernels = {
        arch: {
            name: asdict(replace(usage, registers=-(-usage.registers // 8) * 8 + 8))
            for name, usage in sorted(found.items())
        }
        for arch, found in sorted(report.items())
    }
    aside = budget_file.with_name(f"{budget_file.name}.{os.getpid()}")
    aside.write_text(json.dumps({"nvcc": release(), "kernels": kernels}, indent=2) + "\n")
    aside.replace(budget_file)


def _nvcc() -> str:
    found = nvcc()
    if found is None:
        raise GuardError(str(missing()))
    return found


def _run(
    source: Path,
    architecture: str,
    include_dirs: Sequence[Path],
    defines: Sequence[str],
    output: Sequence[str],
) -> str:
    includes = [f"-I{folder}" for folder in (*INCLUDES, *include_dirs)]
    command = [_nvcc(), *FLAGS, f"-arch={architecture}", *includes]
    command += [*(f"-D{define}" for define in defines), *output]
    with tempfile.TemporaryDirectory() as folder:
        unit = source
        if source.suffix == ".cuh":  # a header is not a main file: `#pragma once` warns there
            unit = Path(folder) / f"{source.stem}.cu"
            unit.write_text(f'#include "{source.resolve()}"\n')
        done = subprocess.run([*command, str(unit)], capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode:
        fine = re.compile(r"ptxas info|\s+0 bytes stack frame, 0 bytes spill")
        lines = [line for line in said.splitlines() if not fine.match(line)]
        raise GuardError(
            f"{source.name} ({architecture}) does not compile clean:\n"
            + "\n".join(lines)
            + f"\n$ {shlex.join([*command, str(source)])}"
        )
    return said


def _demangle(names: list[str]) -> list[str]:
    if not names:
        return []
    beside = str(Path(_nvcc()).resolve().parent)
    tool = shutil.which("c++filt") or shutil.which("cu++filt", path=beside)
    if tool is None:
        raise GuardError("nvcc_guard: needs c++filt (of binutils) or cu++filt to name the kernels")
    done = subprocess.run([tool, *names], capture_output=True, text=True, check=True)
    return [name.replace(" *", "*").replace(" &", "&") for name in done.stdout.splitlines()]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line in the module's docstring."""
    parser = argparse.ArgumentParser(description="Compile CUDA kernels and check their budget.")
    parser.add_argument("sources", nargs="+", type=Path, help=".cu or .cuh files")
    parser.add_argument("--budget", type=Path, required=True, help="the JSON file of limits")
    parser.add_argument("--arch", action="append", help=f"default: {', '.join(ARCHITECTURES)}")
    parser.add_argument("-I", dest="include", type=Path, action="append", default=[])
    parser.add_argument("--flag", action="append", default=[], help="a further option of nvcc")
    parser.add_argument("--update", action="store_true", help="write what was measured as limits")
    options = parser.parse_args(argv)
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    try:
        report = measure(
            options.sources, options.arch or ARCHITECTURES, options.include, options.flag
        )
        if options.update:
            update(options.budget, report)
        wrong = compare(json.loads(options.budget.read_text()), report, release())
    except GuardError as error:
        print(error, file=sys.stderr)
        return 1
    for arch, kernels in report.items():
        for name, usage in sorted(kernels.items()):
            print(f"{arch}  {usage.registers:3} registers  {usage.shared:6} shared  {name}")
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
