"""VERSION, pyproject files, recipes, environments and pins say the same thing."""

import re
from importlib.metadata import files
from pathlib import Path

import pytest
import workspace
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from shipping import address, recipes
from support import pyproject

ROOT = workspace.ROOT
PACKAGES = workspace.packages()
VERSION = (ROOT / "VERSION").read_text().strip()


def variants() -> dict:
    return yaml.safe_load((ROOT / "recipes" / "variants.yaml").read_text())


def pins(name: str) -> dict[str, list[str]]:
    """Constraint texts of a conda environment file by package name."""
    lines = yaml.safe_load((ROOT / name).read_text())["dependencies"]
    found: dict[str, list[str]] = {}
    for line in lines:
        head, _, rest = line.partition(" ")
        found.setdefault(head, []).append(rest.strip())
    return found


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_the_package_has_all_its_parts(package):
    recipe = ROOT / "recipes" / package.name / "recipe.yaml"
    parts = [
        "README.md",
        "pyproject.toml",
        "VERSION",
        "LICENSE",
        "tests",
        "benchmarks",
        "demo.py",
        f"src/{package.import_name}/__init__.py",
        f"src/{package.import_name}/__main__.py",
        f"src/{package.import_name}/py.typed",
    ]
    missing = [part for part in parts if not (package.folder / part).exists()]
    assert not missing
    assert recipe.exists()
    assert (package.folder / "VERSION").read_text().strip() == VERSION
    assert not (package.folder / "_shared").exists(), "a stale _shared would win over cmake/"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_pyproject_reads_the_one_version_and_has_the_common_metadata(package):
    data = pyproject(package)
    assert data["project"]["name"] == package.name
    assert data["project"]["dynamic"] == ["version"]
    assert data["project"]["requires-python"] == ">=3.10"
    compiled_in = " AND MIT" if package.native else ""  # robin-map, by nanobind
    assert data["project"]["license"] == "BSD-3-Clause" + compiled_in
    assert data["project"]["authors"] == [{"name": "the maintainers"}]
    assert len(data["project"]["keywords"]) >= 5
    assert "Typing :: Typed" in data["project"]["classifiers"]
    assert "tests" not in data["tool"]["scikit-build"]["sdist"]["exclude"]
    (provider,) = data["tool"]["dynamic-metadata"]
    assert provider["input"] == "VERSION"


def test_what_is_compiled_in_has_its_notice():
    native = [package for package in PACKAGES if package.native]
    assert native
    for package in native:
        assert pyproject(package)["project"]["license-files"] == ["LICENSE", "NOTICE"]
    notice = (ROOT / "NOTICE").read_text()
    (licence,) = (f for f in files("nanobind") if f.name == "LICENSE")
    (robin_map,) = (f for f in files("nanobind") if f.name == "robin_map.h")
    head = robin_map.read_text().partition("*/")[0]
    for text in (licence.read_text(), head.replace("*", " ").partition("/")[2]):
        assert " ".join(text.split()) in " ".join(notice.split())


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_no_source_repeats_the_version(package):
    """A literal would stay behind when VERSION moves on."""
    repeats = [
        str(path)
        for path in (package.folder / "src").rglob("*.py")
        if f'"{VERSION}"' in path.read_text()
    ]
    assert not repeats


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_the_recipe_has_the_name_and_the_version_of_the_package(package):
    text = (ROOT / "recipes" / package.name / "recipe.yaml").read_text()
    recipe = yaml.safe_load(re.sub(r"\$\{\{.*?\}\}", "TEMPLATE", text))
    assert recipe["schema_version"] == 1
    assert recipe["context"]["version"] == VERSION
    assert recipe["context"]["name"] == package.name


# what conda-forge calls otherwise, or what is another thing there
CONDA = {"torch": "pytorch", "opencv-python": "opencv"}
C_LIBRARY = {
    "meshoptimizer"
}  # pip's wheel is versioned apart from the library that conda-forge has


def runtime(package: workspace.Package) -> list[recipes.Build]:
    """The builds of the package itself, without those of its -dev output."""
    return [build for build in recipes.render(package.name) if build.name == package.name]


