"""What a reading may open besides what it was given: nothing, unless addresses are asked for.

FFmpeg's whitelist of protocols holds for what a demuxer opens. Past it go playlists, which name
other files (the whitelist must have `file`): its whitelist of demuxers leaves those out, before
anything in the file is followed. Then there are filters, which open files and addresses by
themselves, and screens of other machines. All of them are held here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..ffmpeg import FfmpegError, file_argument
from .graph import Filter, filters_of

# What a local file may make FFmpeg open: that file, keys and data within it.
PROTOCOLS = ("-protocol_whitelist", "file,crypto,data")
_WEB = "http,https,tcp,tls,httpproxy,crypto,data"
# Demuxers whose files name other files or addresses, or are read with those beside them: FFmpeg's
# names of all times
PLAYLISTS = {
    *("hls", "applehttp", "dash", "webm_dash_manifest", "concat", "imf", "sdp", "rtsp", "sap"),
    *("avisynth", "vapoursynth", "mlv", "vobsub"),
}
_HEADS = re.compile(
    rb"\s*(#EXTM3U|ffconcat version|v=0\s|MLVI|# VobSub)|.*<(MPD|CompositionPlaylist)\b", re.S
)
_SHUT = "Format not on whitelist"  # libavformat/demux.c
# Pictures that FFmpeg looks for by number or pattern where there is a % in the name
_STILLS = {
    *(".bmp", ".dds", ".dpx", ".exr", ".hdr", ".j2k", ".jls", ".jp2", ".jpeg", ".jpg", ".jxl"),
    *(".pam", ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".ras", ".sgi"),
    *(".tga", ".tif", ".tiff", ".webp", ".xbm", ".xpm", ".xwd"),
}
# Filters that open nothing: what `lavfi` is for, pictures and tones that are computed, and what
# changes them.
_PLAIN_NAMES = """
allrgb allyuv color colorchart colorspectrum gradients haldclutsrc mandelbrot nullsrc
pal75bars pal100bars perlin rgbtestsrc sierpinski smptebars smptehdbars testsrc testsrc2
yuvtestsrc zoneplate cellauto life null copy fps scale format noformat setsar setdar setpts
settb setparams setrange setfield crop pad hflip vflip transpose rotate hue eq geq negate
noise fade split overlay hstack vstack xstack concat interlace tinterlace telecine select
reverse loop trim tpad drawbox drawgrid zoompan colorspace realtime xfade blend tblend gblur
boxblur avgblur smartblur unsharp sharpen lut lut2 lutyuv lutrgb colorchannelmixer
colorbalance colorlevels colortemperature vibrance exposure chromakey colorkey lumakey
despill tile yadif bwdif w3fdif field fieldorder framerate minterpolate framestep
extractplanes mergeplanes alphaextract alphamerge premultiply zscale tonemap vignette
histogram waveform vectorscope edgedetect sobel convolution pixelize swapuv shuffleplanes
monochrome v360 perspective lenscorrection shear palettegen paletteuse random shuffleframes
aevalsrc anoisesrc anullsrc sine sinc hilbert afirsrc anull volume aformat aresample asetpts
asettb asetrate atrim asplit amix amerge join pan afade acrossfade atempo adelay aecho aloop
apad areverse lowpass highpass bandpass bandreject equalizer bass treble tremolo vibrato
chorus flanger aphaser acompressor alimiter agate dynaudnorm aselect aeval channelmap
channelsplit stereotools extrastereo showwaves showwavespic showspectrum showfreqs
avectorscope
"""
PLAIN = set(_PLAIN_NAMES.split())
# FFmpeg's protocols that leave this machine, or what is stored on it
ADDRESSES = (
    "amqp", "dtls", "ffrtmpcrypt", "ffrtmphttp", "ftp", "gopher", "gophers", "http", "httpproxy",
    "https", "icecast", "ipfs", "ipns", "mmsh", "mmst", "prompeg", "rist", "rtmp", "rtmpe",
    "rtmps", "rtmpt", "rtmpte", "rtmpts", "rtp", "rtsp", "rtsps", "sap", "sctp", "sftp", "smb",
    "srt", "srtp", "tcp", "tls", "udp", "udplite", "unix", "zmq",
)  # fmt: skip
# Those that hand on to another one, hold what they give, or stand for no file
_AROUND = (
    "android_content", "async", "bluray", "cache", "concat", "concatf", "crypto", "data", "fd",
    "hls", "md5", "pipe", "shared", "subfile", "tee",
)  # fmt: skip
_ADDRESS = re.compile(
    rf"((?:{'|'.join((*ADDRESSES, *_AROUND))})(?:\+[^:]*)?:|subfile,|(?!file:)[a-z][\w+.-]*://)"
)
# Options that are words: in all others FFmpeg might see an address
_WORDS = {"text", "value", "key", "force_style"}
# Input devices, which take what is no file for a name
_DEVICES_NAMES = """
alsa android_camera avfoundation bktr decklink dshow fbdev gdigrab gfxcapture iec61883 jack
kmsgrab lavfi libcdio libdc1394 libndi_newtek openal oss pulse sndio v4l2 vfwcap
video4linux2 x11grab xcbgrab
"""
_DEVICES = set(_DEVICES_NAMES.split())


def protocols(urls: bool, address: str = "") -> tuple[str, str]:
    """The whitelist for an `address`, or a local file without one. What lies on the web never
    names a file of this machine; a file or bytes may name both files and addresses, and so may
    what they lead to. A stream ("rtsp://", "udp://", "srt://") may use all protocols of its kind.
    """
    if not urls:
        return PROTOCOLS
    if not address or address.startswith("file:"):
        return PROTOCOLS[0], f"file,{_WEB}"
    scheme = address.partition(":")[0].lower()
    stream = scheme in ADDRESSES and scheme not in (*_WEB.split(","), "unix")
    kind = [name for name in ADDRESSES if name != "unix"] if stream else []
    return PROTOCOLS[0], ",".join([_WEB, *kind])


def playlist_error(where: str, name: str) -> FfmpegError:
    """The error of a file that names what else to open."""
    return FfmpegError(
        f"{where}: {name!r} is a playlist, which names other files or addresses: urls=True "
        "(--urls) opens them",
        "playlist",
    )


def _itself(path: str) -> tuple[str, ...]:
    """The demuxer of a picture with a % in its name, by which FFmpeg would read others."""
    suffix = Path(path).suffix.lower()
    if "%" not in path or suffix not in {*_STILLS, ".gif"}:
        return ()
    return ("-f", "gif") if suffix == ".gif" else ("-f", "image2", "-pattern_type", "none")


def opening(
    argument: str, demuxers: Iterable[str], urls: bool, allowed: Sequence[str] = ()
) -> tuple[str, ...]:
    """The arguments that open a file, given as `file_argument` has it, with one of the `demuxers`
    of a program: pairs, the last is -i. Without `urls` no playlist is opened.
    """
    form = _itself(argument)
    words = (*(allowed or protocols(urls)), *form, "-i", argument)
    if urls:
        return words
    every = {each for name in demuxers for each in name.split(",")} - PLAYLISTS
    if "%" in argument and not form:
        every.discard("image2")
    return ("-format_whitelist", ",".join(sorted(every)), *words)


def opening_file(path: Path, demuxers: Iterable[str], urls: bool) -> tuple[str, ...]:
    """`opening` for a path."""
    return opening(file_argument(path), demuxers, urls)


def for_av(words: Sequence[str]) -> tuple[str, str | None, dict[str, str]]:
    """The arguments of `opening` as PyAV takes them: file, format, options."""
    options = {key[1:]: value for key, value in zip(words[::2], words[1::2], strict=True)}
    return options.pop("i"), options.pop("f", None), options


def is_playlist(file: Path | None, log: str = "") -> bool:
    """Whether a file that FFmpeg did not open is a playlist, by its log or by how it begins."""
    if _SHUT in log:
        return True
    if file is None:
        return False
    try:
        with file.open("rb") as opened:
            return bool(_HEADS.match(opened.read(4096)))
    except OSError:
        return False


def _outward(one: Filter) -> str:
    """What of a filter opens an address, loads options, or reads a device; "" if nothing."""
    if one.name in ("zmq", "azmq"):
        return one.name
    for key, value in one.options:
        if key.startswith("/"):  # FFmpeg 7.1: the value lies in a file
            return key
        found = None if key in _WORDS else _ADDRESS.match(value.lower())
        if found:
            return found[1]
        if one.name not in ("movie", "amovie"):
            continue
        if key in ("", "f", "format_name") and (_DEVICES | PLAYLISTS) & {*value.lower().split(",")}:
            return value
        if "whitelist" in value:
            return value
    return ""


def refuse_addresses(where: str, chain: str) -> None:
    """Raise ValueError for a filter chain that names an address, or takes an option from a file."""
    for one in filters_of(chain):
        found = _outward(one)
        if found:
            raise ValueError(
                f"{where}: filters must name files of this machine and hold their options, got "
                f"{found!r} in {one.name} of {chain!r}: fetch the file and name it, or pass "
                "urls=True (--urls)"
            )


def refuse_graph(where: str, graph: str) -> None:
    """Raise ValueError for a graph of `lavfi` with a filter that may open, load or write something,
    or that takes an option from a file.
    """
    for one in filters_of(graph):
        if one.name not in PLAIN or _outward(one):
            raise ValueError(
                f"{where}: 'lavfi:' takes filters that open nothing, got {one.name!r} in "
                f"{graph!r}; urls=True takes any"
            )


def refuse_screen(where: str, display: str) -> None:
    """Raise ValueError for an X display of another machine."""
    if not re.fullmatch(r"((unix)?:\d+(\.\d+)?|/[^\0]*|)(\+.*)?", display, re.S):
        raise ValueError(
            f"{where}: src must be a screen of this machine, such as 'x11grab::0', got "
            f"{display!r}; urls=True opens others"
        )
