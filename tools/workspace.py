"""Where the packages are, and the environment in `.venv` that the other commands run in.

Only the standard library: these commands start from a bare clone. Every step leaves a stamp, so a
second run looks at hashes and starts in seconds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
STAMPS = VENV / "workspace.json"
SIX = (
    "spconv-lite",
    "nanite-cull",
    "tp-parallel",
    "convlstm",
    "resnet-zoo",
    "ffmpeg-gpu-build",
)


@dataclass(frozen=True)
class Package:
    name: str

    @property
    def folder(self) -> Path:
        return ROOT / "packages" / self.name

    @property
    def import_name(self) -> str:
        return self.name.replace("-", "_")

    @property
    def native(self) -> bool:
        return (self.folder / "CMakeLists.txt").exists()

    @property
    def editable_build(self) -> Path:
        return self.folder / "build" / "editable"

    @property
    def built(self) -> bool:
        return not self.native or (self.editable_build / "CMakeCache.txt").exists()

    @property
    def nodeps(self) -> Path:
        """Oracles that are installed without their dependencies, where there are any."""
        return self.folder / "requirements-nodeps.txt"

    def stamp(self, gpu: str) -> str:
        """A digest of all that decides what installing this package does.

        The names of its modules too: an editable install knows them by a table.
        """
        files = [self.folder / "pyproject.toml", CONSTRAINTS, self.nodeps, *_build_files(self)]
        modules = sorted(str(path) for path in (self.folder / "src").rglob("*.py"))
        return _digest(*(file for file in files if file.exists()), text=" ".join([gpu, *modules]))


def packages(names: list[str] | None = None) -> list[Package]:
    """The packages that exist, or the named ones (either spelling)."""
    existing = [
        Package(name) for name in SIX if (ROOT / "packages" / name / "pyproject.toml").exists()
    ]
    if not names:
        return existing
    by_name = {package.name: package for package in existing}
    unknown = [name for name in names if name.replace("_", "-") not in by_name]
    if unknown:
        sys.exit(f"no package {', '.join(unknown)}; there are: {', '.join(by_name)}")
    return [by_name[name.replace("_", "-")] for name in names]


def run(command: list[object], **options) -> None:
    """Run a step of the set-up; on failure show the command and exit with its code."""
    completed = subprocess.run([str(part) for part in command], cwd=ROOT, **options)
    if completed.returncode != 0:
        text = " ".join(str(part) for part in command)
        sys.exit(f"this step of the set-up failed (exit {completed.returncode}): {text}")


def ensure_environment(wanted: list[Package], *, gpu: str = "OFF") -> None:
    """Create or bring up to date `.venv`: tools, dependencies, the packages editable and built.

    Only what the wanted packages need; where all are wanted, what tests/ needs as well.
    """
    started = time.monotonic()
    stamps = json.loads(STAMPS.read_text()) if STAMPS.exists() else {}
    if not PYTHON.exists():
        if lacking := list(what_the_machine_lacks(wanted)):
            sys.exit("this machine lacks:\n" + "\n".join(f"  {line}" for line in lacking))
        _say("creating .venv")
        run([sys.executable, "-m", "venv", VENV])
        stamps = {}
    lists = ["requirements"] + (["requirements-house"] if len(wanted) == len(packages()) else [])
    for name in lists:
        file = ROOT / "tools" / f"{name}.txt"
        if stamps.get(name) != (plan := _digest(CONSTRAINTS, file)):
            _say(f"installing {file.relative_to(ROOT)}")
            _pip("-r", file)
            stamps[name] = plan
            _write(stamps)
    for package in wanted:
        if stamps.get(package.name) != (plan := package.stamp(gpu)) or not package.built:
            _say(f"installing {package.name}" + (" (compiling its core)" if package.native else ""))
            _install(package, gpu)
            stamps[package.name] = plan
            _write(stamps)
        elif package.native:
            _rebuild(package)
    seconds = time.monotonic() - started
    if seconds > 5:
        _say(f"environment ready after {seconds:.0f} s")


def what_the_machine_lacks(wanted: list[Package]) -> Iterator[str]:
    """One line for each thing that the set-up would fail of after minutes, with its cure."""
    if sys.version_info < (3, 10):  # noqa: UP036, whoever runs this may have an older one
        yield f"Python 3.10 or newer: this is {sys.version.split()[0]}"
    if importlib.util.find_spec("ensurepip") is None:
        yield "Python's venv with pip (Debian: apt-get install python3-venv)"
    if not any(package.native for package in wanted):
        return
    compilers = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if not any(shutil.which(name) for name in compilers if name):
        yield "a C++17 compiler (Debian: apt-get install g++; conda: conda install cxx-compiler)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        yield f"Python.h of {sys.executable} (Debian: apt-get install python3-dev)"


def _install(package: Package, gpu: str) -> None:
    """The package, editable and built, with what its tests need.

    By the compiler's name that CMake itself would choose, so that ccache knows the objects again
    when the top-level tree builds the same files.
    """
    compiler = {} if "CXX" in os.environ or not shutil.which("c++") else {"CXX": "c++"}
    _pip(
        "--no-build-isolation",
        "-e",
        f"{package.folder}[test]",
        env={
            "GPU": gpu,
            "NATIVE_WERROR": "ON" if os.environ.get("CI") else "OFF",
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
        }
        | compiler,
    )
    if package.nodeps.exists():
        _pip("--no-deps", "-r", package.nodeps)


def _pip(*arguments: object, env: dict[str, str] | None = None) -> None:
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "-c", CONSTRAINTS, *arguments], env=os.environ | (env or {}))


def missing_system_packages(wanted: list[Package]) -> list[str]:
    """The Debian packages of tools/apt.txt and the packages' own lists that are not installed."""
    lists = [ROOT / "tools" / "apt.txt", *(package.folder / "apt.txt" for package in wanted)]
    names = sorted({name for path in lists if path.exists() for name in _lines(path)})
    if not shutil.which("dpkg-query"):
        return names
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names]
    present = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    return [name for name in names if f"{name} installed" not in present]


