"""The work folder of a build: what was asked, where it lies, and which stages are done."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..kept import cache_folder
from .description import Plan
from .headers import Unpacked
from .make import BuildError, Step
from .source import Checked

# Stages whose result is kept: a later run does not do them again.
KEPT = ("unpack", "configure", "compile")


@dataclass
class Options:
    """How to build: where, from what, with what."""

    prefix: Path
    work: Path
    source: str = "auto"  # auto, url, apt, or the path of a tarball
    sha256: str | None = None
    jobs: int = 2
    install_deps: bool = False
    ccache: bool = True
    bundle: bool = False  # the system's libraries too
    tell: Callable[[Step], None] | None = None

    def say(self, stage: str, text: str) -> None:
        """One line of progress."""
        if self.tell:
            self.tell(Step(stage, 0, 0, None, text))


def default_work(plan: Plan) -> Path:
    """The work folder of a plan below the user's cache."""
    return cache_folder() / f"{plan.version}-{plan.profile}-{plan.cuda}"


@contextmanager
def only_one(prefix: Path) -> Iterator[None]:
    """Hold the prefix for this build; BuildError "busy" if another build holds it.

    The lock ends with the process, however that ends.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with (prefix.parent / f".{prefix.name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BuildError(
                f"another build is at work on {prefix}; wait for it, or take another --prefix",
                "busy",
            ) from None
        yield


class State:
    """Which stages are done, and for which plan: another plan begins anew."""

    def __init__(self, file: Path, fingerprint: str) -> None:
        self.file, self.fingerprint = file, fingerprint
        self.done: list[str] = []
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            old = json.loads(file.read_text())
            if old["fingerprint"] == fingerprint:
                self.done = [s for s in KEPT if s in old["done"]]

    def keep(self, there: Mapping[str, Path]) -> None:
        """Forget a stage whose result is gone (a cleaned cache), and all after it."""
        for stage, result in there.items():
            if stage in self.done and not result.exists():
                self.done = self.done[: self.done.index(stage)]

    def finish(self, stage: str) -> None:
        """Note a stage, aside and renamed."""
        self.done.append(stage)
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps({"fingerprint": self.fingerprint, "done": self.done}))
        part.replace(self.file)


def fingerprint(plan: Plan, line: list[str], sha256: str) -> str:
    """Equal for builds that would be the same."""
    text = json.dumps([plan.version, line, sha256])
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Work:
    """A plan on its way to a prefix. Each stage reads what those before it have put here."""

    plan: Plan
    options: Options
    checked: Checked | None = None
    unpacked: Unpacked = field(default_factory=lambda: Unpacked({}, None, {}))
    configure: list[str] = field(default_factory=list)
    state: State | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.options.work

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def objects(self) -> Path:
        """Where configure and make run."""
        return self.folder / "objects"

    @property
    def tree(self) -> Path:
        """FFmpeg's sources."""
        return self.folder / "src"

    @property
    def env(self) -> Mapping[str, str]:
        """The environment in which pkg-config and the compiler see the unpacked headers."""
        return self.unpacked.env

    @property
    def done(self) -> list[str]:
        """The stages that need not be done again."""
        return self.state.done if self.state else []
