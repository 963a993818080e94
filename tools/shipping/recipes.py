"""The recipes, rendered from the one pin file, and the order in which they are built."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import workspace
from rattler_build import (
    JinjaConfig,
    PlatformConfig,
    RenderConfig,
    Stage0Recipe,
    VariantConfig,
)

from shipping.subdirs import SUBDIR

FOLDER = workspace.ROOT / "recipes"
VARIANTS = FOLDER / "variants.yaml"
PLATFORM = PlatformConfig(target_platform=SUBDIR)


@dataclass(frozen=True)
class Build:
    """One variant of one output of a recipe."""

    recipe: dict
    variant: dict
    path: Path
    override: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.recipe["package"]["name"]

    @property
    def version(self) -> str:
        return self.recipe["package"]["version"]

    @property
    def string(self) -> str:
        return self.recipe["build"]["string"]

    @property
    def number(self) -> int:
        return self.recipe["build"].get("number", 0)

    @property
    def noarch(self) -> bool:
        return self.recipe["build"].get("noarch") == "python"

    @property
    def kind(self) -> str:
        """`noarch`, `cpu`, `cuda129`, `cuda130` or `other`: what --variant chooses by."""
        if self.noarch:
            return "noarch"
        kind = self.string.split("_")[0]
        return kind if re.fullmatch(r"cpu|cuda\d+", kind) else "other"

    @property
    def python(self) -> str | None:
        """`3.11`, or None for a noarch build."""
        pinned = re.match(r"\d+\.\d+", str(self.variant.get("python", "")))
        return pinned.group() if pinned and not self.noarch else None

    @property
    def abi3(self) -> bool:
        return bool(self.recipe["build"].get("python", {}).get("version_independent"))

    @property
    def subdir(self) -> str:
        return "noarch" if self.noarch else SUBDIR

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}-{self.string}.conda"

    def requirements(self, section: str) -> list:
        """Of `build`, `host`, `run`, `run_constraints` or `test`, what the recipe's tests add."""
        if section == "test":
            tests = self.recipe.get("tests", [])
            added = [test.get("requirements", {}).get("run", []) for test in tests]
            return [item for items in added for item in items]
        return self.recipe["requirements"].get(section, [])


def names() -> list[str]:
    """The recipes that exist, as folders below recipes/, the six packages first and in order."""
    found = {str(path.parent.relative_to(FOLDER)) for path in FOLDER.rglob("recipe.yaml")}
    six = [name for name in workspace.SIX if name in found]
    return six + sorted(found - set(six))


def render(
    name: str,
    *,
    folder: Path = FOLDER,
    python_min: str | None = None,
    pins: list[Path] | None = None,
) -> list[Build]:
    """All variants of one recipe, of each of its outputs.

    `python_min` takes the place of the pinned one, the Python that noarch packages are built with:
    stand-ins may have another only. `pins` are variant files in place of `folder`/variants.yaml.
    """
    override = {"python_min": [python_min]} if python_min else {}
    config = VariantConfig.from_files_with_context(
        [str(file) for file in pins or [folder / "variants.yaml"]], JinjaConfig(platform=PLATFORM)
    ).merge(VariantConfig(override))
    path = folder / name / "recipe.yaml"
    recipe = Stage0Recipe.from_file(str(path))
    builds = {}
    for variant in recipe.render(config, RenderConfig(platform=PLATFORM)):
        build = Build(variant.recipe.to_dict(), variant.variant, path, override)
        builds.setdefault(build.file_name, build)  # an output without Python: once for all rows
    return _without_twins(list(builds.values()), _cpu_row(config))


def _cpu_row(config: VariantConfig) -> dict[str, str]:
    """What goes with no CUDA in a variants file: compilers and glibc by key."""
    zipped = (keys for keys in config.zip_keys or [] if "cuda_compiler_version" in keys)
    return {
        key: config[key][config["cuda_compiler_version"].index("None")] for key in next(zipped, [])
    }


def _without_twins(builds: list[Build], cpu_row: dict[str, str]) -> list[Build]:
    """A compiled recipe that has nothing to do with CUDA (`other`) once, with the CPU's compilers.

    It is rendered for each row, as its compiler and `stdlib('c')` name one.
    """
    return [
        build
        for build in builds
        if build.kind != "other"
        or all(build.variant.get(key, value) == value for key, value in cpu_row.items())
    ]


def in_build_order(builds: list[Build]) -> list[Build]:
    """Dependencies among our own packages first; otherwise the given order."""
    ours = {build.name for build in builds}
    needs = {name: set() for name in ours}
    for build in builds:
        for section in ("build", "host", "run", "test"):
            for item in build.requirements(section):
                needed = item.split()[0] if isinstance(item, str) else ""
                if needed in ours and needed != build.name:
                    needs[build.name].add(needed)
    ordered: list[str] = []
    waiting = list(dict.fromkeys(build.name for build in builds))
    while waiting:
        ready = [name for name in waiting if needs[name] <= set(ordered)]
        if not ready:
            raise RuntimeError(f"these recipes need each other in a circle: {', '.join(waiting)}")
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return sorted(builds, key=lambda build: ordered.index(build.name))
