"""Figures in prose are those of the committed results beside which they stand.

In each section of a page, and in each line of the root's pages, that links to files under
benchmarks/results/, every number of three digits or more, or with a decimal point, is a value of
one of these files (or of a benchmark's settings) as it would be printed there: in another unit, as
a percentage, or turned upside down.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("README.md", "CHANGELOG.md", "docs/*.md", "packages/*/README.md", "packages/*/docs/*.md")
PAGES = sorted(path for place in PLACES for path in ROOT.glob(place))
LINK = re.compile(r"\]\(([^)\s]*benchmarks/results/[^)\s]+\.json)\)")
NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?!\w*\.\d)")
HEADING = re.compile(r"^#+ ", re.M)
NOT_PROSE = re.compile(r"^```.*?^```$|`[^`]*`|\]\([^)]*\)", re.M | re.S)
VERSIONS = re.compile(r"\b[A-Z][\w.-]* v?\d+(?:\.\d+)+(?:[.-]\w+)*")  # PyAV 18.1.0, Mesa 22.3
CLOCK = re.compile(r"(\d+) min (\d+) s")
# Seconds of milliseconds, percent, thousands, mebibytes of bytes, minutes of seconds.
UNITS = (1.0, 1e-3, 1e3, 100.0, 1e-6, 1e6, 1e-9, 2.0**-20, 2.0**-10, 1 / 60)


def numbers(text: str) -> Iterator[float]:
    yield from (float(found) for found in re.findall(r"\d+(?:\.\d+)?", text.replace("_", "")))
    yield from (float(found.replace(",", "")) for found in re.findall(r"\d[\d,]+\d", text))


def values(tree: object) -> Iterator[float]:
    """Every number in a result: keys, texts, and values."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from numbers(key)
            yield from values(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from values(value)
    elif isinstance(tree, str):
        yield from numbers(tree)
    elif isinstance(tree, (int, float)):
        yield float(tree)


def is_of(printed: str, known: set[float]) -> bool:
    digits = printed.replace(",", "").rstrip(".")
    decimals = len(digits.partition(".")[2])
    zeros = len(digits) - len(digits.rstrip("0")) if not decimals else 0
    step = 10.0 ** (zeros - decimals)
    wanted, half = float(digits), step * 0.501
    return any(abs(value * unit - wanted) <= half for value in known for unit in UNITS) or any(
        abs(1 / value - wanted) <= half for value in known if value
    )


def untraced(section: str, page: Path, settings: set[float]) -> list[str]:
    files = [(page.parent / link).resolve() for link in LINK.findall(section)]
    known = settings.union(*(values(json.loads(file.read_text())) for file in files))
    prose = CLOCK.sub(lambda m: str(60 * int(m[1]) + int(m[2])), section)
    prose = VERSIONS.sub("", NOT_PROSE.sub(" ", prose))
    figures = [f for f in NUMBER.finditer(prose) if "." in f[0] or len(f[0].replace(",", "")) > 2]
    return [
        f"{figure[0]} in ...{prose[max(0, figure.start() - 50) : figure.end() + 20]}..."
        for figure in figures
        if not is_of(figure[0], known)
    ]


def settings_of(section: str, page: Path) -> set[float]:
    """Numbers in the benchmarks beside the results that a section links."""
    folders = {(page.parent / link).resolve().parents[1] for link in LINK.findall(section)}
    scripts = (script for folder in folders for script in folder.glob("*.py"))
    return {number for script in scripts for number in numbers(script.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_are_those_of_the_committed_results(page):
    split = re.compile(r"^", re.M) if page.parent == ROOT else HEADING  # a line of each package
    sections = [section for section in split.split(page.read_text()) if LINK.search(section)]
    found = [f for section in sections for f in untraced(section, page, settings_of(section, page))]
    assert not found, "no committed result says:\n" + "\n".join(found)


@pytest.mark.parametrize(("printed", "right"), [("2.5", True), ("2.6", False), ("1,234", True)])
def test_a_figure_that_no_result_says_is_found(printed, right):
    assert is_of(printed, {2512.0, 1.2342}) is right
