"""tools/release.py as a user meets it: its help, its plan, its refusals."""

import argparse
import importlib.util
import re
import subprocess
import sys

import pytest
import workspace
from shipping import recipes

RELEASE = workspace.ROOT / "tools" / "release.py"


def release(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, RELEASE, *arguments], capture_output=True, text=True)


def release_module():
    """tools/release.py as a module."""
    spec = importlib.util.spec_from_file_location("release", RELEASE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_help_shows_the_common_commands_and_the_exit_codes():
    done = release("--help")
    assert done.returncode == 0
    for text in ("--dry-run", "--offline", "--variant", "--package", "--upload", "Exit codes"):
        assert text in done.stdout


def test_the_text_about_releasing_names_only_options_that_exist():
    text = (workspace.ROOT / "docs" / "releasing.md").read_text()
    lines = [line for line in text.splitlines() if "tools/release.py" in line]
    named = {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
    assert {"--dry-run", "--offline", "--upload"} <= named
    assert named <= set(re.findall(r"--[a-z-]+", release("--help").stdout))


def test_a_package_without_recipe_is_refused_with_the_names_that_exist():
    options = argparse.Namespace(package=["nothing"], variant=None)
    with pytest.raises(SystemExit, match=r"no recipe for nothing; there are: .*resnet-zoo"):
        release_module().chosen(options)


def test_variants_are_chosen_by_the_beginning_of_the_build_string():
    options = argparse.Namespace(package=["spconv_lite", "resnet-zoo"], variant=["cuda130_py31"])
    kinds = {(build.name, build.kind, build.python) for build in release_module().chosen(options)}
    assert kinds == {
        ("spconv-lite", "cuda130", "3.10"),
        ("spconv-lite", "cuda130", "3.11"),
        ("resnet-zoo", "noarch", None),
    }


@pytest.mark.slow
def test_a_dry_run_checks_and_lists_every_build():
    done = release("--dry-run")
    assert done.returncode == 0, done.stdout
    for name in workspace.SIX:
        assert f"    {name}-" in done.stdout


def test_offline_builds_are_never_uploaded():
    done = release("--offline", "--upload", "prefix:x")
    assert done.returncode == 2
    assert "never published" in done.stderr


def test_a_wrong_upload_target_is_refused_before_anything_is_built():
    done = release("--upload", "somewhere")
    assert done.returncode == 2
    assert "expected anaconda:OWNER" in done.stdout


def test_dependencies_among_our_packages_are_built_first():
    builds = [build for name in reversed(recipes.names()) for build in recipes.render(name)]
    order = [build.name for build in recipes.in_build_order(builds)]
    assert len(order) == len(builds)
    if "ffmpeg-gpu" in order:  # its recipe tests run with our ffmpeg-gpu-build
        assert order.index("ffmpeg-gpu-build") < order.index("ffmpeg-gpu")
