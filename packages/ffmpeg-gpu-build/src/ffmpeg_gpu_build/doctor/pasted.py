"""Logs as people paste them: without colours, Windows' line ends and what web pages make
of quotes, and in English.

Systems translate their own messages, FFmpeg none. The phrases are in data/translations.toml.
"""

from __future__ import annotations

import html
import re
import sys
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = Path(__file__).parent.parent / "data" / "translations.toml"
# Escapes of a terminal (ECMA-48), as bytes, as rsyslog and cat -v write them
_COLOURS = re.compile(r"(\x1b|#033|\^\[|\\x1b|\\e|\\033)\[[0-9;?]*[A-Za-z]")
_QUOTES = str.maketrans(
    dict(zip("\u2018\u2019\u201c\u201d\u00a0\ufeff", ["'", "'", '"', '"', " ", ""], strict=True))
)
_PROGRESS = re.compile(r"^(\[\w+\] )?(frame|size)= .* time=.*\n", re.M)
_UNICODE = re.compile(r"\\u00([2-7][0-9a-fA-F])")
# JSON, a list, Python's bytes, a string as its language writes it
_QUOTED = re.compile(r"""\A\s*[\[({]\s*['"b]|\bb['"]|\\r\\+n|"\w+": ?["\[{]""")
# Longer words name nothing (base64, hashes), and patterns take time by the square of their length
_LONG = re.compile(r"(\S{128})\S{128,}(\S{128})")
_WIDE = 60  # columns: no terminal that wraps lines is narrower


@cache
def _phrases() -> tuple[tuple[re.Pattern[str], str], ...]:
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))["phrase"]
    return tuple((re.compile(said), row["english"]) for row in rows for said in row["said"])


def unwrapped(log: str) -> str:
    """The log without the breaks of a terminal: where several lines have the same greatest length,
    as a wrap leaves them, each goes on in the next.
    """
    lines = log.split("\n")
    widest = max(map(len, lines))
    full = sum(len(line) == widest for line in lines)
    if widest < _WIDE or not 2 <= full <= 0.75 * len(lines):
        return log
    return "".join(line if len(line) == widest else line + "\n" for line in lines)


def plain(log: str) -> str:
    """The log as the program wrote it, in English; of words without end both ends."""
    text = _COLOURS.sub("", log.replace("\r\n", "\n").replace("\r", "\n"))
    text = _PROGRESS.sub("", text)
    if "&" in text:
        text = html.unescape(text)
    if _QUOTED.search(text):
        text = re.sub(r"\\+r?\\+n|\\+n", "\n", text).replace('\\"', '"')
    text = _UNICODE.sub(lambda found: chr(int(found[1], 16)), text).translate(_QUOTES)
    text = _LONG.sub(r"\1 ... \2", text)
    said = text
    for pattern, english in _phrases():
        text = pattern.sub(english, text)
    return text if text == said else text.replace(" : ", ": ")  # as French sets colons
