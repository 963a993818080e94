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
        found = [re.match(r"[\d.]*\d", pin) for pin in table["python"]]
        python = sorted({match[0] for match in found if match}, key=version)
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
        match = re.fullmatch(r"\s*(>=|<=|==|<|>)?\s*([\d.]+)\s*", part)
        if match is None:
            raise ValueError(
                f"satisfies: wanted must be a range of versions, got {part!r} in {wanted!r}"
            )
        sign, number = match.groups()
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
    checked: str = ""  # how the printed file was checked, "" where it was not

    @property
    def windows_gpu(self) -> bool:
        """Native Windows has had GPU support up to 2.10; later it needs WSL2."""
        return version(self.release) <= (2, 10)

    @property
    def has_extra(self) -> bool:
        """Whether pip installs the CUDA libraries beside it: tensorflow[and-cuda]."""
        return version(self.release) >= (2, 14)

    @property
    def conda_cudnn(self) -> str | None:
        """The cuDNN of conda-forge for it: the tested one, or the next newer of the same major
        version, which runs what was built for an older one; None where there is none."""
        wanted = version(self.cudnn)
        same = [c for c in CONDA_FORGE_CUDNN if version(c)[0] == wanted[0] and version(c) >= wanted]
        return min(same, key=version, default=None)


# What conda-forge's cudnn feedstock has built, from its git history: never 7.4, 8.6 or 8.7.
CONDA_FORGE_CUDNN = ("7.6", "8.0", "8.1", "8.2", "8.3", "8.4", "8.8", "8.9", "9.2", "9.3")

# After https://www.tensorflow.org/install/source, "Tested build configurations", Linux, GPU. The
# rows 2.0 and 2.1 were compared with copies of that page. CUDA, cuDNN and numpy of 2.14 to 2.21
# were compared with the requirements of their wheels (from 2.20 on those name a lowest version),
# read from the package index on 2026-11-29; 2.2 to 2.13 still have to be.
_RAN = "installed from the package index without a GPU, imported, and models written and read"
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
        ("2.12", "3.11", "8.6", "11.8", _RAN),
        ("2.13", "3.11", "8.6", "11.8"),
        ("2.14", "3.11", "8.7", "11.8"),
        ("2.15", "3.11", "8.9", "12.2", _RAN),
        ("2.16", "3.12", "8.9", "12.3"),
        ("2.17", "3.12", "8.9", "12.3"),
        ("2.18", "3.12", "9.3", "12.5"),
        ("2.19", "3.12", "9.3", "12.5"),
        ("2.20", "3.13", "9.3", "12.5"),
        ("2.21", "3.13", "9.3", "12.5"),
    )
}
