"""Debian packages without touching the system: a private apt configuration beside the machine's
own.

It names further suites of the archives that the machine already trusts, keeps its lists and its
cache in a folder of ours, and checks signatures with the machine's own keys.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from .. import proc
from .description import version_key

SUITES = {"debian": ("trixie", "sid"), "ubuntu": ("devel",)}
COMPONENTS = {"debian": "main", "ubuntu": "main universe"}
ETC = Path("/etc/apt")


class AptError(RuntimeError):
    """apt is not there, or did not give what was asked; the message has its last words."""


@dataclass(frozen=True)
class Archive:
    """One archive of the machine: where, and the keyring it is trusted by."""

    uri: str
    signed_by: str


def system_id(os_release: Path = Path("/etc/os-release")) -> str:
    """ "debian", "ubuntu", ... or "" where that is not known."""
    try:
        match = re.search(r'^ID="?([a-z]+)"?', os_release.read_text(), re.M)
    except OSError:
        return ""
    return match[1] if match else ""


def _deb822(text: str) -> list[Archive]:
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = {}
        for line in stanza.splitlines():
            key, colon, value = line.partition(":")
            if colon and not line.startswith(("#", " ", "\t")):
                fields[key.strip().lower()] = value.strip()
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes") != "no":
            uris = fields.get("uris", "").split()
            found += [Archive(uri, fields.get("signed-by", "")) for uri in uris]
    return found


def _one_line(text: str) -> list[Archive]:
    found = []
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+\S+", line.strip())
        if match:
            signed = re.search(r"signed-by=(\S+)", match[1] or "")
            found.append(Archive(match[2], signed[1] if signed else ""))
    return found


def archives(etc: Path = ETC) -> list[Archive]:
    """The archives in sources.list and sources.list.d, in both of apt's formats, each once."""
    found: list[Archive] = []
    for file in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if file.is_file() and file.suffix in (".list", ".sources"):
            text = file.read_text(errors="replace")
            found += _deb822(text) if file.suffix == ".sources" else _one_line(text)
    return list(dict.fromkeys(found))


def main_archive(etc: Path = ETC) -> Archive:
    """The archive of the distribution itself. Raises AptError if none is recognised."""
    name = system_id()
    for archive in archives(etc):
        last = archive.uri.rstrip("/").rpartition("/")[2]
        if last in (name, f"{name}-ports") and archive.uri.startswith(
            ("http:", "https:", "file:", "mirror")
        ):
            return archive
    raise AptError(f"apt: no archive of {name or 'this system'} in {etc}/sources.list*")


