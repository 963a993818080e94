"""The viewer under load for minutes: every answer is a picture, and the server stays as it is.

    python packages/nanite-cull/benchmarks/soak_viewer.py --minutes 15 --json FILE

`nanite-cull view` runs as a process of its own, which is watched. Clients move sliders at random
over kept connections; some go away in the middle of an answer, some ask nonsense, which must be
refused, some come without the token.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from soaking import Soak

import nanite_cull as nc
from nanite_cull import _C, meshes
from nanite_cull.pictures import KINDS

SIZES = [[160, 90], [320, 180], [97, 61]]
BUDGETS = [200_000, 1 << 20, 1 << 24]
NONSENSE: list[dict[str, object]] = [{"size": []}, {"eye": [0, 0, "x"]}, {"sun": None}, {"kind": 7}]


def wish(draw: random.Random) -> dict[str, object]:
    """What the page asks when somebody plays with its sliders."""
    eye = [draw.uniform(-3, 3) for _ in range(3)]
    frozen = {"eye": [0, 0, 1.5], "target": [0, 0.5, 0]} if draw.random() < 0.1 else None
    return {
        "size": draw.choice(SIZES), "eye": eye, "target": [0, 0, 0], "frozen": frozen,
        "kind": draw.choice(KINDS), "threshold": draw.choice([0, 1, 4, 30]),
        "budget": draw.choice(BUDGETS), "sun": [draw.uniform(0, 360), draw.uniform(5, 90)],
        "occlusion": draw.random() < 0.3,
    }  # fmt: skip


class Client(threading.Thread):
    """One browser: a connection that is kept, and lost now and then."""

    def __init__(self, address: str, seed: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.place, self.draw, self.stop = urlsplit(address), random.Random(seed), stop
        self.done: dict[str, int] = {"pictures": 0, "refused": 0, "went away": 0}
        self.lost: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            line = http.client.HTTPConnection("127.0.0.1", self.place.port, timeout=300)
            try:
                for _ in range(self.draw.randint(1, 40)):
                    if self.stop.is_set() or not self.ask(line):
                        break
            except Exception as error:
                self.lost.append(f"{type(error).__name__}: {error}")
            finally:
                line.close()

    def ask(self, line: http.client.HTTPConnection) -> bool:
        """One request; whether the connection goes on."""
        asked, what = wish(self.draw), self.draw.random()
        path = f"{self.place.path}frame"
        if what < 0.03:
            path = "/guess/frame"
        elif what < 0.08:
            asked |= self.draw.choice(NONSENSE)
        line.request("POST", path, json.dumps(asked), {"Content-Type": "application/json"})
        if 0.08 <= what < 0.13:  # gone before the answer, or with half of it
            time.sleep(self.draw.uniform(0, 0.05))
            self.done["went away"] += 1
            return False
        answer = line.getresponse()
        data = answer.read()
        if what < 0.08:
            expected = 403 if what < 0.03 else 400
            self.done["refused"] += 1
            if answer.status != expected:
                self.lost.append(f"{answer.status} in place of {expected} for {asked}")
            return False
        self.judge(asked, answer, data)
        return True

    def judge(self, asked: dict, answer: http.client.HTTPResponse, data: bytes) -> None:
        self.done["pictures"] += 1
        if answer.status != 200:
            self.lost.append(f"{answer.status} for {asked}: {data[:200]!r}")
            return
        stats = json.loads(answer.headers["X-Stats"])
        if list(Image.open(io.BytesIO(data)).size) != asked["size"]:
            self.lost.append(f"a picture of another size than {asked['size']}")
        if stats["resident bytes"] > asked["budget"]:
            self.lost.append(f"{stats['resident bytes']} bytes of {asked['budget']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    versions = {"nanite-cull": nc.__version__, "numpy": np.__version__}
    soak = Soak("soak_viewer", versions, parser)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "planet.ncl"
        asset = nc.build(*meshes.planet(5), progress=False)
        path.write_bytes(_C.encode_ncl(asset._core, 0, 6000))
        command = [sys.executable, "-m", "nanite_cull", "view", str(path), "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                address = json.loads(server.stdout.readline())["address"]
                play(soak, address, server.pid)
                if server.poll() is not None:
                    soak.lost.append(f"the server ended with {server.returncode}")
            finally:
                with suppress(ProcessLookupError):
                    server.terminate()
    return soak.finish()


def play(soak: Soak, address: str, pid: int) -> None:
    """All clients at once until the time is up."""
    soak.watched, stop = pid, threading.Event()
    clients = [
        Client(address, soak.options.seed + number, stop) for number in range(soak.options.clients)
    ]
    for client in clients:
        client.start()
    while soak.goes_on():
        time.sleep(0.05)
    stop.set()
    for client in clients:
        client.join(300)
        soak.done.update(client.done)
        soak.lost += client.lost


if __name__ == "__main__":
    sys.exit(main())
