"""No package imports another one, not even late inside a function."""

import importlib

import grimp
import workspace
from support import pyproject

PACKAGES = workspace.packages()
NAMES = [package.import_name for package in PACKAGES]


def test_no_package_imports_another(monkeypatch):
    for package in PACKAGES:
        monkeypatch.syspath_prepend(package.folder / "src")
    importlib.invalidate_caches()
    graph = grimp.build_graph(*NAMES, include_external_packages=False)
    crossing = {
        (importer, imported)
        for importer in NAMES
        for imported in NAMES
        if importer != imported
        for _ in graph.find_shortest_chains(importer, imported, as_packages=True)
    }
    assert not crossing


def test_no_package_names_another_in_its_requirements():
    for package in PACKAGES:
        project = pyproject(package)["project"]
        extras = project.get("optional-dependencies", {}).values()
        wanted = " ".join([*project["dependencies"], *(item for extra in extras for item in extra)])
        named = [other.name for other in PACKAGES if other != package and other.name in wanted]
        assert not named, f"{package.name} requires {named}"
