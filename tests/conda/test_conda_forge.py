"""The recipes as conda-forge would take them: its pins, its platforms, its linter."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import rattler_build as rb
import workspace
from shipping import address, recipes
from shipping.subdirs import RELEASED

PINS = Path(__file__).parent / "pins" / "conda_build_config.yaml"
OF_A_FEEDSTOCK = recipes.FOLDER / "conda-forge" / "conda_build_config.yaml"
PACKAGES = workspace.packages()
SMITHY = Path(__file__).with_name("smithy.py")
BUILD_MACHINE = {"linux-64": "linux-64", "linux-aarch64": "linux-64", "osx-arm64": "osx-64"}


def rendered(package: workspace.Package, platform: str) -> dict[tuple[str, str], dict]:
    """Recipes by name and build string, with the variants that conda-smithy would make."""
    at = rb.PlatformConfig(target_platform=platform, build_platform=BUILD_MACHINE[platform])
    files = [PINS, OF_A_FEEDSTOCK] if package.native else [PINS]
    pins = rb.VariantConfig.from_files_with_context(
        [str(file) for file in files], rb.JinjaConfig(platform=at)
    )
    recipe = rb.Stage0Recipe.from_file(str(recipes.FOLDER / package.name / "recipe.yaml"))
    found = [v.recipe.to_dict() for v in recipe.render(pins, rb.RenderConfig(platform=at))]
    return {(r["package"]["name"], r["build"]["string"]): r for r in found}


@pytest.mark.parametrize("platform", RELEASED)
@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_it_renders_with_the_pins_of_conda_forge(package, platform, monkeypatch):
    monkeypatch.setenv("CF_CUDA_ENABLED", "True")
    found = rendered(package, platform)
    kernels = list((package.folder / "csrc").rglob("*.cu"))
    cuda = ["cuda129"] if kernels and platform.startswith("linux") else []
    kinds = ["cpu", *cuda] if package.native else ["pyh"]
    outputs = [package.name, f"{package.name}-dev"] if package.native else [package.name]
    for output in outputs:
        strings = [string for name, string in found if name == output]
        assert len(strings) == len(kinds)
        assert all(any(s.startswith(kind) for s in strings) for kind in kinds)
    assert len(found) == len(outputs) * len(kinds)
    for (name, string), recipe in found.items():
        every = [line for lines in recipe["requirements"].values() for line in lines]
        if name == package.name and package.native:
            assert "_abi3h" in string, "one build for Python 3.12 and newer"
            assert "python-abi3" in recipe["requirements"]["host"]
            assert (f"cross-python_{platform}" in every) == (platform != BUILD_MACHINE[platform])
        if name.endswith("-dev"):
            assert not [line for line in every if str(line).startswith("python")]


def test_without_the_file_of_the_feedstock_only_one_row_of_python_is_left(monkeypatch):
    """`skip` by is_abi3: Python 3.10 is the oldest of conda-forge's rows, and has no stable ABI."""
    monkeypatch.delenv("CF_CUDA_ENABLED", raising=False)
    pins = recipes.render("nanite-cull", pins=[PINS])
    assert len({build.string for build in pins if build.name == "nanite-cull"}) == 1


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_upstream_tests_of_a_recipe_are_there(package):
    (build, *_) = (b for b in recipes.render(package.name) if b.name == package.name)
    scripts = [test["script"] for test in build.recipe["tests"] if "script" in test]
    (line,) = (s for s in scripts if "-m pytest" in str(s))
    files = [word for word in str(line).split() if word.endswith(".py")]
    assert files
    assert not [file for file in files if not (workspace.ROOT / file).is_file()]


@pytest.fixture
def feedstocks(tmp_path) -> list[Path]:
    """The recipes as they would be handed to conda-forge, with an address and a maintainer."""
    made = []
    for name in recipes.names():
        folder = tmp_path / Path(name).name
        folder.mkdir()
        text = (recipes.FOLDER / name / "recipe.yaml").read_text()
        repository, maintainers = address.settings()
        text = address.recipe(text, repository or "https://host.example/o/n", maintainers or ["a"])
        (folder / "recipe.yaml").write_text(text)
        if name in workspace.SIX and workspace.Package(name).native:
            (folder / OF_A_FEEDSTOCK.name).write_text(OF_A_FEEDSTOCK.read_text())
        made.append(folder)
    return made


@pytest.mark.skipif(
    "CONDA_SMITHY" not in os.environ,
    reason="CONDA_SMITHY names no folder with checkouts and a Python in venv/: see conda/smithy.py",
)
def test_the_linter_of_conda_forge_has_nothing_to_say(feedstocks):
    checkouts = Path(os.environ["CONDA_SMITHY"])
    command = [checkouts / "venv" / "bin" / "python", SMITHY, checkouts, *feedstocks]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == len(feedstocks)
    assert {folder: s for folder, s in said.items() if s["lints"] or s["hints"]} == {}
