"""The judge of audio encoders: two tones go in, and must come out on their own channels."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from .checks import QUIET, Machine, failed
from .failures import last_lines
from .ffmpeg import file_argument
from .verdict import BROKEN, NOT_TRIED, PROVEN, Verdict

ENCODERS = ("libopus", "libmp3lame", "libfdk_aac")
RATE, SECONDS, TONES = 48000, 2, (440.0, 1000.0)  # Hz: left, right
# Codecs add silence before and after, an AAC or MP3 frame or two; a lost channel is 0 dB.
LONGEST_PADDING, LOWEST_SNR = 0.1, 20.0
RAW = ("-f", "s16le", "-ar", str(RATE), "-ac", "2")


@cache
def tones() -> bytes:
    """The test sound: stereo, 16 bit."""
    time = np.arange(RATE * SECONDS)[:, None] / RATE
    return (16000 * np.sin(2 * np.pi * np.array(TONES) * time)).astype("<i2").tobytes()


def purity(sound: np.ndarray) -> float:
    """How far the expected tone of the worse channel is above everything else in it, in dB.

    `sound` is (samples, 2). The tone is fitted with any phase: a codec may delay it.
    """
    found = []
    for channel, tone in zip(sound.T.astype(np.float64), TONES, strict=True):
        angle = 2 * np.pi * tone * np.arange(channel.size) / RATE
        basis = np.stack([np.sin(angle), np.cos(angle)], axis=1)
        fitted = basis @ np.linalg.lstsq(basis, channel, rcond=None)[0]
        rest = max(float(np.mean((channel - fitted) ** 2)), 1e-3)
        found.append(10 * np.log10(max(float(np.mean(fitted**2)), 1e-3) / rest))
    return min(found)


def check_audio_encoder(machine: Machine, name: str) -> Verdict:
    """Encode the tones, decode them on the CPU: nothing lost, and each tone where it was."""
    path = f"encode.{name}"
    with tempfile.TemporaryDirectory(prefix="ffmpeg-gpu-build-") as folder:
        clip = file_argument(Path(folder, "clip.mkv"))
        done = machine.ffmpeg.run(
            *QUIET, *RAW, "-i", "pipe:0", "-c:a", name, "-b:a", "128k", clip, stdin=tones(),
            timeout=90,
        )  # fmt: skip
        if not done.ok:
            return failed(path, done)
        back = machine.ffmpeg.run(*QUIET, "-i", clip, *RAW, "pipe:1", timeout=90)
    if not back.ok:
        text = "it encodes, but this FFmpeg has no decoder to listen to the result"
        return Verdict(path, NOT_TRIED, "no-cpu-decoder", text, "", {"log": last_lines(back.err)})
    sound = np.frombuffer(back.out[: len(back.out) // 4 * 4], "<i2").reshape(-1, 2)
    seconds = len(sound) / RATE
    if not 0 <= seconds - SECONDS <= LONGEST_PADDING:
        text = f"{SECONDS} s of sound went in, {seconds:.2f} s came out"
        return Verdict(path, BROKEN, "wrong-count", text, "", {"seconds": seconds}, done.argv)
    quality = purity(sound[RATE // 2 : -RATE // 2])
    numbers = {"seconds": round(seconds, 3), "snr": round(quality, 1)}
    if quality < LOWEST_SNR:
        text = f"the tones are {quality:.0f} dB above the rest with exit code 0"
        return Verdict(path, BROKEN, "wrong-sound", text, "", numbers, done.argv)
    text = f"{seconds:.2f} s, both tones {quality:.0f} dB above the rest"
    return Verdict(path, PROVEN, "tones", text, "", numbers, done.argv)
