"""Build FFmpeg in stages that can be taken up again: fetch, unpack, configure, compile, install.

A state file in the work folder says which stages are done for which plan; a stage that was broken
off is done again, and make goes on where it was. The install is put together aside and renamed, so
the prefix holds a whole build or the one before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import apt, binary, headers, make, manifest, proc, source, toolchain
from .description import Plan, releases, version_key
from .make import BuildError, Step

STAGES = ("fetch", "unpack", "configure", "compile", "install")
# What configure is told; the install does not care where it lies.
NOMINAL_PREFIX = "/opt/ffmpeg-gpu-build"


@dataclass
class Options:
    """How to build: where, from what, with what."""

    prefix: Path
    work: Path
    source: str = "auto"  # auto, url, apt, or the path of a tarball
    sha256: str | None = None
    jobs: int = 2
    install_deps: bool = False
    ccache: bool = True
    tell: Callable[[Step], None] | None = None

    def say(self, stage: str, text: str) -> None:
        """One line of progress."""
        if self.tell:
            self.tell(Step(stage, 0, 0, None, text))


@dataclass(frozen=True)
class Built:
    """A finished build: where, its manifest, and which stages had been done before."""

    prefix: Path
    facts: dict[str, Any]
    resumed: tuple[str, ...]


def default_work(plan: Plan) -> Path:
    """The work folder of a plan below the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ffmpeg-gpu-build" / f"{plan.version}-{plan.profile}-{plan.cuda}"


