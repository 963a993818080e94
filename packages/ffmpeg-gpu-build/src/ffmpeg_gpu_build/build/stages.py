"""The stages of a build, in order: fetch, unpack, configure, compile, install.

Each is a function that takes a `Work` and leaves its result there and in the work folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from . import apt, bundle, headers, install, make, source, toolchain
from .description import Plan
from .make import BuildError
from .work import Options, State, Work, fingerprint

# What configure is told; the install does not care where it lies.
NOMINAL_PREFIX = "/opt/ffmpeg-gpu-build"


def fetch_source(plan: Plan, options: Options) -> source.Checked:
    """The checked tarball, from where `options.source` says. Raises SourceError, AptError."""
    kept = options.work / "source"
    kept.mkdir(parents=True, exist_ok=True)
    if options.source not in ("auto", "url", "apt"):
        file = Path(options.source)
        if not file.is_file():
            raise source.SourceError(f"source: no such file: {file}", "no-file")
        signature = file.with_name(file.name + ".asc")
        return source.check(
            file,
            plan.version,
            signature=signature if signature.is_file() else None,
            sha256=options.sha256,
        )
    for file in kept.glob("ffmpeg*.tar.*"):
        signature = file.with_name(file.name + ".asc")
        signed = signature if signature.is_file() else None  # without, its SHA-256 must be pinned
        if file.suffix != ".asc":
            with contextlib.suppress(source.SourceError):
                return source.check(file, plan.version, signature=signed, sha256=options.sha256)
    reasons = []
    for way in ("apt", "url") if options.source == "auto" else (options.source,):
        try:
            if way == "apt":
                got, signed = apt.PrivateApt(options.work / "headers" / "apt").fetch_source(
                    "ffmpeg", plan.version
                )
                shutil.copy2(got, kept)
                got = kept / got.name
                signed = Path(shutil.copy2(signed, kept)) if signed else None
            else:
                got, signed = source.download(plan.version, kept)
            return source.check(got, plan.version, signature=signed, sha256=options.sha256)
        except (apt.AptError, source.SourceError) as error:
            if getattr(error, "code", "") in ("wrong-checksum", "bad-signature"):
                raise
            reasons.append(str(error))
    raise source.SourceError("source: FFmpeg cannot be had: " + "; ".join(reasons), "offline")


def dependencies(plan: Plan, options: Options, env: Mapping[str, str] | None = None) -> None:
    """Install what is missing if that was asked for; else BuildError "missing" with the command.

    Without `env`, before anything is fetched, what will be unpacked is not counted; with it,
    pkg-config sees the unpacked headers.
    """
    command = toolchain.manager()[1]
    unpackable = set(plan.unpack) if env is None else set()

    def look() -> list[toolchain.Missing]:
        return [m for m in toolchain.missing(plan, env) if not set(m.packages) & unpackable]

    lacking, lost = look(), ""
    if lacking and options.install_deps and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = sorted({p for m in lacking for p in m.packages})
        options.say("fetch", f"installing {' '.join(packages)}")
        failed = apt.install(packages)
        lost = "".join(f"; {package}: {reason}" for package, reason in failed.items())
        lacking = look()
    if lacking:
        what = "; ".join(f"{m.component} needs {m.what}" for m in lacking)
        names = " ".join(sorted({p for m in lacking for p in m.packages}))
        raise BuildError(
            f"missing: {what}{lost}\n  cure: {command} {names}"
            f"{', or --install-deps as root' if command.startswith('apt') else ''}, "
            "or take the component out (--without)",
            "missing",
        )


def configure_line(plan: Plan, options: Options, glslang: str | None) -> list[str]:
    """configure's arguments with the tools of this machine filled in."""
    tools = {"glslang": glslang or "glslang"}
    if plan.cuda == "llvm" and "cuda-filters" in plan.components:
        tools["clang"] = toolchain.find_clang() or "clang"
    elif "cuda-filters" in plan.components:
        tools["nvccflags"] = toolchain.nvcc_flags() or ""
    compiler = "ccache gcc" if options.ccache and shutil.which("ccache") else "gcc"
    return [f"--prefix={NOMINAL_PREFIX}", f"--cc={compiler}", *plan.configure_line(tools)]


def fetch(work: Work) -> None:
    """The checked tarball, the headers and tools that the system lacks, and the configure line."""
    plan, options = work.plan, work.options
    dependencies(plan, options)
    options.say("fetch", f"FFmpeg {plan.version}")
    work.checked = fetch_source(plan, options)
    options.say("fetch", "headers")
    if plan.unpack:
        work.unpacked = headers.provide(plan, work.folder / "headers")
    raised = headers.floor_raised(plan, work.unpacked.env)
    if raised:
        raise BuildError(raised, "floor")
    dependencies(plan, options, work.env)
    work.configure = configure_line(plan, options, work.unpacked.glslang)
    digest = fingerprint(plan, work.configure, work.checked.sha256)
    work.state = State(work.folder / "state.json", digest)
    work.state.keep({"unpack": work.tree / "configure", "configure": work.objects / "config.h"})


def unpack(work: Work) -> None:
    """The sources, in place of those of another plan."""
    assert work.checked is not None
    work.options.say("unpack", work.checked.file.name)
    work.log.unlink(missing_ok=True)
    shutil.rmtree(work.objects, ignore_errors=True)
    shutil.rmtree(work.tree, ignore_errors=True)
    for half in work.folder.glob(".unpack-*"):  # of a run that was killed
        shutil.rmtree(half, ignore_errors=True)
    top = f"ffmpeg-{work.plan.version}"
    source.unpack(work.checked.file, work.folder, top).rename(work.tree)


def configure(work: Work) -> None:
    """configure, held to every part that was asked for."""
    work.options.say("configure", "about a minute")
    shutil.rmtree(work.objects, ignore_errors=True)
    work.objects.mkdir()
    command = [str(work.tree / "configure"), *work.configure]
    config_log = work.objects / "ffbuild" / "config.log"
    make.run_logged("configure", command, work.objects, work.log, work.env, None, [config_log])
    make.assert_enabled(work.plan, work.objects, work.log)


def compile_all(work: Work) -> None:
    """make; what an earlier run made is not made again."""
    make.compile_all(work.objects, work.log, work.env, work.options.jobs, work.options.tell)


def install_all(work: Work) -> None:
    """make install aside, made relocatable, with its papers, then moved to the prefix."""
    work.options.say("install", str(work.options.prefix))
    root = work.folder / "staged"
    shutil.rmtree(root, ignore_errors=True)
    command = ["make", "install", f"DESTDIR={root}"]
    make.run_logged("install", command, work.objects, work.log, work.env)
    staged = root / NOMINAL_PREFIX.lstrip("/")
    install.set_runpaths(staged)
    carried = bundle.carry(staged, work.plan.components) if work.options.bundle else []
    work.facts = install.write_papers(work, staged, carried)
    install.put_in_place(staged, work.options.prefix)


STAGES: dict[str, Callable[[Work], None]] = {
    "fetch": fetch,
    "unpack": unpack,
    "configure": configure,
    "compile": compile_all,
    "install": install_all,
}
