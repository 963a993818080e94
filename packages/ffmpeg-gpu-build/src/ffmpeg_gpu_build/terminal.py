"""One line of progress, and arguments with a form of their own."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from typing import Any


class Line:
    """A line on stderr that is written over; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self.on = sys.stderr.isatty()
        self._told: object = None

    def show(self, text: str) -> None:
        """Replace the line."""
        if self.on:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\033[K" + text[:width])
            sys.stderr.flush()

    def step(self, step: Any) -> None:
        """Show where a build stands; without a terminal one line for each tenth of a stage."""
        count = f"{step.done}/{step.total}  " if step.total else ""
        left = f"{step.left / 60:.0f} min left  " if step.left is not None else ""
        text = f"{step.stage}: {count}{left}{step.text}"
        if self.on:
            self.show(text)
            return
        tenth = (step.stage, _part(step))
        if tenth != self._told:
            self._told = tenth
            print(text, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self.on:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _part(step: Any) -> object:
    """What must change for a line to be printed: a tenth of the stage, or a hundred files."""
    if step.total:
        return step.done * 10 // step.total
    return step.done // 100 if step.done else step.text


def count_argument(text: str) -> int:
    """A number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"want a number of at least 1, got {text!r}")
    return int(text)


def size_argument(text: str) -> tuple[int, int]:
    """ "640x360" -> (640, 360)."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"want a size such as 1280x720, got {text!r}")
    return int(match[1]), int(match[2])
