"""How long the profile `small` takes to build, with an empty and with a full compiler cache.

Minutes of two cores, so `tools/bench.py` leaves it out: run it by itself. Sources and headers are
fetched before the clock starts. CPU time is that of all processes of the build: on a busy machine
it is the figure to trust, and half of it is what two idle cores need at best.
"""

import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench, Row

from ffmpeg_gpu_build import builder, headers, resolve


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(plan, options: builder.Options) -> tuple[builder.Built, dict[str, float]]:
    """A build from nothing but the fetched sources, and its wall and CPU milliseconds."""
    for left in ("src", "objects", "staged"):
        shutil.rmtree(options.work / left, ignore_errors=True)
    (options.work / "state.json").unlink(missing_ok=True)
    wall, cpu = time.monotonic(), cpu_of_children()
    made = builder.build(plan, options)
    wall, cpu = time.monotonic() - wall, cpu_of_children() - cpu
    print(f"{wall:.0f} s wall, {cpu:.0f} s of CPU", flush=True)
    return made, {"median_ms": wall * 1e3, "cpu_ms": cpu * 1e3, "spread": 0.0, "runs": 1}


def main() -> None:
    plan = resolve("small")
    bench = Bench("build", "no peer: the same build without and with ccache")
    bench.versions |= {"ffmpeg": plan.version}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CCACHE_DIR"] = str(Path(folder, "ccache"))
        options = builder.Options(Path(folder, "small"), Path(folder, "work"), jobs=2)
        builder.fetch(plan, options)
        headers.provide(plan, options.work / "headers")
        made, cold = timed(plan, options)
        bench.add(Row("small, 2 jobs, empty cache", cold))
        made, warm = timed(plan, options)
        bench.add(Row("small, 2 jobs, full cache", warm))
        files = [p for p in made.prefix.rglob("*") if p.is_file() and not p.is_symlink()]
        bench.fact("installed MiB", round(sum(p.stat().st_size for p in files) / 2**20, 1))
        for name in ("licence", "nvenc_driver_floor", "ptx", "compilers"):
            bench.fact(name, made.facts[name])
    bench.finish()


if __name__ == "__main__":
    main()
