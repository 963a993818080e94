"""The commands of `convlstm` that look at the machine and set one up."""

from __future__ import annotations

import argparse
import sys

from .. import __version__
from .conda import environment, tensorflow_environment
from .doctor import run_doctor
from .kernel import install_kernel


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
    p.add_argument("action", choices=["install"], help="what is done")
    p.add_argument("--name", default="convlstm", help="the kernel's folder (default: convlstm)")
    shown = f"convlstm {__version__}"
    p.add_argument("--display-name", default=shown, help=f"as Jupyter shows it (default: {shown})")
    p.add_argument("--prefix", help="install below this folder (default: the user's)")
    p.set_defaults(run=_kernel)


def _kernel(a: argparse.Namespace) -> int:
    folder = install_kernel(a.name, a.display_name, a.prefix)
    print(f"kernel {a.name!r} starts {sys.executable}\n{folder}")
    return 0
