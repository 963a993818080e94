"""Build FFmpeg by its stages, which can be taken up again.

A state file in the work folder says which stages are done for which plan; a stage that was broken
off is done again, and make goes on where it was. The install is put together aside and renamed, so
the prefix holds a whole build or the one before.
"""

from __future__ import annotations

import errno
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import apt, install, manifest, stages, toolchain
from .description import Plan, releases
from .emit import summary
from .make import BuildError
from .work import KEPT, Options, Work, default_work, only_one

STAGES = tuple(stages.STAGES)

__all__ = ["STAGES", "Built", "Options", "build", "default_work", "dry_run"]


@dataclass(frozen=True)
class Built:
    """A finished build: where, its manifest, and which stages had been done before."""

    prefix: Path
    facts: dict[str, Any]
    resumed: tuple[str, ...]


def build(plan: Plan, options: Options) -> Built:
    """Build a plan into a prefix; see the stages above.

    Raises BuildError, SourceError or AptError with the cause and the cure. After any failure, and
    after Ctrl-C, the same call goes on where this one ended.
    """
    if not re.fullmatch(r"[\w./+@,-]+", str(options.work)):
        raise BuildError(
            f"work: make cannot work below {str(options.work)!r}: take a folder of letters, digits "
            "and . _ + @ , - only (--work); the prefix may have any name",
            "bad-work",
        )
    prefix = options.prefix
    if prefix.resolve() in (options.work.resolve(), *options.work.resolve().parents):
        raise BuildError(
            f"prefix: the work folder {options.work} is in {prefix}, which an install replaces: "
            "take another --prefix or --work",
            "bad-work",
        )
    ours = (prefix / manifest.FOLDER / "manifest.json").exists()
    if prefix.exists() and not ours and not (prefix.is_dir() and not any(prefix.iterdir())):
        raise BuildError(
            f"prefix: {prefix} is there and is no build of ours: take an empty folder", "not-ours"
        )
    options.work.mkdir(parents=True, exist_ok=True)
    with only_one(options.prefix), only_one(options.work / "build"):
        try:
            install.tidy(options.prefix)
            return _run(Work(plan, options))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
            if not full:
                raise
            raise BuildError(
                f"the disk is full: {error}\n  cure: free space in {options.work} and "
                f"{options.prefix.parent}; the build goes on where it was",
                "disk-full",
            ) from None


def _run(work: Work) -> Built:
    """The stages in order, but for those that are done."""
    resumed: tuple[str, ...] = ()
    for name, stage in stages.STAGES.items():
        if name == "unpack":  # what is done is known once the plan has its configure line
            resumed = tuple(work.done)
        if name in work.done:
            continue
        stage(work)
        if name in KEPT and work.state:
            work.state.finish(name)
    return Built(work.options.prefix, work.facts, resumed)


def dry_run(plan: Plan, options: Options) -> str:
    """The whole plan with what this machine has and lacks; nothing is fetched or written."""
    lines = [summary(plan), "", "on this machine"]
    lacking = toolchain.missing(plan)
    unpackable = set(plan.unpack)
    later = [m for m in lacking if set(m.packages) & unpackable]
    now = [m for m in lacking if m not in later]
    lines += [f"  missing   {m.component}: {m.what}  [{' '.join(m.packages)}]" for m in now]
    lines += [f"  unpacked  {m.component}: {m.what}" for m in later]
    names = sorted({p for m in now for p in m.packages})
    manager, command = toolchain.manager()
    if manager == "apt":
        good, bad = apt.resolvable(names) if shutil.which("apt-cache") else ([], [])
    else:
        good, bad = names, []
    if good:
        lines.append(f"  {command} {' '.join(good)}")
    lines += [f"  not in this machine's sources: {p}" for p in bad]
    if not now:
        lines.append("  nothing is missing")
    lines += ["", f"source: {options.source}; work: {options.work}; prefix: {options.prefix}"]
    key = releases()["key"]["fingerprint"]
    lines.append(
        f"the tarball must have the SHA-256 above and be signed by {key} where it has an .asc"
    )
    return "\n".join(lines)
