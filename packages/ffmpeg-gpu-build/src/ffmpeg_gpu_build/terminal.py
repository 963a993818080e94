"""One line of progress, and arguments with a form of their own."""

from __future__ import annotations

import argparse
import re
import shutil
import sys


class Line:
    """A line on stderr that is written over; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self.on = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Replace the line."""
        if self.on:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\033[K" + text[:width])
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self.on:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def size_argument(text: str) -> tuple[int, int]:
    """ "640x360" -> (640, 360)."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"want a size such as 1280x720, got {text!r}")
    return int(match[1]), int(match[2])
