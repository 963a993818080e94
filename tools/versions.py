#!/usr/bin/env python3
"""The tests on other Pythons and torches, each in a clone of its own under build/versions/.

  python tools/versions.py --python python3.10,python3.13
  python tools/versions.py --torch 2.13.0,2.14.1 spconv-lite

A clone holds the last commit, with torch pinned to the named version and torchvision to its
partner; it is kept, so a second run installs what has changed. The commands in it are the usual
ones. Ends with a line for each pair; exit code 0 only if all passed.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import workspace

FOLDER = workspace.ROOT / "build" / "versions"


def repinned(text: str, torch: str) -> str:
    """Requirements with torch's pin moved, torchvision's after it, and triton left to torch."""
    minor = int(torch.split(".")[1])
    patch = torch.split(".")[2]
    text = re.sub(r"(?m)^torch==.*$", f"torch=={torch}", text)
    text = re.sub(r"(?m)^torchvision==.*$", f"torchvision==0.{minor + 15}.{patch}", text)
    return re.sub(r"(?m)^triton==.*\n", "", text)


def clone(folder: Path, torch: str) -> None:
    """The last commit in a folder, with another torch where one is named."""
    if not folder.exists():
        workspace.run(["git", "clone", "--quiet", workspace.ROOT, folder])
    workspace.run(["git", "-C", folder, "fetch", "--quiet", "origin", "HEAD"])
    workspace.run(["git", "-C", folder, "reset", "--quiet", "--hard", "FETCH_HEAD"])
    if torch:
        for file in (folder / "tools" / "constraints.txt", *folder.glob("packages/*/require*.txt")):
            file.write_text(repinned(file.read_text(), torch))


def last_line(command: list[str], folder: Path, log: Path) -> tuple[int, str]:
    """Run a command with all that it says in a log; its exit code and last line."""
    environment = workspace.tool_environment()
    environment.pop("VIRTUAL_ENV")
    with log.open("w") as said:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=said, stderr=said)
    return done.returncode, (log.read_text().splitlines() or [""])[-1]


def _split(text: str) -> list[str]:
    return text.split(",")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", nargs="*", help="only these packages (default: all)")
    parser.add_argument("--python", type=_split, default=[sys.executable], help="interpreters")
    parser.add_argument("--torch", type=_split, default=[""], help="versions (default: the pin)")
    options = parser.parse_args()
    names = [package.name for package in workspace.packages(options.package)]
    for python in options.python:
        if shutil.which(python) is None:
            parser.error(f"--python: no program {python} on PATH")
    if wrong := [
        torch for torch in options.torch if torch and not re.fullmatch(r"2(\.\d+){2}", torch)
    ]:
        parser.error(f"--torch: a version like 2.13.0, got {', '.join(wrong)}")
    failed, lines = 0, []
    for python, torch in itertools.product(options.python, options.torch):
        folder = FOLDER / "-".join(filter(None, [Path(python).name, torch]))
        print(f"[{folder.name}] tests of {', '.join(names)}: {folder}.log", flush=True)
        clone(folder, torch)
        command = [shutil.which(python), "tools/test.py", *options.package]
        code, line = last_line(command, folder, folder.with_suffix(folder.suffix + ".log"))
        failed += code != 0
        lines.append(f"{folder.name:24} {'ok' if code == 0 else f'FAILED (exit {code})':16} {line}")
    print(*lines, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
