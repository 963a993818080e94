"""The commands themselves: they teach, they refuse typos, and they choose what to test."""

import importlib.util
import re
import subprocess
import sys
import types

import pytest
import workspace

ROOT = workspace.ROOT
COMMANDS = ["setup", "demo", "test", "bench", "versions", "gpu_check"]


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


@pytest.mark.parametrize("name", ["setup", "demo", "test", "bench", "versions"])
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


def test_tests_on_another_torch_run_in_a_clone_that_pins_it(tmp_path, monkeypatch, capsys):
    versions = load("versions")
    for pin, moved in (
        ("torch==2.13.0\n", "torch==2.14.1\n"),
        ("torchvision==0.28.0\n", "torchvision==0.29.1\n"),
        ("triton==3.7.1; platform_system == 'Linux'\nx==1\n", "x==1\n"),
    ):
        assert versions.repinned(pin, "2.14.1") == moved
    origin = tmp_path / "origin"
    repository(origin)
    (origin / "tools").mkdir()
    for name, text in (
        ("constraints.txt", "torch==2.13.0\n"),
        ("test.py", "print('a', open('tools/constraints.txt').read(), end='')"),
    ):
        (origin / "tools" / name).write_text(text)
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@e", "commit", "-qm", "two"]
    subprocess.run(["git", "add", "."], cwd=origin, check=True)
    subprocess.run(commit, cwd=origin, check=True)
    monkeypatch.setattr(workspace, "ROOT", origin)
    monkeypatch.setattr(versions, "FOLDER", tmp_path / "clones")
    monkeypatch.setattr(workspace, "packages", lambda names: [workspace.Package(n) for n in names])
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["versions.py", "--torch", "2.13.0,2.14.1", "convlstm"])
        assert versions.main() == 0
        lines = capsys.readouterr().out.splitlines()[-2:]
        assert [line.split()[1:] for line in lines] == [
            ["ok", "a", "torch==2.13.0"],
            ["ok", "a", "torch==2.14.1"],
        ]
    monkeypatch.setattr(sys, "argv", ["versions.py", "--torch", "2.14"])
    with pytest.raises(SystemExit):
        versions.main()
    assert "--torch: a version like 2.13.0, got 2.14" in capsys.readouterr().err


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
        ("recipes/variants.yaml", ["spconv-lite", "resnet-zoo"]),
        ("tests/cuda_sim/cusim.h", ["spconv-lite", "resnet-zoo"]),
        ("environment.yml", ["spconv-lite", "resnet-zoo"]),
        ("NOTICE", ["spconv-lite", "resnet-zoo"]),
        ("a file that is new.txt", ["spconv-lite", "resnet-zoo"]),
        ("README.md", []),
        ("docs/releasing.md", []),
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


def plan(*words: str) -> list:
    command = load("test")
    flags = {name: name in words for name in ("full", "coverage", "sanitize", "changed")}
    wanted = workspace.packages([word for word in words if word not in flags])
    return command.plan(wanted, types.SimpleNamespace(package=[], **flags))


def test_one_package_is_linted_and_only_its_core_is_built():
    stages = {stage.name: stage for stage in plan("spconv-lite")}
    assert "packages/spconv-lite" in stages["style: ruff check"].command
    assert "-DNATIVE_PACKAGES=spconv-lite" in stages["cpu: spconv-lite configure"].command
    sources = stages["style: clang-format"].command[3:]
    assert sources
    assert all(source.startswith("packages/spconv-lite/") for source in sources)
    assert "across packages" not in stages


def test_types_are_checked_and_no_module_is_left_out():
    whole, one = (
        {stage.name: stage.command[1:] for stage in stages}["style: types"]
        for stages in (plan(), plan("spconv-lite"))
    )
    assert (whole, one) == ([], ["packages/spconv-lite/src"])
    settings = (workspace.ROOT / "mypy.ini").read_text()
    assert "ignore_errors" not in settings
    assert "files = packages/*/src\n" in settings


def test_a_pure_package_builds_nothing():
    assert not [stage for stage in plan("resnet-zoo") if stage.name.startswith("cpu")]


