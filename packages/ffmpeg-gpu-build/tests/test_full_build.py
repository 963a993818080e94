"""The real thing: FFmpeg's newest release, profile `small`, compiled, verified and used.

Only with --full. Takes about seven minutes of CPU for the build and four for the rest; needs an
archive with FFmpeg's sources, and the packages that `ffmpeg-gpu-build plan --show apt` names.
FFMPEG_GPU_BUILD_WORK names the work folder of a `build`, which is then resumed in place of begun
anew.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ffmpeg_gpu_build import resolve, transcode, verify
from ffmpeg_gpu_build.build import binary, builder
from ffmpeg_gpu_build.build.apt import AptError
from ffmpeg_gpu_build.build.description import version_key
from ffmpeg_gpu_build.build.make import BuildError
from ffmpeg_gpu_build.build.source import SourceError
from ffmpeg_gpu_build.verification import checks, fate

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
# Vulkan filters are judged too, but Mesa's software driver is known to get some wrong.
MAY_BE_BROKEN = ("filter.", "_vulkan")


def interrupted(options):
    """Start the command and end it by Ctrl-C once it has compiled a tenth; its exit code."""
    command = [
        sys.executable, "-m", "ffmpeg_gpu_build", "build", "--profile", "small",
        "--prefix", str(options.prefix), "--work", str(options.work), "--jobs", str(options.jobs),
        *(["--install-deps"] if options.install_deps else []),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    for line in process.stderr:
        if line.startswith("compile: 1") and "compile: 1/" not in line:
            process.send_signal(signal.SIGINT)
    return process.wait()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(the finished build, its work folder, exit code of a run that was interrupted before)."""
    kept = os.environ.get("FFMPEG_GPU_BUILD_WORK")
    work = Path(kept) if kept else tmp_path_factory.mktemp("work")
    os.environ.setdefault("CCACHE_DIR", str(tmp_path_factory.mktemp("ccache")))
    prefix = tmp_path_factory.mktemp("prefix") / "small"
    options = builder.Options(
        prefix=prefix,
        work=work,
        jobs=os.cpu_count() or 2,
        install_deps=os.environ.get("CI") == "true",
    )
    started = time.monotonic()
    code = None if kept else interrupted(options)
    try:
        made = builder.build(resolve("small"), options)
    except (AptError, SourceError) as error:
        pytest.skip(f"FFmpeg's sources cannot be had here: {error}")
    except BuildError as error:
        if error.code == "missing":
            pytest.skip(str(error))
        raise
    print(f"built in {time.monotonic() - started:.0f} s; done before: {made.resumed}")
    return made, work, code


def test_an_interrupted_build_went_on_where_it_was(built):
    made, _, code = built
    if code is None:
        pytest.skip("the work folder was kept from another build")
    assert code == 130
    assert made.resumed == ("unpack", "configure")


@pytest.fixture(scope="module")
def report(built):
    return verify(built[0].prefix, expected=resolve("small").verification())


def test_the_floors_are_as_promised(built):
    facts = built[0].facts
    assert version_key(facts["nvenc_driver_floor"]) <= version_key("530.41.03")
    assert facts["nvenc_driver_floor"] == facts["nvenc_driver_floor_expected"]
    assert version_key(facts["ptx"]["version"]) <= (5, 0)
    assert version_key(facts["ptx"]["target"]) <= (50,)
    assert facts["ptx"]["modules"] == 10
    assert facts["licence"] == "GPL version 3 or later"


def test_nothing_that_was_asked_for_is_missing(report):
    assert [v.path for v in report.verdicts if v.code in ("dropped", "not-built-in")] == []


def test_every_path_has_its_verdict(report):
    got = {v.path: v for v in report.verdicts}
    assert got["encode.libx264"].status == "proven"
    assert got["encode.libx264"].measured["frames"] == checks.ENCODE_FRAMES
    assert got["encode.h264_nvenc"].status in ("absent", "proven")
    assert report.facts.unsafe_runpaths == ()
    start, end = MAY_BE_BROKEN
    for verdict in report.verdicts:
        if not (verdict.path.startswith(start) and verdict.path.endswith(end)):
            assert verdict.status != "broken", verdict