def ensure_system_packages(wanted: list[Package]) -> None:
    """In CI, as root on Debian: install what tools/apt.txt and packages/*/apt.txt name."""
    if not os.environ.get("CI") or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    missing = missing_system_packages(wanted)
    if not missing:
        return
    _say(f"installing Debian packages: {' '.join(missing)}")
    quiet = {
        "stdout": subprocess.DEVNULL,
        "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    }
    subprocess.run(["apt-get", "update", "-qq"], **quiet)
    for name in missing:  # one by one: one that is missing does not lose the rest
        if subprocess.run(["apt-get", "install", "-y", "-qq", name], **quiet).returncode:
            _say(f"could not install {name}: the tests that need it are skipped and say so")


def site_packages() -> Path:
    """The site-packages folder of `.venv`."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = sorted((VENV / "lib").glob("python3.*/site-packages"))
    return found[0] if found else VENV / "lib" / version / "site-packages"


def tool_environment(**extra: str) -> dict[str, str]:
    """The environment of tests, demos and benchmarks: .venv first, threads that wait passively."""
    environment = dict(os.environ)
    environment.update(
        PATH=f"{VENV / 'bin'}:{os.environ['PATH']}",
        VIRTUAL_ENV=str(VENV),
        OMP_WAIT_POLICY=os.environ.get("OMP_WAIT_POLICY", "passive"),
        PYTHONDONTWRITEBYTECODE="1",
    )
    environment.pop("PYTHONUNBUFFERED", None)  # users have none: what is not flushed shows
    environment.update(extra)
    return environment


def _rebuild(package: Package) -> None:
    build = package.editable_build
    cmake = VENV / "bin" / "cmake"
    run([cmake, "--build", build], stdout=subprocess.DEVNULL)
    run([cmake, "--install", build, "--prefix", site_packages()], stdout=subprocess.DEVNULL)


def _build_files(package: Package) -> list[Path]:
    if not package.native:
        return []
    return [package.folder / "CMakeLists.txt", *sorted((ROOT / "cmake").glob("*.cmake*"))]


def _digest(*paths: Path, text: str = "") -> str:
    digest = hashlib.sha256(f"{sysconfig.get_python_version()} {text}".encode())
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _write(stamps: dict[str, str]) -> None:
    aside = STAMPS.with_suffix(".part")
    aside.write_text(json.dumps(stamps, indent=1))
    aside.replace(STAMPS)


def _lines(path: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def _say(text: str) -> None:
    print(f"[set-up] {text}", file=sys.stderr, flush=True)
