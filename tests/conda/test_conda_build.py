"""conda-build reads the same recipes: rendered as it renders them, and built where it is installed.

For v1 recipes conda-build (26.5 and later) calls rattler_build. The first test makes the same calls
with the same arguments, so it holds without conda-build.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import rattler_build
import workspace
import yaml
from shipping import recipes
from shipping.subdirs import SUBDIR

CONDA_BUILD = shutil.which("conda-build")
# builds what has nothing to do with CUDA for every row
TWINS = {"ffmpeg-gpu-build/built-ffmpeg"}


def rendered_by_conda_build(path: Path) -> set[tuple[str, str]]:
    variants = rattler_build.VariantConfig.from_file(str(recipes.VARIANTS))
    subdirs = dict.fromkeys(("target_platform", "build_platform", "host_platform"), SUBDIR)
    platform = rattler_build.PlatformConfig(**subdirs, experimental=False)
    settings = rattler_build.RenderConfig(platform=platform, extra_context={})
    rendered = rattler_build.Stage0Recipe.from_file(path).render(variants, settings)
    made = [variant.recipe.to_dict() for variant in rendered]
    return {(recipe["package"]["name"], recipe["build"]["string"]) for recipe in made}


@pytest.mark.parametrize("name", recipes.names())
def test_conda_build_renders_the_builds_that_are_released(name):
    builds = recipes.render(name)
    theirs = rendered_by_conda_build(builds[0].path)
    ours = {(build.name, build.string) for build in builds}
    assert ours <= theirs
    assert (theirs != ours) == (name in TWINS)


def test_the_text_about_releasing_names_the_recipes_that_conda_build_builds_too_often():
    text = " ".join((workspace.ROOT / "docs" / "releasing.md").read_text().split())
    (sentence,) = re.findall(r"conda-build builds \S+ once for each row of CUDA", text)
    assert {name for name in recipes.names() if f"`{name}`" in sentence} == TWINS


def one_row(folder: Path, python: str) -> Path:
    """recipes/variants.yaml with the CPU row and that Python alone."""
    variants = yaml.safe_load(recipes.VARIANTS.read_text())
    for keys in variants["zip_keys"]:
        wanted = python if "python" in keys else "None"
        first = variants["python" if "python" in keys else "cuda_compiler_version"]
        (row,) = (i for i, value in enumerate(first) if str(value).startswith(wanted))
        variants |= {key: [variants[key][row]] for key in keys}
    variants["python_min"] = [python]
    file = folder / "variants.yaml"
    file.write_text(yaml.safe_dump(variants, default_flow_style=False))
    return file


def test_one_row_of_the_variants_names_the_same_build(tmp_path):
    one_row(tmp_path, "3.12")
    shutil.copytree(recipes.FOLDER / "tp-parallel", tmp_path / "tp-parallel")
    builds = recipes.render("tp-parallel", folder=tmp_path)
    assert [(b.name, b.kind) for b in builds] == [
        ("tp-parallel", "cpu"),
        ("tp-parallel-dev", "cpu"),
    ]
    assert {b.file_name for b in builds} <= {b.file_name for b in recipes.render("tp-parallel")}


@pytest.mark.slow
@pytest.mark.skipif(CONDA_BUILD is None, reason="conda-build was not run: it is not installed")
@pytest.mark.parametrize("name", workspace.SIX)
def test_conda_build_builds_and_tests_the_same_package(
    name, find_variant, make_proof, own_version, tmp_path
):
    native = workspace.Package(name).native
    if native and own_version not in ("3.10", "3.11", "3.12"):
        pytest.skip(
            f"no recipe is built with Python {own_version}: run the tests with 3.10 to 3.12"
        )
    build = find_variant(name, *(("cpu", own_version) if native else ("noarch",)))
    channel = make_proof([build]).folder / "standins"
    command = [CONDA_BUILD, build.path.parent, "--output-folder", tmp_path / "out"]
    command += ["-m", one_row(tmp_path, own_version)]
    command += ["--override-channels", "-c", channel.as_uri()]
    environment = os.environ | {"CONDA_OVERRIDE_CUDA": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.stem for path in (tmp_path / "out" / build.subdir).glob("*.conda")}
    assert Path(build.file_name).stem in made
