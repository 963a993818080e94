"""The Dockerfiles: same packages and build as the description, sound shell, names that apt knows.

Docker is not needed; benchmarks/run_dockerfile.py runs all steps in a bare Debian.
"""

import base64
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ffmpeg_gpu_build import resolve
from ffmpeg_gpu_build.__main__ import main
from ffmpeg_gpu_build.build import apt, docker, emit

RUNNER = Path(__file__).resolve().parents[1] / "benchmarks" / "run_dockerfile.py"
INSTALL = "apt-get update && apt-get install -y --no-install-recommends "


@pytest.fixture(scope="module")
def parse():
    """Dockerfile text -> its stages, as the script that runs them reads it."""
    spec = importlib.util.spec_from_file_location("run_dockerfile", RUNNER)
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_dockerfile"] = module
    spec.loader.exec_module(module)
    return module.stages


def written(capsys, *arguments: str) -> str:
    assert main(["build", *arguments]) == 0
    return capsys.readouterr().out


def steps(stage, kind: str) -> list[str]:
    return [rest for word, rest in stage.steps if word == kind]


@pytest.mark.parametrize("profile", ["small", "full"])
@pytest.mark.parametrize("base", docker.BASES)
def test_a_dockerfile_installs_the_packages_and_does_the_same_build(capsys, parse, base, profile):
    without = ["dav1d"] if (base, profile) == ("ubuntu:22.04", "full") else []
    options = [word for name in without for word in ("--without", name)]
    first, second = parse(written(capsys, "--docker", base, "--profile", profile, *options))
    assert (first.base, second.base) == (base, base)
    install, *_ = steps(first, "RUN")
    assert install.startswith(INSTALL)
    named = shlex.split(install.removeprefix(INSTALL))
    assert named[:3] == ["ca-certificates", "python3-venv", "libvulkan1"]
    assert named[3:] == emit.apt_packages(resolve(profile, drop=without))
    (build,) = [s for s in steps(first, "RUN") if "ffmpeg-gpu-build build" in s]
    chosen = " ".join(["--profile", profile, *options])
    assert f"{chosen} --release 9.0.2 --cuda llvm" in " ".join(build.split())
    assert "--bundle" in build.split()  # so that the second stage needs nothing but the build
    assert steps(second, "RUN") == []
    for step in [*steps(first, "RUN"), *steps(second, "RUN")]:
        done = subprocess.run(["sh", "-n", "-c", step], capture_output=True, text=True)
        assert done.returncode == 0, f"{step}\n{done.stderr}"


def test_components_that_were_left_out_are_left_out_of_the_image(capsys, parse):
    first, second = parse(
        written(capsys, "--docker", "ubuntu:24.04", "--without", "x264", "--without", "vulkan")
    )
    assert "libx264-dev" not in steps(first, "RUN")[0]
    assert "--without x264 --without vulkan" in steps(first, "RUN")[-1]
    assert "libvulkan1" not in steps(first, "RUN")[0]
    assert "/opt/ffmpeg /opt/ffmpeg" in steps(second, "COPY")[0]
    (environment,) = steps(second, "ENV")
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in environment.split()


def test_your_own_profile_goes_along_whatever_its_name(capsys, parse, tmp_path):
    file = tmp_path / "my own.toml"
    file.write_text("summary = 'it is \"mine\"; $(x)'\ncomponents = ['base', 'transcode']\n")
    first, _ = parse(written(capsys, "--docker", "debian:13", "--profile", str(file)))
    bring, build = steps(first, "RUN")[-2:]
    text, target = re.fullmatch(r"echo (\S+) \| base64 -d > (.*)", bring).groups()
    assert base64.b64decode(text) == file.read_bytes()
    assert shlex.split(target) == ["/tool/my own.toml"]
    assert "--profile '/tool/my own.toml'" in build


def test_another_base_is_refused_with_those_that_are_known(capsys):
    assert main(["build", "--docker", "windows"]) == 2
    assert "debian:12" in capsys.readouterr().err


def test_a_component_that_the_base_has_too_old_is_refused_by_name(capsys):
    assert main(["build", "--docker", "ubuntu:22.04", "--profile", "full"]) == 2
    said = capsys.readouterr().err
    for part in ("dav1d >= 1.0.0", "ubuntu:22.04 has 0.9.2", "--without dav1d", "ubuntu:24.04"):
        assert part in said


def test_apt_can_install_every_package_that_the_image_of_this_system_names(capsys, parse):
    release = Path("/etc/os-release").read_text()
    version = re.search(r'^VERSION_ID="([\d.]+)"', release, re.M)
    base = f"{apt.system_id()}:{version[1] if version else ''}"
    if base not in docker.BASES or not shutil.which("apt-get") or not apt.resolvable(["gcc"])[0]:
        pytest.skip("the system is none of the bases, or apt has no lists here")
    for profile in ("small", "full"):
        first, _ = parse(written(capsys, "--docker", base, "--profile", profile))
        names = shlex.split(steps(first, "RUN")[0].removeprefix(INSTALL))
        done = subprocess.run(
            ["apt-get", "-s", "--no-install-recommends", "install", *names],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_a_line_that_is_no_instruction_is_noticed(parse):
    for text in ("RUN x\n", "FROM a\nRUNx y\n", "FROM a\nRUN\n"):
        with pytest.raises(ValueError, match="no instruction"):
            parse(text)
