"""The sources of FFmpeg: fetched, checked against SHA-256 and the release key, unpacked safely."""

from __future__ import annotations

import base64
import errno
import hashlib
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .. import proc
from .description import DATA, releases


class SourceError(RuntimeError):
    """Sources that could not be had or must not be used; `code` names the reason."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Checked:
    """A tarball that passed: its SHA-256, and whether the release key signed it."""

    file: Path
    sha256: str
    signed: bool


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def dearmoured(text: str) -> bytes:
    """The binary key inside an ASCII-armoured one (gpgv reads only binary keyrings)."""
    match = re.search(
        r"-----BEGIN PGP[^\n]*\n(?:[^\n]+: [^\n]*\n)*\n(.*?)\n(?:=|-----END)", text, re.S
    )
    if not match:
        raise SourceError("signature: the release key is no armoured PGP key", "no-key")
    return base64.b64decode(re.sub(r"\s", "", match[1]))


def check_signature(file: Path, signature: Path, key: Path | None = None) -> str:
    """Check a detached PGP signature; returns the fingerprint that signed.

    `key` is an armoured public key (default: FFmpeg's release key, whose fingerprint must be the
    pinned one). Raises SourceError: "bad-signature", or "no-gpgv" where the program is missing.
    """
    if not shutil.which("gpgv"):
        raise SourceError("signature: gpgv is not installed (package gpgv)", "no-gpgv")
    pinned = releases()["key"]["fingerprint"] if key is None else None
    armour = (key or DATA / releases()["key"]["file"]).read_text()
    with tempfile.TemporaryDirectory(prefix="ffmpeg-gpu-build-") as folder:
        ring = Path(folder, "key.gpg")
        ring.write_bytes(dearmoured(armour))
        done = proc.run(["gpgv", "--status-fd", "1", "--keyring", ring, signature, file])
    status = done.out.decode("utf-8", "replace")
    valid = re.search(r"^\[GNUPG:\] VALIDSIG (\S+).*?(\S+)$", status, re.M)
    if not done.ok or not valid or (pinned and pinned not in (valid[1], valid[2])):
        raise SourceError(
            f"signature: {signature.name} does not sign {file.name} with FFmpeg's release key; "
            f"do not "
            "use this file, fetch it again from another place",
            "bad-signature",
        )
    return valid[1]


def check(
    file: Path, version: str, *, signature: Path | None = None, sha256: str | None = None
) -> Checked:
    """Check a tarball before anything in it is read.

    It must have the pinned SHA-256 of its release, or the one that was given; a release that is not
    pinned must be signed. A signature that is there must be good. Raises SourceError:
    "wrong-checksum", "bad-signature", "not-pinned".
    """
    wanted = sha256 or releases()["release"].get(version, {}).get("sha256")
    found = sha256_of(file)
    if wanted and found != wanted.lower():
        raise SourceError(
            f"checksum: {file.name} has SHA-256 {found}, FFmpeg {version} has {wanted}: the "
            f"file is "
            "damaged or another one; fetch it again",
            "wrong-checksum",
        )
    signed = False
    if signature is not None:
        check_signature(file, signature)
        signed = True
    if not wanted and not signed:
        raise SourceError(
            f"checksum: FFmpeg {version} is not pinned here: give --sha256, or its .asc beside it",
            "not-pinned",
        )
    return Checked(file, found, signed)


def download(version: str, into: Path, timeout: float = 30) -> tuple[Path, Path]:
    """Fetch a release and its signature from FFmpeg's site. Raises SourceError, code "offline"."""
    url = releases()["key"]["url"].replace("{version}", version)
    into.mkdir(parents=True, exist_ok=True)
    files = []
    for address in (url, url + ".asc"):
        file = into / address.rpartition("/")[2]
        part = file.with_name(file.name + ".part")
        try:
            with urllib.request.urlopen(address, timeout=timeout) as answer, part.open("wb") as to:
                shutil.copyfileobj(answer, to)
        except (urllib.error.URLError, TimeoutError, OSError) as error:
            part.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SourceError(
                f"download: {address} cannot be had ({error}); give the file with --source FILE",
                "offline",
            ) from None
        part.replace(file)
        files.append(file)
    return files[0], files[1]


def _refuse(member: tarfile.TarInfo, top: str, links: set[PurePosixPath]) -> str | None:
    """Why a member must not be unpacked, or None. `links` are the archive's symbolic links: a way
    through one may end elsewhere than its words say, so there is none.
    """
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "leaves the folder"
    if not path.parts or path.parts[0] != top:
        return f"is not below {top}/"
    if len(path.parts) == 1 and not member.isdir():
        return "is no folder"
    if links & set(path.parents):
        return "goes through a link"
    if member.ischr() or member.isblk() or member.isfifo():
        return "is a device"
    if member.issym() or member.islnk():
        target = PurePosixPath(member.linkname)
        base = path.parent if member.issym() else PurePosixPath()
        depth, inside = 0, bool(target.parts) and not target.is_absolute()
        for part in (*base.parts, *target.parts):
            depth += -1 if part == ".." else 0 if part == "." else 1
            inside = inside and depth >= 1
        if not inside:
            return f"links to {member.linkname!r}, outside"
        names = [part != ".." for part in target.parts]
        if names != sorted(names) or (member.islnk() and links & set(target.parents)):
            return f"links to {member.linkname!r}, through another link"
    return None


def unpack(file: Path, into: Path, top: str | None = None) -> Path:
    """Unpack a tarball whose members all lie below one folder; returns that folder inside `into`.

    Nothing is unpacked if a single member is absolute, climbs with "..", links outside or is a
    device. The folder appears only when whole. Raises SourceError, code "unsafe-archive" or
    "damaged".
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(file) as archive:
            members = archive.getmembers()
            if not members:
                raise SourceError(f"unpack: {file.name} is empty", "damaged")
            first = top or next(iter(PurePosixPath(members[0].name).parts), "")
            links = {PurePosixPath(m.name) for m in members if m.issym()}
            for member in members:
                reason = _refuse(member, first, links)
                if reason:
                    raise SourceError(
                        f"unpack: {file.name}: {member.name!r} {reason}; nothing was unpacked",
                        "unsafe-archive",
                    )
            target = into / first
            with tempfile.TemporaryDirectory(prefix=".unpack-", dir=into) as aside:
                if hasattr(tarfile, "data_filter"):
                    archive.extractall(aside, filter="data")
                else:
                    archive.extractall(aside)
                shutil.rmtree(target, ignore_errors=True)
                Path(aside, first).rename(target)
            return target
    except SourceError:
        raise
    except Exception as error:  # of damaged archives tarfile and what unpacks raise many kinds
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise SourceError(f"unpack: {file.name} is damaged: {error}", "damaged") from None
