"""Compiles Triton kernels ahead of time, without a GPU, and reads their machine code.

A kernel is compiled for several architectures; registers, shared memory, local memory and the
tensor-core instructions found are held to a budget file, as nvcc_guard does for CUDA sources. Run
in a process of its own, without TRITON_INTERPRET: that variable turns every kernel into Python.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ARCHITECTURES = (80, 90, 120)
# Tensor-core instructions by what they are: of a warp group (sm_90), of a warp.
INSTRUCTIONS = ("HGMMA", "HMMA")


@dataclass(frozen=True)
class Kernel:
    """One specialisation: types of the arguments in their order, constants, and how it is run.

    Pointers and the arguments named in ``divisible`` are taken for multiples of 16, as Triton finds
    them at run time.
    """

    name: str
    function: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    divisible: Sequence[str] = ()
    warps: int = 4
    stages: int = 3


@dataclass(frozen=True)
class Usage:
    registers: int
    shared: int  # bytes
    local: int  # loads and stores of local memory
    instructions: dict[str, int] = field(default_factory=dict)
    wide_loads: int = 0  # 16 bytes a thread, into registers or shared memory


def missing() -> str | None:
    """Why nothing can be compiled here, for ``pytest.mark.skipif``; None where it can."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed: pip install triton"
    return None


def compile_kernel(kernel: Kernel, architecture: int) -> Usage:
    """Compiles one specialisation for one architecture (90 for sm_90) and reads its code."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = list(kernel.signature)
    wide = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if kernel.signature[name].startswith("*") or name in kernel.divisible
    }
    signature = kernel.signature | dict.fromkeys(kernel.constants, "constexpr")
    ordered = {name: signature[name] for name in kernel.function.arg_names}
    places = {name: i for i, name in enumerate(kernel.function.arg_names)}
    source = ASTSource(
        fn=kernel.function,
        signature=ordered,
        constexprs={(places[name],): value for name, value in kernel.constants.items()},
        attrs={(places[names[i]],): value for (i,), value in wide.items()},
    )
    built = compile(
        source,
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": kernel.warps, "num_stages": kernel.stages},
    )
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(built.asm["cubin"])
        code = _tool("nvdisasm", str(cubin))
        resources = _tool("cuobjdump", "-res-usage", str(cubin))
    used = re.search(r"REG:(\d+)", resources)
    if used is None:
        raise RuntimeError(f"triton_guard: cuobjdump names no registers: {resources[-500:]}")
    counts = {name: len(re.findall(rf"\b{name}\b", code)) for name in INSTRUCTIONS}
    local = len(re.findall(r"\b(?:LDL|STL)\b", code))
    wide = len(re.findall(r"\b(?:LDG|LDGSTS)\.[\w.]*128\b", code))
    found = {n: c for n, c in counts.items() if c}
    return Usage(int(used.group(1)), built.metadata.shared, local, found, wide)


def _tool(name: str, *arguments: str) -> str:
    """nvdisasm or cuobjdump, of Triton or of the CUDA toolkit."""
    import triton

    beside = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    command = [str(beside) if beside.exists() else name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def measure(kernels: Sequence[Kernel], architectures: Sequence[int]) -> dict[str, dict[str, dict]]:
    """Usage of every kernel, by architecture."""
    return {
        f"sm_{arch}": {kernel.name: asdict(compile_kernel(kernel, arch)) for kernel in kernels}
        for arch in architectures
    }


def compare(budget: dict, report: dict[str, dict[str, dict]]) -> list[str]:
    """What is wrong, one sentence each. Local memory is never within a budget."""
    wrong = []
    for arch, kernels in report.items():
        for name, usage in kernels.items():
            allowed = budget.get(arch, {}).get(name)
            if allowed is None:
                wrong.append(f"{arch}: {name}: not in the budget")
                continue
            if usage["local"]:
                wrong.append(f"{arch}: {name}: {usage['local']} accesses of local memory")
            for what in ("registers", "shared"):
                if usage[what] > allowed[what]:
                    fact = f"uses {usage[what]} of {what}, the budget allows {allowed[what]}"
                    wrong.append(f"{arch}: {name}: {fact}")
            for kind in allowed["instructions"]:
                if kind not in usage["instructions"]:
                    wrong.append(f"{arch}: {name}: no {kind}: not on these tensor cores")
    return wrong


def budget_of(report: dict[str, dict[str, dict]]) -> dict:
    """The measured usage as a budget: another release of Triton may take 32 registers more, up to
    168, of which three blocks of 128 threads fit a multiprocessor."""
    return {
        arch: {
            name: usage | {"registers": max(usage["registers"], min(usage["registers"] + 32, 168))}
            for name, usage in kernels.items()
        }
        for arch, kernels in report.items()
    }


def write(path: Path, budget: dict) -> None:
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(budget, indent=1, sort_keys=True) + "\n")
    aside.replace(path)
