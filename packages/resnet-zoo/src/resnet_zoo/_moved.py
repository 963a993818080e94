"""Module paths of earlier versions: `resnet_zoo.zoo` is the module `resnet_zoo.models.builders`.

`resnet_zoo.weights` and `resnet_zoo.inference` are wings now, which name what the modules offered.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "cache": "weights.cache",
    "checkpoint": "weights.checkpoint",
    "download": "weights.download",
    "draw": "seeing.draw",
    "export": "inference.export",
    "features": "models.features",
    "fold": "models.fold",
    "fused": "inference.fused",
    "gradcam": "seeing.gradcam",
    "images": "pictures.images",
    "predict": "inference.predict",
    "resnet": "models.resnet",
    "sources": "weights.sources",
    "summary": "seeing.summary",
    "trace": "seeing.trace",
    "transforms": "pictures.transforms",
    "zoo": "models.builders",
}


class _Moved(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        return ModuleSpec(name, self) if package == __package__ and module in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = MOVED[old.rpartition(".")[2]]
        sys.modules[old] = importlib.import_module(f"{__package__}.{new}")


def install() -> None:
    """Let the import system find the old paths, after all that is really there."""
    sys.meta_path.append(_Moved())


def attribute(name: str) -> ModuleType:
    """`resnet_zoo.zoo` as an attribute, without an import of its own."""
    if name in MOVED:
        return importlib.import_module(f"{__package__}.{name}")
    raise AttributeError(f"module {__package__!r} has no attribute {name!r}")
