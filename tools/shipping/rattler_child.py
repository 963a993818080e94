"""Build with py-rattler-build, index and unpack with py-rattler: in a child process.

py-rattler 0.26 to 0.28 may crash at interpreter exit after the work is done, so the child leaves by
`os._exit` and the parent judges by the answer that it wrote.

    call(index, folder="output/release/channel")
"""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the child process: this folder's parent is not on its path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
from shipping.subdirs import SUBDIR


def call(
    task: Callable[..., Any],
    *,
    log: Path | None = None,
    environment: dict[str, str] | None = None,
    **request: Any,
) -> Any:
    """Run `task`, an async function of a module, in a child process and return its answer.

    Request and answer are JSON. What the child prints goes to the file `log` where one is given, as
    it is said. Raises RuntimeError with the end of that text when there is no answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        asked = Path(folder, "request.json")
        asked.write_text(json.dumps([task.__code__.co_filename, task.__name__, request]))
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
            raise RuntimeError(f"{task.__name__} failed{where}:\n{end}")
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


def main() -> None:
    asked, answer = Path(sys.argv[1]), Path(sys.argv[2])
    file, task, request = json.loads(asked.read_text())
    result = asyncio.run(runpy.run_path(file)[task](**request))
    aside = answer.with_suffix(".part")
    aside.write_text(json.dumps(result))
    aside.replace(answer)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
