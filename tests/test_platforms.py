"""aarch64: the four cores build with Debian's cross compiler, pass their tests under qemu, and give
the rulebooks, the culled clusters and the pictures of x86-64, byte for byte.

Needs `apt-get install g++-aarch64-linux-gnu qemu-user`. Only with --full.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import workspace

CMAKE, CTEST = (Path(sys.executable).parent / name for name in ("cmake", "ctest"))
LIBRARIES = "/usr/aarch64-linux-gnu"
TOOLCHAIN = f"""
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64;-L;{LIBRARIES}")
"""
OPTIONS = ("-G", "Ninja", "-DGPU=OFF", "-DCMAKE_BUILD_TYPE=Release")
MISSING = [name for name in ("aarch64-linux-gnu-g++", "qemu-aarch64") if not shutil.which(name)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING),
        reason="apt-get install g++-aarch64-linux-gnu qemu-user brings what is missing",
    ),
]


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def toolchain(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("toolchain") / "aarch64.cmake"
    file.write_text(TOOLCHAIN)
    return file


def programs(folder: Path, *arguments: object) -> Path:
    """Build tests/platforms, and with it all four cores and the native tests; the build folder."""
    source = workspace.ROOT / "tests" / "platforms"
    wanted = (f"-DREPOSITORY={workspace.ROOT}", "-DNATIVE_PYTHON=OFF", "-DNATIVE_WERROR=ON")
    run(CMAKE, "-S", source, "-B", folder, *OPTIONS, *wanted, *arguments)
    run(CMAKE, "--build", folder)
    return folder


@pytest.fixture(scope="module")
def foreign(toolchain, tmp_path_factory) -> Path:
    return programs(tmp_path_factory.mktemp("aarch64"), f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return programs(tmp_path_factory.mktemp("own"))


def test_four_cores_build_without_a_warning_and_the_native_tests_pass_under_qemu(foreign):
    cores = {path.name for path in foreign.rglob("lib*_core.a")}
    assert {f"lib{p.import_name}_core.a" for p in workspace.packages() if p.native} <= cores
    said = run(CTEST, "--test-dir", foreign / "repository", "--output-on-failure")
    assert "100% tests passed" in said
    file = run("file", foreign / "rulebook") if shutil.which("file") else "aarch64"
    assert "aarch64" in file


def test_rulebooks_are_equal_byte_for_byte(foreign, own):
    here = run(own / "rulebook")
    assert run("qemu-aarch64", "-L", LIBRARIES, foreign / "rulebook") == here
    assert len(here.splitlines()) == 12


def test_culled_clusters_and_pictures_are_equal_byte_for_byte(foreign, own):
    mesh = workspace.ROOT / "packages" / "nanite-cull" / "tests" / "data" / "torus.ncl"
    here = run(own / "picture", mesh)
    assert run("qemu-aarch64", "-L", LIBRARIES, foreign / "picture", mesh) == here
    seen = re.findall(r"^(\d+) clusters \w+, (\d+) pixels", here, re.M)
    assert len(seen) == 3
    assert all(int(clusters) > 25 and int(pixels) > 1000 for clusters, pixels in seen)


@pytest.mark.parametrize(
    "package", [p for p in workspace.packages() if p.native], ids=lambda p: p.name
)
def test_a_python_module_configures_for_another_architecture(package, toolchain, tmp_path):
    """No interpreter of the target is asked for: there is none that could run here."""
    ask = "import sysconfig; print(sysconfig.get_path('include'))"
    headers = run(sys.executable, "-c", ask).strip()
    said = run(CMAKE, "-S", package.folder, "-B", tmp_path, *OPTIONS,
               f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", f"-DPython_EXECUTABLE={sys.executable}",
               f"-DPython_INCLUDE_DIR={headers}")  # fmt: skip
    assert "Generating done" in said
