"""Solve and install conda packages from the channels of the tests, as conda would.

answers = call(solve, channels=[...], problems=[{"specs": [...], "virtual": VIRTUAL}])
"""

from __future__ import annotations

from pathlib import Path

from shipping.subdirs import SUBDIR

# what every such machine has, as far as a solver asks for it
VIRTUAL = (
    {"__osx": "14.0", "__unix": "0", "__archspec": "1"}
    if SUBDIR.startswith("osx")
    else {"__linux": "6.1", "__glibc": "2.36", "__unix": "0", "__archspec": "1"}
)


async def solve(channels: list[str], problems: list[dict]) -> list[dict]:
    """Solve each problem (`specs`, `virtual`) over `channels`, which are folders or addresses.

    An answer holds `records` (name to version, build, build_number, url) or `error`, the reason.
    """
    sources = [source for channel in channels for source in _sources(channel)]
    answers = []
    for problem in problems:
        _, answer = await _solved(sources, problem["specs"], problem["virtual"])
        answers.append(answer)
    return answers


async def install(
    channels: list[str], specs: list[str], virtual: dict[str, str], prefix: str, cache: str
) -> dict:
    """Solve `specs` and install the result into `prefix`; the answer is that of `solve`."""
    import rattler

    sources = [source for channel in channels for source in _sources(channel)]
    records, answer = await _solved(sources, specs, virtual)
    if records:
        await rattler.install(records, prefix, cache_dir=cache, show_progress=False)
    return answer


async def _solved(sources: list, specs: list[str], virtual: dict[str, str]) -> tuple[list, dict]:
    import rattler
    from rattler.exceptions import SolverError

    try:
        records = await rattler.solve(
            sources=sources,
            specs=specs,
            platforms=[SUBDIR, "noarch"],
            virtual_packages=[
                rattler.GenericVirtualPackage(
                    rattler.PackageName(name), rattler.Version(version), rattler.BuildString("0")
                )
                for name, version in virtual.items()
            ],
        )
    except SolverError as error:
        return [], {"error": str(error)}
    found = {
        record.name.normalized: {
            "version": str(record.version),
            "build": str(record.build),
            "build_number": record.build_number,
            "url": record.url,
        }
        for record in records
    }
    return records, {"records": found}


def _sources(channel: str) -> list:
    import rattler

    folder = Path(channel)
    if not folder.is_dir():
        return [rattler.Channel(channel)]
    return [
        rattler.SparseRepoData(
            rattler.Channel(folder.resolve().as_uri()), subdir, folder / subdir / "repodata.json"
        )
        for subdir in (SUBDIR, "noarch")
        if (folder / subdir / "repodata.json").exists()
    ]
