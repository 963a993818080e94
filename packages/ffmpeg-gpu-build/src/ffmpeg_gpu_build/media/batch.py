"""Transcode a folder, a bounded number of files at once on each GPU."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .session import Cancelled
from .transcoding import Transcoded, muxer_of, transcode

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ts", ".avi", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".mts", ".m2ts", ".3gp", ".ogv", ".vob", ".mxf", ".asf"),
)


@dataclass(frozen=True)
class Item:
    """One file of a batch: `result` if it was made, `error` if not; both None if it was there."""

    src: Path
    dst: Path
    result: Transcoded | None = None
    error: Exception | None = None


def plan_batch(src: Path, dst: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Pairs (source, destination): the videos below `src`, in the same folders below `dst`.

    Two sources that differ in their ending alone keep it in the new name. What lies below a `dst`
    inside `src` was made by a run before this one and is no source. Raises NotADirectoryError, and
    ValueError if `dst` is `src` or two sources would still have one name.
    """
    if not src.is_dir():
        raise NotADirectoryError(f"transcode_folder: src must be a folder, got {os.fspath(src)!r}")
    made = dst.resolve()
    if made == src.resolve():
        raise ValueError(
            f"transcode_folder: dst must be another folder than src, {os.fspath(src)!r}: a second "
            "run could not tell what was made from what there was"
        )
    files = sorted(p for p in src.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    files = [p for p in files if not p.name.startswith(".part-")]
    files = [p for p in files if made not in p.resolve().parents]
    stems = [p.with_suffix("") for p in files]
    pairs = []
    for file, stem in zip(files, stems, strict=True):
        shown = file if stems.count(stem) > 1 else stem
        relative = shown.relative_to(src)
        pairs.append((file, dst / relative.parent / (relative.name + suffix)))
    source_of: dict[Path, Path] = {}
    for file, target in pairs:
        other = source_of.setdefault(target, file)
        if other != file:
            raise ValueError(
                f"transcode_folder: {other.name!r} and {file.name!r} would both become "
                f"{os.fspath(target)!r}: rename one of them"
            )
    return pairs


def transcode_folder(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    suffix: str = ".mp4",
    sessions: int = 2,
    devices: Sequence[str] = ("",),
    overwrite: bool = False,
    cancel: threading.Event | None = None,
    done: Callable[[Item], None] | None = None,
    **arguments: Any,
) -> list[Item]:
    """Transcode every video below `src` into the same tree below `dst`.

    At most `sessions` run at once on each of `devices` (("0", "1") for two GPUs). A file that is
    there already is left alone unless `overwrite`, so a batch can be run again after a stop. One
    bad file does not end the others. `arguments` go to `transcode`.
    """
    if sessions < 1 or not devices:
        raise ValueError(f"transcode_folder: sessions must be at least 1, got {sessions}")
    muxer_of("transcode", Path(f"x{suffix}"), arguments.get("codec", "h264"))
    pairs = plan_batch(Path(src), Path(dst), suffix)
    stopping = cancel or threading.Event()
    free: queue.SimpleQueue[str] = queue.SimpleQueue()
    for device in [d for _ in range(sessions) for d in devices]:
        free.put(device)

    def one(pair: tuple[Path, Path]) -> Item:
        source, target = pair
        if target.exists() and not overwrite:
            return Item(source, target)
        if stopping.is_set():
            return Item(source, target, error=Cancelled("not begun: the batch was cancelled"))
        device = free.get()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            made = transcode(
                source, target, device=device, overwrite=overwrite, cancel=stopping, **arguments
            )
            return Item(source, target, result=made)
        except Exception as error:
            return Item(source, target, error=error)
        finally:
            free.put(device)

    items = []
    with ThreadPoolExecutor(sessions * len(devices)) as pool:
        try:
            for item in pool.map(one, pairs):
                items.append(item)
                if done:
                    done(item)
        except BaseException:
            stopping.set()
            raise
    return items
