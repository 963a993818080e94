#!/usr/bin/env python3
"""From a commit to a release: check, render, build, test and index the six conda packages.

  python tools/release.py --dry-run              check everything, show what would be built
  python tools/release.py                        all variants, dependencies from conda-forge
  python tools/release.py --variant cpu          only the CPU builds (and the pure Python packages)
  python tools/release.py --package spconv-lite --variant cuda130
  python tools/release.py --offline              without a network: from stand-ins of this machine's
                                                 Python, wheels and compilers; never publishable
  python tools/release.py --upload prefix:NAME   the same, then publish what was built

Steps: versions, pins, changelog and metadata must agree (tests/test_metadata_agrees.py and
tests/test_recipes_render.py); the recipes are rendered from recipes/variants.yaml; each package is
built in dependency order, tested in a fresh prefix by its recipe's tests, checked (at most 5 MB,
licence, types, no tests, no path of the build machine, no library outside the prefix) and added to
a channel. Beside it: sdists, wheels, logs, manifest.json, SHA256SUMS and sbom.cdx.json (CycloneDX).

Install from the result:  conda install -c file:///.../output/release/channel spconv-lite

Exit codes: 0 all built and fit for release, 1 something failed, 2 wrong arguments, 3 not uploaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import workspace
from workspace import PYTHON, ROOT

AGREEMENT = ("tests/test_metadata_agrees.py", "tests/test_recipes_render.py")


def say(text: str) -> None:
    print(text, flush=True)


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
    parser.add_argument("--offline", action="store_true", help="dependencies are stand-ins")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="VERSION",
        help="with --offline: another Python such as 3.12, for the builds that need it; its wheels "
        "are installed with pip below build/ the first time; without torch, so not tested",
    )
    parser.add_argument("--no-test", action="store_true", help="skip the recipe tests")
    parser.add_argument("--no-wheels", action="store_true", help="no sdists and wheels")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "output" / "release", help="default: output/release/"
    )
    parser.add_argument(
        "--upload", metavar="TARGET", help="anaconda:OWNER, prefix:NAME, quetz:URL/NAME"
    )
    options = parser.parse_args()
    if options.offline and options.upload:
        parser.error("--upload: what --offline builds is never published")
    if options.offline and options.channel:
        parser.error("--offline makes its own channel: leave --channel out")
    return options


def agreement(names: list[str] | None) -> bool:
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


def chosen(options: argparse.Namespace, parser_error=sys.exit) -> list:
    """The builds that --package and --variant leave, in build order."""
    from shipping import recipes

    builds = [build for name in recipes.names() for build in recipes.render(name)]
    known = {build.name for build in builds}
    wanted = {name.replace("_", "-") for name in options.package or known}
    if unknown := wanted - known:
        parser_error(
            f"no recipe for {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}"
        )
    builds = [build for build in builds if build.name in wanted]
    kinds = tuple(options.variant or ())
    if kinds:
        builds = [b for b in builds if b.kind == "noarch" or b.string.startswith(kinds)]
    if not builds:
        parser_error(f"no variant begins with {' or '.join(kinds)}")
    return recipes.in_build_order(builds)


def offline_channel(options: argparse.Namespace, builds: list) -> tuple[list, list[str], set[str]]:
    """What stand-ins of this machine can build, their channel, the Pythons that have torch."""
    from shipping import recipes, standins

    pythons = {f"{sys.version_info.major}.{sys.version_info.minor}": PYTHON}
    for version in options.python:
        pythons[version] = standins.environment(version, recipes.required(builds))
    able = []
    for build in builds:
        why = standins.cannot_build(build, pythons)
        if why:
            say(f"    rendered only: {build.file_name}: {why}")
        else:
            able.append(build)
    folder = options.out / "standins"
    shutil.rmtree(folder, ignore_errors=True)
    if able and not options.dry_run:
        packages = standins.make_channel(
            folder, list(pythons.values()), recipes.required(able), standins.COMPILER_CACHE
        )
        say(f"    {len(packages)} stand-ins in {folder}")
    with_torch = {version for version, path in pythons.items() if standins.has_torch(path)}
    return able, [str(folder)], with_torch


def python_files(options: argparse.Namespace, names: set[str]) -> list[Path]:
    """An sdist and, from it alone, a wheel of each package."""
    from shipping import wheels

    made = []
    for package in workspace.packages([name for name in workspace.SIX if name in names]):
        say(f"wheel: {package.name}")
        scratch = options.out / "work" / f"sdist-{package.name}"
        shutil.rmtree(scratch, ignore_errors=True)
        made += wheels.build_from_sdist(package.folder, options.out / "python", scratch)
    return made


def main() -> int:
    options = arguments()
    if Path(sys.prefix).resolve() != workspace.VENV.resolve():
        workspace.ensure_environment(workspace.packages())
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    from shipping import channel, upload

    if options.upload:
        try:
            upload.target(options.upload)
        except ValueError as error:
            say(str(error))
            return 2
    options.out = options.out.resolve()
    agreed = agreement(options.package)
    builds = chosen(options)
    sources = options.channel or ["conda-forge"]
    say(f"plan: {len(builds)} builds, in this order")
    with_torch = None
    if options.offline:
        builds, sources, with_torch = offline_channel(options, builds)
    for build in builds:
        say(f"    {build.file_name:60} {build.subdir}")
    if options.dry_run:
        return 0 if agreed else 1
    if not agreed:
        say("nothing was built: what is released must agree first")
        return 1

    for name in ("cache", "channel", "logs", "unpacked", "work", "python"):
        shutil.rmtree(options.out / name, ignore_errors=True)
    release = channel.Release(options.out, sources, fresh_cache=options.offline)

    def tested(build) -> bool:
        possible = with_torch is None or build.python is None or build.python in with_torch
        return possible and not options.no_test

    failed = channel.build_all(release, builds, say, tested)
    made = [] if options.no_wheels else python_files(options, {build.name for build in builds})
    manifest = release.write_manifest(made)
    for name in ("work", "unpacked"):
        shutil.rmtree(options.out / name, ignore_errors=True)
    say(f"{len(release.artifacts)} packages, {len(failed)} failed: {options.out}/manifest.json")
    for text in failed:
        say(f"failed: {text.splitlines()[0]}")
    if not manifest["publishable"]:
        say("not publishable: built from stand-ins")
    if failed:
        return 1
    if options.upload:
        if found := upload.objections(manifest, tested=not options.no_test):
            say("not uploaded:\n    " + "\n    ".join(found))
            return 3
        upload.upload([artifact.path for artifact in release.artifacts], options.upload)
        say(f"uploaded {len(release.artifacts)} packages to {options.upload}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
