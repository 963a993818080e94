"""Streaming at 60 frames a second: how many installs a frame one decode thread sustains.

Between any two frames of a view of a heightfield all its pages are thrown out, so that each frame
wants more than may come. Once with pages of 128 KB, once with pages of one group each, which is
what an install is where groups are the unit. The peer of the last row is the same picture with all
in memory.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

import nanite_cull as nc
from nanite_cull import _C, meshes, ncl

SIDE, SECONDS, HZ = 1414, 4.0, 60
CAMERA = nc.Camera.look_at((0, 0.8, 1.6), (0, 0, 0), fov_y=60, near=0.01)
PAGES = {"128 KB": 131072, "one group": 8192}


def sustain(bench: Bench, name: str, path: Path) -> None:
    file, asset = ncl.open(path), nc.open(path)
    memory = 12 * file.clusters["vertex_count"].sum() + 3 * file.clusters["triangle_count"].sum()
    groups, pages = len(file.groups), len(file.page_bytes)
    renderer = nc.Renderer(960, 540, threshold=0, threads=1, max_installs=128, decode_threads=1)
    scene, nothing = nc.Scene(asset), bytes(pages)
    renderer.cull(scene, CAMERA)
    before, late = renderer.stats["installed_pages"], 0
    start, frames = time.perf_counter(), round(SECONDS * HZ)
    for i in range(frames):
        renderer._streamer.set_pages(asset._core, nothing)
        renderer.cull(scene, CAMERA)
        left = start + (i + 1) / HZ - time.perf_counter()
        late += left < 0
        time.sleep(max(0.0, left))
    seconds = time.perf_counter() - start
    installs = (renderer.stats["installed_pages"] - before) / (seconds * HZ)
    what = f"pages of {name}, one decode thread, 60 Hz: "
    bench.fact(what + "installs a frame", round(installs, 1))
    bench.fact(what + "groups a frame", round(installs * groups / pages, 1))
    bench.fact(what + "MB/s in memory", round(installs * HZ * float(memory) / pages / 1e6))
    bench.fact(what + "frames that came late", f"{late} of {frames}")


def main() -> None:
    bench = Bench("streaming", "the same mesh whole in memory", repeats=15)
    with tempfile.TemporaryDirectory() as folder:
        asset = nc.build(*meshes.heightfield(SIDE), keep_source=False)
        for name, size in PAGES.items():
            path = Path(folder) / "a.ncl"
            path.write_bytes(_C.encode_ncl(asset._core, 0, size))
            sustain(bench, name, path)
        path = asset.save(Path(folder) / "b.ncl")
        streaming = nc.Renderer(1920, 1080, wait_resident=True)
        whole = nc.Renderer(1920, 1080)
        scenes = nc.Scene(nc.open(path)), nc.Scene(asset)
        bench.compare(
            "a frame whose pages are there, heightfield 4.0 M",
            lambda: streaming.render(scenes[0], CAMERA),
            lambda: whole.render(scenes[1], CAMERA),
        )
    bench.finish()


if __name__ == "__main__":
    main()
