"""Building: triangles a second on one core, what a second core adds, peak memory, bytes on disk.

The peer of each row is the same build with one thread: the ratio is the gain of two threads.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

import nanite_cull as nc
from nanite_cull import meshes, ncl

MESHES = {
    "icosphere 1.3 M": ("icosphere", 8),
    "heightfield 1.0 M": ("heightfield", 708),
    "gyroid 4.0 M": ("gyroid", 328),
}
LARGE = ("heightfield", 2237)  # 10 million triangles
CHILD = """
import json, sys, time
import nanite_cull as nc
from nanite_cull import meshes
mesh = getattr(meshes, sys.argv[1])(int(sys.argv[2]))
nc.build(*meshes.icosphere(2))
status = lambda key: int(open("/proc/self/status").read().split(key)[1].split()[0]) * 1024
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS:")
wall, cpu = time.perf_counter(), time.process_time()
asset = nc.build(*mesh, keep_source=False)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"triangles": len(mesh[1]), "wall_s": wall, "cpu_s": cpu,
                  "peak": status("VmHWM:") - before, "roots": asset.report.roots}))
"""


def in_a_process(kind: str, size: int) -> dict[str, float]:
    """One build in a process of its own: what it adds to the memory that the mesh takes."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(size)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def bytes_on_disk(asset: nc.Asset) -> float:
    with tempfile.TemporaryDirectory() as folder:
        size = ncl.save(asset, Path(folder) / "a.ncl").stat().st_size
    return round(size / asset.statistics()["source_triangles"], 2)


def with_attributes(vertices: np.ndarray, faces: np.ndarray) -> nc.Asset:
    """The mesh with smooth normals and texture coordinates."""
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], normal)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return nc.build(vertices, faces, normals=normals, uvs=vertices[:, [0, 2]] * 0.5 + 0.5)


def main() -> None:
    bench = Bench("build", "itself with one thread", repeats=3)
    for name, (kind, size) in MESHES.items():
        case = f"{name}, 2 threads"
        if not bench.wants(case):
            continue
        mesh = getattr(meshes, kind)(size)
        assets = []  # the last build is looked at afterwards

        def one(mesh=mesh) -> None:
            nc.build(*mesh, threads=1)

        def two(mesh=mesh, assets=assets) -> None:
            assets[:] = [nc.build(*mesh, threads=2)]

        row = bench.compare(case, two, one, warmup=0)
        million = len(mesh[1]) / 1e6
        bench.fact(f"{name}: M triangles/s, one core", round(million / row.peer["cpu_ms"] * 1e3, 3))
        bench.fact(f"{name}: bytes on disk a triangle, positions", bytes_on_disk(assets[0]))
        if kind != "gyroid":
            bench.fact(
                f"{name}: bytes on disk a triangle, normals and uv",
                bytes_on_disk(with_attributes(*mesh)),
            )
    if sys.platform == "linux" and bench.wants("10 M"):
        for name, (kind, size) in {**MESHES, "heightfield 10 M": LARGE}.items():
            result = in_a_process(kind, size)
            memory = round(result["peak"] / result["triangles"])
            bench.fact(f"{name}: peak memory of the build, bytes a triangle", memory)
        bench.fact("heightfield 10 M: triangles", result["triangles"])
        bench.fact("heightfield 10 M: wall s, all threads", round(result["wall_s"], 1))
        bench.fact("heightfield 10 M: CPU s", round(result["cpu_s"], 1))
        bench.fact("heightfield 10 M: roots", result["roots"])
    bench.finish()


if __name__ == "__main__":
    main()
