"""Culling many instances of one mesh on one core, far and near, kept resident between frames."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

import nanite_cull as nc
from nanite_cull import meshes

VIEWS = {
    "all in view": nc.Camera.look_at((0, 0, 1000), fov_y=60),
    "from their middle": nc.Camera.look_at((0, 0, 0), (0, 0, -1), fov_y=60),
}


def scene_of(asset: nc.Asset, count: int) -> nc.Scene:
    random = np.random.default_rng(0)
    transforms = np.tile(np.eye(4, dtype=np.float32)[:3], (count, 1, 1))
    transforms[:, :, 3] = random.uniform(-300, 300, (count, 3))
    scene = nc.Scene()
    scene.add(asset, transforms)
    return scene


def main() -> None:
    bench = Bench(
        "cull", "no peer: the bar is 2 ms for 100,000 and 20 ms for 1,000,000", repeats=15
    )
    asset = nc.build(*meshes.planet(7))
    renderer = nc.Renderer(1920, 1080, threads=1)
    for count in (100_000, 1_000_000):
        scene = scene_of(asset, count)
        for name, camera in VIEWS.items():
            row = bench.compare(
                f"{count:,} instances, {name}",
                lambda scene=scene, camera=camera: renderer.cull(scene, camera),
            )
            if row is not None:
                _, stats = renderer.cull(scene, camera)
                bench.fact("  visible clusters", stats["visible_small"] + stats["visible_large"])
    bench.finish()


if __name__ == "__main__":
    main()
