"""Streaming under a tiny budget for minutes: no hole, no byte above the budget, nothing left.

    python packages/nanite-cull/benchmarks/soak_streaming.py --minutes 15 --json FILE

A planet of 327,680 triangles in small pages is flown over with a twentieth of its memory. Some
frames are drawn from within (every pixel must be covered), some wait for their pages, with a tenth,
and must be the whole mesh's pictures bit for bit; file, scene and renderer are opened anew now and
then.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from soaking import Soak

import nanite_cull as nc
from nanite_cull import _C, meshes, ncl

SIZE, FRAMES_A_LIFE = (320, 240), 400
PAGE = 4096  # bytes on disk: many pages, much to come and go
INSIDE = {"fov_y": 90, "near": 0.01}


def camera(random: np.random.Generator, inside: bool) -> nc.Camera:
    """From within the planet anywhere around, or past its surface."""
    towards = random.normal(size=3)
    towards /= np.linalg.norm(towards)
    if inside:
        return nc.Camera.look_at(0.2 * random.random(3), towards, **INSIDE)
    return nc.Camera.look_at(1.5 * towards, 0.5 * towards, fov_y=6, near=1e-3)


def life(soak: Soak, path: Path, asset: nc.Asset, budget: int, random: np.random.Generator) -> None:
    """One file, one scene, two renderers, some hundred frames."""
    options = {"threads": 2, "threshold": 16}
    live = nc.Renderer(*SIZE, budget=budget // 2, **options)
    waits = nc.Renderer(*SIZE, budget=budget, wait_resident=True, **options)
    streamed, whole = nc.Scene(nc.open(path)), nc.Scene(asset)
    exact = nc.Renderer(*SIZE, **options)
    for number in range(FRAMES_A_LIFE):
        if not soak.goes_on():
            break
        inside, waiting = number % 7 == 0, number % 10 == 3
        view = camera(random, inside and not waiting)
        try:
            frame = (waits if waiting else live).render(streamed, view)
        except RuntimeError as error:
            if not (waiting and "more than the budget" in str(error)):
                raise
            soak.done["views refused, too large to wait for"] += 1
            continue
        soak.done["frames"] += 1
        if frame.stats["resident_bytes"] > (budget if waiting else budget // 2):
            soak.lost.append(f"frame {number}: {frame.stats['resident_bytes']} bytes of {budget}")
        if inside and not waiting and not frame.coverage.all():
            soak.lost.append(f"frame {number}: {int((~frame.coverage).sum())} pixels are a hole")
        if waiting:
            soak.done["pictures compared"] += 1
            if frame.depth.tobytes() != exact.render(whole, view).depth.tobytes():
                soak.lost.append(f"frame {number}: not the whole mesh's picture")
    for renderer in (live, waits):
        soak.done["pages installed"] += int(renderer.stats.get("installed_pages", 0))
        soak.done["pages evicted"] += int(renderer.stats.get("evicted_pages", 0))
    soak.done["times opened"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=int, default=10, help="of the planet's memory: 1 / SHARE")
    parser.add_argument(
        "--level", type=int, default=7, help="of the planet: 20 * 4^level triangles"
    )
    versions = {"nanite-cull": nc.__version__, "numpy": np.__version__}
    soak = Soak("soak_streaming", versions, parser)
    random = np.random.default_rng(soak.options.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planet.ncl"
        asset = nc.build(
            *meshes.planet(soak.options.level), max_triangles=32, group_size=6, progress=False
        )
        path.write_bytes(_C.encode_ncl(asset._core, 0, PAGE))
        counts = ncl.open(path).clusters
        memory = 12 * counts["vertex_count"].sum() + 3 * counts["triangle_count"].sum()
        while soak.goes_on():
            life(soak, path, asset, int(memory) // soak.options.share, random)
    return soak.finish()


if __name__ == "__main__":
    sys.exit(main())