def test_opencl_is_proven_where_there_is_a_platform(report):
    got = {v.path: v for v in report.verdicts}
    if got["device.opencl"].status != "proven":
        pytest.skip(got["device.opencl"].sentence)
    proven = [p for p, v in got.items() if p.endswith("_opencl") and v.status == "proven"]
    assert len(proven) >= 12


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_ptxas_accepts_the_ptx_of_clang(built, tmp_path, architecture):
    if not shutil.which("ptxas"):
        pytest.skip("no ptxas")
    texts = binary.ptx_texts(next((built[0].prefix / "lib").glob("libavfilter.so.*.*.*")))
    assert len(texts) == 10
    for index, text in enumerate(texts):
        file = tmp_path / f"{index}.ptx"
        file.write_bytes(text.rstrip(b"\0"))
        command = ["ptxas", f"-arch={architecture}", str(file), "-o", str(tmp_path / "x.cubin")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_ptxas_accepts_the_ptx_of_nvcc(built, tmp_path):
    if not shutil.which("ptxas") or not shutil.which("nvcc"):
        pytest.skip("no CUDA toolkit")
    source = built[1] / "src"
    files = sorted((source / "libavfilter").glob("*.cu"))
    assert len(files) == 10
    for file in files:
        ptx = tmp_path / f"{file.stem}.ptx"
        flags = ["-gencode", "arch=compute_75,code=sm_75", "-std=c++17", "-I", str(source)]
        subprocess.run(["nvcc", "-ptx", *flags, str(file), "-o", str(ptx)], check=True)
        command = ["ptxas", "-arch=sm_90", str(ptx), "-o", str(tmp_path / "x.cubin")]
        subprocess.run(command, check=True)


def test_a_moved_build_serves_a_c_program_through_pkg_config(built, tmp_path):
    moved = tmp_path / "moved here"
    shutil.copytree(built[0].prefix, moved, symlinks=True)
    env = {**os.environ, "PKG_CONFIG_PATH": str(moved / "lib" / "pkgconfig")}
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libavformat", "libavcodec", "libavutil"],
        env=env, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    import shlex

    program = tmp_path / "consumer"
    subprocess.run(
        ["gcc", str(HERE / "consumer.c"), "-o", str(program), *shlex.split(flags)], check=True
    )
    run_env = {**os.environ, "LD_LIBRARY_PATH": str(moved / "lib")}
    for clip, frames in (("h264", 12), ("hevc10", 12)):
        file = str(checks.CLIPS / f"{clip}.mkv")
        done = subprocess.run([str(program), file], env=run_env, capture_output=True, text=True)
        assert done.stdout == f"{frames} frames 320x180\n"
    shown = subprocess.run([moved / "bin" / "ffmpeg", "-version"], capture_output=True, cwd="/")
    assert shown.returncode == 0


def test_every_failure_of_a_driver_is_told_apart_on_this_ffmpeg_too(built):
    command = [sys.executable, "-m", "pytest", "-q", str(HERE / "test_failure_modes.py")]
    env = {**os.environ, "FFMPEG": str(built[0].prefix)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " skipped" not in done.stdout


def test_the_build_transcodes(built, tmp_path):
    source = checks.CLIPS / "hevc.mkv"
    done = transcode(source, tmp_path / "out.mp4", ffmpeg=built[0].prefix, hw="cpu", size=(160, 90))
    assert done.frames == 12


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p10le", "yuv444p16le"])
def test_ffv1_loses_nothing(built, tmp_path, pixels):
    """gcc 12.2 with -O3 -fstack-protector-all compiles the range coder of FFV1 wrongly."""
    program, clip = str(built[0].prefix / "bin" / "ffmpeg"), str(tmp_path / "clip.mkv")
    source = ["-f", "lavfi", "-i", "testsrc2=size=352x288:rate=25:duration=1"]
    coded = ["-c:v", "ffv1", "-level", "3", "-coder", "1", "-strict", "-2", "-pix_fmt", pixels]
    raw = ["-c:v", "rawvideo", "-pix_fmt", pixels, "-f", "md5", "-"]
    quiet = [program, "-nostdin", "-v", "error", "-y"]
    subprocess.run([*quiet, *source, *coded, clip], check=True)
    sums = [
        subprocess.run([*quiet, *before, *raw], capture_output=True, check=True).stdout
        for before in (source, ["-i", clip])
    ]
    assert sums[0] == sums[1]


def test_every_test_of_fate_that_needs_no_samples_passes(built):
    done = fate.run(built[1], jobs=os.cpu_count() or 2)
    print(f"FATE: {done.passed} of {done.total}")
    assert done.total >= 500
    assert done.failed == {}
