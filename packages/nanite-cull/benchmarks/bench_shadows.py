"""One frame of a heightfield with a sun's four shadow maps, beside the frame without."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

import nanite_cull as nc
from nanite_cull import meshes

CAMERA = nc.Camera.look_at((0, 0.8, 1.6), (0, 0, 0), fov_y=60, near=0.01)
SIDES = {"1 M": 708, "10 M": 2237}


def main() -> None:
    bench = Bench("shadows", "the same frame without shadow maps")
    for name, side in SIDES.items():
        sizes = {size: f"{name} heightfield, four maps of {size} x {size}" for size in (1024, 2048)}
        if not any(bench.wants(case) for case in sizes.values()):
            continue
        scene = nc.Scene(nc.build(*meshes.heightfield(side), keep_source=False, progress=False))
        plain = nc.Renderer(1920, 1080)
        for size, case in sizes.items():
            lit = nc.Renderer(1920, 1080, lights=[nc.Sun()], shadow_size=size)
            bench.compare(
                case,
                lambda r=lit, s=scene: r.render(s, CAMERA),
                lambda r=plain, s=scene: r.render(s, CAMERA),
            )
    bench.finish()


if __name__ == "__main__":
    main()
