"""What the tests across packages share: an environment and wheels that never saw this checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

import workspace  # noqa: E402
from shipping.wheels import build_from_sdist  # noqa: E402
from support import QUICK  # noqa: E402


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


class FreshEnvironment:
    """A virtual environment with torch in it and none of our packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.pip("torch", "numpy")

    def pip(self, *arguments: str | Path) -> None:
        command = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-compile"]  # not the modules of torch that nobody imports
        command += ["-c", ROOT / "tools" / "constraints.txt", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def freeze(self) -> set[str]:
        done = subprocess.run(
            [self.python, "-m", "pip", "list", "--format", "freeze"],
            capture_output=True,
            text=True,
            check=True,
        )
        return {line.split("==")[0] for line in done.stdout.split()}

    def remove(self, names: set[str]) -> None:
        if names:
            command = [self.python, "-m", "pip", "uninstall", "--quiet", "--yes", *names]
            subprocess.run(command, check=True, capture_output=True)

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
        """Run this environment's Python; nothing of the checkout is on its path."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            text=True,
            cwd=cwd or self.folder,
            env=environment,
        )


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    return FreshEnvironment(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of every package, built from its sdist alone, unpacked in an empty folder."""
    folder = tmp_path_factory.mktemp("wheels")
    return {
        package.name: build_from_sdist(
            package.folder, folder / package.name, folder / "sdist" / package.name, QUICK
        )[1]
        for package in workspace.packages()
    }
