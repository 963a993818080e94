"""The stand-ins for conda-forge's packages, where a machine has several Pythons."""

import subprocess
import sys
from pathlib import Path

import pytest
import standins
from shipping.rattler_child import call, index
from shipping.subdirs import SUBDIR
from solving import solve
from standins import StandIn


def test_a_python_without_torch_is_taken_only_where_it_is_asked_for(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    try:
        without = standins._environment(tmp_path / "env" / "bin" / "python", {"pytorch"})
    except standins.UnsuitablePython as unsuitable:  # a distribution's, like Debian's own
        pytest.skip(str(unsuitable))
    (newer,) = (package for package in without if package.name == "python")
    newer.version = "3.99.0"
    (tmp_path / SUBDIR).mkdir()
    for package in (newer, StandIn("python", "3.10.0", f"{standins.MARK}_0_cpython")):
        package.write(tmp_path / SUBDIR)
    call(index, folder=str(tmp_path))
    problems = [{"specs": [spec], "virtual": {}} for spec in ("python >=3.10", "python 3.99.*")]
    any_will_do, that_one = call(solve, channels=[str(tmp_path)], problems=problems)
    assert any_will_do["records"]["python"]["version"] == "3.10.0"
    assert that_one["records"]["python"]["version"] == "3.99.0"


def test_an_environment_whose_python_was_removed_is_made_again(tmp_path, monkeypatch):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = tmp_path / "build" / "standins" / f"python{version}"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to("/nonexistent/python")
    (folder / "wheels.json").write_text('["numpy", "pip"]')
    commands = []

    def run(command, **_):
        commands.append([str(part) for part in command])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(standins.workspace, "ROOT", tmp_path)
    monkeypatch.setattr(standins, "interpreter", lambda version: sys.executable)
    monkeypatch.setattr(standins, "_starts", lambda program: Path(program).exists())
    monkeypatch.setattr(standins.subprocess, "run", run)
    standins.environment(version, {"pip"})
    venv, install = commands
    assert venv[1:3] == ["-m", "venv"]
    assert install[-2:] == ["numpy", "pip"], "what the environment held before is lost"
