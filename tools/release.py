#!/usr/bin/env python3
"""From a commit to a release: check, render, build, test and index the six conda packages.

  python tools/release.py --dry-run              check everything, show what would be built
  python tools/release.py                        all variants, dependencies from conda-forge
  python tools/release.py --variant cpu          only the CPU builds (and the pure Python packages)
  python tools/release.py --package spconv-lite --variant cuda130

Steps: versions, pins, changelog and metadata must agree (tests/test_metadata_agrees.py and
tests/test_recipes_render.py); the recipes are rendered from recipes/variants.yaml; each package is
built in dependency order, tested in a fresh prefix by its recipe's tests, checked (at most 5 MB,
licence, types, no tests, no path of the build machine, no library outside the prefix) and added to
a channel. Beside it: sdists, wheels, logs, manifest.json and SHA256SUMS. What speaks against
publishing stands in the manifest; publishing itself is `rattler-build upload` (docs/releasing.md).

Install from the result:  conda install -c file:///.../output/release/channel spconv-lite

Exit codes: 0 all built, 1 something failed, 2 wrong arguments, 130 interrupted.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn, TextIO

import workspace
from workspace import PYTHON, ROOT

AGREEMENT = ("tests/test_metadata_agrees.py", "tests/test_recipes_render.py")
FOLDERS = ("cache", "channel", "logs", "unpacked", "work", "python")
FILES = ("manifest.json", "SHA256SUMS")
LOCK = ".lock"


def say(text: str) -> None:
    print(text, flush=True)


def wrong(text: str) -> NoReturn:
    """Refuse the arguments."""
    say(text)
    sys.exit(2)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="check and show the plan only")
    parser.add_argument(
        "--package", action="append", metavar="NAME", help="only this one; repeatable"
    )
    parser.add_argument(
        "--variant",
        action="append",
        metavar="KIND",
        help="cpu, cuda129, cuda130 or a beginning of the build string such as cpu_py311; "
        "repeatable; pure Python packages have one build, which belongs to every kind",
    )
    parser.add_argument(
        "--channel",
        action="append",
        metavar="CHANNEL",
        help="where dependencies come from (default: conda-forge); repeatable, first wins",
    )
    parser.add_argument("--no-test", action="store_true", help="skip the recipe tests")
    parser.add_argument("--no-wheels", action="store_true", help="no sdists and wheels")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "output" / "release",
        help="emptied first, where it holds a release and nothing else (default: output/release/)",
    )
    parser.add_argument(
        "--repository",
        metavar="URL",
        help="write the public address into tools/release.toml, recipes, pyproject files and "
        "CITATION.cff; nothing is built",
    )
    parser.add_argument(
        "--maintainer",
        action="append",
        metavar="ACCOUNT",
        help="the same for the accounts that maintain the recipes on conda-forge; repeatable",
    )
    options = parser.parse_args()
    options.package = [name.replace("_", "-") for name in options.package or ()]
    options.out = options.out.resolve()
    return options


def agreement(names: list[str]) -> bool:
    """Versions, pins, changelog, licences and metadata agree, of the named packages or of all."""
    say("check: versions, pins, licences, metadata and recipes agree")
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", *AGREEMENT]
    others = [name for name in workspace.SIX if names and name not in names]
    if others:
        command += ["-k", f"not ({' or '.join(others)})"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    lines += done.stdout.splitlines()[-1:]
    say("    " + "\n    ".join(lines))
    version = (ROOT / "VERSION").read_text().strip()
    changed = f"\n## {version} (" in (ROOT / "CHANGELOG.md").read_text()
    if not changed:
        say(f"    CHANGELOG.md has no heading '## {version} (...)'")
    return done.returncode == 0 and changed


def chosen(options: argparse.Namespace) -> list:
    """The builds that --package and --variant leave, in build order; exits where that is none."""
    from shipping import recipes

    builds = [b for name in recipes.names() for b in recipes.render(name)]
    known = {build.name for build in builds}
    known = {name.removesuffix("-dev") for name in known}
    wanted = set(options.package or known)
    if unknown := wanted - known:
        wrong(f"no recipe for {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")
    builds = [build for build in builds if build.name.removesuffix("-dev") in wanted]
    kinds = tuple(options.variant or ())
    if kinds:
        builds = [b for b in builds if b.kind == "noarch" or b.string.startswith(kinds)]
    if not builds:
        wrong(f"no variant begins with {' or '.join(kinds)}")
    return recipes.in_build_order(builds)


def claim(folder: Path) -> TextIO:
    """Lock and empty `folder`; exits where it is not a release's, or in use by another.

    The file that is returned holds the lock for as long as it is open.
    """
    own = {*FOLDERS, *FILES, *(f"{name}.part" for name in FILES), LOCK}
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if strange := sorted(present - own):
        wrong(f"--out {folder} holds {strange[0]}, which is no release's: name another")
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        wrong(f"--out {folder} is being filled by another release")
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in FILES:  # a release that breaks off leaves no manifest, not that of the one before
        (folder / name).unlink(missing_ok=True)
    return lock


def python_files(options: argparse.Namespace, names: set[str]) -> tuple[list[Path], list[str]]:
    """An sdist and, from it alone, a wheel of each package; and what failed, as sentences."""
    from shipping import wheels

    made, failed = [], []
    for package in workspace.packages([name for name in workspace.SIX if name in names]):
        say(f"wheel: {package.name}")
        scratch = options.out / "work" / f"sdist-{package.name}"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            made += wheels.build_from_sdist(package.folder, options.out / "python", scratch)
        except (RuntimeError, OSError) as error:
            failed.append(f"sdist and wheel of {package.name}: {error}")
            say(f"    failed: {error}")
    return made, failed


def show(builds: list) -> None:
    say(f"plan: {len(builds)} builds, in this order")
    for build in builds:
        say(f"    {build.file_name:60} {build.subdir}")


def release(options: argparse.Namespace, builds: list) -> int:
    """Build, test and describe; returns the exit code."""
    from shipping import channel

    made = channel.Release(options.out, options.channel or ["conda-forge"])
    failed = channel.build_all(made, builds, say, lambda build: not options.no_test)
    files, without = [], []
    if not options.no_wheels:
        files, without = python_files(options, {build.name for build in builds})
    names = [text.splitlines()[0] for text in [*failed, *without]]
    manifest = made.write_manifest(files, tested=not options.no_test, failed=names)
    for name in ("work", "unpacked"):
        shutil.rmtree(options.out / name, ignore_errors=True)
    say(f"{len(made.artifacts)} packages, {len(names)} failed: {options.out}/manifest.json")
    for reason in manifest["objections"]:
        say(f"not publishable: {reason}")
    return 1 if names else 0


def write_settings(options: argparse.Namespace) -> int:
    """Write --repository and --maintainer, and say into which files."""
    from shipping import address

    repository, maintainers = address.settings()
    changed = address.write(options.repository or repository, options.maintainer or maintainers)
    for path in changed:
        say(f"written: {path.relative_to(ROOT)}")
    return 0


def main() -> int:
    options = arguments()
    if Path(sys.prefix).resolve() != workspace.VENV.resolve():
        workspace.ensure_environment(workspace.packages())
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    if options.repository or options.maintainer:
        return write_settings(options)
    builds = chosen(options)
    agreed = agreement(options.package)
    show(builds)
    if options.dry_run:
        return 0 if agreed else 1
    if not agreed:
        say("nothing was built: what is released must agree first")
        return 1
    try:
        with claim(options.out):
            return release(options, builds)
    except KeyboardInterrupt:
        say(f"interrupted: {options.out} has no manifest and is no release")
        return 130


if __name__ == "__main__":
    sys.exit(main())
