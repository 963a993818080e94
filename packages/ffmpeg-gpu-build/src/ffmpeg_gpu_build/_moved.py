"""Old module names: each gives the very module that stands in its wing now.

`ffmpeg_gpu_build.verification` and `ffmpeg_gpu_build.media` were modules and are wings: they offer
the old names themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

WINGS = {
    "doctor": ("failures", "traps"),
    "build": (
        *("apt", "binary", "builder", "description", "docker", "emit", "headers", "make"),
        *("manifest", "source", "toolchain"),
    ),
    "verification": (
        *("audio_checks", "checks", "fate", "filter_checks", "gpus", "nvidia_probe", "pixels"),
        *("report", "verdict"),
    ),
    "media": ("batch", "frames", "pipeline", "session", "transcoding"),
}
PACKAGE = __name__.rpartition(".")[0]
MOVED = {f"{PACKAGE}.{n}": f"{PACKAGE}.{w}.{n}" for w, names in WINGS.items() for n in names}


class Finder(MetaPathFinder, Loader):
    """Finds the old names and loads the modules that they mean."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module(MOVED[module.__name__])


def install() -> None:
    """Make the old names importable, once a process."""
    if not any(type(finder) is Finder for finder in sys.meta_path):
        sys.meta_path.append(Finder())
