"""Draws a pipeline schedule's time line on matplotlib axes, from the schedule's own data."""

from __future__ import annotations

from typing import Any

from .schedules import B, F, Schedule, bubble, simulate

_COLOURS = {F: ("#3b6fb6", "#7ba3d9"), B: ("#3f8f4f", "#86c193"), "W": ("#d08a2e", "#ecbf84")}
_NAMES = {F: "forward", B: "backward", "W": "weight gradients"}


def draw_schedule(schedule: Schedule, axes: Any, *, numbers: bool = True) -> None:
    """Draws one bar an action, one row a rank; lighter bars are later chunks of the model.

    axes: matplotlib axes. Times are those of `schedules.simulate`: forward 1, backward 2, both
    divided by the number of chunks.
    """
    share = 1.0 / schedule.chunks
    slots = simulate(schedule, share, 2 * share, share)
    used = []
    for rank, row in enumerate(slots):
        for slot in row:
            kind, chunk = slot.action.kind, slot.action.chunk
            axes.barh(
                -rank, slot.end - slot.start, left=slot.start, height=0.86,
                color=_COLOURS[kind][chunk % 2], edgecolor="white", linewidth=0.7,
                label=_label(schedule, kind) if kind not in used else None,
            )  # fmt: skip
            if kind not in used:
                used.append(kind)
            if numbers:
                axes.text(
                    (slot.start + slot.end) / 2, -rank, str(slot.action.batch), ha="center",
                    va="center", fontsize=7, color="white" if chunk % 2 == 0 else "#222222",
                )  # fmt: skip
    axes.set_yticks([-r for r in range(schedule.stages)])
    axes.set_yticklabels([f"rank {r}" for r in range(schedule.stages)])
    axes.set_title(f"{schedule.name}: {bubble(slots):.0%} of the time is waiting", loc="left")
    axes.set_xlim(0, max(row[-1].end for row in slots))
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _label(schedule: Schedule, kind: str) -> str:
    return "input gradients" if kind == B and schedule.splits_backward else _NAMES[kind]
