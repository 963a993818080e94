"""One description: what is read from it agrees, and a wrong one is refused with the cure."""

from pathlib import Path

import pytest
import yaml

from ffmpeg_gpu_build.build import emit
from ffmpeg_gpu_build.build.description import (
    DescriptionError,
    components,
    nvenc_floor,
    profiles,
    releases,
    resolve,
    version_key,
)
from ffmpeg_gpu_build.verification.filter_checks import CHECKS

RECIPES = Path(__file__).resolve().parents[3] / "recipes" / "ffmpeg-gpu-build"
CUDA_FILTERS = {
    "bilateral_cuda", "bwdif_cuda", "chromakey_cuda", "colorspace_cuda", "hwupload_cuda",
    "overlay_cuda", "pad_cuda", "scale_cuda", "thumbnail_cuda", "transpose_cuda", "yadif_cuda",
}  # fmt: skip


def test_small_has_what_the_package_promises():
    plan = resolve("small")
    names = {p.name for p in plan.parts}
    assert names >= CUDA_FILTERS
    assert {"libx264", "h264_nvenc", "hevc_nvenc", "av1_nvenc", "h264_cuvid", "h264_nvdec"} <= names
    assert sum(n.endswith("_opencl") for n in names) == 19
    assert {"scale_vulkan", "transpose_opencl", "testsrc2"} <= names


def test_every_device_part_is_asserted_after_configure_and_judged_by_verify():
    plan = resolve("full")
    judged = set(plan.verification())
    for part in plan.parts:
        assert part.macro in plan.component_macros()
        if part.name.endswith(("_nvenc", "_cuvid", "_nvdec", "_cuda", "_opencl", "_vulkan")):
            assert part.path_id in judged, part


@pytest.mark.parametrize("profile", profiles())
@pytest.mark.parametrize("version", list(releases()["release"]))
def test_the_configure_line_names_every_part_of_a_build_that_disables_everything(profile, version):
    plan = resolve(profile, version=version)
    line = plan.configure_line()
    assert "--disable-autodetect" in line  # trap 11: nothing that was not asked for
    assert ("--disable-everything" in line) == (profile == "small")
    if profile == "small":
        for part in plan.parts:
            row = next(a for a in line if a.startswith(f"--enable-{part.kind}="))
            assert part.name in row.partition("=")[2].split(",")
        assert ("transpose_cuda" in str(line)) == (version_key(version) >= (9, 0))


def test_enable_arguments_become_assertions():
    macros = resolve("small").component_macros()
    for macro in (
        "CONFIG_CUDA_LLVM",
        "CONFIG_OPENCL",
        "CONFIG_VULKAN",
        "CONFIG_SCALE_VULKAN_FILTER",
    ):
        assert macro in macros
    assert macros["CONFIG_SCALE_CUDA_FILTER"] == "cuda-filters"


def test_the_licence_follows_from_the_components():
    assert resolve("small").licence == "gpl"
    assert resolve("small", drop=["x264"]).licence == "lgpl"
    assert "--enable-gpl" not in resolve("small", drop=["x264"]).configure_line()
    nvcc = resolve("small", cuda="nvcc")
    assert nvcc.licence == "nonfree"
    assert {"--enable-gpl", "--enable-nonfree", "--enable-cuda-nvcc"} <= set(nvcc.configure_line())
    assert "unredistributable" in nvcc.licence_sentence
    fdk = resolve("small", add=["fdkaac"])
    assert {"--enable-gpl", "--enable-nonfree"} <= set(fdk.configure_line())


