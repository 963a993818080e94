"""Pictures from the library's own data: schedules, how parameters are cut, what a step sends.

Needs matplotlib; every function draws on axes or a figure of the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..grid.axis import Message
from ..layers.sharding import Shard
from ..pipeline.schedules import B, F, Schedule, bubble, simulate

_COLOURS = {F: ("#3b6fb6", "#7ba3d9"), B: ("#3f8f4f", "#86c193"), "W": ("#d08a2e", "#ecbf84")}
_RANKS = ("#3b6fb6", "#d08a2e", "#3f8f4f", "#a8487d")
_COPIED = "#c9c9c9"
_OPERATIONS = {"all_reduce": "#b5482f", "reduce_scatter": "#d08a2e", "all_gather": "#3b6fb6",
               "broadcast": "#a8487d", "send": "#3f8f4f"}  # fmt: skip
_NAMES = {F: "forward", B: "backward", "W": "weight gradients"}


def draw_schedule(schedule: Schedule, axes: Any, *, numbers: bool = True) -> float:
    """Draws one bar an action, one row a rank; lighter bars are later chunks of the model. Returns
    when the last action ends.

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
    end = max(row[-1].end for row in slots)
    axes.set_xlim(0, end)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return end


def draw_schedules(schedules: Sequence[Schedule], figure: Any) -> None:
    """Draws several schedules below each other on one time scale."""
    rows = figure.subplots(len(schedules), 1, sharex=True)
    ends = [draw_schedule(s, axes) for axes, s in zip(rows, schedules, strict=True)]
    rows[-1].set_xlim(0, max(ends))
    rows[-1].set_xlabel("time, in forward passes of one stage")
    handles: dict[str, Any] = {}
    for axes in rows:
        bars, labels = axes.get_legend_handles_labels()
        handles = dict(zip(labels, bars, strict=True)) | handles
    figure.legend(handles.values(), handles.keys(), loc="outside lower right", frameon=False,
                  ncols=len(handles))  # fmt: skip


def draw_shards(shards: Mapping[str, Shard], tp: int, axes: Any) -> None:
    """Draws parameters to scale, [out, in] as height and width, coloured by the rank that holds
    each part; grey is held by every rank.
    """
    used: set[int | None] = set()
    left, gap = 0.0, 0.18 * max(shard.shape[-1] for shard in shards.values())
    for name, shard in shards.items():
        height, width = shard.shape if len(shard.shape) == 2 else (shard.shape[0], gap / 3)
        for low, size, rank in _parts(shard, tp):
            across = shard.dim == 1
            colour = _COPIED if rank is None else _RANKS[rank % len(_RANKS)]
            axes.barh(
                -height / 2 if across else -low - size / 2, size if across else width,
                left=left + (low if across else 0.0), height=height if across else size,
                color=colour, edgecolor="white", linewidth=0.8,
                label=None if rank in used else _holder(rank),
            )  # fmt: skip
            used.add(rank)
        text = f"{name}\n{' x '.join(map(str, shard.shape))}"
        axes.text(left + width / 2, gap / 4, text, ha="center", va="bottom", fontsize=8)
        left += width + gap
    tallest = max(shard.shape[0] for shard in shards.values())
    axes.set_xlim(-gap / 2, left)
    axes.set_ylim(-1.02 * tallest, 0.9 * gap)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.legend(frameon=False, loc="lower right")


def draw_messages(messages: Sequence[Message], backward: int, axes: Any) -> None:
    """Draws operations in the order in which they ran: height is the payload, colour the kind.

    `backward`: how many of them belong to the forward pass.
    """
    used = set()
    for index, message in enumerate(messages):
        axes.bar(
            index, message.bytes / 2**20, color=_OPERATIONS[message.op], width=0.8,
            label=None if message.op in used else message.op.replace("_", "-"),
        )  # fmt: skip
        used.add(message.op)
    axes.set_xticks(range(len(messages)))
    axes.set_xticklabels([m.label for m in messages], rotation=55, ha="right", fontsize=7)
    axes.axvline(backward - 0.5, color="#888888", linestyle=":")
    for place, side, text in (
        (backward - 0.6, "right", "forward"),
        (backward - 0.4, "left", "backward"),
    ):
        axes.text(place, 0.97, text, ha=side, va="top", transform=axes.get_xaxis_transform())
    axes.set_ylim(0, 1.15 * max(m.bytes for m in messages) / 2**20)
    axes.set_ylabel("MiB a rank")
    axes.set_xlim(-0.6, len(messages) - 0.4)
    axes.legend(frameon=False, loc="upper right", ncols=3, fontsize=8, bbox_to_anchor=(1, 1.18))
    axes.spines[["top", "right"]].set_visible(False)


def _parts(shard: Shard, tp: int) -> list[tuple[float, float, int | None]]:
    """(begin, length, rank) along the cut dimension; rank None for a parameter on every rank."""
    if shard.dim is None:
        return [(0.0, shard.shape[0], None)]
    return [
        (piece.whole, piece.length, None if piece.copy is not None else rank)
        for rank in range(tp)
        for piece in shard.pieces(rank, tp)
    ]


def _holder(rank: int | None) -> str:
    return "every rank" if rank is None else f"rank {rank}"


def _label(schedule: Schedule, kind: str) -> str:
    return "input gradients" if kind == B and schedule.splits_backward else _NAMES[kind]
