"""conda-smithy's own linter over recipes, without conda: `python smithy.py CHECKOUTS RECIPE...`.

CHECKOUTS is a folder with the public repositories conda-smithy, rattler-build-conda-compat and
conda-forge-pinning-feedstock of conda-forge, side by side; none of them is on PyPI. The interpreter
needs what conda-smithy imports of PyPI (`REQUIREMENTS`). conda and conda-build, which only recipes
of the old format need, are empty modules here. Prints one JSON object: lints and hints by recipe.
"""

import contextlib
import importlib.abc
import importlib.util
import io
import json
import sys
import types
from pathlib import Path
from typing import ClassVar

import tomllib

REQUIREMENTS = """
exceptiongroup jinja2 jsonschema license-expression networkx py-rattler pydantic pygithub pyyaml
referencing requests ruamel.yaml toolz
"""


class _Anything(type):
    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing


class _Nothing(metaclass=_Anything):
    """What conda offers, for code that only names it."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *args: object, **_: object) -> object:
        return args[0] if args and callable(args[0]) else _Nothing()

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing()


class _Deprecated:
    """conda.deprecations.deprecated: a decorator, and `constant` that defines nothing."""

    def __call__(self, *_: object, **__: object) -> object:
        return lambda function: function

    def __getattr__(self, name: str) -> object:
        return lambda *_, **__: None if name in ("constant", "module", "topic") else lambda f: f


class _Conda(types.ModuleType):
    __version__ = "26.7"
    PLATFORMS = ("linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64", "noarch")
    FIELDS: ClassVar[dict] = {}
    deprecated = _Deprecated()

    def __getattr__(self, name: str) -> object:
        from rattler import Version

        if name.startswith("__"):
            raise AttributeError(name)
        if name == "VersionOrder":
            return Version
        if name == "InvalidVersionSpec":
            return ValueError
        return type(name, (_Nothing,), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: object, target: object = None) -> object:
        if name.split(".")[0] in ("conda", "conda_build"):
            return importlib.util.spec_from_loader(name, self, is_package=True)
        return None

    def create_module(self, spec: object) -> types.ModuleType:
        return _Conda(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


def linter(checkouts: Path) -> types.ModuleType:
    """conda_smithy.lint_recipe, whose look-ups in the pinning feedstock read the checkout."""
    places = (checkouts / "conda-smithy", checkouts / "rattler-build-conda-compat" / "src")
    sys.path[:0] = map(str, places)
    sys.meta_path.insert(0, _Finder())
    version = types.ModuleType("conda_smithy._version")
    version.__version__ = "2026.8"
    sys.modules["conda_smithy._version"] = version
    outputs = types.ModuleType("rattler_build_conda_compat.outputs")  # newer than the checkout's
    outputs.is_staging_output = lambda output: "staging" in output
    outputs.__getattr__ = lambda name: lambda *_, **__: []
    if not (places[1] / "rattler_build_conda_compat" / "outputs.py").exists():
        sys.modules["rattler_build_conda_compat.outputs"] = outputs
    from conda_smithy import lint_recipe
    from conda_smithy.linter import hints, lints, utils

    recipe = checkouts / "conda-forge-pinning-feedstock" / "recipe"
    avoid = tomllib.loads((recipe / "linter_hints" / "hints.toml").read_text())
    for module in (lint_recipe, utils, hints, lints):
        for name, value in (
            ("load_linter_toml_metadata", lambda: avoid),
            ("get_global_pinning_python_min", lambda: "3.10"),
            ("_maintainer_exists", lambda account: True),
        ):
            if hasattr(module, name):
                setattr(module, name, value)
    return lint_recipe


def main() -> None:
    checkouts, *recipes = sys.argv[1:]
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        lint_recipe = linter(Path(checkouts))
        for folder in recipes:
            said = lint_recipe.main(folder, conda_forge=True, return_hints=True)
            found[folder] = {"lints": said[0], "hints": said[1]}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
