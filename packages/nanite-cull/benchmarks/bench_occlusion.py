"""A walk through a dense city at street level, with two-pass occlusion and without it.

Hundred assets (houses with windows, towers, things that stand in streets) of a quarter of a
million triangles each in 400,000 instances: 116 G triangles. Each frame is a step further; both
draw the same frames, and the pictures are compared bit for bit.
"""

import sys
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench, Row, Timing

import nanite_cull as nc
from nanite_cull import meshes

ASSETS, INSTANCES, PITCH = 100, 400_000, 24.0  # metres from one house to the next
STEPS = 30


def house(random: np.random.Generator, size: np.ndarray, side: int = 146) -> nc.Asset:
    """A block with rows of recessed windows and rough walls; metres, standing on the ground."""
    line = np.linspace(-1, 1, side)
    u, v = (a.ravel() for a in np.meshgrid(line, line, indexing="ij"))
    corner = np.arange((side - 1) * side).reshape(-1, side)[:, :-1].ravel()
    square = np.stack(
        [corner, corner + 1, corner + side, corner + side, corner + 1, corner + side + 1]
    )
    faces, points = square.T.reshape(-1, 3), []
    rows, columns = random.integers(3, 12, 2)
    inner = (1 - u**2) * (1 - v**2) > 0.05
    window = (np.abs((u * columns) % 1 - 0.5) < 0.3) & (np.abs((v * rows) % 1 - 0.5) < 0.3) & inner
    for axis in range(3):
        for sign in (-1, 1):
            depth = np.where(window, 0.96, 1.0) + inner * random.normal(0, 0.002, u.shape)
            columns_of = np.roll([sign * depth, u * sign, v], axis, axis=0)
            points.append(columns_of.T * size / 2 + [0, size[1] / 2, 0])
    return nc.build(
        np.concatenate(points).astype(np.float32),
        np.concatenate([faces + i * side * side for i in range(6)]).astype(np.uint32),
        progress=False,
    )


def city() -> nc.Scene:
    random = np.random.default_rng(0)
    scene = nc.Scene()
    side = int(np.ceil(np.sqrt(INSTANCES / 2)))
    cells = random.permutation(np.stack(np.unravel_index(np.arange(side * side), (side, side)), 1))
    centre = (cells - side / 2 + 0.5) * PITCH
    each = INSTANCES // ASSETS
    for number in range(ASSETS):
        turn = np.tile(np.eye(4)[:3], (each, 1, 1))
        quarter = random.integers(0, 4, each) * np.pi / 2
        turn[:, 0, 0] = turn[:, 2, 2] = np.cos(quarter)
        turn[:, 0, 2], turn[:, 2, 0] = np.sin(quarter), -np.sin(quarter)
        if number < ASSETS // 2:
            tall = random.uniform(60, 160) if number % 5 == 0 else random.uniform(12, 35)
            asset = house(random, np.array([random.uniform(14, 18), tall, random.uniform(14, 18)]))
            turn[:, ::2, 3] = centre[number * each : (number + 1) * each]
        else:  # bushes and stones along the streets
            vertices, faces = meshes.planet(7)
            asset = nc.build(vertices * np.float32(random.uniform(0.3, 0.8)), faces)
            first = (number - ASSETS // 2) * each
            turn[:, ::2, 3] = centre[first : first + each] + random.uniform(9.5, 11, (each, 2))
        scene.add(asset, turn)
    return scene


def walk(step: int) -> nc.Camera:
    eye = np.array([PITCH * 0.02, 1.7, 40 - 0.3 * step])
    return nc.Camera.look_at(eye, eye + np.array([0.1, 0.05, -1]), fov_y=60, near=0.05)


def main() -> None:
    bench = Bench("occlusion", "the same frame without occlusion", repeats=STEPS)
    start = perf_counter()
    scene = city()
    triangles = sum(  # of all instances
        a.report.input_triangles * int(n)
        for a, n in zip(scene.assets, np.bincount(scene.asset_of), strict=True)
    )
    seconds = perf_counter() - start
    print(f"a city of {len(scene):,} instances, {triangles:,} triangles; {seconds:.0f} s")
    sizes = {"max_visible_clusters": 1 << 23}
    for threads in (1, 2):
        case = f"a step along a street, {threads} thread{'s'[: threads - 1]}"
        if not bench.wants(case):
            continue
        ours = nc.Renderer(1920, 1080, occlusion=True, threads=threads, **sizes)
        plain = nc.Renderer(1920, 1080, threads=threads, **sizes)
        with_it, without = Timing(), Timing()
        for step in range(-2, bench.repeats):
            frames, camera = [], walk(step)
            for renderer, timing in ((ours, with_it), (plain, without)):
                draw = partial(renderer.render, scene, camera)
                timing.run(lambda d=draw, f=frames: f.append(d()), None)
                if step < 0:  # warm-up, and the first frame has no history
                    timing.wall.pop(), timing.cpu.pop()
            for name in ("depth", "instance", "cluster", "triangle"):
                if not np.array_equal(getattr(frames[0], name), getattr(frames[1], name)):
                    raise SystemExit(f"{case}, step {step}: the plane {name} differs")
        row = Row(case, with_it.summary(), without.summary())
        row.ratio = without.summary()["median_ms"] / with_it.summary()["median_ms"]
        row.cpu_ratio = without.summary()["cpu_ms"] / with_it.summary()["cpu_ms"]
        bench.add(row)
    bench.fact("instances", len(scene))
    bench.fact("assets", len(scene.assets))
    bench.fact("instanced triangles", triangles)
    for name, frame in (("with", frames[0]), ("without", frames[1])):
        bench.fact(f"triangles drawn {name}", frame.stats["drawn_triangles"])
        bench.fact(f"clusters drawn {name}", frame.stats["clusters"])
    for name in ("occluded_instances", "occluded_nodes", "occluded_clusters", "post_clusters"):
        bench.fact(name, frames[0].stats[name])
    bench.finish()


if __name__ == "__main__":
    main()
