"""The real ffmpeg, driven into every failure by a driver that says what it is told."""

import pytest

from ffmpeg_gpu_build.doctor.failures import FAILURES, diagnose
from ffmpeg_gpu_build.doctor.traps import TRAPS
from ffmpeg_gpu_build.verification.judge import ask_nvidia, verify

NVENC, CUVID = "libnvidia-encode.so.1", "libnvcuvid.so.1"
H264, SCALE, NVDEC = "encode.h264_nvenc", "filter.scale_cuda", "decode.hevc_nvdec"


def judge(program, path):
    return verify(program, only=[path]).verdicts[0]


@pytest.mark.parametrize(
    ("answers", "path", "status", "code"),
    [
        ({"open": 2}, H264, "broken", "encoder-missing"),
        ({"open": 2, "cc": "8.0"}, H264, "absent", "gpu-has-no-encoder"),
        ({"open": 2, "cc": "9.0"}, H264, "absent", "gpu-has-no-encoder"),
        ({"open": 2, "cc": "99.0"}, H264, "absent", "gpu-has-no-encoder"),
        ({"open": 10}, H264, "broken", "too-many-encodes"),
        ({"open": 21}, H264, "broken", "encode-session-refused"),
        ({"nvenc_api": "10.0"}, H264, "broken", "driver-too-old"),
        ({"cuinit": 100}, H264, "absent", "no-gpu"),
        ({"cuinit": 803}, H264, "broken", "driver-mismatch"),
        ({"cuinit": 804}, H264, "broken", "driver-mismatch"),
        ({"cuinit": 999}, H264, "broken", "cuda-init-failed"),
        ({"devices": 0}, H264, "absent", "no-gpu"),
        ({"devices": 0}, SCALE, "absent", "no-gpu"),
        ({"cc": "2.0"}, H264, "absent", "gpu-too-old"),
        ({"module": 222}, SCALE, "broken", "ptx-too-new"),
        ({"module": 218}, SCALE, "broken", "ptx-wrong-gpu"),
        ({"module": 209}, SCALE, "broken", "ptx-wrong-gpu"),
        ({"memory": 2}, SCALE, "broken", "gpu-out-of-memory"),
        ({}, SCALE, "broken", "flat-picture"),
        ({}, "filter.overlay_cuda", "broken", "wrong-pixels"),
        ({"corrupt": 1}, "device.cuda", "broken", "wrong-pixels"),
        ({}, NVDEC, "broken", "wrong-pixels"),
        ({"decoders": "4"}, NVDEC, "absent", "gpu-cannot-decode"),
        ({"max_width": 64}, NVDEC, "absent", "gpu-cannot-decode"),
        ({}, "decode.h264_cuvid", "broken", "wrong-count"),
        ({}, "device.cuda", "proven", "round-trip"),
        ({}, "filter.hwupload_cuda", "proven", "pixels"),
    ],
)
def test_a_driver_that_misbehaves_gets_its_verdict(stub, answers, path, status, code):
    verdict = judge(stub.with_env(stub.build("whole"), **answers), path)
    assert (verdict.status, verdict.code) == (status, code), verdict
    assert len(verdict.sentence) > 10
    if status != "proven":
        assert verdict.cure or code.startswith("wrong-") or verdict.measured


def test_the_h100_is_named_and_said_to_have_no_encoder(stub):
    program = stub.with_env(stub.build("whole"), cc="9.0", name="NVIDIA H100 80GB HBM3")
    verdict = judge(program, H264)
    assert verdict.sentence == "NVIDIA H100 80GB HBM3 has no video encoder (Hopper (H100, H200))"


def test_without_a_driver_every_nvidia_path_is_absent_for_that_reason(ffmpeg):
    report = verify(ffmpeg, only=["device.cuda", "*_nvenc", "*_nvdec", "*_cuvid", "*_cuda"])
    assert len(report.verdicts) > 15
    assert {(v.status, v.code) for v in report.verdicts} == {("absent", "no-driver")}
    assert report.exit_code == 0


@pytest.mark.parametrize(
    ("lacking", "path"), [(NVENC, H264), (CUVID, "decode.h264_nvdec"), (CUVID, "decode.h264_cuvid")]
)
def test_a_container_without_the_video_capability_is_recognised(stub, lacking, path):
    verdict = judge(stub.with_env(stub.build(f"no-{lacking}", without=(lacking,))), path)
    assert (verdict.status, verdict.code) == ("broken", "no-video-capability")
    assert "NVIDIA_DRIVER_CAPABILITIES" in verdict.cure
    assert lacking in verdict.sentence


def test_a_driver_library_without_a_function_is_recognised_by_its_name(stub):
    folder = stub.build("lacks", lacks=("cuMemcpy2D_v2",))
    verdict = judge(stub.with_env(folder), "device.cuda")
    assert verdict.code == "driver-lacks-symbol"
    assert "cuMemcpy2D_v2" in verdict.sentence


def test_the_probe_reads_the_driver_in_a_process_of_its_own(stub):
    folder = stub.build("whole")
    answer = ask_nvidia(stub.with_env(folder, cc="9.0", name="X", decoders="4,8", devices=2).env)
    assert answer["cuInit"] == 0
    assert answer["nvenc_api"] == "13.1"
    assert [d["compute"] for d in answer["devices"]] == [[9, 0], [9, 0]]
    assert set(answer["devices"][0]["decoders"]) == {"h264-8", "h264-10", "hevc-8", "hevc-10"}


def test_at_least_twelve_failure_modes_are_told_apart():
    assert len({f.code for f in FAILURES}) >= 24
    assert len({f.code for f in TRAPS}) >= 14


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("[vist#0] Codec AV1 is not supported.", "gpu-cannot-decode"),
        ("[AVHWDeviceContext] Unable to open the libvulkan library!", "no-vulkan"),
        ("x: error while loading shared libraries: libx264.so.164: cannot open", "missing-library"),
        ("Unknown encoder 'av1_nvenc'", "not-built-in"),
        ("[AVFilterGraph @ 0x5] No such filter: 'scale_npp'", "npp-retired"),
        ("[AVFilterGraph @ 0x5] No such filter: 'scale_cuda'", "not-built-in"),
        ("av_interleaved_write_frame(): No space left on device", "disk-full"),
        ("[h264_nvenc] 10 bit encode not supported", "nvenc-feature-missing"),
        ("[mov] moov atom not found", "bad-input"),
        ("Failed to create buffer: VK_ERROR_OUT_OF_DEVICE_MEMORY", "vulkan-call-failed"),
    ],
)
def test_messages_of_ffmpeg_are_recognised_by_text(log, code):
    found = diagnose("some line before\n" + log + "\nsome line after\n")
    assert found is not None
    assert found.code == code
    assert found.line == log


def test_a_disk_that_is_full_from_the_start_is_no_encoder_that_did_not_open():
    found = diagnose(
        "[error] Could not write header for output file #0 (incorrect codec parameters ?): "
        "No space left on device\n[error] Error initializing output stream 0:0 -- \n"
    )
    assert found.code == "disk-full"


def test_the_cause_is_named_before_its_consequence():
    found = diagnose(
        "[h264] Device does not support the VK_KHR_video_decode_queue extension!\n"
        "[h264] Failed setup for format vulkan: hwaccel initialisation returned error.\n"
        "Impossible to convert between the formats supported by the filter 'a' and the filter 'b'\n"
    )
    assert (found.status, found.code) == ("absent", "no-vulkan-video")


def test_an_unknown_message_is_not_guessed_at():
    assert diagnose("everything is fine\nframe= 10 fps=0\n") is None
