"""Every package, from a wheel built from its sdist alone, without the other five beside it."""

import subprocess
import zipfile

import pytest
import workspace

PACKAGES = workspace.packages()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_it_installs_with_its_declared_dependencies_and_runs(package, fresh, wheels):
    before = fresh.freeze()
    try:
        fresh.pip(wheels[package.name])
        others = [other.import_name for other in PACKAGES if other != package]
        code = (
            f"import sys, {package.import_name} as p; "
            f"assert p.__version__ == {(workspace.ROOT / 'VERSION').read_text().strip()!r}; "
            f"assert not set({others!r}) & set(sys.modules), 'imports another package of ours'"
        )
        done = fresh.run("-c", code)
        assert done.returncode == 0, done.stderr
        info = fresh.run("-m", package.import_name, *([] if package.native else ["--version"]))
        assert info.returncode == 0, info.stderr
        assert (workspace.ROOT / "VERSION").read_text().strip() in info.stdout
        check = subprocess.run([fresh.python, "-m", "pip", "check"], capture_output=True, text=True)
        assert check.returncode == 0, check.stdout
    finally:
        fresh.remove(fresh.freeze() - before)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_its_wheel_holds_licence_and_types_and_no_tests(package, wheels):
    with zipfile.ZipFile(wheels[package.name]) as wheel:
        names = wheel.namelist()
        folder = f"{package.import_name}/"
        assert f"{folder}py.typed" in names
        assert (f"{folder}_C.pyi" in names) == package.native
        assert not package.native or b"\ndef " in wheel.read(f"{folder}_C.pyi")
        packed = {name.partition("/licenses/")[2] for name in names if "/licenses/" in name}
        assert packed == {"LICENSE", *(["NOTICE"] if (package.folder / "NOTICE").exists() else [])}
        outside = [n for n in names if not n.startswith((folder, f"{package.import_name}-"))]
        assert not outside, f"files outside the package: {outside}"
        assert not [name for name in names if "test_" in name or "cuda_sim" in name]
        here = str(workspace.ROOT).encode()
        leaking = [name for name in names if here in wheel.read(name)]
        assert not leaking, f"a path of the build machine in {leaking}"
