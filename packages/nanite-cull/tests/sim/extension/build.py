"""The package with a native module whose CUDA kernels run in the simulator."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import nanobind

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[2]
TOOLS = PACKAGE.parents[1] / "tests" / "cuda_sim"

sys.path.insert(0, str(TOOLS))
import simulate  # noqa: E402

NANOBIND = Path(nanobind.include_dir()).parent


def build(core: list[str]) -> Path:
    """A folder with the package `nanite_cull`. `core`: linker options for the core of the CPU."""
    folder = simulate.BUILD / "nanite_cull_extension"
    package = folder / "nanite_cull"
    package.mkdir(parents=True, exist_ok=True)
    for source in (PACKAGE / "src" / "nanite_cull").iterdir():
        link = package / source.name
        if source.suffix != ".so" and not link.exists():
            link.symlink_to(source)
    includes = [TOOLS, simulate.ROOT / "cmake" / "include", PACKAGE / "csrc", HERE.parent]
    flags = [
        "-std=c++17",
        "-O1",
        "-gline-tables-only",
        "-fPIC",
        "-fvisibility=hidden",
        "-DNATIVE_CUDA_SIM=1",
    ]
    flags += ["-DWITH_CUDA", '-DNATIVE_CUDA_ARCHITECTURES="simulated"']
    flags += [f"-I{folder}" for folder in includes]
    system = [f"-isystem{path}" for path in (NANOBIND / "include", sysconfig.get_path("include"))]
    robin_map = f"-isystem{NANOBIND / 'ext' / 'robin_map' / 'include'}"
    sources = {TOOLS / "runtime.cpp": flags, HERE / "kernels.cpp": flags}
    for binding in sorted((PACKAGE / "csrc" / "bindings").glob("*.cpp")):
        sources[binding] = [*flags, *system]
    sources[NANOBIND / "src" / "nb_combined.cpp"] = [
        *flags, *system, robin_map, "-fno-strict-aliasing",
    ]  # fmt: skip
    objects = [
        simulate._compile(source, folder / f"{source.stem}.o", wanted)
        for source, wanted in sources.items()
    ]
    target = package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    archives = [Path(name) for name in core if not name.startswith("-")]
    if not simulate._newer(target, [*objects, *archives]):
        simulate._produce(target, [simulate._cxx(), "-shared", *map(str, objects), *core])
    return folder
