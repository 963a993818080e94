"""What CI would run on GitHub's hosts exists here: every command of every job."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import workspace
import yaml
from support import tomllib

ROOT = workspace.ROOT
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs() -> list[tuple[str, str, list[dict]]]:
    """Workflow, job and steps of each job."""
    found = []
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            found.append((path.name, name, job["steps"]))
    return found


def commands() -> list[str]:
    """The single commands of all jobs; $PACKAGE stands for each of its values."""
    lines = [step["run"] for _, _, steps in jobs() for step in steps if "run" in step]
    split = [part.strip() for line in lines for part in line.split("&&")]
    packages = [package.name for package in workspace.packages() if package.native]
    return [
        c.replace("$PACKAGE", p) for c in split for p in (packages if "$PACKAGE" in c else [""])
    ]


def test_a_job_is_one_command():
    assert {name for _, name, _ in jobs()} >= {
        "lint", "test", "sanitize", "docs", "recipes", "wheels", "gpu",
    }  # fmt: skip
    for workflow, name, steps in jobs():
        runs = [step["run"] for step in steps if "run" in step]
        assert len(runs) == 1, (workflow, name)
        assert "\n" not in runs[0].strip()


@pytest.mark.parametrize("command", commands())
def test_the_command_exists_here(command):
    program, *words = shlex.split(command)
    if program == "python3":
        tool, *options = words
        said = subprocess.run(
            [sys.executable, ROOT / tool, "--help"], capture_output=True, text=True, check=True
        ).stdout
        assert {o for o in options if o.startswith("--")} <= set(re.findall(r"--[a-z-]+", said))
    elif program == "pipx":  # what it would do is set in the package's own pyproject.toml
        assert re.fullmatch(r"cibuildwheel==[\d.]+", words[1])
        project = tomllib.loads((ROOT / words[2] / "pyproject.toml").read_text())
        settings = project["tool"]["cibuildwheel"]
        assert "--exclude libgomp.so.1" in settings["linux"]["repair-wheel-command"]
        assert settings["build"] == ["cp310-*", "cp311-*", "cp312-*"]
    else:
        assert os.access(ROOT / program, os.X_OK), f"{program} is not there"


def test_every_action_is_pinned_and_may_only_read():
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
    for _, _, steps in jobs():
        for action in (step["uses"] for step in steps if "uses" in step):
            assert re.search(r"@[0-9a-f]{40}$", action), action


def test_every_package_is_offered_where_a_fault_is_reported():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    (choice,) = (part for part in form["body"] if part["type"] == "dropdown")
    assert set(workspace.SIX) < set(choice["attributes"]["options"])


def test_hooks_before_a_commit_run_what_the_environment_has():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (local,) = config["repos"]
    for hook in local["hooks"]:
        assert os.access(ROOT / hook["entry"].split()[0], os.X_OK)


def test_the_citation_has_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == (ROOT / "VERSION").read_text().strip()
