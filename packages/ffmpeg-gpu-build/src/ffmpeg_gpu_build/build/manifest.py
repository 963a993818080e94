"""What lies beside the binaries: a manifest of the build and a CycloneDX bill of materials."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import __version__, proc
from . import binary
from .description import Plan, components, nvenc_floor
from .emit import headers_version
from .source import Checked, sha256_of
from .toolchain import module_version

FOLDER = Path("share/ffmpeg-gpu-build")


def _version_line(program: str) -> str | None:
    """The line of `program --version` that has a number in it."""
    try:
        text = proc.run([program, "--version"], timeout=30).out.decode("utf-8", "replace")
    except OSError:
        return None
    return next((line for line in text.splitlines() if re.search(r"\d+\.\d+", line)), None)


def compilers(configure: list[str]) -> dict[str, str]:
    """The compilers that a configure line uses, by name, with what they say of their version.

    --cc is the C compiler (after a cache in front of it), --nvcc that of the CUDA filters whoever
    makes it, --glslc that of the shaders.
    """
    given = dict(
        a.split("=", 1) for a in configure if a.startswith(("--cc=", "--nvcc=", "--glslc="))
    )
    programs = [given.get("--cc", "gcc").split()[-1], "nasm", "make"]
    programs += [given[name] for name in ("--nvcc", "--glslc") if name in given]
    return {Path(p).name: line for p in programs if (line := _version_line(p))}


def linked(plan: Plan, env: Mapping[str, str]) -> dict[str, str]:
    """The libraries and headers that the plan builds against, with their pkg-config versions; ""
    where there is no .pc file to tell.
    """
    found = {}
    for component in plan.components:
        for condition in components()[component].get("needs", []):
            name = condition.split()[0]
            version = module_version(name, env)
            if version:
                found[name] = version
        found |= dict.fromkeys(components()[component].get("headers", {}), "")
    return found


def manifest(
    plan: Plan,
    checked: Checked,
    configure: list[str],
    staged: Path,
    env: Mapping[str, str],
    unpacked: Mapping[str, str],
    licence: str,
) -> dict[str, Any]:
    """Everything that made this build, and the SHA-256 of every program and library in it."""
    libraries = {p.name.split(".")[0]: p for p in (staged / "lib").glob("lib*.so.*.*.*")}
    modules = binary.ptx_modules(libraries["libavfilter"]) if "libavfilter" in libraries else []
    floor = binary.ptx_floor(modules)
    codec = libraries.get("libavcodec")
    files = [p for p in (*(staged / "bin").iterdir(), *libraries.values()) if p.is_file()]
    headers = headers_version(plan)
    return {
        "tool": f"ffmpeg-gpu-build {__version__}",
        "ffmpeg": plan.version,
        "profile": plan.profile,
        "source_sha256": checked.sha256,
        "source_signed": checked.signed,
        "licence": licence,
        "may_be_passed_on": plan.licence != "nonfree",
        "configure": configure,
        "components": list(plan.components),
        "nvenc_driver_floor": binary.nvenc_driver_floor(codec) if codec else None,
        "nvenc_driver_floor_expected": nvenc_floor(headers) if headers else None,
        "ptx": floor
        and {"modules": len(modules), "version": floor.version, "target": floor.target},
        "libraries": linked(plan, env),
        "unpacked": dict(unpacked),
        "compilers": compilers(configure),
        "files": {str(p.relative_to(staged)): sha256_of(p) for p in sorted(files)},
    }


def _carried(row: Mapping[str, Any]) -> dict[str, Any]:
    """A library of the system that goes along, in CycloneDX."""
    name, version = row["package"] or Path(row["file"]).name, row["version"]
    return {
        "type": "library",
        "bom-ref": row["file"],
        "name": name,
        **({"version": version} if version else {}),
        "purl": f"pkg:generic/{quote(name)}" + (f"@{quote(version)}" if version else ""),
        "hashes": [{"alg": "SHA-256", "content": row["sha256"]}],
        "properties": [
            {"name": "file", "value": row["file"]},
            {"name": "licence", "value": row["licence"] or "not found on the build machine"},
        ],
    }


def bill_of_materials(plan: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same as CycloneDX 1.5: FFmpeg and what it was built against.

    The serial number follows from the content, so that equal builds have equal bills.
    """
    spdx = {"lgpl": "LGPL-3.0-or-later", "gpl": "GPL-3.0-or-later"}.get(plan.licence)
    licences = [{"license": {"id": spdx} if spdx else {"name": facts["licence"]}}]
    top = {
        "type": "application",
        "bom-ref": f"ffmpeg@{plan.version}",
        "name": "ffmpeg",
        "version": plan.version,
        "purl": f"pkg:generic/ffmpeg@{plan.version}",
        "hashes": [{"alg": "SHA-256", "content": facts["source_sha256"]}],
        "licenses": licences,
    }
    parts = [
        {
            "type": "library",
            "bom-ref": f"{name}@{version}" if version else name,
            "name": name,
            **({"version": version} if version else {}),
            "purl": f"pkg:generic/{name.lower()}" + (f"@{version}" if version else ""),
        }
        for name, version in sorted(facts["libraries"].items())
    ]
    parts += [_carried(row) for row in facts.get("bundled", ())]
    content = hashlib.sha256(json.dumps([top, parts], sort_keys=True).encode()).digest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=content[:16], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "tools": [{"name": "ffmpeg-gpu-build", "version": __version__}],
            "component": top,
        },
        "components": parts,
        "dependencies": [{"ref": top["bom-ref"], "dependsOn": [p["bom-ref"] for p in parts]}],
    }


def relocate_pkgconfig(staged: Path) -> None:
    """Let the .pc files find their prefix by their own place, so that the install may move."""
    for file in (staged / "lib" / "pkgconfig").glob("*.pc"):
        text = re.sub(r"^prefix=.*$", "prefix=${pcfiledir}/../..", file.read_text(), flags=re.M)
        text = re.sub(r"^(libdir|includedir)=/.*/(\w+)$", r"\1=${prefix}/\2", text, flags=re.M)
        file.write_text(text)
