"""For benchmarks at tensor-parallel size 2: this script is rank 0 and starts itself again as rank
1.

Both ranks run the same calls in the same order, so that the collectives inside them meet; rank 0
prints and writes the result.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable


def start() -> subprocess.Popen | None:
    """Sets the launcher's environment; returns the process of rank 1, or None on rank 1 itself."""
    if os.environ.get("RANK") == "1":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return None
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
              "OMP_NUM_THREADS": "1"}  # fmt: skip
    arguments = [a for a in sys.argv if a != "--json"]
    if "--json" in sys.argv:
        arguments.remove(sys.argv[sys.argv.index("--json") + 1])
    other = subprocess.Popen([sys.executable, *arguments], env=os.environ | common | {"RANK": "1"})
    atexit.register(other.kill)  # after an error here it would wait for its time-out
    os.environ.update(common | {"RANK": "0"})
    return other


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def peak_extra(call: Callable[[], object]) -> float:
    """MB by which `call` raises this process's peak resident memory above what it held before.

    What the allocator keeps of freed memory goes back to the system first: it would hide a part.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field))
