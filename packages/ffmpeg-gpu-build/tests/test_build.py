"""The build, on a small stand-in for FFmpeg's tree: stages, resuming, locks, stops, full disks.

The stand-in has a configure, a Makefile and the output format of FFmpeg's; compiled by gcc in a
second.
"""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from ffmpeg_gpu_build.build import (
    builder,
    bundle,
    install,
    manifest,
    source,
    stages,
    toolchain,
)
from ffmpeg_gpu_build.build.builder import Options, build
from ffmpeg_gpu_build.build.description import resolve
from ffmpeg_gpu_build.build.make import BuildError
from ffmpeg_gpu_build.build.manifest import FOLDER
from ffmpeg_gpu_build.build.source import SourceError
from ffmpeg_gpu_build.verification import fate

CONFIGURE = """#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
for a in "$@"; do case "$a" in --prefix=*) prefix=${a#--prefix=};; esac; done
echo configured >> "$COUNT"
if [ "$WAIT_IN" = configure ]; then touch "$WAIT"; sleep 60; fi
mkdir -p ffbuild; echo log > ffbuild/config.log
{ for m in $MACROS; do echo "#define $m 1"; done
  echo '#define FFMPEG_LICENSE "LGPL version 3 or later"'; } > config.h
: > config_components.h
sed "s|@PREFIX@|$prefix|g; s|@SRC@|$here|g" "$here/Makefile.in" > Makefile
"""
MAKEFILE = """
L = libavcodec.so.9.0.0
all: ffmpeg
$(L): @SRC@/lib.c
\t@printf "CC\\t%s\\n" lib.o
\t@if [ "$$WAIT_IN" = compile ]; then touch "$$WAIT"; sleep 60; fi
\t@if [ -n "$$FULL" ]; then cat @SRC@/lib.c > /dev/full; fi
\tgcc -shared -fPIC -Wl,-soname,$(L) $< -o $@
ffmpeg: @SRC@/main.c $(L)
\t@printf "LD\\t%s\\n" ffmpeg
\tgcc $< $(L) -o $@
fate-list:
\t@printf "fate-good\\nfate-iamf\\nfate-bad\\nfate-other\\n"
fate-other:
\t@printf "TEST\\t%s\\n+++ tests/data/fate/other\\tnow\\n" $@; exit 1
fate-good fate-bad:
\t@printf "TEST\\t%s\\n" $@
\t@case "$$LD_LIBRARY_PATH" in *libavcodec*libswscale*) ;; *) exit 127;; esac
\t@mkdir -p tests/data/fate; echo "one bit is off" > tests/data/fate/bad.err
\t@[ $@ = fate-good ]
fate-iamf:
\t@printf "TEST\\t%s\\n" $@
install: all
\t@if [ -n "$$NOINSTALL" ]; then exit 1; fi
\t@if [ "$$WAIT_IN" = install ]; then touch "$$WAIT"; sleep 60; fi
\tmkdir -p "$(DESTDIR)@PREFIX@/bin" "$(DESTDIR)@PREFIX@/lib/pkgconfig"
\tcp ffmpeg "$(DESTDIR)@PREFIX@/bin/"; cp $(L) "$(DESTDIR)@PREFIX@/lib/"
\tprintf 'prefix=@PREFIX@\\nlibdir=@PREFIX@/lib\\nName: x\\nDescription: x\\nVersion: 9\\n' \\
\t  > "$(DESTDIR)@PREFIX@/lib/pkgconfig/libavcodec.pc"
"""


