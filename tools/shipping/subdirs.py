"""The machine's platform in conda's terms: the one place that says `linux-64`."""

from __future__ import annotations

import platform

NAMES = {
    ("Linux", "x86_64"): "linux-64",
    ("Linux", "aarch64"): "linux-aarch64",
    ("Darwin", "arm64"): "osx-arm64",
}
RELEASED = tuple(NAMES.values())
SUBDIR = NAMES.get((platform.system(), platform.machine()), "unsupported")
