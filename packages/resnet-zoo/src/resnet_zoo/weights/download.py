"""One HTTP download into a partial file that can be resumed.

`<file>.part` holds the bytes, `<file>.part.json` what must stay the same for a resume: address,
ETag and total size. A resume asks for a range with If-Range, so a file that changed on the server
starts over instead of being stitched together.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

ATTEMPTS = 5
FIRST_PAUSE = 0.5  # seconds; doubles after every attempt that made no progress
_CHUNK = 1 << 18
_RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}


class DownloadError(RuntimeError):
    """The server or the network did not give the file; the message says what happened.

    `status` is the HTTP status, where the server gave one that does not pass.
    """

    status = 0


class _Interrupted(Exception):
    """The transfer stopped early and may be resumed."""


@dataclass
class Partial:
    """A partial file and its note."""

    path: Path

    @property
    def note_path(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def note(self) -> dict[str, str]:
        try:
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) else {}

    def discard(self) -> None:
        for path in (self.path, self.note_path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def timeout() -> float:
    """Seconds without a byte after which a connection counts as dropped (RESNET_ZOO_TIMEOUT)."""
    text = os.environ.get("RESNET_ZOO_TIMEOUT", "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ValueError(f"RESNET_ZOO_TIMEOUT must be a number of seconds above 0, got {text!r}")
    return seconds


def download(url: str, part: Partial, *, progress: bool = True, token: str = "") -> str | None:
    """Fill `part` completely from `url`, resuming and retrying; `token` is a bearer token.

    Returns the SHA-256 that the server declares (Hugging Face's X-Linked-ETag), or None. Raises
    DownloadError when the server refuses or the network stays down, OSError when the disk does.
    """
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"download: {url!r} is not an http(s) address")
    failures, pause, last = 0, FIRST_PAUSE, ""
    while failures < ATTEMPTS:
        before = part.size()
        try:
            return _transfer(url, part, progress, token)
        except _Interrupted as stop:
            last = str(stop)
        except urllib.error.HTTPError as error:
            if error.code not in _RETRY_STATUS:
                refused = DownloadError(f"download: {url} answered {error.code} {error.reason}")
                refused.status = error.code
                raise refused from None
            last = f"the server answered {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
            last = str(getattr(error, "reason", None) or error or type(error).__name__)
        except ConnectionError as error:
            last = str(error)
        if part.size() > before:
            failures, pause = 0, FIRST_PAUSE
        failures += 1
        if failures < ATTEMPTS:
            time.sleep(pause)
            pause *= 2
    kept = f"; {part.size():,} bytes are kept in {part.path}" if part.size() else ""
    raise DownloadError(
        f"download: {url} gave no more bytes in {ATTEMPTS} attempts (last: {last}){kept}"
    )


def _transfer(url: str, part: Partial, progress: bool, token: str) -> str | None:
    """One connection: request what is missing, append it, flush to disk."""
    start, note = part.size(), part.note()
    if start and note.get("url") != url:
        start = 0
    request = urllib.request.Request(url, headers={"User-Agent": "resnet-zoo", "Accept": "*/*"})
    request.add_header("Accept-Encoding", "identity")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if start:
        request.add_header("Range", f"bytes={start}-")
        if note.get("etag"):
            request.add_header("If-Range", note["etag"])
    linked = _LinkedHash()
    opener = urllib.request.build_opener(linked)
    try:
        response = opener.open(request, timeout=timeout())
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            part.discard()
            raise _Interrupted("the kept part did not fit the file; starting over") from None
        raise
    with response:
        start, total = _place(response, start)
        _refuse_page(response, url)
        _refuse_full_disk(part.path.parent, total - start if total else 0)
        etag = response.headers.get("ETag", "")
        note = {"url": url, "etag": etag if not etag.startswith("W/") else ""}
        part.note_path.write_text(json.dumps(note), encoding="utf-8")
        _append(response, part, start, total, progress)
    return linked.sha256 or None


def _place(response: http.client.HTTPResponse, start: int) -> tuple[int, int | None]:
    """Where the body belongs in the file, and the file's total size if the server says it."""
    length = response.headers.get("Content-Length")
    total = int(length) if length and length.isdigit() else None
    if response.status == 206:
        match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None or int(match.group(1)) != start:
            raise DownloadError("download: the server answered a range that was not asked for")
        return start, None if match.group(2) == "*" else int(match.group(2))
    return 0, total


def _refuse_page(response: http.client.HTTPResponse, url: str) -> None:
    kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise DownloadError(
            f"download: {url} gave a web page ({kind}), not a weight file; a proxy, a login or a "
            "captive portal may stand in between"
        )


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed")


def _append(
    response: http.client.HTTPResponse, part: Partial, start: int, total: int | None, progress: bool
) -> None:
    bar = tqdm(
        total=total,
        initial=start,
        unit="B",
        unit_scale=True,
        desc=part.path.name.removesuffix(".part"),
        disable=not (progress and sys.stderr.isatty()),
    )
    with open(part.path, "r+b" if part.path.exists() else "wb") as file, bar:
        file.seek(start)
        file.truncate()
        received = start
        try:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
                bar.update(len(chunk))
        except http.client.IncompleteRead as error:
            file.write(error.partial)
            received += len(error.partial)
        except (TimeoutError, ConnectionError) as error:
            raise _Interrupted(f"the connection broke: {error}") from error
        finally:
            file.flush()
        os.fsync(file.fileno())
    if total is not None and received < total:
        raise _Interrupted(f"the connection closed after {received:,} of {total:,} bytes")


class _LinkedHash(urllib.request.HTTPRedirectHandler):
    """Follows redirects, keeps the SHA-256 that Hugging Face declares on the first answer.

    A token is not sent on to another server.
    """

    def __init__(self) -> None:
        self.sha256 = ""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        etag = headers.get("X-Linked-ETag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", etag):
            self.sha256 = etag
        onward = super().redirect_request(req, fp, code, msg, headers, newurl)
        if onward is not None and onward.host != req.host:  # a token is for its own server
            onward.remove_header("Authorization")
        return onward
