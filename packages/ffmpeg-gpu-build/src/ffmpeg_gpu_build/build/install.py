"""An install that may be moved: search paths by $ORIGIN, its papers, and one rename at the end."""

from __future__ import annotations

import glob
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import proc
from . import binary, bundle, make, manifest, toolchain
from .description import Plan, version_key
from .make import BuildError
from .work import Work


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


def write_papers(
    work: Work, staged: Path, carried: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Put manifest, bill of materials and licences into a staged install; the manifest. `carried`
    are the system's libraries that go along.
    """
    assert work.checked is not None
    plan = work.plan
    manifest.relocate_pkgconfig(staged)
    found = manifest.manifest(
        plan,
        checked=work.checked,
        configure=work.configure,
        staged=staged,
        env=work.env,
        unpacked=work.unpacked.versions,
        licence=make.licence(work.objects),
    )
    found["bundled"] = list(carried)
    found["needs_of_system"] = bundle.system_needs(staged)
    assert_floors(plan, found)
    folder = staged / manifest.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    bill = manifest.bill_of_materials(plan, found)
    (folder / "manifest.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "sbom.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")
    for file in ("COPYING.LGPLv3", *(["COPYING.GPLv3"] if plan.licence != "lgpl" else [])):
        shutil.copy2(work.tree / file, folder)
    return found


def tidy(prefix: Path) -> None:
    """Put right what a kill between the two renames of `put_in_place` left: the build before comes
    back, and nothing lies beside it. The caller holds the prefix.
    """
    for aside in prefix.parent.glob(f".{glob.escape(prefix.name)}-*"):
        if not aside.is_dir() or not {p.name for p in aside.iterdir()} <= {"old", "new"}:
            continue
        if (aside / "old").exists() and not prefix.exists():
            (aside / "old").rename(prefix)
        shutil.rmtree(aside)


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
