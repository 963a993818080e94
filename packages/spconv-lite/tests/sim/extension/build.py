"""Builds the bindings of the CUDA kernels over the simulator, and loads them as a Python module."""

from __future__ import annotations

import importlib.util
import shlex
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import nanobind

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[2]
TOOLS = PACKAGE.parents[1] / "tests" / "cuda_sim"

sys.path.insert(0, str(TOOLS))
import simulate  # noqa: E402

NANOBIND = Path(nanobind.include_dir()).parent


def load() -> ModuleType:
    """The module `simulated`, with a submodule `cuda` as _C has in a build with CUDA."""
    folder = simulate.BUILD / "extension"
    folder.mkdir(parents=True, exist_ok=True)
    includes = [
        TOOLS,
        simulate.ROOT / "cmake" / "include",
        PACKAGE / "csrc",
        HERE.parent / "emulated",
    ]
    flags = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-DNATIVE_CUDA_SIM=1"]
    flags += [f"-I{folder}" for folder in includes]
    system = [f"-isystem{path}" for path in (NANOBIND / "include", sysconfig.get_path("include"))]
    robin_map = f"-isystem{NANOBIND / 'ext' / 'robin_map' / 'include'}"
    sources = {
        TOOLS / "runtime.cpp": flags,
        HERE / "kernels.cpp": flags,
        HERE / "module.cpp": [*flags, *system],
        PACKAGE / "csrc" / "bindings" / "cuda.cpp": [*flags, *system],
        NANOBIND / "src" / "nb_combined.cpp": [*flags, *system, robin_map, "-fno-strict-aliasing"],
    }
    objects = [
        simulate._compile(source, folder / f"{source.stem}.o", wanted)
        for source, wanted in sources.items()
    ]
    target = folder / f"simulated{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not simulate._newer(target, objects):
        simulate._produce(target, [simulate._cxx(), "-shared", *map(str, objects)])
    spec = importlib.util.spec_from_file_location("simulated", target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    print(shlex.quote(load().__file__))
