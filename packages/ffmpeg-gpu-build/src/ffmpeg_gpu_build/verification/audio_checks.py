"""The judge of audio encoders: two tones go in, and must come out on their own channels."""

from __future__ import annotations

import tempfile
import wave
from functools import cache
from pathlib import Path

import numpy as np

from ..ffmpeg import file_argument
from .checks import QUIET, Machine, failed, undecoded
from .verdict import BROKEN, PROVEN, Verdict

ENCODERS = {"libopus": "opus", "libmp3lame": "mp3", "libfdk_aac": "aac"}  # -> the codec
RATE, SECONDS, TONES = 48000, 2, (440.0, 1000.0)  # Hz: left, right
# Codecs add silence before and after, an AAC or MP3 frame or two; a lost channel is 0 dB.
LONGEST_PADDING, LOWEST_SNR = 0.1, 20.0
# WAV, for a build of few parts (profile `small`) reads and writes no headerless sound.
WAV = ("-c:a", "pcm_s16le", "-ar", str(RATE), "-ac", "2", "-f", "wav")


@cache
def tones() -> bytes:
    """The test sound: stereo, 16 bit."""
    time = np.arange(RATE * SECONDS)[:, None] / RATE
    return (16000 * np.sin(2 * np.pi * np.array(TONES) * time)).astype("<i2").tobytes()


def _write(file: Path, sound: bytes) -> None:
    with wave.open(str(file), "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(sound)


def _read(file: Path) -> np.ndarray:
    """(samples, 2), 16 bit."""
    with wave.open(str(file), "rb") as sound:
        return np.frombuffer(sound.readframes(sound.getnframes()), "<i2").reshape(-1, 2)


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
        given, clip, heard = (Path(folder, n) for n in ("given.wav", "clip.mkv", "heard.wav"))
        _write(given, tones())
        done = machine.ffmpeg.run(
            *QUIET, "-i", file_argument(given), "-c:a", name, "-b:a", "128k", file_argument(clip),
            timeout=90,
        )  # fmt: skip
        if not done.ok:
            return failed(path, done)
        back = machine.ffmpeg.run(
            *QUIET, "-i", file_argument(clip), *WAV, file_argument(heard), timeout=90
        )
        sound = _read(heard) if back.ok else None
    if sound is None:
        return undecoded(machine, path, ENCODERS[name], back)
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
