"""Every CPU build of every package, and a CUDA build, through the conda path without a network.

The builds for other Pythons than the one that runs the tests need a Python 3.10, 3.12 and 3.13 on
this machine; their wheels are installed with pip below build/ once, all but torch. So those builds
are made, checked, solved and installed, and their core is loaded; their recipe tests need torch.
"""

import shutil
import sys
from pathlib import Path

import pytest
import standins
import workspace
from predicted import metadata, required
from shipping import recipes

pytestmark = pytest.mark.slow

OWN_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
ALL = [b for name in workspace.SIX for b in recipes.render(name, python_min=OWN_VERSION)]
CPU = [build for build in ALL if build.kind in ("cpu", "noarch")]
OWN_PYTHON = Path(sys.executable)
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def pythons(own_version):
    """Interpreters with wheels by version; those that this machine lacks are absent."""
    found = {own_version: OWN_PYTHON}
    for version in PYTHONS:
        if version in found:
            continue
        try:
            found[version] = standins.environment(version, required(CPU))
        except RuntimeError as error:
            print(error)
    return found


@pytest.fixture(scope="module")
def proof(make_proof, pythons):
    return make_proof(ALL, list(pythons.values()))


@pytest.fixture(scope="module")
def own_proof(make_proof):
    """For the recipe tests of pure Python packages: its only Python is the one with torch."""
    return make_proof([build for build in ALL if build.noarch])


def served(build) -> list[str]:
    """The Python versions that a build is for, of those that the matrix has."""
    if build.abi3:
        return ["3.12", "3.13"]
    return [build.python] if build.python else list(PYTHONS)


@pytest.mark.parametrize("build", CPU, ids=lambda build: f"{build.name}-{build.string}")
def test_it_is_built_solved_installed_and_run(build, proof, own_proof, pythons, tmp_path):
    if build.python and build.python not in pythons:
        pytest.skip(f"no Python {build.python} with its wheels on this machine")
    if build.noarch:
        own_proof.release.build(build)
    tested = build.python in pythons and standins.has_torch(pythons[build.python])
    artifact = proof.release.build(build, test=tested)
    proof.release.index()
    assert sorted(set(artifact.index["depends"])) == metadata(build)["depends"]
    if build.name.endswith("-dev"):
        proof.installed(build, OWN_VERSION, tmp_path / "dev")
        return
    for python in served(build):
        if python in pythons:
            prefix = proof.installed(build, python, tmp_path / python)
            assert prefix.packages() & set(workspace.SIX) == {build.name}
            if standins.has_torch(pythons[python]):
                prefix.run_main_function()
            else:
                load_without_torch(prefix)
            shutil.rmtree(prefix.folder)


def load_without_torch(prefix) -> None:
    """Compile every Python file for that Python, and load the native core where there is one."""
    code = (
        "import compileall, importlib.machinery as m, importlib.util as u\n"
        "import pathlib, sysconfig\n"
        f"folder = pathlib.Path(sysconfig.get_path('purelib'), {prefix.module!r})\n"
        "assert compileall.compile_dir(folder, quiet=1)\n"
        "for core in folder.glob('_C.*.so'):\n"
        "    spec = u.spec_from_loader('_C', m.ExtensionFileLoader('_C', str(core)))\n"
        "    module = u.module_from_spec(spec)\n"
        "    spec.loader.exec_module(module)\n"
        "    assert any(callable(value) for value in vars(module).values())\n"
    )
    done = prefix.run("python", "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(standins.cuda_version() is None, reason="no nvcc on this machine")
def test_a_cuda_build_is_chosen_for_a_driver_and_runs_on_the_cpu_without_one(
    proof, find_variant, own_version, tmp_path
):
    kind = "cuda" + standins.cuda_version().replace(".", "")
    python = own_version if own_version in ("3.10", "3.11") else "3.12"
    build = find_variant("spconv-lite", kind, python)
    if build.python != own_version:
        pytest.skip(f"the build needs Python {build.python} with torch")
    artifact = proof.release.build(build)
    proof.release.index()
    assert sorted(set(artifact.index["depends"])) == metadata(build)["depends"]
    assert sorted(artifact.index["constrains"]) == metadata(build)["constrains"]
    assert "__cuda" in artifact.index["depends"]
    prefix = proof.installed(build, own_version, tmp_path / "env")
    prefix.run_main_function()
    with pytest.raises(RuntimeError, match="__cuda"):
        proof.install([f"spconv-lite * {build.string}"], tmp_path / "none")


@pytest.mark.parametrize("name", ["resnet-zoo", "spconv-lite"])
def test_building_the_same_commit_again_gives_the_same_payload(
    name, find_variant, make_proof, own_version
):
    python = own_version if own_version in ("3.10", "3.11") else "3.12"
    native = workspace.Package(name).native
    build = find_variant(name, "cpu" if native else "noarch", python if native else None)
    if build.python and build.python != own_version:
        pytest.skip(f"the build needs Python {build.python}")
    first, second = (
        make_proof([build], compiler_cache=None).release.build(build, test=False) for _ in range(2)
    )
    contents = [
        {entry["_path"]: entry.get("sha256") for entry in artifact.paths}
        for artifact in (first, second)
    ]
    differing = {path for path, _ in contents[0].items() ^ contents[1].items()}
    assert not differing
    assert first.payload_sha256 == second.payload_sha256
