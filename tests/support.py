"""What tests across packages read and build."""

from typing import Any

import workspace

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

# Where a test looks at what a build brings, not at how fast it is: a setting of CMake's
QUICK = "CMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG"


def pyproject(package: workspace.Package) -> dict[str, Any]:
    return tomllib.loads((package.folder / "pyproject.toml").read_text())
