"""Kernels compiled for newer processors must not leak into the code that runs on older ones.

A SIMD source is compiled once for each instruction set. A weak function in such an object (an
inline function of a header that was not inlined) exists in several copies, of which the linker
keeps one: an older processor would then run the AVX-512 copy.
"""

import json
import shutil
import subprocess

import pytest
import workspace

LEVELS = ("avx2", "avx512")
NATIVE = [package for package in workspace.packages() if package.native]


def objects(package: workspace.Package, level: str):
    folder = f"{package.import_name}_core_{level}.dir"
    return [path for path in package.editable_build.rglob("*.o") if folder in str(path)]


def weak_functions(path) -> set[str]:
    listing = subprocess.run(
        ["nm", "--demangle", path], capture_output=True, text=True, check=True
    ).stdout
    symbols = (line.split(maxsplit=2) for line in listing.splitlines())
    return {parts[2] for parts in symbols if len(parts) == 3 and parts[1] == "W"}


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm (binutils) on this machine")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("package", NATIVE, ids=lambda package: package.name)
def test_every_function_of_a_newer_level_is_in_the_namespace_of_its_level(package, level):
    found = objects(package, level)
    if not found:
        pytest.skip(f"{package.name} has no SIMD sources")
    stray = {
        f"{path.name}: {name}"
        for path in found
        for name in weak_functions(path)
        if f"{level}::" not in name
    }
    assert not stray


def test_a_package_of_which_one_level_is_sanitized_is_tested_at_no_other():
    presets = json.loads((workspace.ROOT / "CMakePresets.json").read_text())["configurePresets"]
    settings = [preset.get("cacheVariables", {}) for preset in presets]
    named = {s["NATIVE_SANITIZE_ONE_LEVEL"] for s in settings if "NATIVE_SANITIZE_ONE_LEVEL" in s}
    for package in (p for p in NATIVE for names in named if p.import_name in names.split(";")):
        tests = (package.folder / "tests").rglob("*.py")
        assert not [path.name for path in tests if "NATIVE_ISA" in path.read_text()]
