"""The offline release that the tests of the conda packages share."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import standins
from predicted import required
from shipping import recipes
from shipping.channel import Release
from shipping.rattler_child import call
from shipping.recipes import Build
from solving import VIRTUAL, install

OWN_PYTHON = Path(sys.executable)
OWN_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


class Proof:
    """A release built from stand-ins, and prefixes to install it into."""

    def __init__(
        self, folder: Path, builds: list[Build], pythons: list[Path], compiler_cache: Path | None
    ) -> None:
        wanted = required(builds)
        standins.make_channel(folder / "standins", pythons, wanted, compiler_cache)
        self.release = Release(folder, [str(folder / "standins")], fresh_cache=True)
        self.folder = folder

    def installed(self, build: Build, python: str, prefix: Path) -> "Prefix":
        """`build` in a fresh prefix with that Python, chosen by its build string."""
        cuda = build.variant.get("cuda_compiler_version") if build.kind.startswith("cuda") else None
        specs = [f"{build.name} =={build.version} {build.string}", f"python {python}.*"]
        records = self.install(specs, prefix, cuda)
        assert records[build.name]["build"] == build.string
        return Prefix(prefix, build)

    def install(self, specs: list[str], prefix: Path, cuda: str | None = None) -> dict[str, dict]:
        """Solve and install into a fresh prefix; returns the records. Raises with the reason."""
        answer = call(
            install,
            environment=self.release.cache,
            channels=self.release.channels(),
            specs=specs,
            virtual=VIRTUAL | ({"__cuda": cuda} if cuda else {}),
            prefix=str(prefix),
            cache=str(self.folder / "cache"),
        )
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["records"]


class Prefix:
    """An environment as `conda install` leaves it."""

    def __init__(self, folder: Path, build: Build) -> None:
        self.folder = folder
        self.build = build

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run with nothing of this checkout in the environment."""
        inherited = ("HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS")
        environment = {name: os.environ[name] for name in inherited if name in os.environ}
        environment["PATH"] = f"{self.folder}/bin:/usr/bin:/bin"
        environment["CONDA_PREFIX"] = environment["PREFIX"] = str(self.folder)
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )

    @property
    def module(self) -> str:
        return self.build.name.replace("-", "_")

    def packages(self) -> set[str]:
        """Names of the conda packages that are installed."""
        files = (self.folder / "conda-meta").glob("*.json")
        return {path.name.rsplit("-", 2)[0] for path in files}

    def run_main_function(self) -> None:
        """Run the last command of the recipe's tests, which is the library's main function."""
        scripts = [test["script"] for test in self.build.recipe["tests"] if "script" in test]
        command = script_lines(scripts[-1])[-1]
        done = self.run(*shlex.split(command))
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def script_lines(script: object) -> list[str]:
    content = script["content"] if isinstance(script, dict) else script
    lines = content.splitlines() if isinstance(content, str) else content
    return [line for line in lines if line.strip()]


def variant(name: str, kind: str, python: str | None = None) -> Build:
    """The one build of that kind, for that Python where there are several."""
    builds = [b for b in recipes.render(name, python_min=OWN_VERSION) if b.kind == kind]
    builds = [b for b in builds if b.name == name or b.kind == "other"]
    (found,) = [b for b in builds if python is None or b.python == python]
    return found


@pytest.fixture(scope="session")
def make_proof(tmp_path_factory):
    """Builds a Proof for some builds; skips where this Python cannot stand in for conda's."""

    def make(
        builds: list[Build],
        pythons: list[Path] | None = None,
        compiler_cache: Path | None = standins.COMPILER_CACHE,
    ) -> Proof:
        folder = tmp_path_factory.mktemp("release")
        try:
            return Proof(folder, builds, pythons or [OWN_PYTHON], compiler_cache)
        except standins.UnsuitablePython as error:
            pytest.skip(str(error))

    return make


@pytest.fixture(scope="session")
def own_version() -> str:
    return OWN_VERSION


@pytest.fixture(scope="session")
def find_variant():
    return variant
