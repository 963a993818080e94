"""Floors and search paths, read from binaries without running them."""

import gzip
import subprocess
from pathlib import Path

import pytest

from ffmpeg_gpu_build.build import binary
from ffmpeg_gpu_build.build.binary import Ptx
from ffmpeg_gpu_build.verification.judge import facts


def test_the_distributions_floors_are_read(ffmpeg):
    found = facts(ffmpeg)
    assert found.nvenc_driver_floor in ("470.57.02", "530.41.03", "570.0", "610.00")
    assert found.ptx is not None
    assert found.ptx["target"].startswith("sm_")
    assert found.ptx["modules"] >= 4
    assert found.licence.startswith("GPL version ")


@pytest.mark.parametrize("floor", ["610.00", "570.0", "530.41.03"])
def test_the_nvenc_floor_is_the_one_literal(tmp_path, floor):
    file = tmp_path / "libavcodec.so"
    file.write_bytes(b"\x7fELF\0...nvenc API version...\0" + floor.encode() + b"\0x")
    assert binary.nvenc_driver_floor(file) == floor


def test_no_nvenc_and_unknown_headers_are_told_apart(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"\0530.41.03\0")
    assert binary.nvenc_driver_floor(file) is None
    file.write_bytes(b"required nvenc API version\0(unknown)\0")
    assert binary.nvenc_driver_floor(file) == "unknown"
    file.write_bytes(b"")
    assert binary.nvenc_driver_floor(file) is None


def test_ptx_is_found_plain_and_compressed_and_the_highest_demand_counts(tmp_path):
    old = b"//\n.version 5.0\n.target sm_60\n.address_size 64\n" + b".visible .entry f\n" * 900
    new = b"//\n.version 9.0\n.target sm_75, debug\n"
    file = tmp_path / "libavfilter.so"
    noise = b"\x1f\x8b\x08 not gzip " * 5
    file.write_bytes(noise + gzip.compress(old) + b"\0" * 7 + gzip.compress(b"text") + new)
    modules = binary.ptx_modules(file)
    assert modules == [Ptx("5.0", "sm_60"), Ptx("9.0", "sm_75")]
    assert binary.ptx_floor(modules) == Ptx("9.0", "sm_75")
    assert binary.ptx_floor([Ptx("9.0", "sm_90"), Ptx("10.0", "sm_100")]) == Ptx("10.0", "sm_100")
    assert binary.ptx_floor([]) is None


@pytest.mark.parametrize(
    ("runpath", "safe"),
    [
        ("$ORIGIN/../lib", True),
        ("${ORIGIN}", True),
        ("../lib", False),  # trap 12: depends on the working directory
        ("$", False),
        ("$ORIGIN/../lib:.", False),
        ("/opt/x", False),
        ("$ORIGINAL/lib", False),
    ],
)
def test_a_runpath_that_does_not_begin_with_origin_is_unsafe(tmp_path, runpath, safe):
    source, program = tmp_path / "a.c", tmp_path / "a"
    source.write_text("int main(void) { return 0; }\n")
    flags = ["-Wl,--enable-new-dtags", f"-Wl,-rpath,{runpath}"]
    subprocess.run(["gcc", str(source), "-o", str(program), *flags], check=True)
    section = binary.dynamic(program)
    assert section.runpath == tuple(runpath.split(":"))
    assert section.runpath_is_safe is safe
    assert "libc.so.6" in section.needed


def test_what_is_no_elf_file_has_no_dynamic_section(tmp_path):
    file = tmp_path / "a"
    for content in (b"", b"\x7fELF", b"#!/bin/sh\n" * 20, Path(__file__).read_bytes()):
        file.write_bytes(content)
        assert binary.dynamic(file) is None
