"""Solve, install and index with py-rattler, in a child process.

py-rattler 0.26 to 0.28 may crash at interpreter exit after the work is done, so the child leaves by
`os._exit` and the parent judges by the answer that it wrote.

    answer = call("solve", channels=[...], problems=[...])
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def call(task: str, **request: Any) -> Any:
    """Run one of the tasks below in a child process and return its answer."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        asked = Path(folder, "request.json")
        asked.write_text(json.dumps({"task": task, **request}))
        done = subprocess.run(
            [sys.executable, __file__, asked, answer], capture_output=True, text=True
        )
        if not answer.exists():
            raise RuntimeError(f"rattler's {task} ended without an answer:\n{done.stderr}")
        return json.loads(answer.read_text())


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


async def index(folder: str) -> dict:
    """Write the repodata of the channel in `folder`."""
    from rattler.index import index_fs

    await index_fs(folder, write_zst=False, write_shards=False, force=True)
    return {}


async def _solved(sources: list, specs: list[str], virtual: dict[str, str]) -> tuple[list, dict]:
    import rattler
    from rattler.exceptions import SolverError

    try:
        records = await rattler.solve(
            sources=sources,
            specs=specs,
            platforms=["linux-64", "noarch"],
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
        for subdir in ("linux-64", "noarch")
        if (folder / subdir / "repodata.json").exists()
    ]


def main() -> None:
    asked, answer = Path(sys.argv[1]), Path(sys.argv[2])
    request = json.loads(asked.read_text())
    task = {"solve": solve, "install": install, "index": index}[request.pop("task")]
    result = asyncio.run(task(**request))
    aside = answer.with_suffix(".part")
    aside.write_text(json.dumps(result))
    aside.replace(answer)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
