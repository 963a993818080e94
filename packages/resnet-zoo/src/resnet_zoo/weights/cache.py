"""A download cache for weight files that ends in the right file or in the right sentence.

Files live where torch.hub keeps them (`$TORCH_HOME/hub/checkpoints`), under upstream's names, so
what was downloaded before is used again. The rules:

- A file is used only after its SHA-256 was computed and compared: with the first hex digits in
  upstream's file name, and with the full hash recorded beside it (`<file>.sha256`, the format of
  `sha256sum -c`) after the first verified download.
- Downloads go to `<file>.part` in the same folder, under a lock; they resume after a broken
  connection or a killed process, are hashed, flushed to disk and renamed.
- Offline, a missing or damaged file is an error that names the file and the cure.

Environment: TORCH_HOME, XDG_CACHE_HOME (place); RESNET_ZOO_OFFLINE or HF_HUB_OFFLINE (no network);
RESNET_ZOO_MIRROR (base address that replaces https://download.pytorch.org/models);
HF_ENDPOINT (base address of the Hugging Face hub); RESNET_ZOO_TIMEOUT (seconds without a byte).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..files import write_text
from .download import DownloadError, Partial, download

_FILE_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,200}\Z")
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[\w.]+\Z")
_TRUE = {"1", "true", "yes", "on"}
_CHUNK = 1 << 20


class WeightsError(RuntimeError):
    """Weights could not be brought in safely; the message says what, where and how to cure it."""


@dataclass(frozen=True)
class Remote:
    """One file to fetch: its address, its name in the cache, and what is known of its SHA-256."""

    url: str
    name: str
    sha256: str = ""  # full hash, or the prefix that is known; "" if nothing is
    token: str = field(default="", repr=False, compare=False)  # sent to this address alone

    @staticmethod
    def from_url(url: str) -> Remote:
        """Name and hash prefix from an address such as .../resnet50-0676ba61.pth."""
        name = url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
        match = _HASH_IN_NAME.search(name)
        return Remote(url, name, match.group(1) if match else "")


def cache_dir() -> Path:
    """The folder of weight files: torch.hub's `checkpoints`, which honours TORCH_HOME."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def is_offline(offline: bool | None = None) -> bool:
    """`offline` itself, or what RESNET_ZOO_OFFLINE and HF_HUB_OFFLINE say when it is None."""
    if offline is not None:
        return offline
    names = ("RESNET_ZOO_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").lower() in _TRUE for name in names)


