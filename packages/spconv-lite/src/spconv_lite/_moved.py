"""Module paths from before the wings: importing one gives the module of the new path itself."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# `geometry` is a wing of that name, which offers what the module offered
MOVED = {
    "checkpoints": "layers.checkpoints",
    "conv": "layers.conv",
    "core": "layers.tensor",
    "cpu": "kernels.cpu",
    "cuda": "kernels.cuda",
    "modules": "layers.modules",
    "ops": "kernels.ops",
    "pictures": "data.pictures",
    "plain": "kernels.plain",
    "pool": "layers.pool",
    "reference": "geometry.reference",
    "rulebook": "geometry.rulebook",
    "scans": "data.scans",
    "street": "data.street",
    "tables": "layers.tables",
    "timing": "data.timing",
    "voxel": "data.voxels",
}


class _Moved(MetaPathFinder, Loader):
    def __init__(self, package: str) -> None:
        self.table = {f"{package}.{old}": f"{package}.{new}" for old, new in MOVED.items()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self.table else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        sys.modules[name] = importlib.import_module(self.table[name])


def install(package: str) -> None:
    """Makes the old paths importable."""
    sys.meta_path.append(_Moved(package))


# what `import spconv_lite as spconv` reads as modules of spconv
ATTRIBUTES = {
    "constants": "layers.constants",
    "hash": "geometry.hash",
    "utils": "data",
}


def module_of(name: str) -> ModuleType:
    """A module of these tables as an attribute of the package."""
    path = (MOVED | ATTRIBUTES).get(name)
    if path is None:
        raise AttributeError(f"module 'spconv_lite' has no attribute {name!r}")
    return importlib.import_module(f"spconv_lite.{path}")
