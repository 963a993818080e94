"""The metadata of a conda package before it is built, as far as its recipe decides it.

What the packages of conda-forge add to those that are built with them (run exports) was read from
its feedstocks (August 2026). The stand-in channel uses the same table, and the offline proof
compares the prediction with what was built.
"""

from __future__ import annotations

from shipping.recipes import Build


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


def metadata(build: Build) -> dict:
    """The record that the channel's index will hold."""
    depends = [_resolved(build, item) for item in build.requirements("run")]
    ignored = build.recipe["requirements"].get("ignore_run_exports", {}).get("by_name", [])
    for line in _exported(build):
        if line.split()[0] not in ignored and line not in depends:
            depends.append(line)
    record = {
        "name": build.name,
        "version": build.version,
        "build": build.string,
        "build_number": build.number,
        "subdir": build.subdir,
        "depends": sorted(depends),
        "constrains": sorted(build.requirements("run_constraints")),
    }
    if build.noarch or build.abi3:  # both are linked into whichever Python is installed
        record["noarch"] = "python"
    return record


def required(builds: list[Build]) -> set[str]:
    """Names of the packages that a channel must hold to build, test and install `builds`."""
    ours = {build.name for build in builds}
    items = [
        item
        for build in builds
        for section in ("build", "host", "run", "test")
        for item in build.requirements(section)
    ]
    found = {item.split()[0] for item in items if isinstance(item, str)}
    return {name for name in found - ours if not name.startswith("__")}


def _exported(build: Build) -> list[str]:
    """What the build and host requirements add to the run requirements."""
    lines: list[str] = []
    for section, kinds in (("build", ("strong",)), ("host", ("strong", "weak"))):
        for item in build.requirements(section):
            name, *rest = item.split()
            exports = run_exports(name, _pinned(build, name, rest))
            if build.noarch:
                lines += exports.get("noarch", [])
            elif not (name == "python" and build.abi3):
                lines += [line for kind in kinds for line in exports.get(kind, [])]
    return lines


def _pinned(build: Build, name: str, rest: list[str]) -> str:
    """The version that a requirement pins: `15` for `15.*`, from the variants for `python`."""
    key = "python" if name == "python-abi3" else name  # it is there for each Python
    text = rest[0] if rest else str(build.variant.get(key, ""))
    return text.split()[0].removesuffix(".*") if text else ""


def _resolved(build: Build, item: str | dict) -> str:
    if isinstance(item, str):
        return item
    pin = item["pin_compatible"]
    (host,) = (
        _pinned(build, name, rest)
        for name, *rest in map(str.split, build.requirements("host"))
        if name == pin["name"]
    )
    return f"{pin['name']} {_pinned_range(host, pin)}"


def _pinned_range(version: str, pin: dict) -> str:
    """`>=13.0,<14.0a0` for version 13.0 with lower bound x.x and upper bound x."""
    parts = version.split(".")
    low = ".".join(parts[: pin["lower_bound"].count("x")])
    kept = pin["upper_bound"].count("x")
    high = [*parts[: kept - 1], str(int(parts[kept - 1]) + 1), "0a0"]
    return f">={low},<{'.'.join(high)}"