@pytest.fixture
def stage(need, tmp_path, monkeypatch):
    """A tarball of the stand-in, its plan and options; configure's runs are counted in a file."""
    need("patchelf", "make", "gcc")
    tree = tmp_path / "ffmpeg-9.9.9"
    tree.mkdir()
    (tree / "configure").write_text(CONFIGURE)
    (tree / "configure").chmod(0o755)
    (tree / "Makefile.in").write_text(MAKEFILE)
    (tree / "lib.c").write_text('const char *avcodec_name(void) { return "stand-in"; }\n')
    (tree / "main.c").write_text(
        "#include <stdio.h>\nconst char *avcodec_name(void);\n"
        "int main(void) { puts(avcodec_name()); return 0; }\n"
    )
    for name in ("COPYING.LGPLv3", "COPYING.GPLv3"):
        (tree / name).write_text("a licence\n")
    file = tmp_path / "ffmpeg-9.9.9.tar.xz"
    with tarfile.open(file, "w:xz") as archive:
        archive.add(tree, "ffmpeg-9.9.9")
    shutil.rmtree(tree)
    profile = tmp_path / "mine.toml"
    profile.write_text("version = '9.9.9'\ncomponents = ['base', 'transcode']\n")
    plan = resolve(profile)
    monkeypatch.setattr("ffmpeg_gpu_build.build.toolchain.missing", lambda *_: [])
    monkeypatch.setenv("MACROS", " ".join(plan.component_macros()))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    (tmp_path / "a place").mkdir()
    options = Options(
        prefix=tmp_path / "a place" / "built",
        work=tmp_path / "work",
        source=str(file),
        sha256=source.sha256_of(file),
    )
    return plan, options


def configured(options):
    return (options.work.parent / "count").read_text().count("configured")


def leftovers(options):
    return [p.name for p in options.prefix.parent.iterdir() if p != options.prefix]


