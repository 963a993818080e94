"""Every recipe renders from the one pin file: variants, build strings and requirements."""

import pytest
import workspace
from shipping import recipes
from shipping.subdirs import SUBDIR
from support import pyproject

PACKAGES = workspace.packages()


def render(package: workspace.Package) -> list[dict]:
    return [b.recipe for b in recipes.render(package.name) if b.name == package.name]


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


@pytest.mark.parametrize("package", [p for p in PACKAGES if p.native], ids=lambda p: p.name)
def test_what_cpp_projects_need_is_a_package_of_its_own_and_knows_no_python(package):
    builds = [b for b in recipes.render(package.name) if b.name == f"{package.name}-dev"]
    kernels = list((package.folder / "csrc").rglob("*.cu"))
    assert {b.kind for b in builds} == ({"cpu", "cuda129", "cuda130"} if kernels else {"cpu"})
    assert len(builds) == len({b.kind for b in builds})
    for build in builds:
        assert "python" not in names(build.requirements("host") + build.requirements("run"))
        (test,) = build.recipe["tests"]
        assert f"lib/lib{package.import_name}_core.a" in test["package_contents"]["files"]
    for recipe in render(package):
        script = recipe["build"]["script"]["content"]
        assert "-Cinstall.components=python" in str(script)


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
        # nanite-cull: pip would look for its wheel of meshoptimizer, which is a C library there
        assert python.get("pip_check", True) == (package.name != "nanite-cull")
        assert any("script" in kind for kind in kinds), "no test of the main function"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_a_recipe_brings_each_file_of_data_that_its_tests_name(package):
    data = [path for path in (package.folder / "tests" / "data").rglob("*") if path.is_file()]
    recipe = render(package)[0]
    (brought,) = (test["files"]["source"] for test in recipe["tests"] if "files" in test)
    found = {pattern: set(workspace.ROOT.glob(pattern)) for pattern in brought}
    assert all(found.values()), found
    files = set().union(*found.values())
    texts = [path.read_text() for path in files if path.suffix == ".py"]
    named = {path for path in data if any(path.name in text for text in texts)}
    assert named <= files


@pytest.mark.parametrize("package", [p for p in PACKAGES if p.native], ids=lambda p: p.name)
def test_the_stable_abi_is_that_of_the_pinned_python(package):
    """In the recipe, in its host environment and in the wheel that is built there."""
    builds = [b for b in recipes.render(package.name) if b.abi3]
    (python,) = {build.python for build in builds}
    assert pyproject(package)["tool"]["scikit-build"]["wheel"]["py-api"] == (
        "cp" + python.replace(".", "")
    )
    for build in builds:
        assert "python-abi3" in build.requirements("host")
        (tested,) = (t["python"]["python_version"] for t in build.recipe["tests"] if "python" in t)
        assert tested == [f"{python}.*", "*"]


def test_a_compiled_recipe_without_kernels_is_built_once_with_the_compilers_of_the_cpu():
    (build,) = recipes.render("ffmpeg-gpu-build/built-ffmpeg")
    assert build.requirements("build")[:2] == [f"gcc_{SUBDIR} 15.*", f"sysroot_{SUBDIR} 2.17.*"]
