"""A verdict report as a table for a terminal and as one HTML page."""

from __future__ import annotations

import html
import shlex
from pathlib import Path

from ..build import binary
from ..build.description import DATA
from .judge import Report
from .verdict import ABSENT, BROKEN, NOT_TRIED, PROVEN

MARKS = {PROVEN: "proven", ABSENT: "absent", BROKEN: "BROKEN", NOT_TRIED: "not tried"}
_COLOURS = {PROVEN: "32", ABSENT: "2", BROKEN: "1;31", NOT_TRIED: "33"}


def head_lines(report: Report) -> list[str]:
    """What the binaries and the driver say, one fact a line."""
    facts = report.facts
    lines = [f"ffmpeg {facts.version}  {facts.path}", f"licence: {facts.licence}"]
    floor = facts.nvenc_driver_floor
    lines.append(f"NVENC needs driver: {floor or 'no NVENC in it'}")
    if binary.is_script(Path(facts.path)):
        lines.append(
            "this is a script: name the program it starts, to have floors and decoders read"
        )
    if facts.ptx:
        ptx = facts.ptx
        lines.append(
            f"CUDA filters: {ptx['modules']} PTX modules, at most PTX {ptx['version']} for "
            f"{ptx['target']}"
        )
    for name, paths in facts.runpaths.items():
        safe = (
            "UNSAFE, depends on where it is run" if name in facts.unsafe_runpaths else "moves along"
        )
        lines.append(f"RUNPATH of {name}: {':'.join(paths)} ({safe})")
    for gpu in report.gpu.get("devices", []):
        major, minor = gpu["compute"]
        lines.append(f"GPU: {gpu['name']}, compute {major}.{minor}")
    if "error" in report.gpu:
        lines.append(f"NVIDIA driver: {report.gpu['error']}")
    return lines


def text(report: Report, *, colour: bool = False, all_paths: bool = True) -> str:
    """The report as a table; without `all_paths` what is absent is only counted."""
    lines = [*head_lines(report), ""]
    width = max((len(v.path) for v in report.verdicts), default=4)
    for verdict in report.verdicts:
        if verdict.status == ABSENT and not all_paths:
            continue
        word = f"{MARKS[verdict.status]:<9}"
        if colour:
            word = f"\033[{_COLOURS[verdict.status]}m{word}\033[0m"
        lines.append(f"{verdict.path:<{width}}  {word}  {verdict.sentence}")
    cures = dict.fromkeys(
        f"{v.code}: {v.cure}" for v in report.verdicts if v.cure and v.status in (BROKEN, ABSENT)
    )
    if cures:
        lines += ["", "what to do:", *(f"  {cure}" for cure in cures)]
    counts = report.counts()
    lines += ["", ", ".join(f"{number} {word}" for word, number in counts.items())]
    return "\n".join(lines)


def page(report: Report) -> str:
    """The report as one HTML page that needs nothing else."""
    rows = []
    for verdict in report.verdicts:
        css = verdict.status.replace(" ", "-")
        numbers = ", ".join(
            f"{k} {v}" for k, v in verdict.measured.items() if k not in ("log", "line")
        )
        detail = html.escape(numbers)
        if verdict.command:
            command = html.escape(shlex.join(verdict.command))
            detail += f"<details><summary>command</summary><code>{command}</code></details>"
        cure = f"<p class=cure>{html.escape(verdict.cure)}</p>" if verdict.cure else ""
        rows.append(
            f"<tr class={css}><td><code>{html.escape(verdict.path)}</code></td>"
            f"<td><b>{html.escape(verdict.status)}</b><br><small>{html.escape(verdict.code)}</small></td>"
            f"<td>{html.escape(verdict.sentence)}{cure}</td><td>{detail}</td></tr>"
        )
    counts = "".join(
        f"<li class={word.replace(' ', '-')}><b>{number}</b> {word}</li>"
        for word, number in report.counts().items()
    )
    facts = "".join(f"<li>{html.escape(line)}</li>" for line in head_lines(report))
    template = (DATA / "report.html").read_text(encoding="utf-8")
    return (
        template.replace("@facts@", facts)
        .replace("@counts@", counts)
        .replace("@rows@", "\n".join(rows))
    )