def test_a_build_ends_whole_with_its_papers_and_may_be_moved(stage):
    plan, options = stage
    steps = []
    options.tell = steps.append
    made = build(plan, options)
    assert made.resumed == ()
    assert {s.stage for s in steps} >= {"fetch", "unpack", "configure", "compile", "install"}
    last = [s for s in steps if s.stage == "compile"][-1]
    assert (last.done, last.total) == (2, 2)
    moved = options.prefix.parent / "moved here"
    options.prefix.rename(moved)
    assert subprocess.run([moved / "bin" / "ffmpeg"], capture_output=True).stdout == b"stand-in\n"
    papers = json.loads((moved / FOLDER / "manifest.json").read_text())
    assert papers["ffmpeg"] == "9.9.9"
    assert papers["source_sha256"] == options.sha256
    assert papers["licence"] == "LGPL version 3 or later"
    assert papers["files"]["bin/ffmpeg"] == source.sha256_of(moved / "bin" / "ffmpeg")
    bill = json.loads((moved / FOLDER / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["metadata"]["component"]["version"] == "9.9.9"
    assert (moved / FOLDER / "COPYING.LGPLv3").is_file()
    pc = (moved / "lib" / "pkgconfig" / "libavcodec.pc").read_text()
    assert "prefix=${pcfiledir}/../..\nlibdir=${prefix}/lib\n" in pc


def test_the_manifest_names_the_compilers_that_were_used_and_no_other(need, tmp_path, monkeypatch):
    need("make")
    said = {
        "clang-19": "clang version 19.1.7",
        "nvcc": "Cuda compilation tools, release 13.0, V13.0.88",
        "ccache": "ccache version 4.8",
        "glslang": "Glslang Version: 11:15.1.0",
    }
    for name, text in said.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho 'a maker'\necho '{text}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    line = ["--cc=ccache gcc", "--nvcc=clang-19", f"--glslc={tmp_path}/glslang", "--enable-zlib"]
    found = manifest.compilers(line)
    assert found.keys() == {"gcc", "make", "clang-19", "glslang"} | (found.keys() & {"nasm"})
    assert found["gcc"].startswith("gcc")
    assert found["clang-19"] == said["clang-19"]
    assert found["glslang"] == said["glslang"]
    assert manifest.compilers(["--nvcc=nvcc"])["nvcc"] == said["nvcc"]


def test_what_was_done_is_not_done_again(stage):
    plan, options = stage
    build(plan, options)
    again = build(plan, options)
    assert again.resumed == ("unpack", "configure", "compile")
    assert configured(options) == 1


@pytest.mark.parametrize(
    ("gone", "resumed"), [("src", ()), ("objects", ("unpack",)), ("src/configure", ())]
)
def test_a_stage_whose_result_was_cleaned_away_is_done_again(stage, gone, resumed):
    plan, options = stage
    build(plan, options)
    lost = options.work / gone
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    assert build(plan, options).resumed == resumed


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_stop_between_the_two_renames_brings_back_the_build_before(tmp_path, monkeypatch, error):
    prefix, staged = tmp_path / "built", tmp_path / "staged"
    for folder, text in ((prefix, "before"), (staged, "new")):
        folder.mkdir()
        (folder / "which").write_text(text)
    real = Path.rename

    def rename(self, target):
        moved = real(self, target)
        if Path(target).name == "old":
            raise error("stopped just after")
        return moved

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(error):
        install.put_in_place(staged, prefix)
    assert (prefix / "which").read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["built"]


def test_another_configure_line_configures_anew_and_edits_no_makefile(stage, tmp_path):
    plan, options = stage  # trap 9: a changed config.mak would compile everything, or lie
    build(plan, options)
    profile = tmp_path / "mine.toml"
    profile.write_text(profile.read_text() + "configure = ['--extra-version=x']\n")
    again = build(resolve(profile), options)
    assert again.resumed == ()
    assert configured(options) == 2


def test_fate_counts_and_names_what_failed(stage):
    plan, options = stage
    with pytest.raises(BuildError, match="is not finished"):
        fate.run(options.work)
    build(plan, options)
    (options.work / "objects" / "ffbuild" / "config.mak").touch()
    done = fate.run(options.work, jobs=1)
    assert (done.passed, done.total) == (2, 4)
    differs = "its output differs from the reference"
    assert done.failed == {"fate-bad": "one bit is off", "fate-other": differs}
    assert fate.run(options.work, only="good$").failed == {}
    with pytest.raises(BuildError, match="no test matches"):
        fate.run(options.work, only="nothing")


def test_a_full_disk_is_named_and_the_build_goes_on_where_it_was(stage, monkeypatch):
    plan, options = stage
    monkeypatch.setenv("FULL", "1")
    with pytest.raises(BuildError, match="the disk is full") as caught:
        build(plan, options)
    assert caught.value.code == "disk-full"
    assert not options.prefix.exists()
    monkeypatch.delenv("FULL")
    assert build(plan, options).resumed == ("unpack", "configure")
    assert configured(options) == 1


def test_a_failed_install_leaves_the_build_that_was_there(stage, monkeypatch):
    plan, options = stage
    build(plan, options)
    before = (options.prefix / FOLDER / "manifest.json").read_bytes()
    monkeypatch.setenv("NOINSTALL", "1")
    with pytest.raises(BuildError, match="install failed"):
        build(plan, options)
    assert (options.prefix / FOLDER / "manifest.json").read_bytes() == before
    assert leftovers(options) == [".built.lock"]


def test_a_part_that_configure_left_out_ends_the_build_before_make(stage, monkeypatch):
    plan, options = stage
    macros = [m for m in plan.component_macros() if m != "CONFIG_H264_DECODER"]
    monkeypatch.setenv("MACROS", " ".join(macros))
    with pytest.raises(BuildError, match="transcode: h264_decoder"):
        build(plan, options)
    assert not options.prefix.exists()
    monkeypatch.setenv("MACROS", " ".join(plan.component_macros()))
    assert build(plan, options).resumed == ("unpack",)


def test_a_wrong_checksum_stops_before_anything_is_unpacked(stage):
    plan, options = stage
    options.sha256 = "0" * 64
    with pytest.raises(SourceError):
        build(plan, options)
    assert not (options.work / "src").exists()


def test_a_tarball_that_was_fetched_is_not_asked_for_again(stage, monkeypatch):
    plan, options = stage
    kept = options.work / "source"
    kept.mkdir(parents=True)
    shutil.copy2(options.source, kept)
    options.source = "auto"

    def offline(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("ffmpeg_gpu_build.build.source.download", offline)
    monkeypatch.setattr("ffmpeg_gpu_build.build.apt.PrivateApt", offline)
    assert stages.fetch_source(plan, options).sha256 == options.sha256


def test_a_wrong_signature_stops_before_anything_is_unpacked(need, stage):
    plan, options = stage
    need("gpgv")
    signature = Path(options.source + ".asc")
    signature.write_text("-----BEGIN PGP SIGNATURE-----\n\naGVsbG8=\n-----END PGP SIGNATURE-----\n")
    with pytest.raises(SourceError, match="do not use this file") as caught:
        build(plan, options)
    assert caught.value.code == "bad-signature"
    assert not (options.work / "src").exists()
    assert not options.prefix.exists()


@pytest.mark.parametrize("shared", ["a place/.built.lock", "work/.build.lock"])
def test_two_builds_in_one_prefix_or_work_folder_do_not_meet(stage, shared):
    plan, options = stage
    options.work.mkdir()
    with (options.work.parent / shared).open("a+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="another build is at work") as caught:
            build(plan, options)
        assert caught.value.code == "busy"
    assert build(plan, options).prefix.is_dir()


def test_a_folder_that_is_no_build_of_ours_is_not_replaced(stage):
    plan, options = stage
    options.prefix.mkdir()
    (options.prefix / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match="no build of ours"):
        build(plan, options)
    assert (options.prefix / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("inside", [".", "work"])
def test_a_prefix_that_would_replace_the_work_folder_is_refused(stage, inside):
    plan, options = stage
    options.prefix = options.work.parent / "both"
    options.work = options.prefix / inside
    with pytest.raises(BuildError, match="which an install replaces") as caught:
        build(plan, options)
    assert caught.value.code == "bad-work"
    assert not options.prefix.exists()


@pytest.mark.parametrize("name", ["my work", "a:b", "$(touch evil)", "a'b", 'a"b', "a\nb", "a;b"])
def test_a_work_folder_that_make_would_read_as_a_command_is_refused(stage, name):
    plan, options = stage
    options.work = options.work.parent / name
    with pytest.raises(BuildError, match="letters, digits") as caught:
        build(plan, options)
    assert caught.value.code == "bad-work"
    assert not options.work.exists()


@pytest.mark.parametrize(
    "name", ["-i", "a\nb", "`touch evil`", "$(touch evil)", "a b'c\"d;e", "é%s"]
)
def test_a_prefix_may_have_any_name_and_is_never_run(stage, name, monkeypatch):
    plan, options = stage
    monkeypatch.chdir(options.work.parent)
    options.prefix = options.prefix.parent / name
    before = set(options.work.parent.rglob("*evil*"))
    build(plan, options)
    build(plan, options)  # over the one before
    assert set(options.work.parent.rglob("evil")) == before
    assert sorted(leftovers(options)) == [f".{name}.lock"]
    moved = options.prefix.parent / "moved"
    options.prefix.rename(moved)
    assert subprocess.run([moved / "bin" / "ffmpeg"], capture_output=True).stdout == b"stand-in\n"


@pytest.mark.parametrize("at", builder.STAGES)
def test_ctrl_c_at_the_start_of_any_stage_leaves_a_build_that_goes_on(stage, at):
    plan, options = stage

    def tell(step):
        if step.stage == at:
            raise KeyboardInterrupt

    options.tell = tell
    with pytest.raises(KeyboardInterrupt):
        build(plan, options)
    assert not options.prefix.exists()
    assert leftovers(options) == [".built.lock"]
    options.tell = None
    resumed = build(plan, options).resumed
    assert resumed == tuple(
        s for s in builder.STAGES[1:4] if builder.STAGES.index(s) < builder.STAGES.index(at)
    )
    assert (options.prefix / "bin" / "ffmpeg").is_file()


def test_a_disk_that_is_full_while_unpacking_is_named(stage, full_disk):
    plan, options = stage
    options.work = full_disk / "work"
    with pytest.raises(BuildError, match=r"(?s)the disk is full.*goes on") as caught:
        build(plan, options)
    assert caught.value.code == "disk-full"
    assert not options.prefix.exists()


def test_a_work_folder_on_another_disk_is_no_hindrance(stage, tmp_path):
    plan, options = stage
    other = tmp_path / "other"
    other.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(other)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only where a file system can be mounted")
    try:
        options.work = other / "work"
        build(plan, options)
        again = build(plan, options)
        assert again.resumed == ("unpack", "configure", "compile")
        assert leftovers(options) == [".built.lock"]
    finally:
        subprocess.run(["umount", str(other)], check=True)
    done = subprocess.run([options.prefix / "bin" / "ffmpeg"], capture_output=True)
    assert done.stdout == b"stand-in\n"


def test_what_is_missing_is_named_with_the_command(stage, monkeypatch):
    plan, options = stage
    from ffmpeg_gpu_build.build.toolchain import Missing

    lacking = [
        Missing("program nasm", "base", ("nasm",)),
        Missing("x264", "x264", ("libx264-dev",)),
    ]
    monkeypatch.setattr("ffmpeg_gpu_build.build.toolchain.missing", lambda *_: lacking)
    monkeypatch.setattr(stages, "fetch_source", None)  # said before anything is fetched
    with pytest.raises(BuildError, match="apt-get install libx264-dev nasm") as caught:
        build(plan, options)
    assert caught.value.code == "missing"
    text = builder.dry_run(plan, options)
    assert "missing   x264: x264" in text
    assert not options.prefix.exists()


SLOW = pytest.mark.slow
PYTHON_STAGES = ("fetch", "unpack")  # of ours alone: the others wait inside configure and make
ENDED = [
    (number, where)
    for where in builder.STAGES
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGKILL)
]
QUICK = {
    (signal.SIGHUP, "fetch"), (signal.SIGKILL, "unpack"), (signal.SIGINT, "configure"),
    (signal.SIGTERM, "compile"), (signal.SIGKILL, "compile"), (signal.SIGKILL, "install"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("number", "where"),
    [pytest.param(*case, marks=() if case in QUICK else SLOW) for case in ENDED],
)
def test_whatever_ends_a_stage_ends_every_process_and_the_next_run_goes_on(
    stage, tmp_path, number, where
):
    _, options = stage
    waiting = tmp_path / "waiting"
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from ffmpeg_gpu_build.build import stages, toolchain as t; t.missing = lambda *_: []\n"
        "def held(stage):\n"
        "    def run(work):\n"
        "        stage(work)\n"
        "        if 'WAIT' in os.environ: Path(os.environ['WAIT']).touch(); time.sleep(60)\n"
        "    return run\n"
        "at = os.environ.get('WAIT_IN', '')\n"
        f"if at in {PYTHON_STAGES}: stages.STAGES[at] = held(stages.STAGES[at])\n"
        "from ffmpeg_gpu_build.__main__ import main; sys.exit(main(sys.argv[1:]))\n"
    )
    command = [
        sys.executable, "-c", code, "build", "--profile", str(tmp_path / "mine.toml"),
        "--prefix", str(options.prefix), "--work", str(options.work),
        "--source", options.source, "--sha256", options.sha256, "--no-ccache",
    ]  # fmt: skip
    env = {**os.environ, "WAIT": str(waiting), "WAIT_IN": where}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, start_new_session=True)
    assert until(waiting.exists, 60)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 130, err
        assert b"interrupted" in err
    assert not options.prefix.exists()
    assert until(lambda: not any(_runs_in(options.work)), 20)
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert configured(options) == (2 if where == "configure" else 1)
    assert (options.prefix / "bin" / "ffmpeg").is_file()
    assert leftovers(options) == [".built.lock"]
    assert not list(options.work.glob(".unpack-*"))


def until(true, seconds):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


@pytest.mark.parametrize("at", builder.STAGES)
def test_a_disk_that_is_full_at_any_stage_is_named_and_the_build_goes_on(stage, monkeypatch, at):
    plan, options = stage
    whole = stages.STAGES[at]

    def full(work):
        whole(work)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(stages.STAGES, at, full)
    if at == "install":
        monkeypatch.setitem(stages.STAGES, at, whole)
        monkeypatch.setattr(install.shutil, "move", lambda *_: _enospc())
    with pytest.raises(BuildError, match=r"(?s)the disk is full.*goes on") as caught:
        build(plan, options)
    assert caught.value.code == "disk-full"
    assert not options.prefix.exists()
    assert leftovers(options) == [".built.lock"]
    monkeypatch.undo()
    monkeypatch.setattr("ffmpeg_gpu_build.build.toolchain.missing", lambda *_: [])
    monkeypatch.setenv("MACROS", " ".join(plan.component_macros()))
    monkeypatch.setenv("COUNT", str(options.work.parent / "count"))
    build(plan, options)
    assert (options.prefix / "bin" / "ffmpeg").is_file()


def _enospc():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("old", [True, False])
def test_a_kill_between_the_two_renames_is_put_right_by_the_next_build(stage, old):
    plan, options = stage
    build(plan, options)
    aside = options.prefix.with_name(".built-abc123")
    aside.mkdir()
    if old:
        options.prefix.rename(aside / "old")
    (aside / "new").mkdir()
    install.tidy(options.prefix)
    assert (options.prefix / "bin" / "ffmpeg").is_file()
    assert leftovers(options) == [".built.lock"]


def _runs_in(folder: Path):
    """Processes whose working folder lies below `folder`."""
    for process in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if str(folder) in os.readlink(process):
                yield process
        except OSError:
            continue


def test_the_papers_say_what_goes_along_and_what_the_machine_must_have(stage, monkeypatch):
    plan, options = stage
    row = {
        "file": "lib/libx.so.1",
        "package": "libx1",
        "version": "1:2-3",
        "licence": "l",
        "sha256": "0",
    }
    monkeypatch.setattr(bundle, "carry", lambda *_: [row])
    options.bundle = True
    build(plan, options)
    papers = json.loads((options.prefix / FOLDER / "manifest.json").read_text())
    assert papers["bundled"] == [row]
    assert "libc.so.6" in papers["needs_of_system"]["libraries"]
    bill = json.loads((options.prefix / FOLDER / "sbom.cdx.json").read_text())
    (part,) = [p for p in bill["components"] if p["bom-ref"] == "lib/libx.so.1"]
    assert part["purl"] == "pkg:generic/libx1@1%3A2-3"
    assert part["bom-ref"] in bill["dependencies"][0]["dependsOn"]


@pytest.mark.parametrize(
    ("program", "command", "package"),
    [("dnf", "dnf install", "x264-devel"), ("pacman", "pacman -S", "x264")],
)
def test_what_is_missing_has_its_name_on_this_system(
    monkeypatch, tmp_path, program, command, package
):
    (tmp_path / program).write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    plan = resolve("small")
    assert toolchain.manager()[1] == command
    lacking = toolchain.missing(plan)
    assert package in {p for m in lacking if m.component == "x264" for p in m.packages}
    with pytest.raises(BuildError, match=f"cure: {command} .*clang") as caught:
        stages.dependencies(plan, Options(tmp_path / "p", tmp_path / "w"), {})
    assert "--install-deps" not in str(caught.value)
