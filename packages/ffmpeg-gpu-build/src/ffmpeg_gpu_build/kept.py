"""Answers that are kept on disk, so that a short job does not ask a device again what it said.

One JSON file an answer, below the user's cache, under the hash of all that it depends on. It is
written aside and renamed; one that is torn, of another user or of another form is no answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from . import __version__


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/ffmpeg-gpu-build, else ~/.cache/ffmpeg-gpu-build."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "ffmpeg-gpu-build"


def stamp_of_file(path: Path) -> tuple[Any, ...]:
    """Equal while a file is the same; empty where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return ()
    return (os.path.abspath(path), facts.st_mtime_ns, facts.st_size, facts.st_ino)


def stamp_of_program(path: Path) -> tuple[Any, ...]:
    """Equal while a program and the system's libraries are the same: ldconfig writes its cache when
    a library comes or goes.
    """
    return (*stamp_of_file(path), *stamp_of_file(Path("/etc/ld.so.cache")))


@lru_cache(maxsize=1)
def stamp_of_devices() -> tuple[Any, ...]:
    """Equal while the kernel, the NVIDIA driver and the device files of GPUs are the same."""
    driver = ""
    with contextlib.suppress(OSError):
        driver = Path("/proc/driver/nvidia/version").read_text()
    nodes = [p for pattern in ("nvidia*", "dri/*", "dxg") for p in Path("/dev").glob(pattern)]
    capabilities = os.environ.get("NVIDIA_DRIVER_CAPABILITIES", "")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return (os.uname().release, boot, driver, sorted(map(str, nodes)), capabilities, visible)


def _file(kind: str, question: Any) -> Path:
    text = json.dumps([__version__, question], sort_keys=True, default=str)
    return cache_folder() / kind / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def answer(
    kind: str, question: Any, ask: Callable[[], Any], *, seconds: float | None = None
) -> Any:
    """What `ask` answers, as JSON takes it, kept under `question`; asked again when the file is
    older than `seconds`. A disk that cannot be written to keeps nothing and is no error.
    """
    file = _file(kind, question)
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        if file.stat().st_uid == os.geteuid():
            known = json.loads(file.read_bytes())
            if seconds is None or 0 <= time.time() - known["time"] < seconds:
                return known["answer"]
    found = ask()
    keep(file, {"time": time.time(), "answer": found})
    return found


def keep(file: Path, content: Any) -> None:
    """Write JSON aside and rename it; nothing is left where that fails."""
    part = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content))
        part.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
