"""What the packages of conda-forge that our recipes name add to the packages built with them.

Read from conda-forge's feedstocks (August 2026). The stand-in channel and the predicted metadata
use this one table, and the offline proof compares the prediction with what was built.
"""

from __future__ import annotations


def run_exports(name: str, version: str) -> dict[str, list[str]]:
    """The run exports of `name` at the pinned `version` (`15`, `2.17`, `3.11`), by kind."""
    if name.startswith("gxx_"):
        return {"strong": [f"libgcc >={version}", f"libstdcxx >={version}"]}
    if name.startswith("sysroot_"):
        return {"strong": [f"__glibc >={version},<3.0.a0"]}
    if name == "python":
        tag = version.replace(".", "")
        return {"weak": [f"python_abi {version}.* *_cp{tag}"], "noarch": ["python"]}
    if name == "python-abi3":
        return {"weak": ["_python_abi3_support 1.*", f"cpython >={version}"]}
    if name == "cuda-cudart-dev":
        return {"weak": ["cuda-cudart"]}
    return {}
