#!/usr/bin/env python3
"""Run the main job of every library on real input and write demo/index.html.

Each package's demo.py, and examples/flight.py where several meet, runs in a process of its own,
with progress on stderr, and leaves pictures and a card; this command joins the cards. The path of
the page is printed last.
"""

from __future__ import annotations

import argparse
import html
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import workspace

STYLE = workspace.ROOT / "tools" / "demo.css"
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
    return card | {"seconds": seconds, "folder": out.name}


def picture_html(folder: str, picture: dict) -> str:
    """A figure: a picture that opens large, or a video with its controls."""
    caption = html.escape(picture["caption"])
    address = f"{folder}/{html.escape(picture['file'])}"
    if picture["file"].endswith(".mp4"):
        shown = f'<video controls loop muted playsinline src="{address}" title="{caption}"></video>'
    else:
        shown = f'<a href="{address}"><img loading="lazy" src="{address}" alt="{caption}"></a>'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def card_html(card: dict) -> str:
    text = html.escape
    figures = "".join(
        f"<li><b>{text(str(figure['value']))}</b><span>{text(figure['label'])}</span></li>"
        for figure in card.get("figures", [])
    )
    pictures = "".join(picture_html(card["folder"], p) for p in card.get("pictures", []))
    code = f"<pre>{text(card['code'])}</pre>" if card.get("code") else ""
    kind = ' class="failed"' if card.get("failed") else ""
    return (
        f'<section id="{text(card["folder"])}"{kind}><h2>{text(card["title"])}</h2>'
        f"<p>{text(card['summary'])} <small>({card['seconds']:.0f} s)</small></p>"
        f'<ul class="figures">{figures}</ul>{pictures}{code}</section>'
    )


def page(cards: list[dict]) -> str:
    version = (workspace.ROOT / "VERSION").read_text().strip()
    links = "".join(
        f'<a href="#{card["folder"]}">{html.escape(card["title"])}</a>' for card in cards
    )
    sections = "\n".join(card_html(card) for card in cards)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>GPU libraries {version}: what they do</title><style>{STYLE.read_text()}</style>"
        f"<h1>What the libraries do</h1><p>Version {version}, run on this machine just now.</p>"
        f"<nav>{links}</nav>\n{sections}</html>\n"
    )


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
    index = out / "index.html"
    aside = index.with_suffix(".part")
    aside.write_text(page(cards))
    aside.replace(index)
    failed = [card["title"] for card in cards if card.get("failed")]
    if failed:
        print("failed: " + ", ".join(failed), file=sys.stderr)
    print(index)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
