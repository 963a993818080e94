"""The machine and the versions: the doctor, environment files, the notebook kernel."""

from .commands import add_doctor, add_env, add_kernel
from .conda import environment, tensorflow_environment
from .doctor import run_doctor
from .kernel import check_kernel, install_kernel
from .pins import read_pins

__all__ = [
    "add_doctor",
    "add_env",
    "add_kernel",
    "check_kernel",
    "environment",
    "install_kernel",
    "read_pins",
    "run_doctor",
    "tensorflow_environment",
]
