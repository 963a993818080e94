"""The real thing: FFmpeg's newest release, profile `small`, compiled, verified and used.

Only with --full. Takes minutes of two cores, needs an archive with FFmpeg's sources, and the
packages that `ffmpeg-gpu-build plan --show apt` names. FFMPEG_GPU_BUILD_WORK names the work folder
of a `build --no-ccache`, which is then resumed in place of begun anew.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ffmpeg_gpu_build import binary, builder, checks, fate, resolve, transcode, verify
from ffmpeg_gpu_build.apt import AptError
from ffmpeg_gpu_build.description import version_key
from ffmpeg_gpu_build.make import BuildError
from ffmpeg_gpu_build.source import SourceError

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
# Vulkan filters are judged too, but Mesa's software driver is known to get some wrong.
MAY_BE_BROKEN = ("filter.", "_vulkan")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(the finished build, its work folder, seconds it took)."""
    kept = os.environ.get("FFMPEG_GPU_BUILD_WORK")
    work = Path(kept) if kept else tmp_path_factory.mktemp("work")
    prefix = tmp_path_factory.mktemp("prefix") / "small"
    options = builder.Options(
        prefix=prefix,
        work=work,
        ccache=not kept,
        jobs=os.cpu_count() or 2,
        install_deps=os.environ.get("CI") == "true",
    )
    started = time.monotonic()
    try:
        made = builder.build(resolve("small"), options)
    except (AptError, SourceError) as error:
        pytest.skip(f"FFmpeg's sources cannot be had here: {error}")
    except BuildError as error:
        if error.code == "missing":
            pytest.skip(str(error))
        raise
    print(f"built in {time.monotonic() - started:.0f} s; done before: {made.resumed}")
    return made, work


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


def test_the_build_transcodes(built, tmp_path):
    source = checks.CLIPS / "hevc.mkv"
    done = transcode(source, tmp_path / "out.mp4", ffmpeg=built[0].prefix, hw="cpu", size=(160, 90))
    assert done.frames == 12


def test_fate_without_samples_passes_or_is_explained(built):
    done = fate.run(built[1], jobs=os.cpu_count() or 2)
    print(f"FATE: {done.passed} of {done.total}")
    assert done.total > 300
    assert done.unexplained == [], done.failed