def conda_line(requirement: Requirement) -> str:
    name = CONDA.get(requirement.name, requirement.name)
    return f"{name} {requirement.specifier}"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_every_build_has_the_ranges_of_pyproject(package):
    data = pyproject(package)
    for build in runtime(package):
        for section, lines in (
            ("run", data["project"]["dependencies"]),
            ("host", data["build-system"]["requires"]),
        ):
            present = build.requirements(section)
            for requirement in map(Requirement, lines):
                if requirement.name in C_LIBRARY:
                    assert requirement.name in {
                        str(line).split()[0] for line in present
                    }  # a pin is a dict
                else:
                    assert conda_line(requirement) in present, build.string
        if build.noarch:
            assert f"python {data['project']['requires-python']}" in build.requirements("run")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_the_recipe_has_licence_summary_and_commands_of_pyproject(package):
    project = pyproject(package)["project"]
    for build in runtime(package):
        about = build.recipe["about"]
        assert about["license"] == project["license"]
        assert about["summary"] == project["description"]
        packed = about["license_file"]
        packed = [packed] if isinstance(packed, str) else packed
        assert sorted(Path(file).name for file in packed) == sorted(project["license-files"])
        if build.noarch:  # in a native package pip writes them, where the recipe says nothing
            commands = [f"{name} = {entry}" for name, entry in project["scripts"].items()]
            assert build.recipe["build"]["python"]["entry_points"] == commands


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_address_and_maintainers_stand_as_the_one_setting_says(package):
    repository, maintainers = address.settings()
    recipe = (ROOT / "recipes" / package.name / "recipe.yaml").read_text()
    assert address.recipe(recipe, repository, maintainers) == recipe
    project = (package.folder / "pyproject.toml").read_text()
    assert address.project(project, repository) == project


def test_recipes_repeat_the_ranges_that_the_pin_file_has_for_what_is_not_pinned():
    pinned = variants()
    for package in PACKAGES:
        for build in runtime(package):
            for section, name, key in (
                ("run", "pytorch", "pytorch"),
                ("run_constraints", "libcudnn", "cudnn"),
            ):
                ranges = [r for r in build.requirements(section) if str(r).startswith(f"{name} >")]
                assert set(ranges) <= {f"{name} {pinned[key][0]}"}


def test_torch_has_one_floor_everywhere():
    (floor,) = variants()["pytorch"]
    for package in PACKAGES:
        for line in pyproject(package)["project"]["dependencies"]:
            requirement = Requirement(line)
            if requirement.name == "torch":
                assert str(requirement.specifier) == floor, package.name
    assert floor in pins("environment.yml")["pytorch"]
    assert floor in pins("environment-gpu.yml")["pytorch"]


def test_environments_repeat_the_pins_of_the_variants():
    pinned = variants()
    newest = pinned["python"][-1].split()[0]
    rows = dict(
        zip(
            pinned["cuda_compiler_version"],
            zip(pinned["cxx_compiler_version"], pinned["c_stdlib_version"], strict=True),
            strict=True,
        )
    )
    for name, cuda in (("environment.yml", "None"), ("environment-gpu.yml", "13.0")):
        environment = pins(name)
        compiler, glibc = rows[cuda]
        assert environment["python"] == [newest]
        assert environment["gxx"] == [f"{compiler}.*"]
        assert environment["sysroot_linux-64"] == [f"{glibc}.*"]
    gpu = pins("environment-gpu.yml")
    assert gpu["cuda-version"] == ["13.0.*"]
    assert gpu["libcudnn"] == pinned["cudnn"]
    assert set(pins("environment.yml")) <= set(gpu)


def least(constraint: str = "") -> Version:
    return Version(constraint.removeprefix(">=") or "0")


@pytest.mark.parametrize("name", ["environment.yml", "environment-gpu.yml"])
def test_an_environment_holds_what_every_package_is_built_and_run_with(name):
    environment = pins(name)
    for package in PACKAGES:
        for build in runtime(package):
            if build.kind in ("cpu", "noarch"):
                for line in build.requirements("host") + build.requirements("run"):
                    needed, *floor = line.split()
                    if needed not in ("python", "python-abi3"):
                        if needed == "typing_extensions":  # with Python 3.10 only
                            continue
                        (given, *_) = environment[needed]
                        assert least(given) >= least(*floor), line


def test_constraints_satisfy_every_range():
    pinned = {}
    for line in (ROOT / "tools" / "constraints.txt").read_text().splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            (specifier,) = requirement.specifier
            pinned[canonicalize_name(requirement.name)] = specifier.version
    unpinned = set()
    for package in PACKAGES:
        data = pyproject(package)["project"]
        extra = data.get("optional-dependencies", {}).get("test", [])
        for line in [*data["dependencies"], *extra]:
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate():
                continue
            name = canonicalize_name(requirement.name)
            if name not in pinned:
                unpinned.add(name)
            else:
                assert requirement.specifier.contains(pinned[name]), f"{package.name}: {line}"
    assert not unpinned, "a dependency of the test run has no pin in tools/constraints.txt"
