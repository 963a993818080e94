"""From the lines that gpu_check harvested to result files and a table for the READMEs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from workspace import ROOT

Line = dict[str, object]


def read(files: Sequence[Path]) -> list[Line]:
    from gpu_check import read_lines

    return [line for path in files for line in read_lines(path)]


def result_files(lines: Sequence[Line]) -> dict[Path, dict[str, object]]:
    """A benchmark's rows as benchmarks/results/gpu-<name>-<date>.json of its package."""
    machine = next((line for line in lines if line["kind"] == "machine"), {})
    ceilings = {
        str(c["label"]): f"{c['value']} {c['unit']}" for c in lines if c["kind"] == "ceiling"
    }
    found: dict[Path, dict[str, object]] = {}
    for line in lines:
        run = str(line.get("run", "")).split()
        if line["kind"] not in ("row", "fact") or len(run) < 3 or run[0] != "benchmark":
            continue
        folder = ROOT / "packages" / run[1] / "benchmarks" / "results"
        path = folder / f"gpu-{line['benchmark']}-{machine.get('date', 'undated')}.json"
        facts = {key: value for key, value in machine.items() if key not in ("kind", "date")}
        result = found.setdefault(
            path,
            {
                "benchmark": line["benchmark"],
                "peer": line.get("peer_name"),
                "date": machine.get("date"),
                "machine": facts | {"ceilings": ceilings},
                "versions": line.get("versions", {}),
                "rows": [],
                "facts": {},
            },
        )
        if line["kind"] == "fact":
            result["facts"][str(line["label"])] = line["value"]
        else:
            keys = ("case", "ours", "peer", "ratio", "cpu_ratio", "note")
            result["rows"].append({key: line.get(key) for key in keys})
    return found


def table(result: dict[str, object]) -> str:
    """The rows in Markdown: milliseconds, and how many times the peer's time they are."""
    head = f"{result['benchmark']}, {result['machine'].get('gpu')}"
    text = [f"| {head} | ms | {result['peer']} ms | ratio |"]
    text.append("|---|---|---|---|")
    for row in result["rows"]:
        peer = f"{row['peer']['median_ms']:.4g}" if row["peer"] else ""
        ratio = f"{row['ratio']:.2f}x" if row["ratio"] else ""
        text.append(f"| {row['case']} | {row['ours']['median_ms']:.4g} | {peer} | {ratio} |")
    return "\n".join(text)


def verdicts(lines: Sequence[Line]) -> str:
    """One line for each phase of tests and programs: how many ended how."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for line in lines:
        if line["kind"] == "test" and line["outcome"] != "started":
            counts[str(line["run"])][str(line["outcome"])] += 1
        elif line["kind"] == "phase":
            counts[str(line["name"])][f"phase {line['verdict']}"] += 1
    return "\n".join(
        f"{name}: " + ", ".join(f"{n} {kind}" for kind, n in sorted(ends.items()))
        for name, ends in counts.items()
    )


def report(files: Sequence[Path]) -> int:
    """Writes the result files, prints the tables and what did not pass; 1 if there is nothing."""
    lines = read(files)
    found = result_files(lines)
    for path, result in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".json.part")
        aside.write_text(json.dumps(result, indent=1) + "\n")
        aside.replace(path)
        print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}\n{table(result)}\n")
    for line in lines:
        if line["kind"] == "kernel":
            print(
                f"{line['case']}: " + (f"{line['us']} us" if "us" in line else str(line["error"]))
            )
    print(verdicts(lines))
    return 0 if lines else 1
