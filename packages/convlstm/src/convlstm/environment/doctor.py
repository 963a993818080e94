"""Does this machine fit this release? What is here, what is wanted, and the line that cures it."""

from __future__ import annotations

import ctypes
import platform
import sys
from dataclasses import asdict, dataclass

import torch

from .. import _C, __version__  # type: ignore[attr-defined]
from .pins import Pins, read_pins, satisfies, version

OK, NOTE, WRONG = "ok", "note", "WRONG"


@dataclass(frozen=True)
class Machine:
    """What was found; None where there is none. Versions as their owners print them."""

    python: str
    system: str
    torch: str
    torch_cuda: str | None
    cudnn: str | None
    driver_cuda: str | None  # the newest CUDA that the driver runs
    gpus: tuple[str, ...]
    capabilities: tuple[str, ...]
    kernels: str  # architectures of our CUDA kernels, "" without
    isa: str
    cpu_error: float | None  # fused against loop, None if it failed
    gpu_error: float | None  # GPU convolution against CPU


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    found: str
    wanted: str
    state: str
    cure: str = ""


def driver_cuda() -> str | None:
    """The newest CUDA version that the NVIDIA driver runs, from the driver itself."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        number = ctypes.c_int()
        if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def cpu_check() -> float | None:
    """The largest difference of the fused sequence from its definition on a small layer."""
    from ..layers.layer import ConvLSTM2d

    try:
        layer = ConvLSTM2d(2, 8, 3, padding="same", plan="fused")
        x = torch.rand(1, 3, 2, 8, 8)
        with torch.no_grad():
            fused = layer(x)
            layer.plan = "loop"
            return (fused - layer(x)).abs().max().item()
    except RuntimeError:
        return None


def gpu_check() -> float | None:
    """The largest difference of a convolution on the GPU from the same on the CPU."""
    try:
        x, weight = torch.rand(2, 8, 32, 32), torch.rand(16, 8, 3, 3) / 8
        with torch.no_grad():
            there = torch.conv2d(x.cuda(), weight.cuda(), padding=1).cpu()
        return (there - torch.conv2d(x, weight, padding=1)).abs().max().item()
    except RuntimeError:
        return None


def inspect_machine() -> Machine:
    """Looks at this interpreter, torch, the driver and the GPUs, and computes a little on each."""
    has_gpu = torch.cuda.is_available()
    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None
    count = torch.cuda.device_count() if has_gpu else 0
    capabilities = (torch.cuda.get_device_capability(k) for k in range(count))
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        torch=torch.__version__,
        torch_cuda=torch.version.cuda,
        cudnn=None if cudnn is None else _cudnn_text(cudnn),
        driver_cuda=driver_cuda(),
        gpus=tuple(torch.cuda.get_device_name(k) for k in range(count)),
        capabilities=tuple(f"{a}{b}" for a, b in capabilities),
        kernels=_C.cuda_architectures,
        isa=_C.isa(),
        cpu_error=cpu_check(),
        gpu_error=gpu_check() if has_gpu else None,
    )


def _cudnn_text(number: int) -> str:
    """90300 is 9.3.0 from cuDNN 9 on, 8906 is 8.9.6 before."""
    if number >= 90000:
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return f"{number // 1000}.{number // 100 % 10}.{number % 100}"


def best_cuda(pins: Pins, driver: str | None) -> str | None:
    """The newest pinned CUDA that a driver runs: within a major version drivers are compatible."""
    fitting = [c for c in pins.cuda if driver and version(c)[0] <= version(driver)[0]]
    return fitting[-1] if fitting else None


def conda_line(pins: Pins, cuda: str | None) -> str:
    """The command that installs this release in its CPU or its CUDA kind."""
    if cuda is None:
        return f'conda install -c conda-forge "convlstm={__version__}=cpu*" "pytorch{pins.torch}"'
    flavour = f"cuda{cuda.replace('.', '')}"
    return (
        f'conda install -c conda-forge "convlstm={__version__}={flavour}*" '
        f'"pytorch{pins.torch}=cuda*" "cuda-version={cuda}" "cudnn{pins.cudnn}"'
    )


def diagnose(m: Machine, pins: Pins) -> list[Finding]:
    """One finding for each part, with the cure where something is wrong."""
    cuda = best_cuda(pins, m.driver_cuda)
    line = conda_line(pins, cuda)
    floor = f">={pins.python[0]}"
    found = [
        _range("python", m.python, floor, f'conda install "python={pins.python[-1]}"'),
        _range("torch", m.torch, pins.torch, line),
        _self_test("fused on the CPU", m.cpu_error, m.isa, line),
    ]
    found += _driver_findings(m, pins, cuda, line)
    if m.torch_cuda is not None:
        found.append(_range("cuDNN", m.cudnn or "none", pins.cudnn, line))
    if m.gpus:
        found.append(Finding("GPU", ", ".join(m.gpus), "any", OK))
        found.append(_self_test("convolution on the GPU", m.gpu_error, m.gpus[0], line))
        if not m.kernels:
            found.append(
                Finding("CUDA kernels", "not in this build", "in a CUDA build", NOTE, line)
            )
    return found


def _range(what: str, found: str, wanted: str, cure: str) -> Finding:
    fits = bool(version(found)) and satisfies(found, wanted)
    return Finding(what, found, wanted, OK if fits else WRONG, "" if fits else cure)


def _self_test(what: str, error: float | None, where: str, cure: str) -> Finding:
    wanted = "difference below 0.001"
    if error is None:
        return Finding(what, f"failed ({where})", wanted, WRONG, cure)
    state = OK if error < 1e-3 else WRONG
    return Finding(what, f"difference {error:.1g} ({where})", wanted, state, cure * (state != OK))


def _driver_findings(m: Machine, pins: Pins, cuda: str | None, line: str) -> list[Finding]:
    wanted = " or ".join(pins.cuda)
    if m.driver_cuda is None:
        if m.torch_cuda is None:
            text = "no NVIDIA driver: this CPU build fits"
            return [Finding("CUDA", text, "none", OK)]
        text = f"torch is built for CUDA {m.torch_cuda}, but there is no NVIDIA driver"
        return [Finding("CUDA", text, "the CPU build", NOTE, line)]
    driver = Finding("driver", f"runs CUDA {m.driver_cuda}", f"for CUDA {wanted}", OK)
    if cuda is None:
        cure = f"update the NVIDIA driver to one that runs CUDA {pins.cuda[0]} or newer"
        return [Finding(driver.what, driver.found, driver.wanted, WRONG, cure)]
    if m.torch_cuda is None:
        return [driver, Finding("CUDA", "torch is a CPU build", f"CUDA {cuda}", WRONG, line)]
    if version(m.torch_cuda)[0] > version(m.driver_cuda)[0]:
        text = f"torch needs CUDA {m.torch_cuda}, the driver runs {m.driver_cuda}"
        return [driver, Finding("CUDA", text, f"CUDA {cuda}", WRONG, line)]
    majors = {version(c)[0] for c in pins.cuda}
    state = OK if version(m.torch_cuda)[0] in majors else WRONG
    return [
        driver,
        Finding("CUDA", f"torch has {m.torch_cuda}", wanted, state, line * (state != OK)),
    ]


def report(findings: list[Finding]) -> str:
    """The findings as text, cures below."""
    width = max(len(f.found) for f in findings)
    lines = [f"convlstm {__version__}"]
    for f in findings:
        lines.append(f"  {f.state:6} {f.what:24} {f.found:{width}}  wanted: {f.wanted}")
    cures = list(dict.fromkeys(f.cure for f in findings if f.cure))
    if cures:
        lines += ["", "cure:", *(f"  {c}" for c in cures)]
    return "\n".join(lines)


def run_doctor(as_json: bool) -> tuple[str, int]:
    """(text, exit code): 0 if nothing is wrong, else 1."""
    import json

    machine = inspect_machine()
    findings = diagnose(machine, read_pins())
    code = int(any(f.state == WRONG for f in findings))
    if as_json:
        rows = {"machine": asdict(machine), "findings": [asdict(f) for f in findings]}
        return json.dumps(rows, indent=1), code
    return report(findings), code
