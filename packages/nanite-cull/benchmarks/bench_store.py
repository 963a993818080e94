"""Files: decoding pages on one core, opening by the header, first frames, memory, pictures.

Decoded bytes are a page's vertices (32-bit integers) and triangles (three bytes each), stored ones
the page as it lies in the file. The peer of opening is reading the whole file, of a first frame
reading and drawing it; of positions and pictures the frame they are made of. A first frame is that
of a new renderer, drawn from what is there by then, or, where it waits, in full detail.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

import nanite_cull as nc
from nanite_cull import meshes, ncl

CAMERA = nc.Camera.look_at((0, 0.8, 1.6), (0, 0, 0), fov_y=60, near=0.01)
SIDES = {"heightfield 1.0 M": 708, "heightfield 10 M": 2237}


def resident(asset: nc.Asset) -> int:
    """Bytes of the core's arrays: clusters take 32 and their bounds 44."""
    arrays = (asset.positions, asset.normals, asset.uvs, asset.vertex_refs, asset.local_triangles,
              asset.nodes, asset.groups)  # fmt: skip
    return sum(a.nbytes for a in arrays) + 76 * len(asset.clusters)


def decode(bench: Bench, name: str, path: Path) -> None:
    file = ncl.open(path)
    pages = len(file.page_bytes)
    size = file._core.decode(0, pages)
    row = bench.compare(f"decode all pages, {name}, one core", lambda: file._core.decode(0, pages))
    if row is not None:
        bench.fact(f"{name}: GB/s decoded on one core", round(size / row.ours["cpu_ms"] / 1e6, 2))
        stored = int(file.page_bytes.sum()) / row.ours["cpu_ms"] / 1e6
        bench.fact(f"{name}: GB/s of stored bytes on one core", round(stored, 3))


def first_frame(bench: Bench, name: str, path: Path) -> None:
    """From the path to the first picture's ids and depths."""

    def frame(read: Callable[[Path], nc.Asset], wait: bool) -> nc.Frame:
        renderer = nc.Renderer(1920, 1080, wait_resident=wait)
        return renderer.render(nc.Scene(read(path)), CAMERA)

    for what, wait in (("open and draw a first frame", False), ("and in full detail", True)):
        bench.compare(f"{what}, {name}", lambda w=wait: frame(nc.open, w),
                      lambda: frame(nc.load, False))  # fmt: skip


def main() -> None:
    bench = Bench("store", "reading (and drawing) the whole file; the frame itself", repeats=7)
    with tempfile.TemporaryDirectory() as folder:
        if bench.wants("icosphere 1.3 M, normals and uv"):
            vertices, faces = meshes.icosphere(8)
            full = nc.build(vertices, faces, normals=vertices, uvs=vertices[:, [0, 2]] * 0.5 + 0.5)
            decode(bench, "icosphere 1.3 M", nc.build(vertices, faces).save(f"{folder}/a.ncl"))
            decode(bench, "icosphere 1.3 M, normals and uv", full.save(f"{folder}/b.ncl"))
            bench.fact("icosphere 1.3 M, normals and uv: bytes loaded a triangle",
                       round(resident(nc.load(f"{folder}/b.ncl")) / len(faces), 1))  # fmt: skip
        for name, side in SIDES.items():
            if not bench.wants(name):
                continue
            mesh = meshes.heightfield(side)
            path = nc.build(*mesh, keep_source=False).save(f"{folder}/c.ncl")
            decode(bench, name, path)
            bench.compare(f"open, {name}", lambda p=path: ncl.open(p), lambda p=path: nc.load(p))
            first_frame(bench, name, path)
            asset = nc.load(path)
            size = path.stat().st_size / len(mesh[1])
            bench.fact(f"{name}: bytes on disk a triangle, positions", round(size, 2))
            bench.fact(f"{name}: bytes loaded a triangle", round(resident(asset) / len(mesh[1]), 1))
            if side > 1000:
                continue
            renderer, scene = nc.Renderer(1280, 720, threads=1), nc.Scene(asset)
            for what in ("position", "picture"):

                def frame(renderer=renderer, scene=scene) -> nc.Frame:
                    return renderer.render(scene, CAMERA)

                def more(what=what, frame=frame) -> object:
                    made = frame()
                    return made.position if what == "position" else made.picture()

                row = bench.compare(f"{what} and its frame, {name}, beside the frame", more, frame)
                if row is not None:
                    extra = row.ours["cpu_ms"] / row.peer["cpu_ms"] - 1
                    bench.fact(f"{what}: frames that it costs", round(float(np.float64(extra)), 2))
    bench.finish()


if __name__ == "__main__":
    main()
