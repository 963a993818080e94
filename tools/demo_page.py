"""The cards that the demos left, as one file: every picture and video stands in the page itself.

    .venv/bin/python tools/demo_page.py demo

reads demo/cards.json and the folders of the cards beside it, and writes demo/index.html, which
needs neither of them. Raster pictures become WebP of at most 1600 pixels. A policy in the page
(Content-Security-Policy) forbids every request.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import html
import io
import json
from pathlib import Path

from measure import machine
from PIL import Image, ImageSequence

ROOT = Path(__file__).resolve().parent.parent
STYLE = ROOT / "tools" / "demo.css"
SCRIPT = ROOT / "tools" / "demo.js"
LARGEST = 1600  # pixels a side: sharp on a dense screen at the width of the page
QUALITY = 82
POLICY = (
    "default-src 'none'; img-src data:; media-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
text = html.escape


def address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def smaller(image: Image.Image) -> Image.Image:
    """An RGB(A) copy of at most LARGEST pixels a side."""
    copy = image.convert("RGBA" if image.has_transparency_data else "RGB")
    copy.thumbnail((LARGEST, LARGEST))
    return copy


def webp(frames: list[Image.Image], durations: list[int]) -> bytes:
    """One picture, or a loop of several with the milliseconds of each."""
    made = io.BytesIO()
    first, *others = frames
    loop = {"save_all": True, "append_images": others, "duration": durations, "loop": 0}
    first.save(made, "WEBP", quality=QUALITY, method=4, **(loop if others else {}))
    return made.getvalue()


def picture(path: Path, caption: str) -> str:
    """A button around the picture: it opens large. A loop stands still for who wants no motion."""
    still = ""
    if path.suffix == ".svg":
        source, size = address("image/svg+xml", path.read_bytes()), ""
    else:
        with Image.open(path) as image:
            moments = [
                (smaller(f), f.info.get("duration", 0)) for f in ImageSequence.Iterator(image)
            ]
        frames, durations = (list(column) for column in zip(*moments, strict=True))
        source = address("image/webp", webp(frames, durations))
        size = ' width="{}" height="{}"'.format(*frames[0].size)
        if len(frames) > 1:
            first = address("image/webp", webp(frames[:1], []))
            still = f'<source media="(prefers-reduced-motion: reduce)" srcset="{first}">'
    large = f'<img src="{source}" alt="{text(caption)}"{size}>'
    return f'<button type="button"><picture>{still}{large}</picture></button>'


def video(path: Path, caption: str) -> str:
    named = f'src="{address("video/mp4", path.read_bytes())}" aria-label="{text(caption)}"'
    return f"<video controls loop muted playsinline {named}></video>"


def figure(folder: Path, shown: dict[str, str]) -> str:
    path, caption = folder / shown["file"], shown["caption"]
    made = video(path, caption) if path.suffix == ".mp4" else picture(path, caption)
    return f"<figure>{made}<figcaption>{text(caption)}</figcaption></figure>"


def beside(package: str, named: dict[str, str]) -> str:
    """Two bars: a case of a committed result, ours and the peer's.

    named: "result", a file's name, and "case"; "peer" where the file names several; "time" is
    "median_ms" by the clock, or "cpu_ms".
    """
    path = ROOT / "packages" / package / "benchmarks" / "results" / named["result"]
    result, key = json.loads(path.read_text()), named.get("time", "median_ms")
    row = next(row for row in result["rows"] if row["case"] == named["case"])
    times = {package: row["ours"][key], named.get("peer", result["peer"]): row["peer"][key]}
    ours, peer = times.values()
    bars = "".join(
        f'<dt>{text(name)}</dt><dd><i style="width:{100 * time / max(ours, peer):.1f}%"></i>'
        f"<b>{float(f'{time:.3g}'):,g} ms</b></dd>"
        for name, time in times.items()
    )
    of, what = result["machine"], "CPU time" if key == "cpu_ms" else "Time by the clock"
    return (
        f'<div class="beside"><h4>{peer / ours:.2g} times as fast: {text(row["case"])}</h4>'
        f"<dl>{bars}</dl><p>{what}, medians of {row['ours']['runs']} and {row['peer']['runs']} "
        f"runs in turn, {result['date']}, {text(of['processor'])}, {of['cores']} cores: "
        f"{text(str(path.relative_to(ROOT)))}</p></div>"
    )


def section(card: dict, out: Path) -> str:
    name = text(card["folder"])
    figures = "".join(
        f"<li><b>{text(str(f['value']))}</b><span>{text(f['label'])}</span></li>"
        for f in card.get("figures", [])
    )
    took = f'<span class="took">It took {card["seconds"]:.0f} s.</span>'
    failed = ' class="failed"' if card.get("failed") else ""
    parts = [
        f'<section id="{name}" aria-labelledby="{name}-title"{failed}>',
        f'<h3 id="{name}-title">{text(card["title"])}</h3><p>{text(card["summary"])} {took}</p>',
    ]
    if figures:
        parts.append(f'<ul class="figures">{figures}</ul>')
    if card.get("beside"):
        parts.append(beside(card["folder"], card["beside"]))
    if card.get("pictures"):
        shown = "".join(figure(out / card["folder"], p) for p in card["pictures"])
        parts.append(f'<div class="pictures">{shown}</div>')
    if card.get("code"):
        label = f"The code of {card['title']}"
        parts.append(f'<pre tabindex="0" role="region" aria-label="{text(label)}">')
        parts.append(f"{text(card['code'])}</pre>")
    return "".join([*parts, "</section>"])


def page(cards: list[dict], out: Path) -> str:
    version = (ROOT / "VERSION").read_text().strip()
    here = machine()
    links = "".join(f'<li><a href="#{c["folder"]}">{text(c["title"])}</a></li>' for c in cards)
    groups = ""
    for title, together in (("Each for itself", False), ("Several together", True)):
        shown = [card for card in cards if card.get("together", False) is together]
        if shown:
            groups += f"<h2>{title}</h2>\n" + "\n".join(section(card, out) for card in shown) + "\n"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>GPU libraries {version}: what they do</title>"
        f'<link rel="icon" href="data:,"><style>\n{STYLE.read_text()}</style></head>\n<body>'
        '<a class="skip" href="#cards">To the libraries</a>'
        f"<header><h1>What the libraries do</h1><p>Version {version}, run on "
        f"{datetime.date.today().isoformat()} on {text(str(here['processor']))}, {here['cores']} "
        f"cores, without a GPU, in {sum(card['seconds'] for card in cards):.0f} s. "
        "A picture opens large.</p>"
        f'<nav aria-label="Cards"><ul>{links}</ul></nav></header>\n'
        f'<main id="cards" tabindex="-1">\n{groups}</main>\n'
        '<dialog id="large" aria-label="The picture, large"><form method="dialog">'
        "<button>Close</button></form><div></div></dialog>\n"
        f"<script>\n{SCRIPT.read_text()}</script></body></html>\n"
    )


def write(out: Path) -> Path:
    """index.html of the cards of `out`, written aside and renamed."""
    index = out / "index.html"
    aside = index.with_suffix(".part")
    aside.write_text(page(json.loads((out / "cards.json").read_text()), out), encoding="utf-8")
    return aside.replace(index)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the folder with cards.json")
    print(write(parser.parse_args().out))


if __name__ == "__main__":
    main()
