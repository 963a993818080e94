"""Trains a small GPT on the help text that ships with Python, unsplit and split over two processes.

    python packages/tp-parallel/demo.py --out DIR

Both runs draw the same batches and start from the same weights; their loss curves lie on each
other. A third process group of one rank then reads the checkpoint of the split run and writes text
with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tp_parallel.pipeline.schedules import make_schedule
from tp_parallel.training.draw import draw_schedules

STEPS = 180
MODEL = ["--layers", "2", "--hidden", "96", "--heads", "4", "--ffn", "256", "--seq", "64",
         "--batch", "16", "--position", "rotary", "--norm", "rmsnorm",
         "--activation", "swiglu"]  # fmt: skip
TRAIN = ["--steps", str(STEPS), "--lr", "4e-3", "--warmup", "20", "--eval-every", str(STEPS),
         "--log-every", "20"]  # fmt: skip
PROMPT = "The for statement"
CODE = """torchrun --nproc-per-node 2 -m tp_parallel.pretrain --data help.txt --tp 2 --save run
python -m tp_parallel.generate --checkpoint run --prompt "The for statement\""""


def help_text() -> str:
    """The language reference that `help()` shows: about half a megabyte of English."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def launch(processes: int, module: str, arguments: list[str]) -> str:
    """Runs `python -m module` on that many processes; returns what it printed."""
    command = [sys.executable, "-m", module, *arguments]
    if processes > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone",
                        "--nproc-per-node", str(processes)]  # fmt: skip
    # one thread a process: on a busy machine OpenMP threads would wait for each other
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    return done.stdout


def train(work: Path, tp: int) -> tuple[list[float], float]:
    """Loss of each step and the held-out loss at the end."""
    print(f"training over {tp} process{'es' if tp > 1 else ''}", file=sys.stderr)
    log = work / f"tp{tp}.jsonl"
    launch(tp, "tp_parallel.pretrain",
           ["--data", str(work / "help.txt"), "--tp", str(tp), "--save", str(work / f"tp{tp}"),
            "--save-every", str(STEPS), "--metrics", str(log), *MODEL, *TRAIN])  # fmt: skip
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    return losses, next(row["evaluation"] for row in rows if "evaluation" in row)


def draw_losses(one: list[float], two: list[float], path: Path) -> None:
    figure, (top, below) = plt.subplots(
        2, 1, figsize=(8, 5.6), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    top.plot(one, color="#9dbce0", linewidth=6, label="one process")
    top.plot(two, color="#1d3f72", linewidth=1.4, label="weights split over two processes (tp 2)")
    top.set_ylabel("loss (nats a byte)")
    top.legend(frameon=False)
    top.set_title("A byte-level GPT learns Python's help text", loc="left")
    below.semilogy([max(abs(a - b), 1e-9) for a, b in zip(one, two, strict=True)], color="#b5482f")
    below.set_ylabel("difference")
    below.set_xlabel("step")
    below.grid(axis="y", color="#dddddd")
    for axes in (top, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_pipelines(path: Path) -> None:
    names = [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zero_bubble", 1)]
    figure = plt.figure(figsize=(10, 8), layout="constrained")
    draw_schedules([make_schedule(name, 4, 8, chunks) for name, chunks in names], figure)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_text(text: str, path: Path) -> None:
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 84) or [""]][:16]
    figure = plt.figure(figsize=(8, 0.4 + 0.2 * len(lines)))
    figure.patch.set_facecolor("#fbfaf6")
    figure.text(0.03, 0.95, "\n".join(lines), family="monospace", fontsize=9,
                va="top", parse_math=False)  # fmt: skip
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and card.json")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        text = help_text()
        (work / "help.txt").write_text(text)
        one, held_one = train(work, 1)
        two, held_two = train(work, 2)
        print("writing text with the checkpoint of the split run", file=sys.stderr)
        written = launch(1, "tp_parallel.generate",
                         ["--checkpoint", str(work / "tp2"), "--prompt", PROMPT, "--tokens", "450",
                          "--temperature", "0.6"])  # fmt: skip
    draw_losses(one, two, out / "loss.png")
    draw_pipelines(out / "schedules.png")
    draw_text(written, out / "text.png")
    largest = max(abs(a - b) for a, b in zip(one, two, strict=True))
    card = {
        "title": "tp-parallel",
        "summary": f"A small GPT learned the {len(text):,} characters of help text that ship with "
        "Python, once in one process and once with every weight matrix split over two. The losses "
        "agree step by step; the checkpoint of the split run then wrote text in one process.",
        "figures": [
            {"label": f"loss, step 1 to {STEPS}", "value": f"{two[0]:.2f} to {two[-1]:.2f}"},
            {"label": "held-out loss, one process and two",
             "value": f"{held_one:.4f} and {held_two:.4f}"},
            {"label": "largest difference of any step's loss", "value": f"{largest:.1e}"},
        ],
        "beside": {"result": "step-2026-11-30.json", "case": "step, tp 2"},
        "pictures": [
            {"file": "loss.png", "caption": "Loss of the unsplit and the split run, and their "
             "difference: rounding of float32, nothing else."},
            {"file": "text.png", "caption": f"What the split run's checkpoint writes after "
             f"{STEPS} steps, from the prompt '{PROMPT}'."},
            {"file": "schedules.png", "caption": "Pipeline schedules for 4 stages and 8 "
             "micro-batches, drawn from the lists that the trainer runs; white is waiting."},
        ],
        "code": CODE,
    }  # fmt: skip
    part = out / "card.json.part"
    part.write_text(json.dumps(card, indent=1))
    os.replace(part, out / "card.json")


if __name__ == "__main__":
    main()