@contextmanager
def only_one(prefix: Path) -> Iterator[None]:
    """Hold the prefix for this build; BuildError "busy" if another build holds it.

    The lock ends with the process, however that ends.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with (prefix.parent / f".{prefix.name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BuildError(
                f"another build is at work on {prefix}; wait for it, or take another --prefix",
                "busy",
            ) from None
        yield


class State:
    """Which stages are done, and for which plan: another plan begins anew."""

    def __init__(self, file: Path, fingerprint: str) -> None:
        self.file, self.fingerprint = file, fingerprint
        self.done: list[str] = []
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            old = json.loads(file.read_text())
            if old["fingerprint"] == fingerprint:
                self.done = [s for s in STAGES if s in old["done"]]

    def keep(self, there: Mapping[str, Path]) -> None:
        """Forget a stage whose result is gone (a cleaned cache), and all after it."""
        for stage, result in there.items():
            if stage in self.done and not result.exists():
                self.done = self.done[: self.done.index(stage)]

    def finish(self, stage: str) -> None:
        """Note a stage, aside and renamed."""
        self.done.append(stage)
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps({"fingerprint": self.fingerprint, "done": self.done}))
        part.replace(self.file)


def fetch(plan: Plan, options: Options) -> source.Checked:
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
            f"missing: {what}{lost}\n  cure: apt-get install {names}, or --install-deps as root, "
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


def fingerprint(plan: Plan, line: list[str], sha256: str) -> str:
    """Equal for builds that would be the same."""
    text = json.dumps([plan.version, line, sha256])
    return hashlib.sha256(text.encode()).hexdigest()


def set_runpaths(staged: Path) -> None:
    """Let programs and libraries find each other by their own place, and check that they do.

    Raises BuildError if a search path does not begin with $ORIGIN.
    """
    pairs = [(p, "$ORIGIN/../lib") for p in (staged / "bin").iterdir()]
    pairs += [(p, "$ORIGIN") for p in (staged / "lib").glob("lib*.so.*.*.*")]
    for file, path in pairs:
        done = proc.run(["patchelf", "--set-rpath", path, file])
        section = binary.dynamic(file)
        if not done.ok or section is None or section.runpath != (path,):
            raise BuildError(f"install: {file.name} did not take its RUNPATH: {done.err.strip()}")


def assert_floors(plan: Plan, facts: Mapping[str, Any]) -> None:
    """Hold the finished libraries to the driver floors of the plan.

    Raises BuildError, code "floor", if NVENC asks for another driver than its headers should, or
    the CUDA filters for more than PTX 5.0 and sm_50 though clang compiled them.
    """
    got, expected = facts["nvenc_driver_floor"], facts["nvenc_driver_floor_expected"]
    if expected and got != expected:
        raise BuildError(
            f"install: NVENC asks for driver {got}, its headers for {expected}", "floor"
        )
    ptx = facts["ptx"]
    if plan.cuda != "llvm" or not ptx:
        return
    version, target = version_key(ptx["version"]), version_key(ptx["target"])
    if version > toolchain.HIGHEST_PTX or target > toolchain.HIGHEST_TARGET:
        raise BuildError(
            f"install: the CUDA filters are PTX {ptx['version']} for {ptx['target']}, more than "
            "5.0 and sm_50: clang took the version of a CUDA toolkit; pass it "
            "--cuda-path=/nonexistent",
            "floor",
        )


def stage_install(
    plan: Plan, work: Path, log: Path, env: Mapping[str, str], facts: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """make install into the work folder, made relocatable, with its papers; (folder, manifest)."""
    build, root = work / "objects", work / "staged"
    shutil.rmtree(root, ignore_errors=True)
    make.run_logged("install", ["make", "install", f"DESTDIR={root}"], build, log, env)
    staged = root / NOMINAL_PREFIX.lstrip("/")
    set_runpaths(staged)
    manifest.relocate_pkgconfig(staged)
    found = manifest.manifest(plan, staged=staged, env=env, **facts)
    assert_floors(plan, found)
    folder = staged / manifest.FOLDER
    folder.mkdir(parents=True)
    bill = manifest.bill_of_materials(plan, found)
    (folder / "manifest.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "sbom.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")
    for file in ("COPYING.LGPLv3", *(["COPYING.GPLv3"] if plan.licence != "lgpl" else [])):
        shutil.copy2(work / "src" / file, folder)
    return staged, found


def put_in_place(staged: Path, prefix: Path) -> None:
    """Move a finished install to the prefix: whole or not at all, the one before kept till then.

    Never by a shell or make, so a prefix may have any name.
    """
    aside = Path(tempfile.mkdtemp(prefix=f".{prefix.name}-", dir=prefix.parent))
    try:
        shutil.move(staged, aside / "new")  # a copy where the work folder is on another disk
        if prefix.exists():
            prefix.rename(aside / "old")
        (aside / "new").rename(prefix)
    finally:
        if (aside / "old").exists() and not prefix.exists():  # stopped between the two renames
            (aside / "old").rename(prefix)
        shutil.rmtree(aside, ignore_errors=True)


def build(plan: Plan, options: Options) -> Built:
    """Build a plan into a prefix; see the stages above.

    Raises BuildError, SourceError or AptError with the cause and the cure. After any failure, and
    after Ctrl-C, the same call goes on where this one ended.
    """
    if not re.fullmatch(r"[\w./+@,-]+", str(options.work)):
        raise BuildError(
            f"work: make cannot work below {str(options.work)!r}: take a folder of letters, digits "
            "and . _ + @ , - only (--work); the prefix may have any name",
            "bad-work",
        )
    prefix = options.prefix
    if prefix.resolve() in (options.work.resolve(), *options.work.resolve().parents):
        raise BuildError(
            f"prefix: the work folder {options.work} is in {prefix}, which an install replaces: "
            "take another --prefix or --work",
            "bad-work",
        )
    ours = (prefix / manifest.FOLDER / "manifest.json").exists()
    if prefix.exists() and not ours and not (prefix.is_dir() and not any(prefix.iterdir())):
        raise BuildError(
            f"prefix: {prefix} is there and is no build of ours: take an empty folder", "not-ours"
        )
    options.work.mkdir(parents=True, exist_ok=True)
    with only_one(options.prefix), only_one(options.work / "build"):
        try:
            return _build(plan, options)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
            if not full:
                raise
            raise BuildError(
                f"the disk is full: {error}\n  cure: free space in {options.work} and "
                f"{options.prefix.parent}; the build goes on where it was",
                "disk-full",
            ) from None


def _build(plan: Plan, options: Options) -> Built:
    work = options.work
    log, objects, tree = work / "log.txt", work / "objects", work / "src"
    dependencies(plan, options)
    options.say("fetch", f"FFmpeg {plan.version}")
    checked = fetch(plan, options)
    options.say("fetch", "headers")
    unpacked = (
        headers.provide(plan, work / "headers") if plan.unpack else headers.Unpacked({}, None, {})
    )
    raised = headers.floor_raised(plan, unpacked.env)
    if raised:
        raise BuildError(raised, "floor")
    dependencies(plan, options, unpacked.env)
    line = configure_line(plan, options, unpacked.glslang)
    state = State(work / "state.json", fingerprint(plan, line, checked.sha256))
    state.keep({"unpack": tree / "configure", "configure": objects / "config.h"})
    resumed = tuple(state.done)
    if "unpack" not in state.done:
        options.say("unpack", checked.file.name)
        log.unlink(missing_ok=True)
        shutil.rmtree(objects, ignore_errors=True)
        shutil.rmtree(tree, ignore_errors=True)
        source.unpack(checked.file, work, f"ffmpeg-{plan.version}").rename(tree)
        state.finish("unpack")
    if "configure" not in state.done:
        options.say("configure", "about a minute")
        shutil.rmtree(objects, ignore_errors=True)
        objects.mkdir()
        config_log = objects / "ffbuild" / "config.log"
        make.run_logged(
            "configure",
            [str(tree / "configure"), *line],
            objects,
            log,
            unpacked.env,
            None,
            [config_log],
        )
        make.assert_enabled(plan, objects, log)
        state.finish("configure")
    if "compile" not in state.done:
        make.compile_all(objects, log, unpacked.env, options.jobs, options.tell)
        state.finish("compile")
    options.say("install", str(options.prefix))
    facts = {
        "checked": checked,
        "configure": line,
        "unpacked": unpacked.versions,
        "licence": make.licence(objects),
    }
    staged, found = stage_install(plan, work, log, unpacked.env, facts)
    put_in_place(staged, options.prefix)
    return Built(options.prefix, found, resumed)


def dry_run(plan: Plan, options: Options) -> str:
    """The whole plan with what this machine has and lacks; nothing is fetched or written."""
    from .emit import summary

    lines = [summary(plan), "", "on this machine"]
    lacking = toolchain.missing(plan)
    unpackable = set(plan.unpack)
    later = [m for m in lacking if set(m.packages) & unpackable]
    now = [m for m in lacking if m not in later]
    lines += [f"  missing   {m.component}: {m.what}  [{' '.join(m.packages)}]" for m in now]
    lines += [f"  unpacked  {m.component}: {m.what}" for m in later]
    good, bad = (
        apt.resolvable(sorted({p for m in now for p in m.packages}))
        if shutil.which("apt-cache")
        else ([], [])
    )
    if good:
        lines.append(f"  apt-get install {' '.join(good)}")
    lines += [f"  not in this machine's sources: {p}" for p in bad]
    if not now:
        lines.append("  nothing is missing")
    lines += ["", f"source: {options.source}; work: {options.work}; prefix: {options.prefix}"]
    key = releases()["key"]["fingerprint"]
    lines.append(
        f"the tarball must have the SHA-256 above and be signed by {key} where it has an .asc"
    )
    return "\n".join(lines)
