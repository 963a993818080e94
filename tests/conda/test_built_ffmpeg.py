"""The recipe of the built FFmpeg through the conda path: built, judged, solved, installed, used.

Only with --full. The recipe is the published one but for the address of its source: a file of the
same SHA-256, from Debian's archive. Compilers, headers and libraries are stand-ins. About six
minutes of CPU the first time; after that ccache, where it is installed, has the objects.
"""

import json
import os
import re
import subprocess

import ffmpeg_standins
import pytest
import standins
import workspace
from shipping import artifacts, recipes
from shipping.recipes import VARIANTS

from ffmpeg_gpu_build import resolve
from ffmpeg_gpu_build.build import builder, headers, toolchain
from ffmpeg_gpu_build.build.apt import AptError
from ffmpeg_gpu_build.build.source import SourceError
from ffmpeg_gpu_build.verification.checks import CLIPS

pytestmark = pytest.mark.slow
LIBRARIES = {"libavcodec", "libavfilter", "libavformat", "libavutil", "libswscale"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """(the rendered recipe with a local source, folder of unpacked headers, clang, glslang)."""
    plan = resolve("small")
    lacking = [m for m in toolchain.missing(plan) if not set(m.packages) & set(plan.unpack)]
    if lacking:
        pytest.skip("missing: " + "; ".join(m.what for m in lacking))
    folder = tmp_path_factory.mktemp("sources")
    try:
        source = builder.fetch(plan, builder.Options(folder / "prefix", folder)).file
        unpacked = headers.provide(plan, folder / "headers")
    except (AptError, SourceError) as error:
        pytest.skip(f"FFmpeg's sources or its headers cannot be had here: {error}")
    published = (recipes.FOLDER / "ffmpeg-gpu-build/built-ffmpeg/recipe.yaml").read_text()
    text, changed = re.subn(r"(?m)^  url: \S+ffmpeg\S*.*$", f"  url: {source.as_uri()}", published)
    assert changed == 1
    local = folder / "recipes" / "built-ffmpeg"
    local.mkdir(parents=True)
    (local / "recipe.yaml").write_text(text)
    (folder / "recipes" / "variants.yaml").write_text(VARIANTS.read_text())
    (build,) = recipes.render("built-ffmpeg", folder=folder / "recipes")
    return build, folder / "headers", toolchain.find_clang(), unpacked.glslang


@pytest.fixture(scope="module")
def built(recipe, make_proof, find_variant):
    """(the proof, the artifact): the tool first, for the recipe's test runs it."""
    build, unpacked, clang, glslang = recipe
    tool = find_variant("ffmpeg-gpu-build", "noarch")
    proof = make_proof([tool])
    ffmpeg_standins.write(
        proof.folder / "standins", unpacked, clang, glslang, standins.COMPILER_CACHE
    )
    proof.release.build(tool)
    proof.release.index()
    artifact = proof.release.build(build)
    proof.release.index()
    log = proof.folder / "logs" / f"{build.file_name.removesuffix('.conda')}.log"
    return proof, artifact, log.read_text()


@pytest.fixture(scope="module")
def prefix(built, recipe, own_version, tmp_path_factory):
    return built[0].installed(recipe[0], own_version, tmp_path_factory.mktemp("prefix") / "env")


def test_its_own_test_judged_every_path(built):
    said = built[2]
    assert re.search(r"\d+ proven, \d+ absent, 0 broken, \d+ not tried", said), said[-4000:]
    assert re.search(r"encode\.libx264 +proven", said)


def test_the_package_is_licensed_and_knows_no_path_of_the_build(built):
    _, artifact, _ = built
    licences = {p.name for p in (artifact.folder / "info" / "licenses").iterdir()}
    assert licences == {"COPYING.GPLv3", "COPYING.LGPLv3"}
    assert artifact.index["license"] == "GPL-3.0-or-later"
    places = artifact.rendered["build_configuration"]["directories"]
    needles = [places[name].encode() for name in ("build_dir", "work_dir", "build_prefix")]
    for entry in artifact.paths:
        if entry["path_type"] != "softlink":
            data = (artifact.folder / entry["_path"]).read_bytes()
            data = data.replace(places["host_prefix"].encode(), b"")  # conda rewrites this one
            assert not [n for n in needles if n in data], entry["_path"]


def test_it_depends_on_what_it_links(built):
    needed = {line.split()[0] for line in built[1].index["depends"]}
    assert {"libzlib", "x264", "ocl-icd", "libvulkan-loader", "__glibc", "libgcc"} <= needed
    assert artifacts.built_with_standins(built[1])  # never to be published


def test_programs_and_libraries_find_one_another_in_the_prefix_only(built):
    _, artifact, _ = built
    files = [n for n in artifact.names if re.search(r"^bin/ff|^lib/lib\w+\.so\.\d+\.\d+\.\d+$", n)]
    assert {n.split("/")[1].split(".")[0] for n in files} >= LIBRARIES | {"ffmpeg", "ffprobe"}
    for name in files:
        done = subprocess.run(
            ["readelf", "-d", artifact.folder / name], capture_output=True, text=True, check=True
        )
        (places,) = re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", done.stdout)
        inside = "$ORIGIN/../lib" if name.startswith("bin/") else "$ORIGIN"
        assert places.rstrip("/") == inside, name


def test_the_installed_ffmpeg_transcodes_and_says_its_prefix(prefix, tmp_path):
    shown = prefix.run("ffmpeg", "-version")
    assert shown.stdout.startswith("ffmpeg version 9.0.2"), shown.stderr
    assert f"--prefix={prefix.folder}" in shown.stdout
    target = tmp_path / "out.mp4"
    done = prefix.run(
        "ffmpeg", "-i", str(CLIPS / "hevc.mkv"), "-c:v", "libx264", "-an", str(target)
    )
    assert done.returncode == 0, done.stderr
    wanted = "stream=codec_name,nb_read_frames"
    probed = prefix.run(
        "ffprobe",
        "-v",
        "error",
        "-count_frames",
        "-show_entries",
        wanted,
        "-of",
        "json",
        str(target),
    )
    (stream,) = json.loads(probed.stdout)["streams"]
    assert (stream["codec_name"], stream["nb_read_frames"]) == ("h264", "12")


def test_the_c_interface_serves_a_program_through_pkg_config(prefix, tmp_path):
    source = workspace.ROOT / "packages" / "ffmpeg-gpu-build" / "tests" / "consumer.c"
    env = {**os.environ, "PKG_CONFIG_PATH": str(prefix.folder / "lib" / "pkgconfig")}
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libavformat", "libavcodec", "libavutil"],
        env=env, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    program = tmp_path / "consumer"
    subprocess.run(
        ["gcc", source, "-o", program, *flags, f"-Wl,-rpath,{prefix.folder}/lib"], check=True
    )
    done = prefix.run(str(program), str(CLIPS / "h264.mkv"))
    assert done.stdout == "12 frames 320x180\n", done.stderr
