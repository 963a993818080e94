"""The commands: what each takes, and what it does."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .terminal import Line, count_argument, size_argument


def _ffmpeg_argument(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--ffmpeg", metavar="PATH", help="program or its folder (default: $FFMPEG, PATH)"
    )


def _profile_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--profile", default="small", help="small, full or the path of your own .toml")
    p.add_argument("--release", metavar="X.Y.Z", help="FFmpeg release instead of the profile's")
    p.add_argument("--cuda", choices=("llvm", "nvcc"), help="compiler of the CUDA filters")
    p.add_argument(
        "--headers",
        metavar="SERIES",
        help="of NVIDIA's headers, e.g. 11.1: sets the driver that NVENC needs (default 12.1)",
    )
    for option, dest, what in (("--with", "add", "add"), ("--without", "drop", "leave out")):
        p.add_argument(
            option,
            dest=dest,
            action="append",
            default=[],
            metavar="COMPONENT",
            help=f"{what} a component, e.g. x265; may be given again",
        )


def _plan(a: argparse.Namespace) -> Any:
    from .build.description import resolve

    return resolve(
        a.profile, version=a.release, cuda=a.cuda, headers=a.headers, add=a.add, drop=a.drop
    )


def _verify_arguments(p: argparse.ArgumentParser) -> None:
    _ffmpeg_argument(p)
    p.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="the report as JSON (or into FILE)"
    )
    p.add_argument("--html", metavar="FILE", help="write the report as a page")
    p.add_argument(
        "--only", action="append", default=[], metavar="PATH", help="e.g. 'filter.*_opencl'"
    )
    p.add_argument("--require", action="append", default=[], metavar="PATH", help="must be proven")
    p.add_argument("--profile", help="the build must have all that this profile asks for")
    p.add_argument("--device", action="append", default=[], metavar="KIND=NAME", help="e.g. cuda=1")
    p.add_argument("--jobs", type=count_argument, default=2, help="checks at once (default 2)")
    p.add_argument("--brief", action="store_true", help="leave out what is absent")


def _devices(given: list[str]) -> dict[str, str]:
    """["cuda=1"] -> {"cuda": "1"}. Raises ValueError for another kind or form."""
    from .verification.judge import DEVICES

    found = dict(text.partition("=")[::2] for text in given)
    for kind, name in found.items():
        if kind not in DEVICES or not name:
            raise ValueError(f"verify: --device takes KIND=NAME, KIND one of {', '.join(DEVICES)}")
        if kind == "cuda" and not name.isdecimal():
            raise ValueError(f"verify: --device cuda=N takes the number of a GPU, got {name!r}")
    return found


def verify_command(a: argparse.Namespace) -> int:
    """proven     ran, and the pixels were compared with the CPU's
    absent     this hardware, its driver or this FFmpeg does not have it
    broken     it should run and does not, or runs and is wrong; exit code 1
    not tried  no way is known to judge it here
    """
    from .build.description import resolve
    from .verification.judge import verify
    from .verification.report import page, text

    devices = _devices(a.device)
    for file in (a.json, a.html):
        if file and file != "-" and not Path(file).absolute().parent.is_dir():
            raise ValueError(f"verify: no folder to write {file!r} into")
    line = Line()
    report = verify(
        a.ffmpeg,
        only=a.only,
        required=a.require,
        expected=resolve(a.profile).verification() if a.profile else (),
        devices=devices,
        jobs=a.jobs,
        progress=lambda n, total, v: line.show(f"{n}/{total} {v.path}"),
    )
    line.clear()
    if a.only and not report.verdicts:
        raise ValueError(f"verify: this FFmpeg has no path {' or '.join(a.only)}")
    if a.json:
        data = json.dumps(report.as_dict(), indent=1) + "\n"
        if a.json == "-":
            sys.stdout.write(data)
        else:
            Path(a.json).write_text(data, encoding="utf-8")
    if a.html:
        Path(a.html).write_text(page(report), encoding="utf-8")
    if a.json != "-":
        print(text(report, colour=sys.stdout.isatty(), all_paths=not a.brief))
    return report.exit_code


def _doctor_arguments(p: argparse.ArgumentParser) -> None:
    _ffmpeg_argument(p)
    p.add_argument(
        "log", nargs="?", help="an FFmpeg log ('-': stdin); without it the machine is asked"
    )


def doctor_command(a: argparse.Namespace) -> int:
    """With a log: which known failure it shows, and the cure. Make one with -loglevel verbose.
    Without: what stands in the way of each device on this machine.
    """
    if a.log:
        return _doctor_log(a.log)
    from .verification.judge import verify
    from .verification.report import head_lines
    from .verification.verdict import PROVEN

    report = verify(a.ffmpeg, only=["device.*", "encode.*_nvenc"])
    print("\n".join(head_lines(report)), end="\n\n")
    for verdict in report.verdicts:
        print(f"{verdict.path}: {verdict.status}: {verdict.sentence}")
        if verdict.cure and verdict.status != PROVEN:
            print(f"    {verdict.cure}")
    return 0


def _doctor_log(name: str) -> int:
    from .doctor.failures import diagnose, last_lines
    from .doctor.traps import recognise

    raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    if b"\0" in raw:
        print(f"doctor: {name!r} is no text: pass the log of a run, or `probe` a media file")
        return 1
    log = raw.decode("utf-8", "replace")
    found = recognise(log) or diagnose(log)
    if not found:
        print(
            "no known failure in this log (FFmpeg says most causes only under -loglevel verbose); "
            "its last lines:\n" + last_lines(log)
        )
        return 1
    print(f"{found.code}: {found.sentence}\n  {found.cure}\n  in the log: {found.line}")
    if found.question:
        print(f"\n{found.question} It may also be:")
        for other in found.candidates:
            sentence = re.sub(r"\{\w+\}", "...", other.sentence)
            print(f"  {other.code}: {sentence}\n    {other.cure}")
    return 0


def _probe_arguments(p: argparse.ArgumentParser) -> None:
    _ffmpeg_argument(p)
    p.add_argument("file", nargs="+", help="media files")
    _urls_argument(p)


def _urls_argument(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--urls", action="store_true", help="let playlists and filters open files and addresses"
    )


def probe_command(a: argparse.Namespace) -> int:
    """One line of JSON for each file."""
    from .media.probing import probe

    for name in a.file:
        media = probe(name, urls=a.urls, ffmpeg=a.ffmpeg)
        video = media.video
        print(
            json.dumps(
                {
                    "file": name,
                    "container": media.container,
                    "seconds": media.seconds,
                    "video": video and {**vars(video), "rate": str(video.rate)},
                    "audio": media.audio,
                    "subtitles": media.subtitles,
                }
            )
        )
    return 0


def _transcode_arguments(p: argparse.ArgumentParser) -> None:
    _ffmpeg_argument(p)
    p.add_argument("src", help="a file, or a folder: then every video below it")
    p.add_argument("dst", help="a file, or a folder")
    hw = ("auto", "cuda", "vaapi", "vulkan", "opencl", "cpu")
    p.add_argument(
        "--hw",
        default="auto",
        choices=hw,
        help="auto (default): each stage on a GPU if proven here; a device: all there, or an error",
    )
    p.add_argument(
        "--codec",
        default="h264",
        choices=("h264", "hevc", "av1", "vp9"),
        help="of the result (default h264); .webm holds vp9 and av1, .mkv and .mp4 all",
    )
    p.add_argument(
        "--size", type=size_argument, metavar="WxH", help="two even numbers, e.g. 1280x720"
    )
    p.add_argument("--filters", default="", help="a filter chain, e.g. unsharp_opencl=la=1.5")
    p.add_argument("--quality", type=int, default=23, help="0 (best) to 51 (default 23)")
    p.add_argument("--bitrate", help="e.g. 4M, instead of --quality")
    p.add_argument(
        "--audio",
        default="auto",
        choices=("auto", "copy", "aac", "opus", "none"),
        help="auto (default): copied where the container takes it, else encoded",
    )
    p.add_argument("--device", action="append", default=[], help="e.g. 0; again for several GPUs")
    p.add_argument(
        "--sessions",
        type=count_argument,
        default=2,
        help="files at once on each device (default 2)",
    )
    p.add_argument(
        "--suffix", default=".mp4", help="ending of the files of a folder (default .mp4)"
    )
    p.add_argument("--overwrite", action="store_true", help="replace a result that is there")
    p.add_argument(
        "--hdr",
        default="keep",
        choices=("keep", "sdr"),
        help="sdr: tone-map PQ and HLG to BT.709; keep (default) notes them",
    )
    p.add_argument(
        "--no-strict",
        action="store_true",
        help="write what is there of a damaged source, with a note, instead of an error",
    )
    _urls_argument(p)


def transcode_command(a: argparse.Namespace) -> int:
    """Each stage runs on the GPU only if `verify` proves it on this machine; the notes say why not.
    The result appears under its name only when it is whole.
    """
    common = {
        "hw": a.hw, "codec": a.codec, "size": a.size, "filters": a.filters, "quality": a.quality,
        "bitrate": a.bitrate, "audio": a.audio, "ffmpeg": a.ffmpeg, "overwrite": a.overwrite,
        "strict": not a.no_strict, "hdr": a.hdr, "urls": a.urls,
    }  # fmt: skip
    if Path(a.src).is_dir():
        return _transcode_folder(a, common)
    from .media.transcoding import transcode

    line, started = Line(), time.monotonic()

    def tell(p: Any) -> None:
        part = f"{100 * p.fraction:3.0f} %  " if p.fraction is not None else ""
        passed = time.monotonic() - started
        left = f"  {passed / p.fraction - passed:.0f} s left" if p.fraction else ""
        line.show(f"{part}frame {p.frame}  {p.speed:.1f}x{left}")

    done = transcode(a.src, a.dst, device=a.device[0] if a.device else "", progress=tell, **common)
    line.clear()
    p = done.pipeline
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{done.path}: {done.frames} frames in {done.seconds:.1f} s ({done.fps:.0f} a second), "
        f"decode {p.decode}, filter {p.filter}, encode {p.encoder} ({p.encode})"
    )
    return 0


def _transcode_folder(a: argparse.Namespace, common: dict[str, Any]) -> int:
    from .media.batch import Item, transcode_folder

    def done(item: Item) -> None:
        if item.error:
            print(f"FAILED {item.src}: {item.error}", file=sys.stderr)
        elif item.result:
            print(f"{item.dst}: {item.result.frames} frames, {item.result.fps:.0f} a second")
        else:
            print(f"{item.dst}: there already")

    items = transcode_folder(
        a.src,
        a.dst,
        suffix=a.suffix,
        sessions=a.sessions,
        devices=a.device or ("",),
        done=done,
        **common,
    )
    if not items:
        print(f"ffmpeg-gpu-build: transcode: src has no videos: {a.src}", file=sys.stderr)
        return 1
    failed = sum(item.error is not None for item in items)
    print(f"{len(items) - failed} of {len(items)} files")
    return 1 if failed else 0


def _plan_arguments(p: argparse.ArgumentParser) -> None:
    _profile_arguments(p)
    p.add_argument(
        "--show",
        default="all",
        choices=("all", "configure", "apt", "rpm", "pacman", "verify", "recipe"),
        help="one list alone, for use in scripts",
    )


def plan_command(a: argparse.Namespace) -> int:
    """Components, packages, configure line, licence and what verify will judge, all from one
    description.
    """
    from .build import emit

    plan = _plan(a)
    if a.show == "configure":
        print(shlex.join(plan.configure_line()))
    elif a.show in ("apt", "rpm", "pacman"):
        print("\n".join(emit.packages_of(plan, a.show)))
    elif a.show == "verify":
        print("\n".join(plan.verification()))
    elif a.show == "recipe":
        print(emit.recipe(plan), end="")
    else:
        print(emit.summary(plan))
    return 0


def _build_arguments(p: argparse.ArgumentParser) -> None:
    _profile_arguments(p)
    p.add_argument(
        "--prefix", default="ffmpeg", help="where it goes (default: ./ffmpeg); may be moved"
    )
    p.add_argument("--work", help="where it is built (default: below the user's cache)")
    p.add_argument("--source", default="auto", help="auto, apt, url, or a tarball (.asc beside it)")
    p.add_argument("--sha256", help="of the tarball, where the release is not pinned here")
    p.add_argument(
        "--jobs", type=count_argument, default=os.cpu_count() or 2, help="files at once (all cores)"
    )
    p.add_argument(
        "--install-deps", action="store_true", help="install missing apt packages (root)"
    )
    p.add_argument(
        "--bundle",
        action="store_true",
        help="carry along the libraries that the machine may lack: runs on its glibc or newer",
    )
    p.add_argument("--no-ccache", action="store_true", help="compile without ccache")
    p.add_argument("--docker", metavar="BASE", help="print a Dockerfile, e.g. for ubuntu:24.04")
    p.add_argument("--dry-run", action="store_true", help="show the whole plan, do nothing")


def build_command(a: argparse.Namespace) -> int:
    """Fetched, checked, configured, compiled and installed in stages; after a failure or Ctrl-C
    the same command goes on where it was. The prefix holds a whole build or the one before.
    """
    from .build import builder
    from .build.apt import AptError
    from .build.make import BuildError
    from .build.source import SourceError

    plan = _plan(a)
    if a.docker:
        from .build.docker import dockerfile

        choices = [x for name in a.add for x in ("--with", name)]
        choices += ["--headers", a.headers] if a.headers else []
        choices += [x for name in a.drop for x in ("--without", name)]
        print(dockerfile(plan, a.docker, a.profile, choices), end="")
        return 0
    prefix = Path(a.prefix).absolute()
    work = Path(a.work).absolute() if a.work else builder.default_work(plan)
    line = Line()
    options = builder.Options(
        prefix=prefix, work=work, source=a.source, sha256=a.sha256, jobs=a.jobs,
        install_deps=a.install_deps, ccache=not a.no_ccache, tell=line.step,
        bundle=a.bundle,
    )  # fmt: skip
    if a.dry_run:
        print(builder.dry_run(plan, options))
        return 0
    print(f"licence: {plan.licence_sentence}")
    try:
        made = builder.build(plan, options)
    except (BuildError, SourceError, AptError) as error:
        line.clear()
        print(f"ffmpeg-gpu-build: {error}", file=sys.stderr)
        return 1
    line.clear()
    facts = made.facts
    print(f"built: {made.prefix}/bin/ffmpeg ({facts['licence']})")
    print(f"NVENC needs driver {facts['nvenc_driver_floor']}; CUDA filters: {facts['ptx']}")
    needs = facts["needs_of_system"]
    print(f"needs of a machine: glibc {needs['glibc']}; {', '.join(needs['libraries'])}")
    check = ["ffmpeg-gpu-build", "verify", "--ffmpeg", str(made.prefix), "--profile", a.profile]
    print(f"now: {shlex.join(check)}")
    return 0


def _fate_arguments(p: argparse.ArgumentParser) -> None:
    _profile_arguments(p)
    p.add_argument("--work", help="the work folder of the build (default: as `build` takes it)")
    p.add_argument("--only", default="", metavar="REGEX", help="tests whose name matches")
    p.add_argument("--samples", help="folder of FFmpeg's samples; without it, tests that need none")
    p.add_argument(
        "--jobs", type=count_argument, default=os.cpu_count() or 2, help="tests at once (all cores)"
    )
    p.add_argument("--list", action="store_true", help="name the tests, run none")


def fate_command(a: argparse.Namespace) -> int:
    """Runs on the objects of a finished build, with the library path that they need; exit code 1
    if a test fails.
    """
    from .build import builder
    from .build.make import BuildError
    from .verification import fate

    try:
        re.compile(a.only)
    except re.error as error:
        raise ValueError(
            f"fate: --only takes a regular expression, got {a.only!r}: {error}"
        ) from None
    work = Path(a.work).absolute() if a.work else builder.default_work(_plan(a))
    samples = Path(a.samples).absolute() if a.samples else None
    line = Line()
    try:
        if a.list:
            print("\n".join(fate.list_tests(work / "objects", samples)))
            return 0
        done = fate.run(work, only=a.only, samples=samples, jobs=a.jobs, tell=line.step)
    except BuildError as error:
        line.clear()
        print(f"ffmpeg-gpu-build: {error}", file=sys.stderr)
        return 1
    line.clear()
    for name, why in done.failed.items():
        print(f"FAILED {name}: {why}")
    print(f"{done.passed} of {done.total} tests passed")
    return 1 if done.failed else 0


def _clean_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")


def clean_command(a: argparse.Namespace) -> int:
    """What lies below the user's cache: work folders of builds, kept proofs and listings. A work
    folder in which a build is at work stays; exit code 1 then.
    """
    from .build.make import BuildError
    from .build.work import only_one
    from .kept import cache_folder

    stays = False
    for folder in sorted(p for p in cache_folder().glob("*") if p.is_dir()):
        size = sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20
        try:
            with only_one(folder / "build"):
                if not a.dry_run:
                    shutil.rmtree(folder)
            print(f"{'would remove' if a.dry_run else 'removed'} {folder} ({size:.1f} MiB)")
        except BuildError:
            print(f"{folder} stays: a build is at work in it", file=sys.stderr)
            stays = True
    return int(stays)


COMMANDS: dict[
    str,
    tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]],
] = {
    "verify": (
        "judge every hardware path of an FFmpeg by pixels",
        _verify_arguments,
        verify_command,
    ),
    "doctor": ("say what a failure means, and its cure", _doctor_arguments, doctor_command),
    "transcode": ("transcode a file or a folder", _transcode_arguments, transcode_command),
    "probe": ("say what is in a media file", _probe_arguments, probe_command),
    "build": ("build FFmpeg from the description", _build_arguments, build_command),
    "clean": ("remove what is kept below the user's cache", _clean_arguments, clean_command),
    "fate": ("run FFmpeg's own tests on a build", _fate_arguments, fate_command),
    "plan": ("show what a build would be made of", _plan_arguments, plan_command),
}
"""Name -> (summary, function that adds the arguments, function that does it)."""
