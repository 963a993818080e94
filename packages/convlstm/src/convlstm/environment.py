"""Environment files for this release and for the classic Keras set-up, and the notebook kernel."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import __version__
from .doctor import run_doctor
from .pins import TENSORFLOW, TensorFlow, read_pins, version


def environment(gpu: bool, mirror: str | None = None) -> str:
    """A conda environment file (YAML) with this release, its notebook and its tools."""
    pins = read_pins()
    cuda = pins.cuda[-1]
    packages = [f"python={pins.python[-1]}"]
    if gpu:
        flavour = f"cuda{cuda.replace('.', '')}"
        packages += [
            f"convlstm={__version__}={flavour}*",
            f"pytorch{pins.torch}=cuda*",
            f"cuda-version={cuda}",
            f"cudnn{pins.cudnn}",
        ]
    else:
        packages += [f"convlstm={__version__}=cpu*", f"pytorch{pins.torch}"]
    packages += ["h5py", "pillow", "scikit-learn", "tensorboard", "ipykernel"]
    about = f"convlstm {__version__}, {f'CUDA {cuda}' if gpu else 'CPU'}"
    return _yaml("convlstm", about, packages, [], mirror)


def tensorflow_environment(release: str, gpu: bool, mirror: str | None = None) -> str:
    """The classic Keras set-up for a TensorFlow release, from the versions that it was tested with.

    Raises ValueError for a release that the table does not have.
    """
    if release not in TENSORFLOW:
        known = ", ".join(TENSORFLOW)
        raise ValueError(f"env: --tensorflow must be one of {known}; got {release}")
    row = TENSORFLOW[release]
    packages = [f"python={row.python}", "pip", "h5py", "pillow", "matplotlib", "ipykernel"]
    if gpu:
        packages += [f"cudatoolkit={row.cuda}" if version(row.cuda) < (12,) else
                     f"cuda-version={row.cuda}", f"cudnn={row.cudnn}"]  # fmt: skip
    about = f"TensorFlow {release}: tested with Python up to {row.python}"
    about += f", CUDA {row.cuda}, cuDNN {row.cudnn}\n{_windows(row)}" if gpu else ", CPU"
    return _yaml(f"tensorflow-{release}", about, packages, [f"tensorflow=={release}.*"], mirror)


def _windows(row: TensorFlow) -> str:
    if row.windows_gpu:
        return "Windows: this release runs on the GPU natively."
    return "Windows: no native GPU support after TensorFlow 2.10; use WSL2 (or TensorFlow 2.10)."


def _yaml(name: str, about: str, packages: list[str], pip: list[str], mirror: str | None) -> str:
    channel = "conda-forge"
    if mirror is not None:
        if any(c.isspace() or c in "\"'#" for c in mirror):
            raise ValueError(f"env: --mirror must be a plain URL or channel name, got {mirror!r}")
        channel = mirror
    lines = [f"# {line}" for line in about.splitlines()]
    lines += [f"name: {name}", "channels:", f"  - {channel}", "  - nodefaults", "dependencies:"]
    lines += [f'  - "{p}"' for p in packages]
    if pip:
        lines += ["  - pip:", *(f'      - "{p}"' for p in pip)]
    return "\n".join(lines) + "\n"


# The notebook kernel


def install_kernel(name: str, display: str, prefix: str | None = None) -> Path:
    """Registers this interpreter as a Jupyter kernel; checks that it starts and imports convlstm.

    prefix: where (`share/jupyter/kernels` below it); by default the user's folder. Raises
    RuntimeError where ipykernel is missing or the kernel does not start.
    """
    try:
        from ipykernel.kernelspec import install
    except ImportError:
        raise RuntimeError(
            "kernel: ipykernel is not installed: pip install ipykernel (conda install ipykernel)"
        ) from None
    folder = install(user=prefix is None, kernel_name=name, display_name=display, prefix=prefix)
    check_kernel(Path(folder))
    return Path(folder)


def check_kernel(folder: Path, seconds: float = 60) -> str:
    """Starts the kernel of a kernelspec folder, runs code in it and stops it; returns what it
    printed. Raises RuntimeError with the kernel's own words if that fails."""
    import json

    from jupyter_client import KernelManager

    command = json.loads((folder / "kernel.json").read_text())["argv"]
    manager = KernelManager()
    manager.kernel_spec.argv = command
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    printed: list[str] = []

    def collect(message) -> None:
        content = message["content"]
        printed.append(content.get("text", "") or "\n".join(content.get("traceback", [])))

    try:
        client.wait_for_ready(timeout=seconds)
        reply = client.execute_interactive(
            "import convlstm; print('convlstm', convlstm.__version__)",
            timeout=seconds,
            output_hook=collect,
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(f"kernel: it starts, but cannot import convlstm: {''.join(printed)}")
    return "".join(printed).strip()


# Commands


def add_doctor(commands) -> None:
    p = commands.add_parser(
        "doctor", help="check versions, driver and GPU against this release",
        description="Compares this machine with the versions that this release is built for, runs "
        "a convolution, and prints the conda line that cures a mismatch. Exit code 1 if any.",
    )  # fmt: skip
    p.add_argument("--json", action="store_true", help="for machines")
    p.set_defaults(run=_doctor)


def _doctor(a: argparse.Namespace) -> int:
    text, code = run_doctor(a.json)
    print(text)
    return code


def add_env(commands) -> None:
    p = commands.add_parser(
        "env", help="print an environment file for conda",
        description="Prints an environment file: convlstm env --gpu > env.yml; "
        "conda env create -f env.yml",
    )  # fmt: skip
    p.add_argument("--gpu", action="store_true", help="with CUDA")
    p.add_argument("--tensorflow", metavar="2.x", help="the classic Keras set-up instead")
    p.add_argument("--mirror", metavar="URL", help="a channel in place of conda-forge")
    p.set_defaults(run=_env)


def _env(a: argparse.Namespace) -> int:
    if a.tensorflow:
        print(tensorflow_environment(a.tensorflow, a.gpu, a.mirror), end="")
    else:
        print(environment(a.gpu, a.mirror), end="")
    return 0


def add_kernel(commands) -> None:
    p = commands.add_parser(
        "kernel", help="register this environment as a Jupyter kernel",
        description="Registers this interpreter as a Jupyter kernel and checks that it starts.",
    )  # fmt: skip
    p.add_argument("action", choices=["install"])
    p.add_argument("--name", default="convlstm")
    p.add_argument("--display-name", default=f"convlstm {__version__}")
    p.add_argument("--prefix", help="install below this folder (default: the user's)")
    p.set_defaults(run=_kernel)


def _kernel(a: argparse.Namespace) -> int:
    folder = install_kernel(a.name, a.display_name, a.prefix)
    print(f"kernel {a.name!r} starts {sys.executable}\n{folder}")
    return 0
