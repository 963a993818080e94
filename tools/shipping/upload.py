"""Publish a finished release, if nothing speaks against it."""

from __future__ import annotations

from pathlib import Path

import workspace

KINDS = {
    "anaconda": "anaconda:OWNER, with ANACONDA_API_KEY set",
    "prefix": "prefix:CHANNEL, with PREFIX_API_KEY set",
    "quetz": "quetz:URL/CHANNEL, with QUETZ_API_KEY set",
}


def objections(manifest: dict, *, tested: bool) -> list[str]:
    """Why this release must not be published, as sentences."""
    found = []
    marked = [entry["file"] for entry in manifest["packages"] if entry["standins"]]
    if marked:
        found.append(f"built from stand-ins or a local channel: {', '.join(marked)}")
    if manifest["uncommitted_changes"]:
        found.append("built from a tree with uncommitted changes")
    if not tested:
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
    return found


def target(text: str) -> tuple[str, str]:
    """`kind`, `place` of an upload target. Raises ValueError that names the forms."""
    kind, _, place = text.partition(":")
    if kind not in KINDS or not place:
        raise ValueError(f"upload to {text!r}: expected {'; '.join(KINDS.values())}")
    return kind, place


def upload(files: list[Path], to: str) -> None:
    """Send the packages; keys come from the environment, as rattler-build documents them."""
    import rattler_build as rb

    kind, place = target(to)
    names = [str(path) for path in files]
    if kind == "anaconda":
        rb.upload_package_to_anaconda(names, place)
    elif kind == "prefix":
        rb.upload_package_to_prefix(names, "https://prefix.dev", place)
    else:
        url, _, name = place.rpartition("/")
        rb.upload_package_to_quetz(names, url, name)
