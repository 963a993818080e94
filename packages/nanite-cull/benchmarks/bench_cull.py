"""Culling many instances of one mesh on one core, far and near, kept resident between frames; a
million that all move, updated and culled on two cores; instances of many meshes in turn, beside the
same ones sorted by mesh."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

import nanite_cull as nc
from nanite_cull import meshes

MOVING = "1,000,000 moving instances, 10,000 in view"
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
        "cull",
        "itself over instances sorted by mesh; else none: bars are 2 ms for 100,000, 20 ms for "
        "1,000,000, 33 ms for 1,000,000 moving",
        repeats=15,
    )
    asset = nc.build(*meshes.planet(7))
    renderer = nc.Renderer(1920, 1080, threads=1)
    for count in (100_000, 1_000_000):
        if not any(bench.wants(f"{count:,} instances, {name}") for name in VIEWS):
            continue
        scene = scene_of(asset, count)
        for name, camera in VIEWS.items():
            row = bench.compare(
                f"{count:,} instances, {name}",
                lambda scene=scene, camera=camera: renderer.cull(scene, camera),
            )
            if row is not None:
                _, stats = renderer.cull(scene, camera)
                bench.fact("  visible clusters", stats["visible_small"] + stats["visible_large"])
    if bench.wants(MOVING):
        moving(bench, scene_of(asset, 1_000_000))
    interleaved(bench)
    bench.finish()


def interleaved(bench: Bench, assets: int = 64, each: int = 1_600) -> None:
    """Instances of many assets in turn, beside the same ones asset after asset."""
    if not bench.wants("instances of many meshes in turn"):
        return
    made = [nc.build(*meshes.planet(4), progress=False) for _ in range(assets)]
    transforms = np.tile(np.eye(4, dtype=np.float32)[:3], (assets, each, 1, 1))
    transforms[..., 3] = np.random.default_rng(0).uniform(-150, 150, (assets, each, 3))
    in_turn, in_order = nc.Scene(), nc.Scene()
    for asset, places in zip(made, transforms, strict=True):
        in_order.add(asset, places)
    for k in range(each):
        for asset, places in zip(made, transforms, strict=True):
            in_turn.add(asset, places[k : k + 1])
    renderer = nc.Renderer(1920, 1080, threads=1)
    for name, camera in VIEWS.items():
        bench.compare(
            f"{assets * each:,} instances of many meshes in turn, {name}",
            lambda camera=camera: renderer.cull(in_turn, camera),
            lambda camera=camera: renderer.cull(in_order, camera),
        )


def moving(bench: Bench, scene: nc.Scene) -> None:
    """All instances turn and drift from frame to frame; about 10,000 are in view."""
    random, frames = np.random.default_rng(1), []
    turn, _ = np.linalg.qr(random.normal(size=(len(scene), 3, 3)))
    step = random.normal(size=(len(scene), 3)) * 0.02
    for frame in range(4):
        transforms = scene.transforms
        transforms[:, :, :3] = turn if frame % 2 else np.roll(turn, 1, axis=0)
        transforms[:, :, 3] += step * frame
        frames.append(transforms)
    camera = nc.Camera.look_at((0, 0, 0), (0, 0, -1), fov_y=20)
    renderer, count = nc.Renderer(1920, 1080, threshold=8, threads=2), 0

    def frame_of() -> None:
        nonlocal count
        count += 1
        scene.update(0, frames[abs(count % 6 - 3)], threads=2)
        renderer.cull(scene, camera)

    bench.compare(MOVING, frame_of, repeats=30)
    _, stats = renderer.cull(scene, camera)
    bench.fact("  moving: instances in view", stats["visible_instances"])
    bench.fact("  moving: instances tested", stats["tested_instances"])
    bench.fact("  moving: visible clusters", stats["visible_small"] + stats["visible_large"])


if __name__ == "__main__":
    main()