class PrivateApt:
    """apt-get with lists and cache in `folder`, reading the newer suites of the main archive."""

    def __init__(self, folder: Path, etc: Path = ETC) -> None:
        if not shutil.which("apt-get"):
            raise AptError(
                "apt: no apt-get on this machine: give FFmpeg with --source FILE, and headers that "
                "are new enough through PKG_CONFIG_PATH"
            )
        self.folder = folder
        self.refused: str | None = None  # what apt said against a suite; None before the update
        archive = main_archive(etc)
        options = f"[signed-by={archive.signed_by}] " if archive.signed_by else ""
        lines = [
            f"{kind} {options}{archive.uri} {suite} {COMPONENTS.get(system_id(), 'main')}"
            for suite in SUITES.get(system_id(), ())
            for kind in ("deb", "deb-src")
        ]
        for part in ("lists/partial", "cache/archives/partial", "got"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "sources.list").write_text("\n".join(lines) + "\n")
        self.options = [
            "-o", f"Dir::Etc::sourcelist={folder}/sources.list", "-o", "Dir::Etc::sourceparts=-",
            "-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache",
            "-o", "APT::Sandbox::User=root",
        ]  # fmt: skip

    def _apt(self, program: str, *arguments: str, timeout: float = 600) -> proc.Finished:
        return proc.run(
            [program, *self.options, *arguments], timeout=timeout, cwd=self.folder / "got"
        )

    def update(self) -> None:
        """Fetch the lists, once a folder if all suites are had. Raises AptError with apt's last
        words if none is; a suite that is refused is remembered for the message of what it lacks.
        """
        whole = self.folder / "lists.whole"
        if self.refused is not None or whole.exists():
            return
        # without the option a suite that could not be reached is a warning, and the exit code 0
        done = self._apt("apt-get", "-o", "APT::Update::Error-Mode=any", "update")
        self.refused = " ".join(re.findall(r"^E: .*", done.err, re.M))
        if not any(self.folder.glob("lists/*_Sources*")):
            raise AptError(f"apt: update gave no lists: {done.err.strip()[-400:]}")
        if done.ok:
            whole.touch()

    def _no_suite(self, what: str) -> AptError:
        why = f" (apt refused a suite: {self.refused})" if self.refused else ""
        return AptError(f"apt: no suite here has {what}{why}")

    def sources_of(self, package: str, upstream: str) -> tuple[str, str] | None:
        """(full version, name of the orig tarball) of a source package of this upstream version."""
        self.update()
        text = self._apt("apt-cache", "showsrc", package).out.decode("utf-8", "replace")
        for stanza in text.split("\n\n"):
            version = re.search(r"^Version: (\S+)", stanza, re.M)
            file = re.search(r"(\S+\.orig\.tar\.\w+)$", stanza, re.M)
            plain = re.sub(r"^\d+:|-[^-]*$", "", version[1]) if version else ""
            if version and file and plain.partition("+")[0] == upstream:
                return version[1], file[1]
        return None

    def fetch_source(self, package: str, upstream: str) -> tuple[Path, Path | None]:
        """The orig tarball of a release, and its signature where there is one.

        Parts of the packaging may be gone from a mirror; the tarball alone is wanted. Raises
        AptError.
        """
        found = self.sources_of(package, upstream)
        if not found:
            raise self._no_suite(f"{package} {upstream}")
        version, name = found
        done = self._apt("apt-get", "source", "--download-only", f"{package}={version}")
        file, signature = self.folder / "got" / name, self.folder / "got" / f"{name}.asc"
        if not file.is_file():
            raise AptError(f"apt: {name} did not arrive: {done.err.strip()[-400:]}")
        return file, signature if signature.is_file() else None

    def versions(self, package: str) -> list[str]:
        """The versions of a binary package that the suites have, lowest first."""
        self.update()
        text = self._apt("apt-cache", "madison", package).out.decode("utf-8", "replace")
        rows = (line.split("|") for line in text.splitlines())
        found = {r[1].strip() for r in rows if len(r) == 3 and "Packages" in r[2]}
        return sorted(found, key=version_key)

    def unpack(self, package: str, lowest: str, into: Path) -> str:
        """Unpack the lowest version of a package that is new enough; returns that version.

        The lowest, because newer headers raise what the build demands of a user's machine. Raises
        AptError if there is none.
        """
        for version in self.versions(package):
            if version_key(version) < version_key(lowest):
                continue
            done = self._apt("apt-get", "download", f"{package}={version}")
            stem = f"{package}_{version.replace(':', '%3a')}_"
            file = next((self.folder / "got").glob(f"{stem}*.deb"), None)
            if file is None:
                raise AptError(f"apt: {package} did not arrive: {done.err.strip()[-400:]}")
            into.mkdir(parents=True, exist_ok=True)
            opened = proc.run(["dpkg-deb", "-x", file, into])
            if not opened.ok:
                raise AptError(f"apt: {file.name} does not open: {opened.err.strip()[-300:]}")
            return version
        raise self._no_suite(f"{package} {lowest} or newer")


def resolvable(packages: list[str]) -> tuple[list[str], list[str]]:
    """Which packages the machine's own apt can install, and which it cannot, asked one by one."""
    good: list[str] = []
    bad: list[str] = []
    for package in packages:
        text = proc.run(["apt-cache", "policy", package]).out.decode("utf-8", "replace")
        candidate = re.search(r"Candidate: (\S+)", text)
        (good if candidate and candidate[1] != "(none)" else bad).append(package)
    return good, bad


def install(packages: list[str]) -> dict[str, str]:
    """Install packages one by one, so that a missing one loses no other; package -> why not.

    The lists are fetched first where a package is not in them (a bare container has none); another
    apt that is at work is waited for.
    """
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    if resolvable(packages)[1]:
        proc.run(["apt-get", *wait, "update", "-q"], timeout=600)
    failed = {}
    for package in packages:
        done = proc.run(
            ["apt-get", *wait, "install", "-y", "-q", "--no-install-recommends", package],
            env={"DEBIAN_FRONTEND": "noninteractive"},
            timeout=1200,
        )
        if not done.ok:
            failed[package] = (done.err.strip() or "no reason given").splitlines()[-1]
    return failed
