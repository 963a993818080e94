"""A bundle: the system's libraries that a build loads, beside it, with their papers."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ffmpeg_gpu_build.build import binary, bundle, source
from ffmpeg_gpu_build.build.make import BuildError


@pytest.fixture
def staged(need, tmp_path):
    """An install whose program loads a library of the "system", which lies elsewhere."""
    need("gcc", "patchelf", "ldd")
    system, root = tmp_path / "system", tmp_path / "staged"
    for folder in (system, root / "bin", root / "lib"):
        folder.mkdir(parents=True)
    (tmp_path / "greet.c").write_text('const char *greet(void) { return "hello"; }\n')
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\nconst char *greet(void);\n"
        "int main(void) { puts(greet()); return 0; }\n"
    )
    library = system / "libgreet.so.1"
    compile_ = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libgreet.so.1", tmp_path / "greet.c"]
    subprocess.run([*compile_, "-o", library], check=True)
    program = root / "bin" / "ffmpeg"
    link = ["gcc", tmp_path / "main.c", library, "-o", program]
    subprocess.run([*link, f"-Wl,-rpath,$ORIGIN/../lib:{system}"], check=True)
    return root, system


def test_a_bundle_carries_what_the_machine_may_lack_and_nothing_of_glibc(staged):
    root, system = staged
    assert "libgreet.so.1" in bundle.system_needs(root)["libraries"]
    (row,) = bundle.carry(root, ["base"])
    assert row["file"] == "lib/libgreet.so.1"
    assert row["sha256"] == source.sha256_of(root / row["file"])
    assert binary.dynamic(root / row["file"]).runpath == ("$ORIGIN",)
    subprocess.run(["patchelf", "--set-rpath", "$ORIGIN/../lib", root / "bin" / "ffmpeg"])
    shutil.rmtree(system)
    moved = root.rename(root.with_name("moved here"))
    done = subprocess.run([moved / "bin" / "ffmpeg"], capture_output=True, text=True)
    assert done.stdout == "hello\n"
    needs = bundle.system_needs(moved)
    assert re.fullmatch(r"2\.\d+", needs["glibc"])
    assert all(bundle.STAYS.fullmatch(name) for name in needs["libraries"])


def test_a_bundle_whose_library_is_not_found_is_not_made(staged):
    root, system = staged
    shutil.rmtree(system)
    with pytest.raises(BuildError, match=r"ffmpeg needs libgreet\.so\.1"):
        bundle.carry(root, ["base"])


def test_the_package_and_the_licence_of_a_system_library_are_named(need, tmp_path):
    need("dpkg-query", "ldd")
    library = bundle.loaded(Path(shutil.which("gcc") or "/bin/sh"))["libc.so.6"]
    package, version = bundle.package_of(library)
    assert package == "libc6"
    assert version
    where = bundle._licence(package, tmp_path)
    if Path(f"/usr/share/doc/{package}/copyright").exists():
        assert "libc6.copyright" in where
        assert (tmp_path / where).stat().st_size > 1000
    assert bundle.package_of(tmp_path / "nothing") == ("", "")
