"""The commands themselves: they teach, they refuse typos, and they choose what to test."""

import importlib.util
import subprocess
import sys
import types

import pytest
import workspace

ROOT = workspace.ROOT
COMMANDS = ["demo", "test", "bench", "gpu_check"]


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / f"{name}.py", *arguments], capture_output=True, text=True
    )


def load(name: str):
    """A command as a module; by its path, since the standard library has a `test` too."""
    spec = importlib.util.spec_from_file_location(f"{name}_command", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_is_for(name):
    done = tool(name, "--help")
    assert done.returncode == 0
    assert "usage:" in done.stdout
    assert len(done.stdout) > 250


@pytest.mark.parametrize("name", ["demo", "test", "bench"])
def test_a_wrong_package_name_is_answered_with_the_right_ones(name):
    done = tool(name, "spconv-light")
    assert done.returncode == 1
    assert "no package spconv-light; there are: spconv-lite" in done.stderr


def test_gpu_check_without_a_gpu_says_so_and_exits_3():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = tool("gpu_check")
    assert done.returncode == 3
    assert "no GPU check: no CUDA device answers" in done.stdout


def test_gpu_check_reads_only_files_with_gpu_tests_and_counts_them(tmp_path):
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_peer.py").write_text("import a_peer_that_is_missing\n")
    package = types.SimpleNamespace(folder=tmp_path)
    assert load("gpu_check").run_tests(package, 60.0) == {}
    (tests / "test_gpu.py").write_text(
        "import pytest\n\n@pytest.mark.gpu\ndef test_a(): pass\n\n@pytest.mark.gpu\n"
        "def test_b(): assert False\n\ndef test_c(): assert False\n"
    )
    (tests / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a device\n")
    counts = load("gpu_check").run_tests(package, 60.0)
    assert (counts["passed"], counts["failed"]) == (1, 1)
    assert "test_b" in counts["output"]


def test_both_spellings_of_a_package_name_are_understood():
    (package,) = workspace.packages(["spconv_lite"])
    assert package.name == "spconv-lite"


def repository(folder) -> None:
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("spconv-lite/a.py", "resnet-zoo/a.py"):
        path = folder / "packages" / name
        path.parent.mkdir(parents=True)
        path.write_text("one\n")
    (folder / "cmake").mkdir()
    (folder / "cmake" / "a.cmake").write_text("one\n")
    git("init", "-b", "main")
    git("add", ".")
    git("commit", "-m", "one")


@pytest.mark.parametrize(
    ("touched", "expected"),
    [
        ("packages/spconv-lite/a.py", ["spconv-lite"]),
        ("packages/spconv-lite/new.py", ["spconv-lite"]),
        ("recipes/resnet-zoo/recipe.yaml", ["resnet-zoo"]),
        ("cmake/a.cmake", ["spconv-lite", "resnet-zoo"]),
        ("README.md", []),
    ],
)
def test_changed_selects_the_touched_packages_and_all_for_shared_files(
    touched, expected, tmp_path, monkeypatch
):
    test_command = load("test")
    repository(tmp_path)
    (tmp_path / touched).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / touched).write_text("two\n")
    monkeypatch.setattr(test_command, "ROOT", tmp_path)
    wanted = [workspace.Package("spconv-lite"), workspace.Package("resnet-zoo")]
    assert [package.name for package in test_command.changed_packages(wanted)] == expected
