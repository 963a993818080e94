"""The checks of a built package find what they are there to find."""

import json
import shutil
import subprocess

import pytest
import workspace
import yaml
from shipping import artifacts
from shipping.artifacts import Artifact
from shipping.channel import objections

SITE = "lib/python3.11/site-packages/spconv_lite"
WORK = "/build/bld/rattler-build_spconv-lite"


class Package:
    """An unpacked package that is fit for release, to be spoiled by a test."""

    def __init__(self, folder):
        self.folder = folder / "unpacked"
        self.archive = folder / "spconv-lite-0.1.0-cpu_py311h0_0.conda"
        self.archive.write_bytes(b"PK")
        self.paths = []
        (self.folder / "info" / "licenses").mkdir(parents=True)
        (self.folder / "info" / "licenses" / "LICENSE").write_text("the licence")
        self.info(
            "index.json", {"name": "spconv-lite", "license": "BSD-3-Clause", "build": "cpu_0"}
        )
        self.host = [{"name": "python", "build": "h1_cpython", "channel": "conda-forge"}]
        self.add(f"{SITE}/__init__.py", b"import os\n")
        self.add(f"{SITE}/py.typed", b"")

    def info(self, name, data):
        (self.folder / "info" / name).write_text(json.dumps(data))

    def add(self, path, data, **more):
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.paths.append({"_path": path, "path_type": "hardlink", **more})

    @property
    def artifact(self):
        self.info("paths.json", {"paths": self.paths})
        places = ("build_dir", "work_dir", "build_prefix", "host_prefix")
        rendered = {
            "build_configuration": {"directories": {name: f"{WORK}/{name}" for name in places}},
            "finalized_dependencies": {"build": None, "host": {"resolved": self.host}},
        }
        (self.folder / "info" / "recipe").mkdir(exist_ok=True)
        (self.folder / "info" / "recipe" / "rendered_recipe.yaml").write_text(yaml.dump(rendered))
        return Artifact(self.archive, self.folder)

    def complaints(self):
        return "\n".join(artifacts.complaints(self.artifact))


@pytest.fixture
def package(tmp_path):
    return Package(tmp_path)


def test_a_good_package_has_no_complaints(package):
    assert package.complaints() == ""


def test_too_large(package):
    package.archive.write_bytes(bytes(artifacts.SIZE_LIMIT + 1))
    assert "5.0 MB, the limit is 5 MB" in package.complaints()


def test_no_licence_and_no_types(package):
    shutil.rmtree(package.folder / "info" / "licenses")
    package.paths = [entry for entry in package.paths if "py.typed" not in entry["_path"]]
    said = package.complaints()
    assert "no LICENSE in info/licenses" in said
    assert "no py.typed" in said


@pytest.mark.parametrize("path", [f"{SITE}/tests/test_x.py", f"{SITE}/conftest.py"])
def test_tests_in_the_package(package, path):
    package.add(path, b"")
    assert f"carries a test: {path}" in package.complaints()


def test_a_file_of_someone_else(package):
    package.add("lib/python3.11/site-packages/other/x.py", b"")
    assert "a file outside the package" in package.complaints()


@pytest.mark.parametrize(
    "path", [f"{WORK}/work_dir/a.cpp", f"{workspace.ROOT}/cmake", "/tmp/pip-abc/x", "/tmp/tmpq1/x"]
)
def test_a_path_of_the_build_machine_in_any_byte(package, path):
    package.add(f"{SITE}/data.bin", b"\0\xff" + path.encode() + b"\0")
    assert f"a path of the build machine in {SITE}/data.bin" in package.complaints()


def test_the_prefix_is_accepted_where_conda_rewrites_it_as_text_only(package):
    prefix = f"{WORK}/host_prefix"
    line = f"#!{prefix}/bin/python\n".encode()
    package.add("bin/spconv-lite", line, prefix_placeholder=prefix, file_mode="text")
    assert package.complaints() == ""
    package.add(f"{SITE}/x.so", line, prefix_placeholder=prefix, file_mode="binary")
    assert "the build prefix is in the binary" in package.complaints()


