"""Fetch the real meshes of `test_corpus.py`: `python tests/fetch_meshes.py FOLDER`.

They are the robots, furniture, buildings, tools and scans that packages ship for simulators and
viewers; each package keeps its licence, and nothing of them is kept here. Needs pip.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEELS = ("pybullet", "dm-control", "gymnasium-robotics", "example-robot-data", "pyvista")
SUFFIXES = {".obj", ".stl", ".ply", ".dae", ".glb", ".gltf", ".off"}


def take(wheel: Path, into: Path) -> None:
    """Copy the meshes of one package, each content once, under names without folders."""
    package = wheel.name.split("-")[0]
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if Path(name).suffix.lower() not in SUFFIXES:
                continue
            data = archive.read(name)
            digest = hashlib.sha256(data).hexdigest()[:8]
            if not any(into.glob(f"*--{digest}--*")):
                (into / f"{package}--{digest}--{Path(name).name}").write_bytes(data)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as aside:
        for name in WHEELS:
            download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", aside]
            subprocess.run([*download, name], check=True)
        for wheel in sorted(Path(aside).glob("*.whl")):
            take(wheel, folder)
    print(f"{len(list(folder.iterdir()))} meshes in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
