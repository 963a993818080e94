"""Where the pages of the site come from: a hook of mkdocs.

One source each: the front page is README.md, a package's first page is its README, its further
pages are packages/<name>/docs/*.md, its reference comes from the docstrings of what it exports, its
benchmarks from the committed results. Links between files of the repository become links between
pages; a link to a file that is no page becomes plain text.
"""

from __future__ import annotations

import importlib
import json
import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import results  # noqa: E402

PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir() if path.is_dir())
HOUSE = {"README.md": "index.md"} | {
    name: name.lower()
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
    if (ROOT / name).exists()
}
MACHINE = ("processor", "instruction_set", "system")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)


def sources() -> dict[str, str]:
    """Repository path of every page and picture -> its address in the site."""
    pages = dict(HOUSE)
    pages |= {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    for name in PACKAGES:
        pages[f"packages/{name}/README.md"] = f"{name}/index.md"
        for path in sorted((ROOT / "packages" / name / "docs").glob("*.*")):
            if path.suffix in (".md", ".png", ".jpg", ".svg", ".gif"):
                pages[f"packages/{name}/docs/{path.name}"] = f"{name}/{path.name}"
    return pages


def relinked(text: str, source: str, pages: dict[str, str]) -> str:
    """The text of a page with its links turned from the repository's tree to the site's."""
    here = posixpath.dirname(pages[source])

    def turn(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if (ROOT / file / "README.md").exists():
            file += "/README.md"
        if result := re.match(r"packages/([^/]+)/benchmarks/results/(.+)\.json", file):
            address, anchor = f"{result[1]}/benchmarks.md", result[2]
        else:
            address = pages.get(file, "")
        if not address:
            return label
        anchor = f"#{anchor}" if anchor else ""
        return f"{mark}[{label}]({posixpath.relpath(address, here or '.')}{anchor})"

    return outside_fences(text, lambda part: LINK.sub(turn, part))


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    parts, last = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*parts, change(text[last:])])


def exported(package: str) -> dict[str, str]:
    """Each name in `__all__` of a package, with the path of the module where it is written."""
    module = importlib.import_module(package.replace("-", "_"))
    places = {}
    for name in module.__all__:
        thing = getattr(module, name)
        written = getattr(thing, "__qualname__", "") == name
        places[name] = f"{thing.__module__ if written else module.__name__}.{name}"
    return {name: place for name, place in places.items() if not name.startswith("__")}


def reference(package: str) -> str:
    module = package.replace("-", "_")
    entries = "\n\n".join(f"::: {place}" for place in exported(package).values())
    return f"# {package}: reference\n\nEvery name that `import {module}` offers.\n\n{entries}\n"


def benchmarks(package: str) -> str:
    """A table for each committed result, with its machine, versions and date."""
    folder = ROOT / "packages" / package / "benchmarks" / "results"
    tables = [benchmark(path) for path in sorted(folder.glob("*.json"))]
    head = (
        f"# {package}: figures\n\nMade from the files under `benchmarks/results/`; every row was "
    )
    head += "measured beside its peer in the same run, and a ratio above 1 means faster than it.\n"
    return head + "\n".join(tables)


def age(path: Path) -> str:
    """What a reader must know of a result's age: a later one, or that the code has changed."""
    day = results.changed_since(path)
    if later := results.newer(path):
        since = f" What it measures has changed since, on {day}." if day else ""
        return f"Kept for comparison; the latest: [{later.stem}](#{later.stem}).{since}"
    return f"**Older than the last change of what it measures, {day}.**" if day else ""


def benchmark(path: Path) -> str:
    result = json.loads(path.read_text())
    machine, versions = result.get("machine", {}), result.get("versions", {})
    peer = f", beside {result['peer']}" if result.get("peer") else ""
    heading = f"{result['benchmark']}{peer}, {result['date']}"
    lines = [f"\n## {heading} {{#{path.stem}}}\n", ""]
    lines[-1] += ", ".join(str(machine[key]) for key in MACHINE if key in machine)
    lines[-1] += f", {machine.get('cores', '?')} cores. "
    lines[-1] += ", ".join(f"{name} {value}" for name, value in versions.items()) + "\n"
    if sentence := age(path):
        lines.append(f"{sentence}\n")
    if rows := [row for row in result.get("rows", []) if row.get("ours")]:
        lines += [
            "| case | ours, ms | peer, ms | ratio | by CPU time | spread |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        lines += [row_line(row) for row in rows]
    facts = result.get("facts") or flat(result)
    lines += ["", "| fact | value |", "|---|---|"] if facts else []
    lines += [f"| {cell(key)} | {cell(value)} |" for key, value in facts.items()]
    return "\n".join(lines) + "\n"


def row_line(row: dict) -> str:
    ours, peer = row["ours"], row.get("peer") or {}
    figures = [ours["median_ms"], peer.get("median_ms"), row.get("ratio"), row.get("cpu_ratio")]
    cells = ["" if figure is None else f"{figure:.4g}" for figure in figures]
    return f"| {cell(row['case'])} | {' | '.join(cells)} | {ours['spread']:.0%} |"


def flat(result: dict) -> dict[str, object]:
    """The plain figures of a result that has no rows; longer tables stay in the file."""
    known = ("benchmark", "peer", "date", "machine", "versions", "rows", "facts")
    plain = (str, int, float)
    return {k: v for k, v in result.items() if k not in known and isinstance(v, plain)}


def cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def generated(config: MkDocsConfig) -> Iterator[File]:
    pages = sources()
    for source, address in pages.items():
        if source.startswith("docs/"):
            continue  # mkdocs found it by itself
        path = ROOT / source
        if path.suffix == ".md":
            text = relinked(path.read_text(), source, pages)
            yield File.generated(config, address, content=text)
        else:
            yield File.generated(config, address, abs_src_path=str(path))
    for name in PACKAGES:
        yield File.generated(config, f"{name}/api.md", content=reference(name))
        yield File.generated(config, f"{name}/benchmarks.md", content=benchmarks(name))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for file in generated(config):
        files.append(file)
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation: a tab for each package, the house last."""
    pages = sources()
    tabs: list[dict[str, object]] = [{"Start": "index.md"}]
    for name in PACKAGES:
        own = [a for a in pages.values() if a.startswith(f"{name}/") and a.endswith(".md")]
        entries: list[object] = sorted(own, key=lambda address: not address.endswith("index.md"))
        entries += [{"Reference": f"{name}/api.md"}, {"Figures": f"{name}/benchmarks.md"}]
        tabs.append({name: entries})
    house = [a for a in pages.values() if "/" not in a and a.endswith(".md") and a != "index.md"]
    tabs.append({"The house": house})
    config.nav = tabs
    return config


def on_page_markdown(markdown: str, page, config: MkDocsConfig, files: Files) -> str:
    """Links of the pages that mkdocs found itself (docs/*.md)."""
    source = f"docs/{page.file.src_uri}"
    pages = sources()
    return relinked(markdown, source, pages) if source in pages else markdown