def sha256_of(path: Path) -> str:
    """Full SHA-256 of a file, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def recorded_hash(path: Path) -> str | None:
    """The full hash that was recorded beside `path`, or None."""
    try:
        text = path.with_name(path.name + ".sha256").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    digest = text.split(" ", 1)[0].strip()
    return digest if re.fullmatch(r"[0-9a-f]{64}", digest) else None


def record_hash(path: Path, digest: str) -> None:
    """Write `<file>.sha256` aside and rename it; a read-only folder is left as it is."""
    with contextlib.suppress(OSError):
        write_text(path.with_name(path.name + ".sha256"), f"{digest}  {path.name}\n")


def check(path: Path, remote: Remote) -> str | None:
    """None if the file is what it should be, else a sentence that says how it differs."""
    size = path.stat().st_size
    digest = sha256_of(path)
    if not digest.startswith(remote.sha256.lower()):
        return (
            f"its SHA-256 starts with {digest[: max(len(remote.sha256), 8)]}, expected "
            f"{remote.sha256} ({size:,} bytes)"
        )
    recorded = recorded_hash(path)
    if recorded not in (None, digest):
        return f"its SHA-256 is {digest}, but {recorded} was recorded when it was downloaded"
    if recorded is None:
        record_hash(path, digest)
    return None


def fetch(remote: Remote, *, offline: bool | None = None, progress: bool = True) -> Path:
    """Path of a verified local copy of `remote`, downloading it if there is none.

    A damaged file in the cache is replaced when the network may be used, and is an error offline.
    Two processes that want the same file download it once. Raises WeightsError.
    """
    if not _FILE_NAME.match(remote.name):
        raise WeightsError(f"fetch: {remote.name!r} is not a plain file name ({remote.url})")
    path = cache_dir() / remote.name
    try:
        fault = _fault_of(path, remote)
        if fault is None:
            return path
        if is_offline(offline):
            raise WeightsError(_offline_message(path, remote, fault))
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            fault = _fault_of(path, remote)  # another process may have finished meanwhile
            if fault is None:
                return path
            if path.exists():
                print(
                    f"resnet-zoo: {path} is damaged ({fault}); fetching it again", file=sys.stderr
                )
            return _download_verified(remote, path, progress)
    except OSError as error:
        raise WeightsError(_os_message(error, path, remote)) from error


def _fault_of(path: Path, remote: Remote) -> str | None:
    """None for a good file, else why it cannot be used."""
    try:
        return check(path, remote)
    except FileNotFoundError:
        return "it is not there"
    except IsADirectoryError:
        return "it is a folder"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `<file>.lock`; the system releases it when a process dies, so it never goes stale."""
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print(f"resnet-zoo: waiting for another process to fetch {path.name}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download_verified(remote: Remote, path: Path, progress: bool) -> Path:
    """Download to `<file>.part`, compare hashes, rename. A resumed part that is bad starts over."""
    part = Partial(path.with_name(path.name + ".part"))
    for _ in range(2):
        resumed = part.size() > 0
        try:
            expected = download(remote.url, part, progress=progress, token=remote.token)
        except DownloadError as error:
            cure = _cures(path, remote)
            if error.status in (401, 403):
                cure = (
                    "Cure: set HF_TOKEN to a token that may read it (or run `hf auth login`); "
                    "ask for access on the repo's page if it is gated."
                )
            raise WeightsError(f"{error}. {cure}") from error
        digest = sha256_of(part.path)
        wanted = remote.sha256.lower() or (expected or "")
        if digest.startswith(wanted):
            os.replace(part.path, path)
            _sync_folder(path.parent)
            part.discard()
            record_hash(path, digest)
            return path
        size, page = part.size(), _looks_like_page(part.path)
        part.discard()
        if not resumed:
            break
    raise WeightsError(
        f"fetch: {remote.url} gave {size:,} bytes whose SHA-256 starts with "
        f"{digest[: max(len(wanted), 8)]}, expected {wanted}{page}; nothing was kept. "
        f"{_cures(path, remote)}"
    )


def _looks_like_page(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(256).lstrip().lower()
    return " (it looks like a web page)" if start.startswith((b"<!doctype", b"<html")) else ""


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system allows to open a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _cures(path: Path, remote: Remote) -> str:
    return (
        f"Cure: try again later (a partial download is resumed), set RESNET_ZOO_MIRROR (or "
        f"HF_ENDPOINT for Hugging Face) to another server, or put the file at {path} by hand "
        f"(from {remote.url})."
    )


def _offline_message(path: Path, remote: Remote, fault: str) -> str:
    return (
        f"fetch: {path} cannot be used: {fault}; and downloads are off (offline). Cure: unset "
        f"RESNET_ZOO_OFFLINE and HF_HUB_OFFLINE, or put the file there from {remote.url}, or point "
        "TORCH_HOME to a folder that has hub/checkpoints with it."
    )


def _os_message(error: OSError, path: Path, remote: Remote) -> str:
    folder = path.parent
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(folder).free
        return (
            f"fetch: no space for {remote.name} in {folder} ({free:,} bytes free): "
            f"{error.strerror}. What was downloaded is kept and resumed. Cure: free some space, or "
            "set TORCH_HOME to a folder on a larger disk."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"fetch: {folder} cannot be written ({error.strerror}) and {remote.name} is not in it. "
            f"Cure: set TORCH_HOME to a folder of yours, or have the file put at {path} "
            f"(from {remote.url})."
        )
    return f"fetch: {remote.name} could not be stored in {folder}: {error}. {_cures(path, remote)}"
