"""The module names from the time when all modules lay side by side.

`import tp_parallel.schedules` gives the module `tp_parallel.pipeline.schedules` itself, not a copy.
`tp_parallel.pipeline` and `tp_parallel.data_parallel` are wings now and offer the same names.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

_WINGS = {
    "grid": ("axis", "context", "errors", "faults", "mappings", "rng", "weight_gradients"),
    "layers": ("attention", "cache", "config", "embedding", "linear", "module", "norm", "output",
               "sharding", "transformer"),
    "loss": ("cross_entropy", "linear_cross_entropy", "ops", "reference"),
    "models": ("codegeex", "gpt", "huggingface"),
    "data_parallel": ("gradients", "optimizer"),
    "pipeline": ("schedules",),
    "training": ("checkpoint", "data", "draw", "generate", "pretrain"),
}  # fmt: skip
_PACKAGE = __name__.rpartition(".")[0]
_NEW = {
    f"{_PACKAGE}.{module}": f"{_PACKAGE}.{wing}.{module}"
    for wing, modules in _WINGS.items()
    for module in modules
}


class _Moved(MetaPathFinder, Loader):
    """Finds a module under its old name and hands out the one under the new name."""

    def find_spec(self, fullname: str, path: object = None, target: object = None):
        return ModuleSpec(fullname, self) if fullname in _NEW else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(_NEW[module.__name__])

    def get_code(self, fullname: str) -> CodeType:
        """For `python -m`: the command of that name, or else the module under its new name."""
        command = fullname.rpartition(".")[2]
        run = f"""
import runpy, sys
from {_PACKAGE}.__main__ import COMMANDS, main
if {command!r} in COMMANDS:
    sys.exit(main([{command!r}, *sys.argv[1:]]))
runpy.run_module({_NEW[fullname]!r}, run_name='__main__', alter_sys=True)
"""
        return compile(run, f"<{fullname}>", "exec")


def install() -> None:
    """Makes the old names importable."""
    sys.meta_path.append(_Moved())
