"""A release on disk: built packages in a channel with index, manifest and checksums."""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path

import workspace

from shipping import address, artifacts, rattler_child
from shipping.artifacts import Artifact
from shipping.recipes import VARIANTS, Build
from shipping.subdirs import SUBDIR

WORK = Path(tempfile.gettempdir(), "conda-release")
PACKED = (
    "packages",
    "recipes",
    "cmake",
    "VERSION",
    "LICENSE",
    "NOTICE",
    "conftest.py",
    "pyproject.toml",
)


class Release:
    """A folder that fills with a channel, logs and unpacked copies of what was built."""

    def __init__(self, folder: Path, sources: list[str], *, fresh_cache: bool = False) -> None:
        """`sources` are the channels that dependencies come from: folders, names or addresses."""
        self.folder = folder
        self.channel = folder / "channel"
        self.sources = sources
        self.cache = {"RATTLER_CACHE_DIR": str(folder / "cache")} if fresh_cache else {}
        self.artifacts: list[Artifact] = []
        self.commit, self.clean = _commit(), _is_clean()
        for name in (f"channel/{SUBDIR}", "channel/noarch", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def build(self, build: Build, *, test: bool = True) -> Artifact:
        """Build one variant, run its recipe's tests, check the artifact, put it into the channel.

        Raises RuntimeError when the build or a test fails or the artifact is not fit for release.
        """
        stem = build.file_name.removesuffix(".conda")
        with _work_folder(stem) as work:
            answer = rattler_child.call(
                rattler_child.build,
                log=self.folder / "logs" / f"{stem}.log",
                environment=self.cache | driver(build),
                recipe=str(build.path),
                variants=str(VARIANTS),
                override=build.override,
                name=build.name,
                string=build.string,
                channels=self.channels(),
                out=str(work),
                test=test,
            )
            (package,) = map(Path, answer["packages"])
            built = Artifact.unpack(package, self.folder / "unpacked" / stem)
            if found := artifacts.complaints(built):
                raise RuntimeError("not fit for release:\n  " + "\n  ".join(found))
            aside = self.folder / "unpacked" / package.name  # what is in the channel is whole
            shutil.copyfile(package, aside)
            kept = aside.replace(self.channel / build.subdir / package.name)
        artifact = Artifact(kept, built.folder)
        self.artifacts.append(artifact)
        return artifact

    def channels(self) -> list[str]:
        """Ours first, once it has an index; then those of the dependencies."""
        indexed = (self.channel / "noarch" / "repodata.json").exists()
        return [*([str(self.channel)] if indexed else []), *self.sources]

    def index(self) -> None:
        """Write the channel's repodata."""
        rattler_child.call(rattler_child.index, folder=str(self.channel))

    def write_manifest(
        self, extra_files: list[Path], *, tested: bool, failed: Sequence[str] = ()
    ) -> dict:
        """manifest.json and SHA256SUMS beside the index; returns the manifest.

        `tested` says whether all recipe tests were run; `failed` names what could not be built.
        """
        unchanged = self.clean and _is_clean() and _commit() == self.commit
        manifest = {
            "version": (workspace.ROOT / "VERSION").read_text().strip(),
            "commit": self.commit,
            "uncommitted_changes": not unchanged,
            "built": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "tool": f"py-rattler-build {installed('py-rattler-build')}",
            "channels": self.sources,
            "tested": tested,
            "failed": list(failed),
            "packages": [_entry(artifact) for artifact in self.artifacts],
            "python": [
                {"file": path.name, "size": path.stat().st_size, "sha256": _sha256(path)}
                for path in extra_files
            ],
        }
        manifest["objections"] = objections(manifest)
        manifest["publishable"] = not manifest["objections"]
        _write(self.folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        files = [artifact.path for artifact in self.artifacts] + extra_files
        lines = [f"{_sha256(path)}  {path.relative_to(self.folder)}\n" for path in files]
        _write(self.folder / "SHA256SUMS", "".join(lines))
        return manifest


def objections(manifest: dict) -> list[str]:
    """Why this release must not be published, as sentences."""
    found = []
    marked = [entry["file"] for entry in manifest["packages"] if entry["standins"]]
    if marked:
        found.append(f"built from stand-ins or a local channel: {', '.join(marked)}")
    if not manifest["commit"]:
        found.append("built outside a git checkout: no commit says what it was built from")
    if manifest["uncommitted_changes"]:
        found.append("built from a tree with uncommitted changes")
    if manifest["failed"]:
        found.append(f"failed: {', '.join(manifest['failed'])}")
    if not manifest["tested"]:
        found.append("its recipe tests were skipped")
    heading = f"## {manifest['version']} ("
    changelog = (workspace.ROOT / "CHANGELOG.md").read_text()
    line = next((line for line in changelog.splitlines() if line.startswith(heading)), None)
    if line is None:
        found.append(f"CHANGELOG.md has no heading '{heading}...)'")
    elif "not yet released" in line:
        found.append(f"CHANGELOG.md still says: {line}")
    if not manifest["packages"]:
        found.append("nothing was built")
    return found + address.objections()


def build_all(
    release: Release,
    builds: list[Build],
    say: Callable[[str], None],
    tested: Callable[[Build], bool],
) -> list[str]:
    """Build in order; returns what failed, as sentences. What needs a failed package fails too.

    `tested` says whether a build's recipe tests are run.
    """
    failed = []
    for number, build in enumerate(builds, 1):
        started = time.monotonic()
        say(f"[{number}/{len(builds)}] {build.file_name}")
        try:
            artifact = release.build(build, test=tested(build))
            release.index()
        except (RuntimeError, OSError) as error:  # OSError: a full disk, a program that is missing
            failed.append(f"{build.file_name}: {error}")
            say(f"    failed: {error}")
            continue
        size, seconds = artifact.path.stat().st_size, time.monotonic() - started
        done = "built and tested" if tested(build) else "built, not tested,"
        say(f"    {size / 1000:.0f} kB, {done} in {seconds:.0f} s")
    return failed


@contextmanager
def _work_folder(stem: str) -> Iterator[Path]:
    """An empty folder that has the same path in every release, held by a lock.

    The first line of a command in bin/ holds the prefix that it was built in, and RECORD its hash:
    with one path, the same commit gives the same bytes.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    if WORK.stat().st_uid != os.getuid():
        raise RuntimeError(f"{WORK} belongs to somebody else: set TMPDIR to a folder of your own")
    with (WORK / f"{stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = WORK / stem
        shutil.rmtree(folder, ignore_errors=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def driver(build: Build) -> dict[str, str]:
    """The driver that a build's test environment sees: none for a CPU build."""
    cuda = build.variant.get("cuda_compiler_version", "")
    return {"CONDA_OVERRIDE_CUDA": cuda if build.kind.startswith("cuda") else ""}


def _entry(artifact: Artifact) -> dict:
    index = artifact.index
    return {
        "name": index["name"],
        "version": index["version"],
        "build": index["build"],
        "subdir": index["subdir"],
        "file": f"channel/{index['subdir']}/{artifact.path.name}",
        "size": artifact.path.stat().st_size,
        "sha256": artifact.sha256,
        "payload_sha256": artifact.payload_sha256,
        "depends": sorted(index["depends"]),
        "constrains": sorted(index.get("constrains", [])),
        "license": index["license"],
        "standins": artifacts.built_with_standins(artifact),
    }


def _commit() -> str:
    """The commit that is checked out; empty outside a git checkout."""
    return _git("rev-parse", "HEAD")


def _is_clean() -> bool:
    return not _git("status", "--porcelain", "--", *PACKED)


def _git(*arguments: str) -> str:
    if not shutil.which("git"):
        return ""
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=workspace.ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    aside.replace(path)
