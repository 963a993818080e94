#!/usr/bin/env python3
"""Run the main job of every library on real input and write demo/index.html.

Each package's demo.py runs in a process of its own, with progress on stderr, and leaves pictures
and a card; this command joins the cards. The path of the page is printed last.
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


def run_card(package: workspace.Package, out: Path, arguments: list[str]) -> dict:
    """Run one demo; a failure becomes a card that says so, and the others go on."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command = [
        str(workspace.PYTHON),
        str(package.folder / "demo.py"),
        "--out",
        str(out),
        *arguments,
    ]
    started = time.monotonic()
    code = subprocess.run(command, env=workspace.tool_environment()).returncode
    seconds = time.monotonic() - started
    card_file = out / "card.json"
    if code == 0 and card_file.exists():
        card = json.loads(card_file.read_text())
    else:
        reason = f"demo.py ended with exit code {code}" + (
            " and left no card.json" if code == 0 else ""
        )
        card = {"title": package.name, "summary": reason, "failed": True}
    return card | {"seconds": seconds, "folder": out.name}


def card_html(card: dict) -> str:
    text = html.escape
    figures = "".join(
        f"<li><b>{text(str(figure['value']))}</b><span>{text(figure['label'])}</span></li>"
        for figure in card.get("figures", [])
    )
    pictures = "".join(
        f'<figure><a href="{card["folder"]}/{text(picture["file"])}">'
        f'<img loading="lazy" src="{card["folder"]}/{text(picture["file"])}" '
        f'alt="{text(picture["caption"])}"></a>'
        f"<figcaption>{text(picture['caption'])}</figcaption></figure>"
        for picture in card.get("pictures", [])
    )
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
    parser.add_argument("package", nargs="*", help="only these packages (default: all)")
    parser.add_argument("--out", type=Path, default=workspace.ROOT / "demo", help="default: demo/")
    options, arguments = parser.parse_known_args()  # what is left goes to the demos
    wanted = [p for p in workspace.packages(options.package) if (p.folder / "demo.py").exists()]
    if not wanted:
        sys.exit("none of these packages has a demo.py")
    workspace.ensure_system_packages(wanted)
    workspace.ensure_environment(wanted)
    out = options.out.resolve()
    cards = []
    for number, package in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {package.name}", file=sys.stderr, flush=True)
        cards.append(run_card(package, out / package.name, arguments))
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
