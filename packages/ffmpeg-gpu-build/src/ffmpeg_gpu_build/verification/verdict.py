"""What is said of a path: one of four words, a code, a sentence, a cure and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

PROVEN = "proven"  # ran, and the result was compared
ABSENT = "absent"  # the hardware, its driver or this FFmpeg does not have it
BROKEN = "broken"  # it should run and does not, or runs and is wrong
NOT_TRIED = "not tried"  # no way known to judge it here

EXIT_PROVEN, EXIT_BROKEN, EXIT_MISSING = 0, 1, 3


@dataclass(frozen=True)
class Verdict:
    """The judgement of one path, such as "filter.scale_cuda" or "encode.h264_nvenc"."""

    path: str
    status: str
    code: str
    sentence: str
    cure: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def exit_code(verdicts: Sequence[Verdict], required: Sequence[str] = ()) -> int:
    """1 if a path is broken, 3 if a required path is not proven, else 0.

    A required name may end in "*".
    """
    if any(v.status == BROKEN for v in verdicts):
        return EXIT_BROKEN
    for name in required:
        stem = name.removesuffix("*")
        hits = [v for v in verdicts if v.path == name or (stem != name and v.path.startswith(stem))]
        if not hits or any(v.status != PROVEN for v in hits):
            return EXIT_MISSING
    return EXIT_PROVEN
