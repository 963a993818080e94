"""What messages mean: recognise a failure in a log of FFmpeg, a driver or a system; say the cure.

The table is data/messages.toml. FFmpeg says most causes only at `-loglevel verbose`, and its exit
code tells nothing (three causes share 187).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .pasted import plain, unwrapped

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = Path(__file__).parent.parent / "data" / "messages.toml"
END = 1 << 18  # characters at each end of a log that are read whole: hundreds of patterns take time


@dataclass(frozen=True)
class Failure:
    """One known message. `status` is the verdict that it makes of a path: absent or broken.

    `source` is where the message comes from, `example` a line of its kind. `question` decides
    between it and the codes in `others`, which the same line may mean.
    """

    code: str
    status: str
    pattern: str
    sentence: str
    cure: str
    source: str = ""
    example: str = ""
    question: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """A failure found in a log, with the names from the log filled in. `candidates` are what else
    the line may mean, `question` what decides.
    """

    code: str
    status: str
    sentence: str
    cure: str
    line: str
    question: str = ""
    candidates: tuple[Failure, ...] = ()


def load(kind: str) -> tuple[Failure, ...]:
    """The entries of one kind, "run" or "build", in order: the first that matches is the cause,
    later lines are its consequences.
    """
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))[kind]
    return tuple(Failure(**{**row, "others": tuple(row.get("others", ()))}) for row in table)


FAILURES = load("run")


def _loud(log: str) -> str:
    """The lines of level error and fatal, where a log has levels."""
    return "\n".join(line for line in log.splitlines() if re.search(r"\[(error|fatal)\]", line))


def _ends(log: str) -> str:
    """Both ends of a long log: causes stand where it begins or where it stops."""
    return log if len(log) <= 2 * END else f"{log[:END]}\n{log[-END:]}"


def find(known: Sequence[Failure], log: str) -> Diagnosis | None:
    """The first of `known` whose pattern is in the log, with its line; None if there is none.

    Errors come first: a warning names the cause only if no error does. Lines of level error are
    read wherever they stand, the others at both ends of a log longer than 2 `END`. A log that says
    nothing is read once more without the breaks that a terminal made.
    """
    log = plain(log)
    loud, log = _ends(_loud(log)), _ends(log)
    joined = unwrapped(log)
    return (
        (_find(known, loud) if loud else None)
        or _find(known, log)
        or (_find(known, joined) if joined != log else None)
    )


def _find(known: Sequence[Failure], log: str) -> Diagnosis | None:
    for failure in known:
        match = re.search(failure.pattern, log, re.M)
        if match:
            named = {k: v for k, v in match.groupdict().items() if v}
            plain = next((g for g in match.groups() if g), match[0])
            names = {"a": next(iter(named.values()), match[0]), "b": plain} | named
            start, end = log.rfind("\n", 0, match.start()) + 1, log.find("\n", match.end())
            return Diagnosis(
                failure.code,
                failure.status,
                failure.sentence.format(plain, **names),
                failure.cure.replace("{a}", names["a"]).replace("{b}", names["b"]),
                log[start : end if end >= 0 else None].strip(),
                failure.question,
                tuple(f for code in failure.others for f in known if f.code == code),
            )
    return None


def diagnose(log: str) -> Diagnosis | None:
    """The first known failure in a log of FFmpeg, best of `-loglevel level+verbose`, or None."""
    return find(FAILURES, log)


def last_lines(log: str, count: int = 6) -> str:
    """The last lines of a log that say something: no progress, no summary; where the log has levels
    its errors, else its warnings.
    """
    kept = [
        line.rstrip()
        for line in log.replace("\r", "\n").splitlines()
        if line.strip()
        and not re.match(
            r"(\[\w+\]\s*)?(frame=|size=|video:|\s*Total:|\s+\S.*: .*packets"
            r"|.*\] Statistics: \d|\[\w+\]\s*$)",
            line,
        )
    ]
    for level in ("[fatal]", "[error]", "[warning]"):
        loud = [line for line in kept if level in line]
        if loud:
            return "\n".join(loud[-count:])
    return "\n".join(kept[-count:])
