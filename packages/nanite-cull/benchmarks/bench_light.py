"""A sun's light at every pixel, out of its shadow maps, beside the same filter in NumPy."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

import nanite_cull as nc
from nanite_cull import lights, meshes

CAMERA = nc.Camera.look_at((0, 0.8, 1.6), (0, 0, 0), fov_y=60, near=0.01)
SIZE, MAP = (1920, 1080), 1024
SUN = nc.Sun()


def maps_of(frame: nc.Frame, scene: nc.Scene) -> list[nc.Camera]:
    """The cameras of the sun's maps, finest first."""
    depth = frame.depth
    ends = np.array([depth.max(), depth.min(where=depth > 0, initial=1)])
    near, far = (float(d) for d in frame.camera.distances(ends))
    box = np.array(scene._core.box(), float)
    return lights.shadow_cameras([SUN], frame.camera, (near, far), box, SIZE, MAP)[0]


def filtered(depth: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The mean of 3 x 3 comparisons about points, each blended over four texels."""
    left, top = np.floor(x - 0.5), np.floor(y - 0.5)
    right, below = x - 0.5 - left, y - 0.5 - top
    one = np.ones_like(right)
    across, down = (1 - right, one, one, right), (1 - below, one, one, below)
    shadow = np.zeros_like(x)
    for j in range(4):
        row = np.clip(top.astype(int) + j - 1, 0, MAP - 1)
        for i in range(4):
            column = np.clip(left.astype(int) + i - 1, 0, MAP - 1)
            shadow += (depth[row, column] > z) * across[i] * down[j]
    return np.maximum(1 - shadow / 9, 0)


def light_of(frame: nc.Frame, cameras: list[nc.Camera], depths: np.ndarray) -> np.ndarray:
    """(height, width) float32: the share of the sun that reaches each pixel."""
    seen = frame.coverage
    place, normal, out = frame.position[seen], frame.normal[seen], np.zeros(SIZE[::-1], np.float32)
    eye = np.asarray(frame.camera.eye, np.float32)
    normal = np.where(((eye - place) * normal).sum(1)[:, None] < 0, -normal, normal)
    towards = np.asarray(SUN.direction, np.float32) / np.linalg.norm(SUN.direction)
    lit, open_ = np.ones(len(place), np.float32), (normal * towards).sum(1) > 0
    pixel = 2 / (frame.camera._window(*SIZE)[1] * SIZE[1]) * frame.distance[seen]
    for camera, depth in zip(cameras, depths, strict=True):
        matrix = (camera.projection(MAP, MAP) @ camera.view).astype(np.float32)
        texel = 2 / (camera._window(MAP, MAP)[1] * MAP)
        lifted = place + normal * (SUN.bias * np.maximum(texel, pixel))[:, None].astype(np.float32)
        clip = lifted @ matrix[:3, :3].T + matrix[:3, 3]
        x, y = (clip[:, 0] * 0.5 + 0.5) * MAP, (0.5 - clip[:, 1] * 0.5) * MAP
        held = open_ & (x >= 2) & (x < MAP - 2) & (y >= 2) & (y < MAP - 2)
        lit[held] = filtered(depth, x[held], y[held], clip[held, 2])
        open_ = open_ & ~held
    out[seen] = np.where((normal * towards).sum(1) > 0, lit, 0)
    return out


def main() -> None:
    bench = Bench("light", "the same filter in NumPy", versions={"numpy": np.__version__})
    scene = nc.Scene(nc.build(*meshes.heightfield(708), keep_source=False, progress=False))
    for threads in (1, 2):
        case = f"1 M heightfield, four maps, {threads} thread{'s' * (threads > 1)}"
        if not bench.wants(case):
            continue
        frame = nc.Renderer(*SIZE, lights=[SUN], shadow_size=MAP, threads=threads).render(
            scene, CAMERA
        )
        cameras, depths = maps_of(frame, scene), frame._shadows.depths()
        share = np.zeros((1, *SIZE[::-1]), np.float32)
        _ = frame.position, frame.normal  # the peer's planes, untimed

        def ours(frame: nc.Frame = frame, share: np.ndarray = share) -> None:
            frame._find_light(share=share)

        def peer(frame: nc.Frame = frame, cameras=cameras, depths=depths) -> np.ndarray:
            return light_of(frame, cameras, depths)

        ours()
        apart = (np.abs(share[0] - peer()) > 0.02).mean()
        bench.fact(f"pixels apart by more than 0.02, {threads} threads", float(apart))
        bench.compare(case, ours, peer, repeats=7)
    bench.finish()


if __name__ == "__main__":
    main()
