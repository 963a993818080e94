"""Which NVIDIA GPU has which video engine, by compute capability.

From NVIDIA's video encode and decode support matrix and the NVDEC application note 13.0;
data-centre GPUs with 8.0, 9.0 and 10.0 have decoders and no encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

_BASE = frozenset({"h264", "hevc", "vp8", "vp9", "mpeg2", "mpeg4", "vc1", "mjpeg"})
_OLD = frozenset({"h264", "mpeg2", "mpeg4", "vc1", "mjpeg"})


@dataclass(frozen=True)
class Generation:
    """A GPU generation and the codecs that its fixed-function engines take."""

    name: str
    encodes: frozenset[str]
    decodes: frozenset[str]


_TABLE = {
    (5, 0): Generation("Maxwell", frozenset({"h264"}), _OLD),
    (5, 2): Generation("Maxwell", frozenset({"h264", "hevc"}), _OLD | {"hevc"}),
    (6, 0): Generation("Pascal (P100)", frozenset({"h264", "hevc"}), _OLD | {"hevc"}),
    (6, 1): Generation("Pascal", frozenset({"h264", "hevc"}), _BASE),
    (7, 0): Generation("Volta", frozenset({"h264", "hevc"}), _BASE),
    (7, 5): Generation("Turing", frozenset({"h264", "hevc"}), _BASE),
    (8, 0): Generation("Ampere (A100)", frozenset(), _BASE),
    (8, 6): Generation("Ampere", frozenset({"h264", "hevc"}), _BASE | {"av1"}),
    (8, 9): Generation("Ada", frozenset({"h264", "hevc", "av1"}), _BASE | {"av1"}),
    (9, 0): Generation("Hopper (H100, H200)", frozenset(), _BASE),
    (10, 0): Generation("Blackwell (B200)", frozenset(), _BASE | {"av1"}),
    (12, 0): Generation("Blackwell", frozenset({"h264", "hevc", "av1"}), _BASE | {"av1"}),
}


def generation(major: int, minor: int) -> Generation | None:
    """The generation of a compute capability; None if the table does not know it."""
    return _TABLE.get((major, minor))