def test_the_driver_floor_is_lower_than_that_of_the_wheels_of_today():
    floor = nvenc_floor(emit.headers_version(resolve("small")))
    assert floor == "530.41.03"
    assert version_key(floor) < version_key("570.0") < version_key("610.00")
    assert nvenc_floor("13.1.2.0") == "610.00"
    assert nvenc_floor("14.0") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("components = []", "must be a list"),
        ("components = ['base']\nspeed = 1", "unknown key 'speed'"),
        ("components = ['bsae']", "unknown component 'bsae'; known: base"),
        ("components = ['base']\ncuda = 'hip'", '"llvm" or "nvcc"'),
        ("components = ['base']\nversion = '9.0; rm -rf /'", "want a release"),
        ("components = ['base']\n[parts]\nfilter = ['*_cuda']", "no globs"),
        ("components = ['base']\n[parts]\nfilters = ['null']", "unknown kind 'filters'"),
        ("components = [", "no valid TOML"),
        ("components = ['base']\nversion = 9.0", "version must be text, got 9.0"),
        ("components = ['base']\neverything = 'no'", "everything must be true or false"),
        ("components = ['base']\nconfigure = '--enable-lto'", "configure must be a list"),
        ("components = ['base']\nconfigure = [1]", "configure must be a list of arguments"),
        ("components = ['base']\nconfigure = ['--prefix=/usr']", "the build sets where"),
        ("components = ['base']\nconfigure = ['--libdir=/usr/lib']", "the build sets where"),
        ("components = ['base']\nparts = ['scale']", "parts must be a table"),
        ("components = ['base']\n[parts]\nfilter = 'scale'", "parts must be a table of lists"),
        ("components = ['base']\n[parts]\nfilter = [1]", "parts must be a table of lists"),
        ("components = [['base']]", "components must be a list of names"),
        ("components = []", "components must be a list of names"),
    ],
)
def test_a_wrong_profile_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(DescriptionError, match=message):
        resolve(file)


def test_a_profile_that_is_no_text_is_refused_by_name(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(DescriptionError, match=r"mine\.toml: no valid TOML"):
        resolve(file)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(DescriptionError, match="no such file"):
        resolve(tmp_path / "folder.toml")


@pytest.mark.parametrize("licence", ["gpl", "nonfree"])
def test_a_licence_that_configure_is_given_is_the_licence_of_the_plan(tmp_path, licence):
    file = tmp_path / "mine.toml"
    file.write_text(f"components = ['base']\nconfigure = ['--enable-{licence}']")
    plan = resolve(file)
    assert plan.licence == licence
    assert f"--enable-{licence}" in plan.configure_line()


def test_a_recipe_of_a_release_that_is_not_pinned_is_refused_by_name():
    with pytest.raises(ValueError, match=r"FFmpeg 9\.9\.9 is not pinned here.*9\.0\.2"):
        emit.recipe(resolve("small", version="9.9.9"))


def test_a_component_that_can_not_be_added_or_left_out_is_named():
    with pytest.raises(DescriptionError, match=r"add \(--with\): unknown component 'x256'"):
        resolve("small", add=["x256"])
    with pytest.raises(DescriptionError, match=r"drop \(--without\): 'x265' is not in small"):
        resolve("small", drop=["x265"])
    assert "x265" not in resolve("small", add=["x265"], drop=["x265"]).components


def test_your_own_profile_adds_parts(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        "components = ['base', 'transcode']\nconfigure = ['--enable-lto']\n[parts]\nmuxer = ['hls']"
    )
    plan = resolve(file)
    assert plan.licence == "lgpl"
    assert "--enable-lto" in plan.configure_line()
    assert plan.component_macros()["CONFIG_HLS_MUXER"] == "profile"
    assert plan.component_macros()["CONFIG_LTO"] == "profile"


def test_every_component_names_its_packages_or_needs_none():
    for name, entry in components().items():
        if name not in ("base", "transcode") and entry["configure"]:
            assert entry.get("needs") or entry.get("headers"), name
        if entry.get("needs"):
            assert entry.get("apt") or entry.get("unpack"), name
            assert entry.get("conda_host") or entry.get("conda_build"), name
            assert entry.get("rpm"), name
            assert entry.get("pacman"), name


def test_the_recipe_of_the_built_ffmpeg_is_what_the_description_emits():
    written = (RECIPES / "built-ffmpeg" / "recipe.yaml").read_text()
    assert written == emit.recipe(resolve("small"))
    recipe = yaml.safe_load(written)
    plan = resolve("small")
    assert recipe["requirements"]["build"] == list(plan.conda_build)
    assert recipe["requirements"]["host"] == list(plan.conda_host)
    for argument in ("--enable-cuda-llvm", "--enable-libx264", "--enable-vulkan"):
        assert argument in recipe["build"]["script"]["content"]


def test_the_recipe_of_the_tool_agrees_with_the_package():
    recipe = yaml.safe_load((RECIPES / "recipe.yaml").read_text())
    version = (Path(__file__).resolve().parents[1] / "VERSION").read_text().strip()
    assert recipe["context"]["version"] == version
    assert recipe["build"]["noarch"] == "python"


def test_each_filter_of_the_full_profile_that_has_a_twin_is_spelled_as_ffmpeg_does():
    names = {p.name for p in resolve("full").parts if p.kind == "filter"}
    known = {n for n in CHECKS if not n.endswith("_vaapi")}
    assert known <= names
