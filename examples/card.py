"""What an example leaves behind beside its pictures: a card for tools/demo.py's page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def arguments(text: str) -> argparse.ArgumentParser:
    """A parser with the options that every example has."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and card.json")
    parser.add_argument("--small", action="store_true", help="seconds in place of a minute or two")
    return parser


def leave(
    out: Path,
    title: str,
    summary: str,
    figures: dict[str, str],
    pictures: dict[str, str],
    code: str,
) -> None:
    """Writes card.json: figures are label -> value, pictures (and videos) file -> caption."""
    card = {
        "title": title,
        "summary": summary,
        "figures": [{"label": label, "value": value} for label, value in figures.items()],
        "pictures": [{"file": file, "caption": text} for file, text in pictures.items()],
        "code": code,
    }
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
