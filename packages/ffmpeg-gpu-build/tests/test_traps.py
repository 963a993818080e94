"""The traps of building FFmpeg with GPU parts: each one stays closed.

Numbered as they were met. Number 9 (a changed config.mak) is held by test_build's "configures
anew", 14 (exit code 0 proves nothing) by test_verify's "wrong pixels" and the filter checks.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffmpeg_gpu_build.build import apt, binary, emit, headers, install, make, toolchain
from ffmpeg_gpu_build.build.description import (
    DescriptionError,
    components,
    profiles,
    resolve,
    version_key,
)
from ffmpeg_gpu_build.build.make import BuildError
from ffmpeg_gpu_build.doctor import traps
from ffmpeg_gpu_build.verification import fate


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder in front of PATH, and a function that puts a shell script there."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(name, body):
        file = folder / name
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)
        return file

    return write


NVCC = """
for a in "$@"; do case "$a" in *compute_30*|*compute_35*|*compute_5*|*compute_6*|*compute_70*)
  echo "nvcc fatal   : Unsupported gpu architecture '${a%%,*}'" >&2; exit 1;; esac; done
exit 0"""


def test_1_an_nvcc_that_dropped_old_gpus_gets_the_lowest_it_knows(programs):
    programs("nvcc", NVCC)
    assert toolchain.nvcc_flags() == "-gencode arch=compute_75,code=sm_75 -O2"
    plan = resolve("small", cuda="nvcc")
    line = plan.configure_line({"nvccflags": toolchain.nvcc_flags()})
    assert "--nvccflags=-gencode arch=compute_75,code=sm_75 -O2" in line
    programs("nvcc", "exit 1")
    assert toolchain.nvcc_flags() is None


@pytest.fixture
def configured(tmp_path):
    """What configure leaves: all parts of the small profile but those a test takes out."""
    plan = resolve("small")

    def leave(without=(), config_log=""):
        (tmp_path / "ffbuild").mkdir(exist_ok=True)
        (tmp_path / "ffbuild" / "config.log").write_text(config_log)
        lines = [f"#define {m} {int(m not in without)}" for m in plan.component_macros()]
        (tmp_path / "config.h").write_text("\n".join(lines[:20]) + "\n")
        (tmp_path / "config_components.h").write_text("\n".join(lines[20:]) + "\n")
        return plan, tmp_path

    return leave


def test_2_vulkan_filters_that_configure_dropped_without_a_word_are_an_error(configured):
    gone = [m for m in resolve("small").component_macros() if m.endswith("_VULKAN_FILTER")]
    assert len(gone) > 10
    plan, folder = configured(gone, "glslc: error: invalid value 'vulkan1.4' in '--target-env'\n")
    with pytest.raises(BuildError, match="scale_vulkan_filter") as caught:
        make.assert_enabled(plan, folder, folder / "log")
    assert caught.value.code == "glslc-too-old"
    assert "glslang 15" in str(caught.value)


@pytest.mark.parametrize("macro", ["CONFIG_SCALE_CUDA_FILTER", "CONFIG_OPENCL", "CONFIG_LIBX264"])
def test_2_any_part_that_was_asked_for_and_is_off_is_an_error(configured, macro):
    make.assert_enabled(*configured(), Path("log"))
    with pytest.raises(BuildError, match=macro.removeprefix("CONFIG_").lower()) as caught:
        make.assert_enabled(*configured([macro]), Path("log"))
    assert caught.value.code == "dropped"


def test_3_a_glslang_that_passes_configure_and_fails_in_make_is_not_taken(programs):
    old = programs("glslang", 'echo "Glslang Version: 11:12.0.0"')
    programs("glslangValidator", 'echo "Glslang Version: 11:12.0.0"')
    assert toolchain.glslang_version(str(old)) == (12, 0)
    assert toolchain.find_glslang() is None
    new = programs("glslang", 'echo "Glslang Version: 11:15.1.0"')
    assert toolchain.find_glslang() == str(new)
    glslc = programs("glslc", 'echo "shaderc v2023.2"')
    assert toolchain.glslang_version(str(glslc)) is None


def test_4_vulkan_headers_that_are_too_old_are_seen_before_the_build(need, tmp_path):
    need("pkg-config")
    (tmp_path / "vulkan.pc").write_text("Name: v\nDescription: v\nVersion: 1.3.239\n")
    env = {"PKG_CONFIG_LIBDIR": str(tmp_path), "PKG_CONFIG_PATH": ""}
    lacking = toolchain.missing(resolve("small"), env)
    assert "vulkan >= 1.3.277" in [m.what for m in lacking]
    (tmp_path / "vulkan.pc").write_text("Name: v\nDescription: v\nVersion: 1.4.309\n")
    lacking = toolchain.missing(resolve("small"), env)
    assert "vulkan >= 1.3.277" not in [m.what for m in lacking]


@pytest.fixture
def unpacking(need, tmp_path, monkeypatch):
    """The headers that `provide` would unpack, on a machine that has what a test puts there."""
    need("pkg-config")
    got = []

    class Apt:
        def __init__(self, *_):
            pass

        def unpack(self, package, lowest, into):
            got.append(package)
            into.mkdir(parents=True, exist_ok=True)
            (into / "usr").mkdir(exist_ok=True)
            return lowest

    monkeypatch.setattr(headers, "PrivateApt", Apt)
    monkeypatch.setattr(headers, "find_glslang", lambda *_: "glslang")
    for name in ("PKG_CONFIG_LIBDIR", "C_INCLUDE_PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PKG_CONFIG_PATH", "")

    def has(module, version):
        (tmp_path / f"{module}.pc").write_text(f"Name: x\nDescription: x\nVersion: {version}\n")

    def spirv(text):
        (tmp_path / "spirv" / "unified1").mkdir(parents=True, exist_ok=True)
        (tmp_path / "spirv" / "unified1" / "spirv.h").write_text(text)

    def provide():
        got.clear()
        headers.provide(resolve("small"), tmp_path / "fresh" / str(len(list(tmp_path.iterdir()))))
        return set(got)

    return has, spirv, provide


def test_4_and_5_vulkan_and_spirv_headers_are_unpacked_where_the_systems_are_too_old(
    unpacking, tmp_path
):
    has, spirv, provide = unpacking
    has("vulkan", "1.3.239")
    has("SPIRV-Headers", "1.5.5")  # what every version says of itself
    spirv("typedef int SpvOp;\n")
    assert {"libvulkan-dev", "spirv-headers"} <= provide()
    has("vulkan", "1.4.309")
    spirv("typedef int SpvFPEncoding;\n")
    shutil.rmtree(tmp_path / "fresh")
    assert not {"libvulkan-dev", "spirv-headers"} & provide()


def test_4_an_include_path_of_the_user_stays_behind_the_unpacked_headers(
    unpacking, tmp_path, monkeypatch
):
    has, _, _ = unpacking
    has("vulkan", "1.4.309")
    fresh = tmp_path / "fresh"
    for package in ("libvulkan-dev", "spirv-headers"):  # the first one from an older build
        (fresh / package / "usr" / "include").mkdir(parents=True)
    made = headers.provide(resolve("small"), fresh)
    assert made.versions["libvulkan-dev"] == "the system's"
    assert made.env["C_INCLUDE_PATH"].split(":") == [
        str(fresh / "spirv-headers" / "usr" / "include"),
        str(tmp_path),
    ]


@pytest.mark.parametrize(
    ("version", "taken"), [("11.1.5.2", False), ("12.1.14.0", True), ("13.1.2.0", False)]
)
def test_17_nvidia_headers_that_would_raise_the_driver_floor_are_not_taken(
    unpacking, tmp_path, version, taken
):
    has, _, provide = unpacking
    has("ffnvcodec", version)
    assert ("libffmpeg-nvenc-dev" not in provide()) == taken
    why = headers.floor_raised(resolve("small"), {})
    assert (why is None) == (not version.startswith("13"))  # lower ones ask for an older driver
    if version.startswith("13"):
        assert "driver 610.00 in place of 530.41.03" in why


def test_headers_are_chosen_and_with_them_the_driver_that_nvenc_needs(unpacking, tmp_path):
    has, _, _ = unpacking
    plan = resolve("small", headers="11.1")
    assert "driver 470.57.02 or newer" in emit.summary(plan)
    assert "ffnvcodec-headers 11.1.*" in plan.conda_host
    with pytest.raises(apt.AptError, match=r"git clone -b n11\.1\.5\.3"):
        headers.provide(plan, tmp_path / "fresh")
    has("ffnvcodec", "12.1.14.0")
    assert "driver 530.41.03 in place of 470.57.02" in headers.floor_raised(plan, {})
    has("ffnvcodec", "11.1.5.3")
    assert headers.floor_raised(plan, {}) is None
    assert headers.system_will_do("libffmpeg-nvenc-dev", "11.1.5.3")
    with pytest.raises(DescriptionError, match="must be one of"):
        resolve("small", headers="9.0")
    with pytest.raises(DescriptionError, match="no NVIDIA part"):
        resolve("small", headers="12.0", drop=["nvenc", "nvdec", "cuda-filters"])


def test_6_npp_is_refused_with_its_successors_named():
    with pytest.raises(DescriptionError, match="scale_cuda for scale_npp"):
        resolve("small", add=["npp"])


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.sampled_from(sorted(components().keys() - {"base"}))),
    st.sampled_from(["llvm", "nvcc"]),
)
def test_8_the_licence_switches_are_set_for_any_set_of_components(chosen, cuda):
    plan = resolve("full", cuda=cuda, drop=set(components()) - chosen - {"base"}, add=["fdkaac"])
    line = plan.configure_line()
    gpl = bool({"x264", "x265"} & set(plan.components))
    nonfree = "fdkaac" in plan.components or ("cuda-filters" in plan.components and cuda == "nvcc")
    assert ("--enable-gpl" in line) == gpl
    assert ("--enable-nonfree" in line) == nonfree
    assert "--enable-version3" in line
    assert ("unredistributable" in plan.licence_sentence) == nonfree


@pytest.mark.parametrize("profile", profiles())
def test_11_nothing_is_taken_up_that_was_not_asked_for(profile):
    assert resolve(profile).configure_line()[0] == "--disable-autodetect"


def test_16_a_library_without_a_pc_file_is_seen_before_the_build(tmp_path):
    plan = resolve("small", add=["mp3"])  # Debian's libmp3lame-dev has none
    nothing = {"C_INCLUDE_PATH": ""}
    there = toolchain.c_compiles("#include <lame/lame.h>\n", nothing)
    assert ("header lame/lame.h" in [m.what for m in toolchain.missing(plan, nothing)]) != there
    (tmp_path / "lame").mkdir()
    (tmp_path / "lame" / "lame.h").touch()
    found = toolchain.missing(plan, {"C_INCLUDE_PATH": str(tmp_path)})
    assert "header lame/lame.h" not in [m.what for m in found]


@pytest.mark.parametrize("profile", profiles())
def test_18_the_build_is_hardened_but_not_by_what_breaks_ffv1_on_gcc_12(profile):
    line = " ".join(resolve(profile).configure_line())
    assert "hardened" not in line  # it brings -fstack-protector-all
    assert "-fstack-protector-all" not in line
    for flag in ("-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-z,now", "-z,relro", "-pie"):
        assert flag in line


def test_7_clangs_warning_about_the_cuda_version_is_harmless(programs):
    for name in toolchain.CLANGS:
        programs(name, "exit 1")
    assert toolchain.find_clang() is None
    warning = "clang: warning: CUDA version is newer than the latest supported version 11.5"
    programs("clang-14", f'echo "{warning}" >&2; exit 0')
    assert toolchain.find_clang() == "clang-14"


def test_15_a_cuda_toolkit_does_not_raise_the_ptx_version(tmp_path):
    name = toolchain.find_clang()
    if name is None:
        pytest.skip("no clang: apt-get install clang")
    source, out = tmp_path / "a.cu", tmp_path / "a.ptx"
    source.write_text('extern "C" __attribute__((global)) void f(int *p) { *p = 1; }\n')
    line = next(a for a in resolve("small").configure_line() if a.startswith("--nvccflags="))
    flags = line.removeprefix("--nvccflags=").split()
    assert set(toolchain.CLANG_FLAGS) <= set(flags)
    more = ["-S", "-nocudalib", "-nocudainc", "--cuda-device-only"]
    subprocess.run([name, *flags, *more, str(source), "-o", str(out)], check=True)
    head = binary._ptx_head(out.read_bytes())
    assert head.target == "sm_50"
    assert version_key(head.version) <= (5, 0)


def test_15_libraries_with_a_higher_floor_are_not_installed():
    plan = resolve("small")
    facts = {
        "nvenc_driver_floor": "530.41.03",
        "nvenc_driver_floor_expected": "530.41.03",
        "ptx": {"modules": 10, "version": "4.2", "target": "sm_50"},
    }
    install.assert_floors(plan, facts)
    with pytest.raises(BuildError, match=r"PTX 8\.5 for sm_50"):
        install.assert_floors(plan, facts | {"ptx": facts["ptx"] | {"version": "8.5"}})
    with pytest.raises(BuildError, match=r"asks for driver 570\.0"):
        install.assert_floors(plan, facts | {"nvenc_driver_floor": "570.0"})


def test_10_one_missing_package_loses_no_other(programs):
    programs("apt-cache", '[ "$2" = libfdk-aac-dev ] && exit 0; echo "  Candidate: 1.0"')
    good, bad = apt.resolvable(["libx264-dev", "libfdk-aac-dev", "nasm"])
    assert (good, bad) == (["libx264-dev", "nasm"], ["libfdk-aac-dev"])
    programs(
        "apt-get",
        'for p in "$@"; do :; done; [ "$p" = libfdk-aac-dev ] || exit 0\n'
        'echo "E: Unable to locate package $p" >&2; exit 100',
    )
    failed = apt.install(["libx264-dev", "libfdk-aac-dev", "nasm"])
    assert failed == {"libfdk-aac-dev": "E: Unable to locate package libfdk-aac-dev"}


def test_12_programs_and_libraries_find_each_other_after_a_move(need, tmp_path):
    need("patchelf", "gcc")
    staged = tmp_path / "a prefix"
    (staged / "bin").mkdir(parents=True)
    (staged / "lib").mkdir()
    code, main = tmp_path / "l.c", tmp_path / "m.c"
    code.write_text("int answer(void) { return 7; }\n")
    main.write_text("int answer(void); int main(void) { return answer(); }\n")
    library = staged / "lib" / "libavx.so.1.0.0"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", code, "-o", library, "-Wl,-soname,libavx.so.1.0.0"], check=True
    )
    wrong = ["-Wl,-rpath,../lib"]  # what FFmpeg's own flags end up as
    subprocess.run(["gcc", main, library, "-o", staged / "bin" / "ffmpeg", *wrong], check=True)
    install.set_runpaths(staged)
    moved = tmp_path / "elsewhere"
    staged.rename(moved)
    assert subprocess.run([moved / "bin" / "ffmpeg"], cwd="/").returncode == 7


def test_13_fate_gets_all_seven_library_folders(tmp_path):
    folders = fate.library_path(tmp_path).split(":")
    assert len(folders) == 7
    assert str(tmp_path / "libswresample") in folders


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("nvcc fatal   : Unsupported gpu architecture 'compute_60'", "nvcc-architecture"),
        ("ERROR: failed checking for nvcc.", "nvcc-check-failed"),
        ("glslc: error: invalid value 'vulkan1.4' in '--target-env=vulkan1.4'", "glslc-too-old"),
        ("error: '' : GL_EXT_spec_constant_composites required", "glslang-too-old"),
        ("ERROR: vulkan requested but not found", "vulkan-headers-too-old"),
        ("ops.c:77: error: unknown type name 'SpvFPEncoding'", "spirv-headers-too-old"),
        ("WARNING: libnpp has been removed and enabling it does nothing.", "npp-retired"),
        ("ERROR: libnpp support is deprecated, version 13.0 and up are not", "npp-retired"),
        ("libx264 is gpl and --enable-gpl is not specified.", "licence-gate"),
        ("cuda_nvcc is nonfree and --enable-nonfree is not specified.", "licence-gate"),
        (
            "libfdk_aac is incompatible with the gpl and --enable-nonfree is not specified.",
            "licence-gate",
        ),
        ("E: Unable to locate package libfdk-aac-dev", "no-such-package"),
        ("make: *** [tests/Makefile:1: fate-x] Error 127", "fate-loader"),
        ("ERROR: cuda_llvm requested but not found", "no-clang"),
        ("ERROR: ffnvcodec requested but not found", "headers-too-old"),
        ("/bin/sh: 1: nasm: not found", "no-assembler"),
        ("bash: nasm: command not found", "no-assembler"),
        ("x86_64-conda-linux-gnu-cc: fatal error: Killed signal terminated program cc1", "killed"),
        ("ERROR: x265 not found using pkg-config", "dependency-not-found"),
        ("nasm/yasm not found or too old. Use --disable-x86asm", "no-assembler"),
        ("gcc is unable to create an executable file.", "no-compiler"),
        ("fatal error: error writing to /x.s: No space left on device", "disk-full"),
        ("gcc: fatal error: Killed signal terminated program cc1", "killed"),
    ],
)
def test_logs_of_a_build_are_recognised(log, code):
    found = traps.recognise(f"CC\tlibavutil/x.o\n{log}\nmake: leaving\n")
    assert found is not None
    assert found.code == code
    assert found.cure
    assert "{" not in found.sentence


@pytest.mark.parametrize(
    "log",
    [
        "make: xsltproc: No such file or directory\nmake: *** [Makefile:9: doc] Error 127",
        "ffmpeg: error while loading shared libraries: libavdevice.so.61: cannot open",
    ],
)
def test_13_what_is_no_test_of_fate_is_not_laid_to_its_loader(log):
    assert traps.recognise(log) is None


def test_the_licence_gate_names_what_and_which_switch():
    found = traps.recognise("libx264 is gpl and --enable-gpl is not specified.")
    assert found.sentence == "libx264 needs --enable-gpl: it changes the licence of the whole build"
