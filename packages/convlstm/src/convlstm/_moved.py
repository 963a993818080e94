"""Module paths of earlier releases: importing one gives the module that holds its content now."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

# Old name -> new name, both below the package. `layers`, `forecasting` and `environment` are wings
# today and serve their old names themselves.
MOVED = {
    "activations": "sequence.activations",
    "cell": "layers.cell",
    "commands": "forecasting.commands",
    "convolutions": "sequence.convolutions",
    "data": "forecasting.data",
    "doctor": "environment.doctor",
    "few_outputs": "keras.few_outputs",
    "fused": "sequence.fused",
    "graphs": "layers.graphs",
    "initializers": "layers.initializers",
    "keras_files": "keras.files",
    "keras_layers": "keras.layers",
    "metrics": "forecasting.metrics",
    "models": "forecasting.models",
    "native_steps": "sequence.native_steps",
    "ops": "sequence.ops",
    "optim": "keras.optim",
    "pictures": "forecasting.pictures",
    "pins": "environment.pins",
    "plain_loop": "sequence.plain_loop",
    "problem": "sequence.problem",
    "reference": "sequence.reference",
    "spec": "sequence.spec",
    "stack": "layers.stack",
    "stepwise": "sequence.stepwise",
    "train": "forecasting.training",
}
_PACKAGE = __name__.rpartition(".")[0]


class _Loader(importlib.abc.Loader):
    def __init__(self, target: str) -> None:
        self.target = target

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self.target)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, old = name.rpartition(".")
        if package != _PACKAGE or old not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(name, _Loader(f"{_PACKAGE}.{MOVED[old]}"))


def install() -> None:
    """Lets the old paths be imported; a second call changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
