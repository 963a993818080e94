"""The native module, with the meshoptimizer library behind it opened."""

import ctypes.util
import importlib.util
import os
import sys
from pathlib import Path

from nanite_cull import _C  # type: ignore[attr-defined]

VARIABLE = "NANITE_CULL_MESHOPTIMIZER"


def _candidates() -> list[Path]:
    """Where the library may be: the user's word, conda's folder, the wheel's module, the system."""
    if VARIABLE in os.environ:
        return [Path(os.environ[VARIABLE])]
    found = sorted((Path(sys.prefix) / "lib").glob("libmeshoptimizer.*"))
    spec = importlib.util.find_spec("meshoptimizer")
    for folder in spec.submodule_search_locations or [] if spec else []:
        found += sorted(Path(folder).glob("_meshoptimizer*.so"))
    system = ctypes.util.find_library("meshoptimizer")
    return found + ([Path(system)] if system else [])


def open_meshoptimizer() -> str:
    """Opens the library on the first call and returns its path.

    Raises RuntimeError when no usable library is found; the text says how to get one.
    """
    problems = []
    for path in _candidates():
        try:
            return _C.open_meshoptimizer(str(path))
        except RuntimeError as error:
            problems.append(str(error))
    raise RuntimeError(
        "nanite_cull: the meshoptimizer library was not found. Install it (pip install --pre "
        f"meshoptimizer, or conda install -c conda-forge meshoptimizer) or name it in {VARIABLE}."
        + "".join(f"\n  {problem}" for problem in problems)
    )
