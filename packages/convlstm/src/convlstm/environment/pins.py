"""The versions that this release is built for, and those that TensorFlow releases were tested with.

The first come from the release's own pin file: recipes/variants.yaml, packaged as pins.yaml.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PIN_FILE = Path(__file__).with_name("pins.yaml")


@dataclass(frozen=True)
class Pins:
    """python and cuda: versions in rising order. torch and cudnn: conda ranges."""

    python: tuple[str, ...]
    torch: str
    cudnn: str
    cuda: tuple[str, ...]


def read_pins(path: Path = PIN_FILE) -> Pins:
    """The pins of this release. Raises RuntimeError where their file is missing or damaged."""
    try:
        table = _block_lists(path.read_text(encoding="utf-8"))
        python = sorted({re.match(r"[\d.]*\d", v)[0] for v in table["python"]}, key=version)
        cuda = sorted({v for v in table["cuda_compiler_version"] if v != "None"}, key=version)
        return Pins(tuple(python), table["pytorch"][0], table["cudnn"][0], tuple(cuda))
    except (OSError, KeyError, IndexError, TypeError) as error:
        raise RuntimeError(
            f"convlstm: the packaged pin file {path} cannot be read ({error!r}); install again"
        ) from error


def _block_lists(text: str) -> dict[str, list[str]]:
    """The top-level `key:` with `- value` lines of a variants file; deeper lists are left out."""
    table: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        line = line.split(" #")[0].rstrip()
        if key := re.fullmatch(r"(\w+):", line):
            current = table.setdefault(key[1], [])
        elif item := re.fullmatch(r"\s*- ([^-\s].*)", line):
            current.append(item[1].strip("\"'"))
    return table


def version(text: str) -> tuple[int, ...]:
    """The numbers that a version starts with: "2.13.0+cpu" is (2, 13, 0)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(n) for n in found[0].split(".")) if found else ()


def satisfies(text: str, wanted: str) -> bool:
    """Whether a version lies in a conda range of >=, <, <=, >, == joined by commas."""
    have = version(text)
    for part in wanted.split(","):
        sign, number = re.fullmatch(r"\s*(>=|<=|==|<|>)?\s*([\d.]+)\s*", part).groups()
        bound = version(number)
        short = have[: len(bound)] if sign in ("==", "<=", None) else have
        holds = {
            ">=": short >= bound, "<=": short <= bound, "<": short < bound, ">": short > bound,
            "==": short == bound, None: short == bound,
        }[sign]  # fmt: skip
        if not holds:
            return False
    return True


@dataclass(frozen=True)
class TensorFlow:
    """A TensorFlow release and what it was tested with on Linux with a GPU."""

    release: str
    python: str  # the newest that it supports
    cudnn: str
    cuda: str

    @property
    def windows_gpu(self) -> bool:
        """Native Windows has had GPU support up to 2.10; later it needs WSL2."""
        return version(self.release) <= (2, 10)


# After https://www.tensorflow.org/install/source, "Tested build configurations", Linux, GPU. The
# rows 2.0 and 2.1 were compared with copies of that page; 2.2 and later still have to be.
TENSORFLOW = {
    row[0]: TensorFlow(*row)
    for row in (
        ("2.0", "3.7", "7.4", "10.0"),
        ("2.1", "3.7", "7.6", "10.1"),
        ("2.2", "3.8", "7.6", "10.1"),
        ("2.3", "3.8", "7.6", "10.1"),
        ("2.4", "3.8", "8.0", "11.0"),
        ("2.5", "3.9", "8.1", "11.2"),
        ("2.6", "3.9", "8.1", "11.2"),
        ("2.7", "3.9", "8.1", "11.2"),
        ("2.8", "3.10", "8.1", "11.2"),
        ("2.9", "3.10", "8.1", "11.2"),
        ("2.10", "3.10", "8.1", "11.2"),
        ("2.11", "3.10", "8.1", "11.2"),
        ("2.12", "3.11", "8.6", "11.8"),
        ("2.13", "3.11", "8.6", "11.8"),
        ("2.14", "3.11", "8.7", "11.8"),
        ("2.15", "3.11", "8.9", "12.2"),
        ("2.16", "3.12", "8.9", "12.3"),
        ("2.17", "3.12", "8.9", "12.3"),
        ("2.18", "3.12", "9.3", "12.5"),
    )
}
