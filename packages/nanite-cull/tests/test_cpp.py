"""A C++ project finds the core with find_package and draws with it, without Python."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import nanite_cull
from nanite_cull._core import open_meshoptimizer

PROJECT = """
cmake_minimum_required(VERSION 3.26)
project(consumer LANGUAGES CXX)
find_package(nanite_cull REQUIRED)
add_executable(consumer consumer.cpp)
target_link_libraries(consumer PRIVATE nanite_cull::core)
"""


@pytest.mark.slow
def test_a_cpp_project_builds_and_draws(tmp_path):
    cmake = Path(sys.executable).parent / "cmake"
    if not cmake.exists():
        pytest.skip("needs cmake beside Python")
    installed = Path(nanite_cull._C.__file__).parents[1]
    shutil.copy(Path(__file__).parent / "consumer.cpp", tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    build = tmp_path / "build"
    for command in (
        [cmake, "-S", tmp_path, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={installed}"],
        [cmake, "--build", build],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    # the wheel's module refers to Python's data; conda's library does not
    folder, name = (sysconfig.get_config_var(v) for v in ("LIBDIR", "INSTSONAME"))
    python = Path(folder or "/") / str(name)
    done = subprocess.run(
        [build / "consumer", open_meshoptimizer()],
        capture_output=True,
        text=True,
        env=os.environ | ({"LD_PRELOAD": str(python)} if python.exists() else {}),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f" clusters, {64 * 64} pixels\n")
