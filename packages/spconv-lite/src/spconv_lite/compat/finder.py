"""Makes spconv's module paths importable."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from .refused import explain_missing, refusals, refuse_module
from .tree import TREE

ROOTS = ("spconv", "cumm")


class _Names(MetaPathFinder, Loader):
    """Serves the tree; at the end of sys.meta_path only where nothing else has the name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent = fullname.rpartition(".")[0]
        if parent and not _is_ours(parent):
            return None
        refuse_module(fullname)
        if fullname not in TREE:
            return None
        package = any(name.startswith(f"{fullname}.") for name in TREE)
        return ModuleSpec(fullname, self, is_package=package)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update({**refusals(module.__name__), **TREE[module.__name__]()})
        vars(module)["__getattr__"] = functools.partial(explain_missing, module.__name__)
        for name in TREE:  # `spconv.constants.X = ...` is written without an import of its own
            parent, _, child = name.rpartition(".")
            if parent == module.__name__:
                setattr(module, child, importlib.import_module(name))


_finder = _Names()
_displaced: dict[str, ModuleType] = {}


def _is_ours(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and spec.loader is _finder


def _take_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in ROOTS]
    return {name: sys.modules.pop(name) for name in names}


def install(shadow: bool = False) -> bool:
    """Makes `import spconv.pytorch` and the rest of spconv's modules lead here.

    Args:
        shadow: also where spconv is installed; modules of it that were imported before stay with
            those who have them. Without it an installed spconv stays what it is, and a warning
            says so.

    Returns: whether `import spconv` now gives this package.
    """
    if shadow:
        if sys.meta_path[0] is not _finder:
            uninstall()
            _displaced.update(_take_out())
            sys.meta_path.insert(0, _finder)
        return True
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)
    spec = importlib.util.find_spec("spconv")
    if spec is None or spec.loader is _finder:
        return True
    warnings.warn(
        f"spconv is installed ({spec.origin}) and stays what `import spconv` gives; call "
        "spconv_lite.compat.install(shadow=True) to have this package in its place",
        stacklevel=3,
    )
    return False


def uninstall() -> None:
    """Undoes `install`: spconv's names lead where they led before."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
    sys.modules.update(_displaced)
    _displaced.clear()
