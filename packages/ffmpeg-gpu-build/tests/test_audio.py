"""Sound as arrays: equal to PyAV's, exact from a start, mixed and resampled on request."""

from fractions import Fraction

import numpy as np
import pytest

from ffmpeg_gpu_build import FfmpegError, read_audio

CLIPS = {
    "a.wav": ["-c:a", "pcm_s16le"],
    "a.mp4": ["-c:a", "aac"],
    "a.mkv": ["-c:a", "flac"],
    "a.ts": ["-c:a", "mp2"],
    "a.ogg": ["-c:a", "libopus"],
}


@pytest.fixture(scope="module")
def make(ffmpeg, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")

    def one(name):
        if not (folder / name).exists():
            tone = "aevalsrc=0.5*sin(700*t*t)|0.4*sin(440*2*PI*t):d=6:s=48000"
            done = ffmpeg.run("-f", "lavfi", "-i", tone, *CLIPS[name], str(folder / name))
            assert done.ok, done.err
        return folder / name

    return one


@pytest.mark.parametrize("name", CLIPS)
def test_the_samples_and_times_are_those_of_pyav(make, name):
    av = pytest.importorskip("av")
    frames = list(read_audio(make(name)))
    sound = np.concatenate(frames)
    times, known = [], []
    with av.open(str(make(name))) as file:
        resampler = av.AudioResampler(format="fltp")
        for frame in file.decode(audio=0):
            times.append(frame.pts * frame.time_base)
            known += [f.to_ndarray().T for f in resampler.resample(frame)]
    if name != "a.wav":  # how many samples of PCM are a frame is up to the version
        tick = Fraction(1, 1000) if name == "a.mkv" else 0  # FFmpeg 9 has Matroska's to the sample
        assert len(frames) == len(times)
        assert all(abs(f.pts - time) <= tick for f, time in zip(frames, times, strict=True))
    heard = np.concatenate(known)
    whole = 6 * 48000 if name == "a.mp4" else len(heard)  # FFmpeg 9 drops the last AAC frame's fill
    assert len(sound) in (len(heard), whole)
    assert np.abs(sound - heard[: len(sound)]).max() < 1e-3
    assert (frames[0].rate, sound.dtype, sound.shape[1]) == (48000, np.float32, 2)
    assert frames[3].time == pytest.approx(sum(map(len, frames[:3])) / 48000, abs=1e-4)


@pytest.mark.parametrize("name", CLIPS)
def test_a_start_is_exact_to_the_sample(make, name):
    whole = np.concatenate(list(read_audio(make(name))))
    for start in (Fraction(1, 3), Fraction(13, 4)):
        part = list(read_audio(make(name), start=start))
        got = np.concatenate(part)
        at = len(whole) - len(got)
        assert abs(at - start * 48000) <= 1
        assert np.abs(got - whole[at:]).max() < 2e-3
        assert part[0].time == pytest.approx(float(start), abs=1e-4)


def test_sound_is_mixed_and_resampled_on_request_and_read_from_bytes(make):
    mono = np.concatenate(list(read_audio(make("a.wav").read_bytes(), channels=1, rate=16000)))
    assert mono.shape[1] == 1
    assert abs(len(mono) - 96000) < 200
    assert 0.1 < np.abs(mono).max() < 1


def test_what_is_cut_is_damaged_and_what_is_not_there_is_named(make, tmp_path):
    cut = tmp_path / "a.mkv"
    cut.write_bytes(make("a.mkv").read_bytes()[:-5000])
    with pytest.raises(FfmpegError) as caught:
        list(read_audio(cut))
    assert caught.value.code == "damaged"
    with pytest.raises(FfmpegError) as caught:
        list(read_audio(make("a.wav"), stream=3))
    assert caught.value.code == "bad-input"
    with pytest.raises(ValueError, match="read_audio: rate must be"):
        read_audio(make("a.wav"), rate=0)
