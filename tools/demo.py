#!/usr/bin/env python3
"""Run the main job of every library on real input and write demo/index.html.

Each package's demo.py, and examples/flight.py where several meet, runs in a process of its own,
with progress on stderr, and leaves pictures and a card; demo_page.py joins the cards into one file
that needs no other. Its path is printed last.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import workspace

PAGE = workspace.ROOT / "tools" / "demo_page.py"
COMPOSITIONS = ("flight", "similar", "streets")  # examples that leave a card


def run_card(title: str, script: Path, out: Path, arguments: list[str]) -> dict:
    """Run one script; a failure becomes a card that says so, and the others go on."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command = [str(workspace.PYTHON), str(script), "--out", str(out), *arguments]
    started = time.monotonic()
    code = subprocess.run(command, env=workspace.tool_environment()).returncode
    seconds = time.monotonic() - started
    card_file = out / "card.json"
    if code == 0 and card_file.exists():
        card = json.loads(card_file.read_text())
    else:
        reason = f"{script.name} ended with exit code {code}" + (
            " and left no card.json" if code == 0 else ""
        )
        card = {"title": title, "summary": reason, "failed": True}
    together = script.parent.name == "examples"
    return card | {"seconds": seconds, "folder": out.name, "together": together}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "name",
        nargs="*",
        help=f"packages, or of {', '.join(COMPOSITIONS)} (default: every package, and flight)",
    )
    parser.add_argument("--out", type=Path, default=workspace.ROOT / "demo", help="default: demo/")
    options, arguments = parser.parse_known_args()  # what is left goes to the demos
    together = [name for name in options.name if name in COMPOSITIONS]
    alone = [name for name in options.name if name not in COMPOSITIONS]
    wanted = workspace.packages(alone) if alone or not together else []
    needed = workspace.packages() if together else wanted
    workspace.ensure_system_packages(needed)
    workspace.ensure_environment(needed)
    out = options.out.resolve()
    scripts = [(package.name, package.folder / "demo.py", arguments) for package in wanted]
    for name in together or ([] if alone else ["flight"]):
        given = arguments if together else []
        scripts.append((name, workspace.ROOT / "examples" / f"{name}.py", given))
    cards = []
    for number, (name, script, given) in enumerate(scripts, 1):
        print(f"[{number}/{len(scripts)}] {name}", file=sys.stderr, flush=True)
        cards.append(run_card(name, script, out / name, given))
    (out / "cards.json").write_text(json.dumps(cards, indent=1) + "\n")
    workspace.run([workspace.PYTHON, PAGE, out], stdout=sys.stderr)
    failed = [card["title"] for card in cards if card.get("failed")]
    if failed:
        print("failed: " + ", ".join(failed), file=sys.stderr)
    print(out / "index.html")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
