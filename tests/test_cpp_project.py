"""A C++ project finds the installed package with find_package, without Python or torch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import workspace

CMAKE = Path(sys.executable).parent / "cmake"


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_cpp_project_links_the_core_of_an_installed_wheel(wheels, tmp_path):
    site = tmp_path / "site"
    wheel = wheels["spconv-lite"]
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel)
    source, build = workspace.ROOT / "tests" / "cpp_consumer", tmp_path / "build"
    run(CMAKE, "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={site}")
    run(CMAKE, "--build", build)
    assert run(build / "consumer") == "64 pairs\n"
    linked = run("ldd", build / "consumer")
    assert "torch" not in linked
    assert "python" not in linked


def test_one_program_links_two_cores(wheels, tmp_path):
    site = tmp_path / "site"
    for name in ("nanite-cull", "spconv-lite"):
        run(
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            site,
            wheels[name],
        )
    source, build = workspace.ROOT / "examples" / "two_cores", tmp_path / "build"
    run(CMAKE, "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={site}")
    run(CMAKE, "--build", build)
    voxels, pairs = map(
        int, re.fullmatch(r"(\d+) voxels, (\d+) pairs\n", run(build / "two_cores")).groups()
    )
    assert voxels > 40 * 40  # each column of cells is seen, and slopes fill more than one
    assert voxels < pairs < 27 * voxels
