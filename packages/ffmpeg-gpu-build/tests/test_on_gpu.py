"""Frames that stay on a GPU: the order of things, with stand-ins for torchcodec and PyNvVideoCodec.

No GPU has run this: what is tested is which engine is taken, how it is held to the program, and
what is said. The stand-ins decode with PyAV, and "the device" is the CPU.
"""

import sys
import types

import numpy as np
import pytest
import torch

from ffmpeg_gpu_build import FfmpegError, read_frames
from ffmpeg_gpu_build.media import on_gpu

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def clip(ffmpeg, tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "a.mp4"
    film = "testsrc2=s=64x48:r=10:d=2"
    assert ffmpeg.run("-f", "lavfi", "-i", film, "-c:v", "libx264", "-g", "5", str(path)).ok
    return path


@pytest.fixture
def no_gpu(monkeypatch):
    """torch sees a device, whose tensors lie on the CPU."""
    monkeypatch.setattr(on_gpu, "_cuda_devices", lambda: 2)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, place: self, raising=False)


def decoded(path):
    with av.open(str(path)) as file:
        return [torch.from_numpy(f.to_ndarray(format="rgb24")) for f in file.decode(video=0)]


def stand_in(monkeypatch, kind, change=lambda frames: frames):
    """Put a stand-in of one library in place; the arguments that it was given."""
    given = []

    class VideoDecoder:
        def __init__(self, path, **how):
            given.append(how)
            self.frames = change(decoded(path))

        def __len__(self):
            return len(self.frames)

        def get_frame_at(self, number):
            return types.SimpleNamespace(data=self.frames[number])

        def __getitem__(self, number):
            return self.frames[number]

    module = types.ModuleType(kind)
    if kind == "torchcodec":
        module.decoders = types.ModuleType("torchcodec.decoders")
        module.decoders.VideoDecoder = VideoDecoder
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", module.decoders)
    else:
        module.SimpleDecoder = VideoDecoder
        module.OutputColorType = types.SimpleNamespace(RGB="RGB")
    monkeypatch.setitem(sys.modules, kind, module)
    return given


@pytest.fixture(autouse=True)
def none_installed(monkeypatch):
    for name in ("torchcodec", "torchcodec.decoders", "PyNvVideoCodec"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("kind", "engine"), [("torchcodec", "torchcodec"), ("PyNvVideoCodec", "pynvvideocodec")]
)
def test_an_engine_that_is_installed_is_taken_and_said(monkeypatch, no_gpu, clip, kind, engine):
    given = stand_in(monkeypatch, kind)
    frames = read_frames(clip, device="cuda:1", start=1)
    assert frames.engine == engine
    got = list(frames)
    want = list(read_frames(clip, start=1))
    assert [(f.pts, f.key, f.index, f.time) for f in got] == [
        (f.pts, f.key, f.index, f.time) for f in want
    ]
    assert np.abs(got[3].numpy().astype(int) - want[3]).mean() < on_gpu.NEAR
    assert given[0].get("device", given[0].get("gpu_id")) in ("cuda:1", 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda frames: [255 - f for f in frames], "first frame is not that"),
        (lambda frames: frames[:-1], "19 frames, not 20"),
        (lambda frames: [f.permute(2, 0, 1) for f in frames], "first frame is not that"),
        (lambda frames: 1 / 0, "division by zero"),
    ],
)
def test_what_is_not_right_goes_through_the_pipe_with_a_note(
    monkeypatch, no_gpu, clip, change, reason
):
    stand_in(monkeypatch, "torchcodec", change)
    frames = read_frames(clip, device="cuda")
    assert frames.engine == "pipe"
    assert reason in frames.notes[0]
    assert len(list(frames)) == 20


def test_what_an_engine_does_not_grant_and_none_at_all_go_through_the_pipe(
    monkeypatch, no_gpu, clip
):
    plain = read_frames(clip, device="cuda")
    assert (plain.engine, plain.notes) == ("pipe", [])
    assert isinstance(next(plain), torch.Tensor)
    stand_in(monkeypatch, "torchcodec")
    assert read_frames(clip, device="cuda", size=(32, 24)).engine == "pipe"
    assert read_frames(clip, device="cuda", pixels="gray").engine == "pipe"


def test_without_a_device_it_is_an_error_that_says_the_cure(clip):
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(FfmpegError, match="install torch for CUDA") as caught:
        read_frames(clip, device="cuda")
    assert caught.value.code == "no-cuda"
    with pytest.raises(ValueError, match="'cuda' or 'cuda:N'"):
        read_frames(clip, device="cuda:x")
