"""Every recipe renders from the one pin file: variants, build strings and requirements."""

import shutil
import subprocess

import pytest
import workspace
from shipping import recipes
from support import pyproject, tomllib

PACKAGES = workspace.packages()


def render(package: workspace.Package) -> list[dict]:
    return [build.recipe for build in recipes.render(package.name)]


def names(requirements: list) -> list[str]:
    return [item.split()[0] for item in requirements if isinstance(item, str)]


@pytest.mark.parametrize("package", [p for p in PACKAGES if p.native], ids=lambda p: p.name)
def test_a_native_package_has_cpu_builds_for_every_python_and_cuda_builds_of_its_kernels(package):
    builds = {recipe["build"]["string"]: recipe for recipe in render(package)}
    kinds = {string.split("_")[0] for string in builds}
    pythons = {string.split("_")[1].split("h")[0] for string in builds}
    kernels = list((package.folder / "csrc").rglob("*.cu"))
    assert kinds == ({"cpu", "cuda129", "cuda130"} if kernels else {"cpu"})
    assert pythons == {"py310", "py311", "abi3"}
    assert len(builds) == len(kinds) * len(pythons)
    for string, recipe in builds.items():
        run = names(recipe["requirements"]["run"])
        cuda = not string.startswith("cpu")
        assert ("__cuda" in run) == cuda, string
        number = recipe["build"].get("number", 0)
        assert (number >= 200) == cuda, f"{string}: the solver must prefer CUDA where it can run"
        assert string.endswith(f"_{number}")


@pytest.mark.parametrize("package", [p for p in PACKAGES if not p.native], ids=lambda p: p.name)
def test_a_pure_package_is_one_noarch_build(package):
    (recipe,) = render(package)
    assert recipe["build"]["noarch"] == "python"
    assert "__cuda" not in names(recipe["requirements"]["run"])


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_every_recipe_tests_import_and_main_function(package):
    for recipe in render(package):
        kinds = [set(test) for test in recipe["tests"]]
        (python,) = (test["python"] for test in recipe["tests"] if "python" in test)
        assert package.import_name in python["imports"]
        assert python.get("pip_check", True)
        assert any("script" in kind for kind in kinds), "no test of the main function"


@pytest.mark.parametrize("package", [p for p in PACKAGES if p.native], ids=lambda p: p.name)
def test_the_stable_abi_is_that_of_the_pinned_python(package):
    """In the recipe, in its host environment and in the wheel that is built there."""
    builds = [build for build in recipes.render(package.name) if build.abi3]
    (python,) = {build.python for build in builds}
    assert pyproject(package)["tool"]["scikit-build"]["wheel"]["py-api"] == (
        "cp" + python.replace(".", "")
    )
    for build in builds:
        assert f"python-abi3 {python}.*" in build.requirements("host")


def test_a_compiled_recipe_without_kernels_is_built_once_with_the_compilers_of_the_cpu():
    (build,) = recipes.render("ffmpeg-gpu-build/built-ffmpeg")
    assert build.requirements("build")[:2] == ["gcc_linux-64 15.*", "sysroot_linux-64 2.17.*"]
    for build in recipes.render("nanite-cull"):
        assert build.requirements("build")[:2] == ["gxx_linux-64 15.*", "sysroot_linux-64 2.17.*"]


def test_nanite_cull_asks_pip_for_nothing_that_conda_forge_has_as_a_c_library(tmp_path):
    package = workspace.Package("nanite-cull")
    copy = tmp_path / "packages" / package.name / "pyproject.toml"
    copy.parent.mkdir(parents=True)
    shutil.copy(package.folder / "pyproject.toml", copy)
    lines = render(package)[0]["build"]["script"]["content"]
    (edit,) = (line for line in lines if line.startswith("sed "))
    subprocess.run(["sh", "-c", edit], cwd=tmp_path, check=True)
    before = pyproject(package)["project"]["dependencies"]
    after = tomllib.loads(copy.read_text())["project"]["dependencies"]
    assert after == [line for line in before if not line.startswith("meshoptimizer")] != before
