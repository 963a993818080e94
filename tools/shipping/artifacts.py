"""What a built conda package must be: small, licensed, typed, free of tests and of build paths."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import workspace
import yaml

from shipping.rattler_child import call, extract

MARK = "standin"  # in the build string of what tests/standins.py makes
SIZE_LIMIT = 5_000_000
TESTS = re.compile(r"(^|/)(tests?|cuda_sim|benchmarks)/|(^|/)(test_\w+\.py|conftest\.py)$")
# what a compiled core may ask of the system, and of the packages that it depends on
LIBRARIES = re.compile(
    r"(libstdc\+\+|libgcc_s|libgomp|libcudart|libm|libc|libpthread|libdl|librt|ld-linux-[\w-]+)"
    r"\.so\.\d+"
)


@dataclass(frozen=True)
class Artifact:
    """A `.conda` file, unpacked."""

    path: Path
    folder: Path

    @classmethod
    def unpack(cls, path: Path, folder: Path) -> Artifact:
        """Unpack `path` into the new folder `folder`."""
        call(extract, package=str(path), folder=str(folder))
        return cls(path, folder)

    @property
    def index(self) -> dict:
        return json.loads((self.folder / "info" / "index.json").read_text())

    @property
    def paths(self) -> list[dict]:
        return json.loads((self.folder / "info" / "paths.json").read_text())["paths"]

    @property
    def rendered(self) -> dict:
        """The recipe as it was built, with all resolved dependencies."""
        text = (self.folder / "info" / "recipe" / "rendered_recipe.yaml").read_text()
        return yaml.safe_load(text)

    @property
    def names(self) -> list[str]:
        return [entry["_path"] for entry in self.paths]

    def resolved(self) -> list[dict]:
        """The packages that were in the build and host environments."""
        sections = (self.rendered["finalized_dependencies"].get(part) for part in ("build", "host"))
        return [record for section in sections if section for record in section["resolved"]]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def payload_sha256(self) -> str:
        """Digest of names and contents of all installed files, without times and logs."""
        lines = sorted(f"{e['_path']} {e['path_type']} {e.get('sha256')}" for e in self.paths)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def built_with_standins(artifact: Artifact) -> list[str]:
    """The stand-ins and local channels that went into the build: such a package stays here."""
    return [
        f"{record['name']} {record['build']}"
        for record in artifact.resolved()
        if MARK in record["build"] or str(record.get("channel", "")).startswith("file:")
    ]


def complaints(artifact: Artifact) -> list[str]:
    """All that is wrong with the package, as sentences; empty when it may be released."""
    found = [*_licence(artifact), *_build_paths(artifact)]
    found += [text for name in artifact.names for text in _dynamic_section(artifact, name)]
    if _is_ours(artifact):
        found += [*_size(artifact), *_contents(artifact)]
    return [f"{artifact.path.name}: {text}" for text in found]


def _is_ours(artifact: Artifact) -> bool:
    """One of the six Python packages; the FFmpeg that one of them describes is another matter."""
    return artifact.index["name"].removesuffix("-dev") in workspace.SIX


def _size(artifact: Artifact) -> list[str]:
    size = artifact.path.stat().st_size
    if size <= SIZE_LIMIT:
        return []
    return [f"{size / 1e6:.1f} MB, the limit is {SIZE_LIMIT / 1e6:.0f} MB"]


def _licence(artifact: Artifact) -> list[str]:
    found = []
    folder = artifact.folder / "info" / "licenses"
    files = [path.name for path in folder.rglob("*")] if folder.is_dir() else []
    if _is_ours(artifact) and "LICENSE" not in files:
        found.append("no LICENSE in info/licenses")
    elif not files:
        found.append("no licence in info/licenses")
    if not artifact.index.get("license"):
        found.append("no licence in its index.json")
    return found


def _contents(artifact: Artifact) -> list[str]:
    name = artifact.index["name"]
    module = name.removesuffix("-dev").replace("-", "_")
    # where rattler-build keeps the files that the recipe's own tests name
    kept = [n for n in artifact.names if not n.startswith(f"etc/conda/test-files/{name}/")]
    if name.endswith("-dev"):
        inside = re.compile(rf"include/{module}/|lib/lib{module}_core\.a$|lib/cmake/{module}/")
        return [f"a file outside the package: {n}" for n in kept if not inside.match(n)]
    found = []
    if not any(n.endswith(f"site-packages/{module}/py.typed") for n in kept):
        found.append("no py.typed")
    found += [f"carries a test: {n}" for n in kept if TESTS.search(n)]
    found += [f"belongs into the -dev package: {n}" for n in kept if n.endswith((".a", ".h"))]
    inside = re.compile(
        rf"(.*site-packages/{module}(-[^/]+\.dist-info)?/|(bin|python-scripts)/{name}$)"
    )
    return found + [f"a file outside the package: {n}" for n in kept if not inside.match(n)]


def _build_paths(artifact: Artifact) -> list[str]:
    """Absolute paths of the build in the bytes of installed files.

    A path that conda rewrites at installation (`prefix_placeholder`) is accepted, in a binary file
    of ours not: none of them needs to know where it is. pip's direct_url.json says where the
    sources were, in every package that is built from a folder.
    """
    directories = artifact.rendered["build_configuration"]["directories"]
    prefix = directories["host_prefix"]
    needles = {str(workspace.ROOT), str(Path.home()) + "/", "_placehold_placehold"}
    needles |= {directories[name] for name in ("build_dir", "work_dir", "build_prefix")}
    temporary = re.escape(tempfile.gettempdir() + os.sep)
    pattern = "|".join([*map(re.escape, needles), rf"{temporary}(tmp|pip-)\w+"]).encode()
    found = []
    for entry in artifact.paths:
        file = artifact.folder / entry["_path"]
        if file.name == "direct_url.json":
            continue
        if file.is_symlink():
            if os.path.isabs(target := os.readlink(file)):
                found.append(f"{entry['_path']} is a link to {target}")
            continue  # what a relative one leads to is looked at itself
        data = file.read_bytes()
        if entry.get("prefix_placeholder"):
            if entry.get("file_mode") == "binary" and _is_ours(artifact):
                found.append(f"the build prefix is in the binary {entry['_path']}")
            data = data.replace(prefix.encode(), b"")
        if match := re.search(pattern, data):
            where = match.group().decode()
            found.append(f"a path of the build machine in {entry['_path']}: {where}")
    return found


def _dynamic_section(artifact: Artifact, name: str) -> list[str]:
    """Libraries that an ELF file needs, and where it looks for them: inside the prefix."""
    path = artifact.folder / name
    if path.is_symlink():
        return []
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return []
    said = subprocess.run(
        ["readelf", "-d", path], capture_output=True, text=True, check=True
    ).stdout
    found = []
    for library in re.findall(r"\(NEEDED\).*\[(.*)\]", said):
        if _is_ours(artifact) and not LIBRARIES.fullmatch(library):
            found.append(f"{name} needs the library {library}")
    for places in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", said):
        for place in filter(None, places.split(":")):
            inside = os.path.normpath(place.replace("$ORIGIN", str(Path("/prefix", name).parent)))
            if not place.startswith("$ORIGIN") or not (inside + "/").startswith("/prefix/"):
                found.append(f"{name} looks for libraries outside the prefix: {place}")
    return found
