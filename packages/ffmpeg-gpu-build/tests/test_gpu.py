"""On a machine with an NVIDIA GPU: what its generation has is proven, what it lacks is said."""

import pytest

from ffmpeg_gpu_build import verify
from ffmpeg_gpu_build.verification import gpus
from ffmpeg_gpu_build.verification.judge import ask_nvidia

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def report(ffmpeg):
    return verify(ffmpeg, only=["device.cuda", "*_nvenc", "*_nvdec", "*_cuvid", "*_cuda"])


def test_frames_go_up_and_come_back(report):
    assert report.verdicts[0].path == "device.cuda"
    assert report.verdicts[0].status == "proven", report.verdicts[0]


def test_the_decoders_that_the_driver_names_are_proven_by_pixels(report):
    named = report.gpu["devices"][0].get("decoders")
    if named is None:
        pytest.skip("no libnvcuvid: the container lacks the video capability")
    for verdict in report.verdicts:
        if verdict.path in ("decode.h264_nvdec", "decode.hevc_nvdec", "decode.h264_cuvid"):
            assert verdict.status == "proven", verdict


def test_scale_cuda_is_proven_by_pixels(report):
    got = {v.path: v for v in report.verdicts}
    if "filter.scale_cuda" not in got:
        pytest.skip("this ffmpeg has no scale_cuda")
    assert got["filter.scale_cuda"].status == "proven", got["filter.scale_cuda"]


def test_a_gpu_without_an_encoder_is_said_to_have_none(report):
    device = ask_nvidia()["devices"][0]
    known = gpus.generation(*device["compute"])
    if known is None or known.encodes:
        pytest.skip(f"{device['name']} has an encoder, or is not in the table")
    got = {v.path: v for v in report.verdicts}
    assert got["encode.h264_nvenc"].code in ("gpu-has-no-encoder", "no-video-capability")
