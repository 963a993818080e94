"""What a binary says about itself without being run: NVENC's driver floor, PTX floors, RUNPATH.

The driver floor is a string literal of libavcodec/nvenc.c. The CUDA filters carry PTX text, by
default gzip-compressed, whose first lines name the PTX version and the lowest GPU.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .. import proc
from . import description

_FIELDS_64 = "<HHIQQQIHHHHHH"
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29


@dataclass(frozen=True)
class Ptx:
    """The head of one CUDA module: PTX version and target, for example ("5.0", "sm_60")."""

    version: str
    target: str


@dataclass(frozen=True)
class Dynamic:
    """The dynamic section of an ELF file: what it needs and where it looks first."""

    needed: tuple[str, ...]
    runpath: tuple[str, ...]

    @property
    def runpath_is_safe(self) -> bool:
        """True if every entry starts with $ORIGIN: moves with the install, no injected library."""
        return all(re.match(r"\$(ORIGIN|\{ORIGIN\})(/|$)", entry) for entry in self.runpath)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def is_script(path: Path) -> bool:
    """True for a wrapper: a file that another program interprets, with nothing in it to read."""
    try:
        with path.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def nvenc_driver_floor(path: Path) -> str | None:
    """The lowest Linux driver that this libavcodec's (or static ffmpeg's) NVENC accepts.

    None if it has no NVENC; "unknown" if it has but the literal is not in our table (headers newer
    than 13.1 print "(unknown)").
    """
    floors = [row["linux"].encode() for row in description.releases()["nvenc_floor"]]
    with _mapped(path) as data:
        if data.find(b"nvenc API version") < 0:
            return None
        found = [floor for floor in floors if data.find(b"\0" + floor + b"\0") >= 0]
        return found[0].decode() if len(found) == 1 else "unknown"


def _ptx_head(text: bytes) -> Ptx | None:
    version = re.search(rb"^\.version\s+(\d+\.\d+)", text, re.M)
    target = re.search(rb"^\.target\s+(sm_\w+)", text, re.M)
    return Ptx(version[1].decode(), target[1].decode()) if version and target else None


def ptx_texts(path: Path) -> list[bytes]:
    """All gzip-compressed PTX of a binary, whole, in file order."""
    found = []
    with _mapped(path) as data:
        at = data.find(b"\x1f\x8b\x08")
        while at >= 0:
            try:
                text = zlib.decompressobj(31).decompress(data[at:])
            except zlib.error:
                text = b""
            if _ptx_head(text[:8192]):
                found.append(text)
            at = data.find(b"\x1f\x8b\x08", at + 1)
    return found


def ptx_modules(path: Path) -> list[Ptx]:
    """The heads of all PTX in a binary, gzip-compressed or plain, in file order."""
    found = []
    with _mapped(path) as data:
        at = data.find(b"\x1f\x8b\x08")
        while at >= 0:
            try:
                head = zlib.decompressobj(31).decompress(data[at : at + 4096], 8192)
            except zlib.error:
                head = b""
            module = _ptx_head(head)
            if module:
                found.append(module)
            at = data.find(b"\x1f\x8b\x08", at + 1)
        at = data.find(b"\n.version ")
        while at >= 0:
            module = _ptx_head(data[at : at + 256])
            if module:
                found.append(module)
            at = data.find(b"\n.version ", at + 1)
    return found


def ptx_floor(modules: list[Ptx]) -> Ptx | None:
    """The demands of all modules together: the highest version and the highest target."""
    if not modules:
        return None
    return Ptx(
        max((m.version for m in modules), key=description.version_key),
        max((m.target for m in modules), key=description.version_key),
    )


def dynamic(path: Path) -> Dynamic | None:
    """The dynamic section of a 64-bit little-endian ELF file; None for anything else."""
    with contextlib.suppress(struct.error, OverflowError), _mapped(path) as data:
        return _dynamic(data)
    return None  # its tables reach outside of it


def _dynamic(data: mmap.mmap | bytes) -> Dynamic | None:
    if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
        return None
    header = struct.unpack_from(_FIELDS_64, data, 16)
    table, size, count = header[4], header[8], header[9]
    loads, section = [], None
    for index in range(count):
        kind, _, offset, address, _, length = struct.unpack_from(
            "<IIQQQQ", data, table + index * size
        )
        if kind == _PT_LOAD:
            loads.append((address, offset, length))
        elif kind == _PT_DYNAMIC:
            section = (offset, length)
    if section is None:
        return Dynamic((), ())
    entries = [
        struct.unpack_from("<qQ", data, at)
        for at in range(section[0], section[0] + section[1] - 15, 16)
    ]
    strings = next((value for tag, value in entries if tag == _DT_STRTAB), 0)
    base = next((o + strings - a for a, o, n in loads if a <= strings < a + n), None)
    if base is None:
        return Dynamic((), ())

    def text(value: int) -> str:
        end = data.find(b"\0", base + value)
        return data[base + value : end].decode("utf-8", "replace")

    needed = tuple(text(v) for tag, v in entries if tag == _DT_NEEDED)
    paths = [text(v) for tag, v in entries if tag in (_DT_RPATH, _DT_RUNPATH)]
    return Dynamic(needed, tuple(part for p in paths for part in p.split(":")))


def libraries(program: Path, env: dict[str, str] | None = None) -> dict[str, Path]:
    """FFmpeg's own libraries as the loader finds them: "libavcodec" -> file. Empty if static."""
    done = proc.run([program, "-version"], env={**(env or {}), "LD_TRACE_LOADED_OBJECTS": "1"})
    text = done.out.decode("utf-8", "replace")
    found = re.findall(r"^\s*(lib(?:av\w+|sw\w+))\.so\S* => (/.*?) \(0x", text, re.M)
    return {name: Path(path) for name, path in found}
