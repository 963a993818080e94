"""Build with py-rattler-build; solve, install and index with py-rattler: in a child process.

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

if __name__ == "__main__":  # the child process: this folder's parent is not on its path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from shipping.subdirs import SUBDIR


def call(
    task: str, *, log: Path | None = None, environment: dict[str, str] | None = None, **request: Any
) -> Any:
    """Run one of the tasks below in a child process and return its answer.

    What the child prints goes to the file `log` where one is given, as it is said. Raises
    RuntimeError with the end of that text when there is no answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        asked = Path(folder, "request.json")
        asked.write_text(json.dumps({"task": task, **request}))
        said = log or Path(folder, "said.txt")
        with said.open("w") as file:
            subprocess.run(
                [sys.executable, __file__, asked, answer],
                env=os.environ | (environment or {}),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        if not answer.exists():
            end = "\n".join(said.read_text(errors="replace").splitlines()[-60:])
            where = f" (all of it: {log})" if log else ""
            raise RuntimeError(f"{task} failed{where}:\n{end}")
        return json.loads(answer.read_text())


async def build(
    recipe: str,
    variants: str,
    override: dict,
    name: str,
    string: str,
    channels: list[str],
    out: str,
    test: bool,
) -> dict:
    """Build the output `name` of `recipe` whose build string is `string`, and run its tests."""
    import rattler_build as rb

    platform = rb.PlatformConfig(target_platform=SUBDIR)
    config = rb.VariantConfig.from_file_with_context(variants, rb.JinjaConfig(platform=platform))
    config = config.merge(rb.VariantConfig(override))
    rendered = rb.Stage0Recipe.from_file(recipe).render(config, rb.RenderConfig(platform=platform))
    by_name = [(v.recipe.to_dict(), v) for v in rendered]
    variant = next(
        v for r, v in by_name if (r["package"]["name"], r["build"]["string"]) == (name, string)
    )
    result = variant.run_build(
        tool_config=rb.ToolConfiguration(test_strategy="native" if test else "skip"),
        output_dir=out,
        channels=[Path(c).resolve().as_uri() if Path(c).is_dir() else c for c in channels],
        progress_callback=_Log(),
        no_build_id=True,
        package_format="conda",
    )
    return {"packages": [str(package) for package in result.packages]}


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


async def extract(package: str, folder: str) -> dict:
    """Unpack a `.conda` file."""
    from rattler.package_streaming import extract as unpack

    unpack(Path(package), Path(folder))
    return {}


class _Log:
    """What rattler-build and the build script say, as plain lines."""

    def on_log(self, event) -> None:
        print(event.message, flush=True)

    def on_build_step(self, event) -> None:
        print(f"== {event.message}", flush=True)

    def on_download_start(self, event) -> None: ...
    def on_download_progress(self, event) -> None: ...
    def on_download_complete(self, event) -> None: ...


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


def main() -> None:
    asked, answer = Path(sys.argv[1]), Path(sys.argv[2])
    request = json.loads(asked.read_text())
    tasks = {task.__name__: task for task in (build, solve, install, index, extract)}
    task = tasks[request.pop("task")]
    result = asyncio.run(task(**request))
    aside = answer.with_suffix(".part")
    aside.write_text(json.dumps(result))
    aside.replace(answer)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
