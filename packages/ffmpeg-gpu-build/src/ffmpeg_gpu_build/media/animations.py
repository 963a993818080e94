"""Animated pictures as results: GIF, APNG and WebP, by their endings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..ffmpeg import Ffmpeg, FfmpegError
from .endings import unfinished
from .probing import count_packets, require_whole


@dataclass(frozen=True)
class Animation:
    """A kind of animated picture: FFmpeg's muxer, encoder and the filters before it; `demuxer` is
    the one that reads it back.
    """

    muxer: str
    encoder: str
    filters: str
    demuxer: str

    def arguments(self, quality: int) -> list[str]:
        """The encoder's arguments; GIF and APNG lose nothing but, in a GIF, colours over 256."""
        if self.encoder != "libwebp_anim":
            return ["-plays" if self.muxer == "apng" else "-loop", "0"]
        return ["-quality", str(round(100 - 100 * quality / 51)), "-loop", "0"]

    def frames(self, part: Path, said: int, program: Ffmpeg) -> int:
        """Hold a finished file to the `said` number of frames; the number in it. All frames of a
        WebP are one packet to FFmpeg, and equal ones become one. Raises FfmpegError.
        """
        if self.encoder != "libwebp_anim":
            require_whole(part, said, program)
            return said
        if unfinished(part):
            raise FfmpegError(f"{part.suffix}: the file is not whole", "wrong-count")
        readable = self.demuxer in program.demuxers
        return count_packets(part, program)[0] if readable else said


# A GIF's 256 colours are chosen from all its frames; the last colour is the transparent one.
PALETTE = "split[a][b];[a]palettegen=reserve_transparent=1[p];[b][p]paletteuse=alpha_threshold=128"
ANIMATIONS = {
    ".gif": Animation("gif", "gif", PALETTE, "gif"),
    ".apng": Animation("apng", "apng", "format=rgba", "apng"),
    ".webp": Animation("webp", "libwebp_anim", "format=bgra", "webp_anim"),
}


def animation_of(where: str, path: Path, program: Ffmpeg) -> Animation | None:
    """The kind of a file name, None for a video. Raises FfmpegError where this FFmpeg cannot write
    it.
    """
    found = ANIMATIONS.get(path.suffix.lower())
    if found and found.encoder not in program.encoders:
        raise FfmpegError(
            f"{where}: this FFmpeg has no {found.encoder} encoder, which {path.suffix} needs: take "
            "another, or build one that has it (`ffmpeg-gpu-build build`)",
            "not-built-in",
        )
    if found and found.muxer == "gif" and "palettegen" not in program.filters:
        raise FfmpegError(f"{where}: this FFmpeg has no filter palettegen", "not-built-in")
    return found
