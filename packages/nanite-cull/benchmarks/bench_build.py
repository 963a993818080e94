"""Building: triangles a second on one core, what a second core adds, peak memory, bytes on disk.

The peer of each row is the same build with one thread: the ratio is the gain of two threads.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import Bench

import nanite_cull as nc
from nanite_cull import meshes, ncl

MESHES = {
    "icosphere 1.3 M": lambda: meshes.icosphere(8),
    "heightfield 1.0 M": lambda: meshes.heightfield(708),
}
MEMORY_SIDE = 1000  # vertices a side of the mesh whose build is watched for memory


def peak_bytes(side: int) -> int:
    """Peak memory that one build adds to a process that holds the mesh."""
    code = (
        "import resource, nanite_cull as nc; from nanite_cull import meshes\n"
        f"v, f = meshes.heightfield({side})\n"
        "nc.build(*meshes.icosphere(2))\n"
        "import gc; gc.collect()\n"
        "status = open('/proc/self/status').read().split('VmRSS:')[1].split()[0]\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "nc.build(v, f, keep_source=False)\n"
        "peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
        "print((int(peak) - int(status)) * 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def main() -> None:
    bench = Bench("build", "itself with one thread", repeats=3)
    for name, make in MESHES.items():
        case = f"{name}, 2 threads"
        if not bench.wants(case):
            continue
        mesh = make()
        row = bench.compare(
            case,
            lambda mesh=mesh: nc.build(*mesh, threads=2),
            lambda mesh=mesh: nc.build(*mesh, threads=1),
            warmup=0,
        )
        million = len(mesh[1]) / 1e6
        bench.fact(f"{name}: M triangles/s, one core", round(million / row.peer["cpu_ms"] * 1e3, 3))
        with tempfile.TemporaryDirectory() as folder:
            path = ncl.save(nc.build(*mesh), Path(folder) / "a.ncl")
            size = path.stat().st_size / len(mesh[1])
        bench.fact(f"{name}: bytes on disk a triangle", round(size, 2))
    if sys.platform == "linux" and bench.wants("memory"):
        count = 2 * (MEMORY_SIDE - 1) ** 2
        bench.fact(
            "peak memory of a build, bytes a triangle", round(peak_bytes(MEMORY_SIDE) / count)
        )
    bench.fact(
        "peak of this process, MB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    )
    bench.finish()


if __name__ == "__main__":
    main()