def test_a_link_out_of_the_package(package):
    package.add(f"{SITE}/inside.py", b"")
    (package.folder / SITE / "inside.py").unlink()
    (package.folder / SITE / "inside.py").symlink_to("__init__.py")
    assert package.complaints() == ""
    (package.folder / SITE / "inside.py").unlink()
    (package.folder / SITE / "inside.py").symlink_to("/etc/hosts")
    assert f"{SITE}/inside.py is a link to /etc/hosts" in package.complaints()


@pytest.fixture
def program(package):
    """The built FFmpeg in the small: a program that knows its prefix, and a licence of its own."""
    package.info("index.json", {"name": "ffmpeg-gpu", "license": "GPL-3.0-or-later", "build": "h0"})
    licences = package.folder / "info" / "licenses"
    (licences / "LICENSE").rename(licences / "COPYING.GPLv3")
    package.paths = []
    prefix = f"{WORK}/host_prefix"
    data = b"\0--prefix=" + prefix.encode() + b"\0"
    package.add("bin/ffmpeg", data, prefix_placeholder=prefix, file_mode="binary")
    package.archive.write_bytes(bytes(artifacts.SIZE_LIMIT + 1))
    return package


def test_the_built_ffmpeg_is_no_python_package_and_may_know_its_prefix(program):
    assert program.complaints() == ""


def test_the_built_ffmpeg_needs_a_licence_and_knows_no_other_path_of_the_build(program):
    shutil.rmtree(program.folder / "info" / "licenses")
    program.add("lib/libavutil.so", f"{WORK}/work_dir/libavutil".encode())
    said = program.complaints()
    assert "no licence in info/licenses" in said
    assert "a path of the build machine in lib/libavutil.so" in said


def compiled(folder, *flags):
    source, library = folder / "x.c", folder / "x.so"
    source.write_text("int x(void) { return 1; }\n")
    subprocess.run(["gcc", "-shared", "-o", library, source, *flags], check=True, cwd=folder)
    return library.read_bytes()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")
@pytest.mark.parametrize(
    ("runpath", "fits"),
    [
        ("$ORIGIN/../../../..", True),
        ("$ORIGIN/../../../../..", False),
        ("/opt/lib", False),
        ("$ORIGIN:/usr/lib/x", False),
    ],
)
def test_libraries_are_looked_for_inside_the_prefix_only(package, tmp_path, runpath, fits):
    package.add(f"{SITE}/_C.so", compiled(tmp_path, f"-Wl,-rpath,{runpath}"))
    said = package.complaints()
    assert ("looks for libraries outside the prefix" in said) != fits, said


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")
def test_a_library_that_no_dependency_brings(package, tmp_path):
    subprocess.run(
        ["gcc", "-shared", "-o", "libfoo.so.1", "-x", "c", "/dev/null", "-Wl,-soname,libfoo.so.1"],
        check=True,
        cwd=tmp_path,
    )
    data = compiled(tmp_path, "-Wl,--no-as-needed", "libfoo.so.1")
    package.add(f"{SITE}/_C.so", data)
    assert "needs the library libfoo.so.1" in package.complaints()


def test_stand_ins_and_local_channels_are_recognised(package):
    assert artifacts.built_with_standins(package.artifact) == []
    package.host.append({"name": "numpy", "build": "standin_0", "channel": "https://example.org"})
    package.host.append({"name": "zlib", "build": "h1_0", "channel": "file:///x"})
    assert artifacts.built_with_standins(package.artifact) == ["numpy standin_0", "zlib h1_0"]


def test_a_release_that_is_not_finished_is_not_publishable():
    manifest = {"version": "99.0", "commit": "", "packages": [], "uncommitted_changes": True}
    said = "\n".join(objections(manifest | {"tested": False, "failed": ["x-1.conda"]}))
    for reason in (
        "no commit",
        "uncommitted changes",
        "tests were skipped",
        "## 99.0 (",
        "nothing was built",
        "failed: x-1.conda",
    ):
        assert reason in said
