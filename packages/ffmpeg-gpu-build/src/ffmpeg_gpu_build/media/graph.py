"""A filter graph as FFmpeg itself takes it apart: libavfilter/graphparser.c, with the quotes and
escapes of libavutil/avstring.c (`av_get_token`) and the options of libavutil/opt.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BLANK = " \n\t\r"
_KEY = re.compile(r"[ \n\t\r]*([\w./-]*)[ \n\t\r]*=", re.A)


@dataclass(frozen=True)
class Filter:
    """A filter's `name`, without what is behind @, and its options as (key, value), key "" where
    only its place says what it is.
    """

    name: str
    options: tuple[tuple[str, str], ...]


def _token(text: str, at: int, ends: str) -> tuple[str, int]:
    """What stands from `at` to one of `ends`, freed of one level of quotes and escapes and of
    blanks around it; and where it ends.
    """
    found, kept = "", 0  # kept: characters that are no blanks to cut off
    while at < len(text) and text[at] in _BLANK:
        at += 1
    while at < len(text) and text[at] not in ends:
        if text[at] == "\\" and at + 1 < len(text):
            found, at = found + text[at + 1], at + 2
            kept = len(found)
        elif text[at] == "'":
            end = text.find("'", at + 1)
            found += text[at + 1 : end if end >= 0 else len(text)]
            at = end + 1 if end >= 0 else len(text)
            kept = len(found)
        else:
            found, at = found + text[at], at + 1
    return found[:kept] + found[kept:].rstrip(_BLANK), at


def _options(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        key = _KEY.match(text, at)
        value, at = _token(text, key.end() if key else at, ":")
        yield key[1] if key else "", value
        at += 1


def filters_of(graph: str) -> Iterator[Filter]:
    """The filters of a graph, in order; those behind what FFmpeg would refuse too."""
    at = 0
    if graph.lstrip(_BLANK).startswith("sws_flags="):  # which ends at the next ;, in quotes or not
        at = graph.find(";") + 1 or len(graph)
    while at < len(graph):
        if graph[at] == "[":
            at = _token(graph, at + 1, "]")[1] + 1
        elif graph[at] in f"{_BLANK}],;":
            at += 1
        else:
            name, at = _token(graph, at, "=,;[")
            given = ""
            if graph[at : at + 1] == "=":
                given, at = _token(graph, at + 1, "[],;")
            yield Filter(name.partition("@")[0], tuple(_options(given)))
