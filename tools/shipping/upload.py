"""Publish a finished release, if nothing speaks against it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import workspace

from shipping import address

KINDS = {
    "anaconda": "anaconda:OWNER, with ANACONDA_API_KEY set",
    "prefix": "prefix:CHANNEL, with PREFIX_API_KEY set",
    "quetz": "quetz:URL/CHANNEL, with QUETZ_API_KEY set",
}


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
    found += address.objections()
    return found


def finished(folder: Path) -> list[Path]:
    """The packages of the release that stands in `folder`, as its manifest describes them.

    Raises RuntimeError where there is none, something speaks against it or a file is another one.
    """
    file = folder / "manifest.json"
    if not file.is_file():
        raise RuntimeError(f"--out {folder} holds no finished release: build one first")
    manifest = json.loads(file.read_text())
    if found := objections(manifest):
        raise RuntimeError("not publishable: " + "; ".join(found))
    packages = []
    for entry in manifest["packages"]:
        path = folder / entry["file"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            raise RuntimeError(f"{path} is not the file that manifest.json describes: build again")
        packages.append(path)
    return packages


def target(text: str) -> tuple[str, str]:
    """`kind`, `place` of an upload target that there is a key for. Raises ValueError otherwise."""
    kind, _, place = text.partition(":")
    url, _, channel = place.rpartition("/")
    if kind not in KINDS or not place or (kind == "quetz" and not (channel and "://" in url)):
        raise ValueError(f"upload to {text!r}: expected {'; '.join(KINDS.values())}")
    if not os.environ.get(_key_name(kind)):
        raise ValueError(f"upload to {text!r}: set {_key_name(kind)} to the key of the channel")
    return kind, place


def upload(files: list[Path], to: str, say: Callable[[str], None]) -> None:
    """Send the packages one by one. Raises RuntimeError that names what was not sent."""
    for number, path in enumerate(files):
        try:
            _send(path, to)
        except Exception as error:  # of rattler-build, and whatever the network does to it
            rest = "\n    ".join(map(str, files[number:]))
            raise RuntimeError(
                f"{number} of {len(files)} packages were uploaded; not these, for {error}:\n"
                f"    {rest}\nSend them with `rattler-build upload` or the like: built again they "
                "would have other bytes than what was uploaded"
            ) from error
        say(f"    uploaded {path.name}")


def _send(path: Path, to: str) -> None:
    import rattler_build as rb

    kind, place = target(to)
    key = os.environ[_key_name(kind)]
    if kind == "anaconda":
        rb.upload_package_to_anaconda([str(path)], place, api_key=key)
    elif kind == "prefix":
        rb.upload_package_to_prefix([str(path)], "https://prefix.dev", place, api_key=key)
    else:
        url, _, channel = place.rpartition("/")
        rb.upload_package_to_quetz([str(path)], url, channel, api_key=key)


def _key_name(kind: str) -> str:
    """The environment variable that holds the key; rattler_build itself does not read it."""
    return f"{kind.upper()}_API_KEY"
