"""tools/release.py as a user meets it: its help, its plan, its refusals."""

import argparse
import errno
import importlib.util
import re
import subprocess
import sys
import unittest.mock

import pytest
import workspace
from shipping import channel, recipes, wheels
from shipping.channel import Release, build_all
from shipping.subdirs import SUBDIR

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
    for text in ("--dry-run", "--variant", "--package", "rattler-build upload", "Exit codes"):
        assert text in done.stdout


def test_the_text_about_releasing_names_only_options_that_exist():
    text = (workspace.ROOT / "docs" / "releasing.md").read_text()
    lines = [line for line in text.splitlines() if "tools/release.py" in line]
    named = {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
    assert {"--dry-run", "--variant", "--repository"} <= named
    assert named <= set(re.findall(r"--[a-z-]+", release("--help").stdout))


def test_a_package_without_recipe_is_refused_with_the_names_that_exist():
    done = release("--dry-run", "--package", "nothing")
    assert done.returncode == 2
    assert re.search(r"no recipe for nothing; there are: .*resnet-zoo", done.stdout)


def test_a_variant_that_no_build_has_is_refused():
    done = release("--dry-run", "--variant", "gpu", "--package", "spconv-lite")
    assert (done.returncode, done.stdout) == (2, "no variant begins with gpu\n")


def test_either_spelling_of_a_package_is_checked(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["release.py", "--package", "spconv_lite"])
    assert release_module().arguments().package == ["spconv-lite"]


def test_a_folder_that_is_no_release_is_left_alone(tmp_path, capsys):
    (tmp_path / "python").mkdir()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SystemExit) as refused:
        release_module().claim(tmp_path)
    assert refused.value.code == 2
    assert "holds thesis.tex, which is no release's" in capsys.readouterr().out
    assert (tmp_path / "python").is_dir()


def test_one_release_at_a_time_fills_a_folder_and_the_old_manifest_goes_first(tmp_path, capsys):
    module = release_module()
    with module.claim(tmp_path / "out"):
        (tmp_path / "out" / "manifest.json").touch()
        (tmp_path / "out" / "channel").mkdir()
        with pytest.raises(SystemExit):
            module.claim(tmp_path / "out")
        assert "is being filled by another release" in capsys.readouterr().out
    with module.claim(tmp_path / "out"):
        assert [path.name for path in (tmp_path / "out").iterdir()] == [module.LOCK]


def test_a_release_that_is_interrupted_says_so_and_frees_its_folder(tmp_path, monkeypatch, capsys):
    module = release_module()
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["release.py", "--package", "resnet-zoo", "--out", str(out)])
    monkeypatch.setattr(module, "agreement", lambda names: True)
    monkeypatch.setattr(module, "release", unittest.mock.Mock(side_effect=KeyboardInterrupt))
    assert module.main() == 130
    assert "has no manifest and is no release" in capsys.readouterr().out
    module.claim(out).close()


def test_the_work_folder_of_somebody_else_is_refused_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(channel, "WORK", tmp_path)
    monkeypatch.setattr(channel.os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    somebody = pytest.raises(RuntimeError, match="belongs to somebody else: set TMPDIR")
    with somebody, channel._work_folder("x"):
        pass


def test_what_fails_for_a_full_disk_is_named_and_the_rest_is_built(tmp_path, monkeypatch):
    made = Release(tmp_path, [], fresh_cache=True)
    builds = recipes.render("ffmpeg-gpu-build") + recipes.render("resnet-zoo")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(made, "build", unittest.mock.Mock(side_effect=[full, RuntimeError("no")]))
    said = []
    failed = build_all(made, builds, said.append, lambda build: True)
    assert [text.split(":")[0] for text in failed] == [build.file_name for build in builds]
    assert "No space left on device" in failed[0]
    manifest = made.write_manifest([], tested=True, failed=failed)
    assert not manifest["publishable"]
    assert any("No space left on device" in text for text in manifest["objections"])


TINY = """\
schema_version: 1
package: {name: tiny, version: "1"}
source: [{path: LICENSE}]
build:
  number: 0
  script:
    - mkdir -p $PREFIX/share && echo WORD > $PREFIX/share/tiny
about: {license: MIT, license_file: LICENSE}
"""


def test_only_a_package_that_is_fit_for_release_comes_into_the_channel(tmp_path):
    made = Release(tmp_path / "out", [], fresh_cache=True)
    (tmp_path / "variants.yaml").write_text("{}")
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "LICENSE").write_text("the licence")
    for word, fit in (("$SRC_DIR", False), ("hello", True)):
        (tmp_path / "tiny" / "recipe.yaml").write_text(TINY.replace("WORD", word))
        (build,) = recipes.render("tiny", folder=tmp_path)
        failed = build_all(made, [build], lambda text: None, lambda build: False)
        kept = [path.name for path in made.channel.rglob("*.conda")]
        assert (failed == []) == fit, failed
        assert kept == ([build.file_name] if fit else [])
        assert [artifact.path.name for artifact in made.artifacts] == kept
    (artifact,) = made.artifacts
    assert artifact.path.parent == made.channel / SUBDIR
    assert artifact.names == ["share/tiny"]
    assert (tmp_path / "out" / "logs" / f"{build.file_name[:-6]}.log").read_text()
    assert "tiny" in (made.channel / SUBDIR / "repodata.json").read_text()


def test_a_release_is_of_the_commit_that_it_began_with(tmp_path, monkeypatch):
    made = Release(tmp_path, [], fresh_cache=True)
    monkeypatch.setattr(channel, "_commit", lambda: "another")
    manifest = made.write_manifest([], tested=True)
    assert manifest["commit"] == made.commit != "another"
    assert manifest["uncommitted_changes"]


def test_a_wheel_that_fails_leaves_the_manifest_to_be_written(tmp_path, monkeypatch):
    module = release_module()
    monkeypatch.setattr(
        wheels, "build_from_sdist", unittest.mock.Mock(side_effect=RuntimeError("x"))
    )
    made, failed = module.python_files(argparse.Namespace(out=tmp_path), {"resnet-zoo"})
    assert (made, failed) == ([], ["sdist and wheel of resnet-zoo: x"])


def test_variants_are_chosen_by_the_beginning_of_the_build_string():
    options = argparse.Namespace(package=["spconv-lite", "resnet-zoo"], variant=["cuda130_py31"])
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


def test_dependencies_among_our_packages_are_built_first():
    builds = [build for name in reversed(recipes.names()) for build in recipes.render(name)]
    order = [build.name for build in recipes.in_build_order(builds)]
    assert len(order) == len(builds)
    if "ffmpeg-gpu" in order:  # its recipe tests run with our ffmpeg-gpu-build
        assert order.index("ffmpeg-gpu-build") < order.index("ffmpeg-gpu")