def test_counts_and_the_reasons_of_skips_are_read_from_pytests_report(tmp_path, monkeypatch):
    command = load("test")
    monkeypatch.setattr(command, "REPORTS", tmp_path)
    (tmp_path / "test_three.py").write_text(
        "import pytest\n\ndef test_a(): pass\n\ndef test_b(): assert False\n\n"
        "def test_c(): pytest.skip('no frobnicator: apt-get install frob')\n"
    )
    pytest_words = [sys.executable, "-m", "pytest", "-q", str(tmp_path)]
    stage = command.Stage("three", pytest_words, junit="--junitxml")
    stage.run()
    assert dict(stage.counts) == {"passed": 1, "failed": 1, "skipped": 1}
    assert dict(stage.skips) == {"no frobnicator: apt-get install frob": 1}


def test_a_stage_whose_tests_are_all_skipped_names_what_brings_them(capsys, monkeypatch):
    command = load("test")
    monkeypatch.setattr(workspace, "missing_system_packages", lambda wanted: ["ffmpeg"])
    stage = command.Stage("x", [], code=0)
    stage.skips["no ffmpeg"] += 3
    assert command.report([stage], [], 1.0) == 0
    printed = capsys.readouterr().out
    assert "3  no ffmpeg" in printed
    assert "apt-get install ffmpeg" in printed


def test_groups_of_stages_run_side_by_side_and_what_stands_on_a_failed_build_is_not_run(
    tmp_path, monkeypatch, capfd
):
    command = load("test")
    monkeypatch.setattr(command, "REPORTS", tmp_path)
    wait = "for i in $(seq 500); do test -e {1} && echo met && exit; sleep 0.02; done; exit 3"
    meet = "touch {0}; " + wait
    stages = [
        command.Stage("one", ["sh", "-c", meet.format(tmp_path / "a", tmp_path / "b")]),
        command.Stage("cpu: build", ["sh", "-c", meet.format(tmp_path / "b", tmp_path / "a")]),
        command.Stage("cpu: configure", ["false"]),
        command.Stage("cpu: ctest", ["touch", str(tmp_path / "c")]),
        command.Stage("coverage: combine", ["sh", "-c", f"test ! -e {tmp_path / 'c'}"]),
    ]
    command.run_all(stages, 2)
    assert [stage.code for stage in stages] == [0, 0, 1, -1, 0]
    assert capfd.readouterr().out.count("met") == 2


def test_the_tools_are_no_longer_than_contributing_says():
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## The size of tools/")[1]
    total, *parts = (int(n.replace(",", "")) for n in re.findall(r"(?m)^(?:\| )?([\d,]+) ", text))
    lines = sum(len(path.read_text().splitlines()) for path in (ROOT / "tools").rglob("*.py"))
    assert total == sum(parts)
    assert lines <= total


def test_a_module_that_is_new_or_moved_is_installed_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "ROOT", tmp_path)
    package = workspace.Package("resnet-zoo")
    (package.folder / "src").mkdir(parents=True)
    (package.folder / "pyproject.toml").write_text("")
    module = package.folder / "src" / "a.py"
    module.write_text("1")
    stamp = package.stamp("OFF")
    module.write_text("2")
    assert package.stamp("OFF") == stamp
    module.rename(module.with_name("b.py"))
    assert package.stamp("OFF") != stamp


def test_the_set_up_refuses_at_once_what_would_fail_after_minutes(monkeypatch):
    monkeypatch.setattr(workspace.shutil, "which", lambda name: None)
    monkeypatch.setattr(workspace.sysconfig, "get_path", lambda name: "/nowhere")
    monkeypatch.setattr(workspace.importlib.util, "find_spec", lambda name: None)
    lacking = "\n".join(workspace.what_the_machine_lacks(workspace.packages(["spconv-lite"])))
    assert "apt-get install python3-venv" in lacking
    assert "apt-get install g++" in lacking
    assert "apt-get install python3-dev" in lacking
    pure = "\n".join(workspace.what_the_machine_lacks(workspace.packages(["resnet-zoo"])))
    assert "g++" not in pure
