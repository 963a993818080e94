"""Where the public repository is and who maintains the feedstocks: two settings in release.toml.

They stand there once. Recipes, pyproject files and CITATION.cff cannot look there, so
`write` copies them; a test compares, and a release with an empty setting is not uploaded.
"""

from __future__ import annotations

import re
from pathlib import Path

import workspace

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

SETTINGS = "tools/release.toml"


def settings(root: Path = workspace.ROOT) -> tuple[str, list[str]]:
    """The address (`https://HOST/OWNER/NAME`, or empty) and the conda-forge accounts."""
    table = tomllib.loads((root / SETTINGS).read_text())
    return table["repository"].rstrip("/"), table["maintainers"]


def objections(root: Path = workspace.ROOT) -> list[str]:
    """Which settings are still empty, as sentences."""
    repository, maintainers = settings(root)
    found = []
    if not repository:
        found.append("no public address: python tools/release.py --repository URL writes it")
    if not maintainers:
        found.append("nobody maintains the recipes: python tools/release.py --maintainer ACCOUNT")
    return found


def write(repository: str, maintainers: list[str], root: Path = workspace.ROOT) -> list[Path]:
    """Put the settings into release.toml and all that repeats them; returns what changed."""
    repository = repository.rstrip("/")
    texts = {root / SETTINGS: _setting(root, repository, maintainers)}
    for path in sorted((root / "recipes").rglob("recipe.yaml")):
        texts[path] = recipe(path.read_text(), repository, maintainers)
    for path in sorted((root / "packages").glob("*/pyproject.toml")):
        texts[path] = project(path.read_text(), repository)
    citation = root / "CITATION.cff"
    if citation.exists():
        kept = re.sub(r"(?m)^repository-code: .*\n", "", citation.read_text())
        texts[citation] = kept + (f"repository-code: {repository}\n" if repository else "")
    changed = [path for path, text in texts.items() if path.read_text() != text]
    for path in changed:
        path.write_text(texts[path])
    return changed


def _setting(root: Path, repository: str, maintainers: list[str]) -> str:
    text = (root / SETTINGS).read_text()
    quoted = ", ".join(f'"{account}"' for account in maintainers)
    text = re.sub(r"(?m)^repository = .*$", f'repository = "{repository}"', text)
    return re.sub(r"(?m)^maintainers = .*$", f"maintainers = [{quoted}]", text)


def recipe(text: str, repository: str, maintainers: list[str]) -> str:
    """A recipe with these two. A homepage of its own, such as FFmpeg's, stays."""
    text = re.sub(r"(?ms)^\nextra:\n  recipe-maintainers:\n.*", "", text)
    text = re.sub(r"(?m)^  repository: .*\n(  homepage: .*\n)?", "", text)
    if repository:
        own = re.search(r"(?m)^  homepage: ", text)
        lines = f"  repository: {repository}\n" + ("" if own else f"  homepage: {repository}\n")
        text = text.rstrip("\n") + "\n" + lines
    if maintainers:
        text += "\nextra:\n  recipe-maintainers:\n" + "".join(f"    - {m}\n" for m in maintainers)
    return text


def project(text: str, repository: str) -> str:
    """A package's pyproject.toml with `[project.urls]`."""
    text = re.sub(r"(?ms)^\[project\.urls\]\n.*?\n\n", "", text)
    if not repository:
        return text
    urls = {
        "Homepage": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
    }
    table = "[project.urls]\n" + "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return text.replace("[project.scripts]", f"{table}\n[project.scripts]", 1)


def absolute_links(markdown: str, package: str, version: str, repository: str) -> str:
    """A README as a package index shows it: links into the checkout lead to the repository."""

    def address(match: re.Match) -> str:
        kind = "raw" if match[1] == "!" else "blob"
        place = f"{repository}/{kind}/v{version}/packages/{package}/{match[3]}"
        while (shorter := re.sub(r"/[^/]+/\.\./", "/", place, count=1)) != place:
            place = shorter
        return f"{match[1]}[{match[2]}]({place})"

    inline = r"(!?)\[((?:[^\[\]]|!?\[[^\]]*\]\([^)]*\))*)\]\((?!https?:|mailto:|#)([^)\s]+)\)"
    return re.sub(inline, address, markdown)
