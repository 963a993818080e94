"""The weight cache with fifty processes for minutes: who gets a file gets the right one.

    python packages/resnet-zoo/benchmarks/soak_cache.py --minutes 15 --json FILE

A server on loopback drops connections, answers 500 and flips bits. Processes fetch small files
from it into one cache; files are taken from the cache under them, and processes get SIGKILL, in
the middle of what they do, and are replaced. No file may ever be wrong, no error may be another
than the server's own fault, and at the end nothing half-made is left.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from ctypes import c_uint64
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from soaking import Soak

import resnet_zoo
from resnet_zoo.weights import download as downloading
from resnet_zoo.weights.cache import Remote, WeightsError, cache_dir, fetch

FILES, SIZE = 5, 300_000  # bytes
KINDS = ("fetched", "taken away meanwhile", "server's fault", "wrong", "other errors")
SERVERS_FAULT = ("gave no more bytes", "whose SHA-256 starts with", "answered 500")
PAUSE = 2.0  # seconds at most from one file to the next
KILLS_A_SECOND, TAKEN_A_SECOND = 0.2, 1.0
SPARED = 5  # processes that are never killed, so that a leak in one would show
FORK = multiprocessing.get_context("fork")


def contents() -> dict[str, bytes]:
    """Name -> bytes, with the hash in the name as upstream has it."""
    made = {}
    for number in range(FILES):
        data = random.Random(number).randbytes(SIZE)
        made[f"weights{number}-{hashlib.sha256(data).hexdigest()[:8]}.pth"] = data
    return made


class Handler(BaseHTTPRequestHandler):
    """Serves `contents`, with ranges; one answer in five is a fault."""

    files = contents()
    draw = random.Random(0)

    def do_GET(self) -> None:
        data, fault = self.files[self.path[1:]], self.draw.random()
        asked = self.headers.get("Range", "")
        start = int(asked[6:-1]) if asked else 0
        if fault < 0.05:
            return self.send_error(500)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", '"v1"')
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        if fault < 0.15:
            body = body[: len(body) // 2]
        elif fault < 0.2:
            body = bytes([body[0] ^ 1]) + body[1:]
        with suppress(ConnectionError):
            self.wfile.write(body)
        return None

    def log_message(self, *_: object) -> None:
        """Nothing: faults are its purpose."""


def serve(server: ThreadingHTTPServer) -> None:
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients are killed
    server.serve_forever()


def warm_up(port: int, name: str) -> None:
    """A download of this process's own, so that it has all that a first one brings: modules, and
    the thread of tqdm; and none of the descriptors that a fork inherits."""
    os.closerange(3, 1 << 12)
    with suppress(WeightsError):
        own = f"own{os.getpid()}-{name.rpartition('-')[2]}"
        fetch(Remote(f"http://127.0.0.1:{port}/{name}", own), progress=False)
    for path in cache_dir().glob(f"own{os.getpid()}-*"):
        path.unlink()


def work(port: int, seed: int, counts: list[int]) -> None:
    """Fetches until it is killed; counts[k] is how often KINDS[k] happened."""
    draw, files = random.Random(seed), contents()
    warm_up(port, draw.choice(list(files)))
    while True:
        name = draw.choice(list(files))
        try:
            path = fetch(Remote.from_url(f"http://127.0.0.1:{port}/{name}"), progress=False)
            counts[0 if path.read_bytes() == files[name] else 3] += 1
        except FileNotFoundError:
            counts[1] += 1
        except WeightsError as error:
            known = any(words in str(error) for words in SERVERS_FAULT)
            counts[2 if known else 4] += 1
            if not known:
                print(f"soak_cache: {error}", file=sys.stderr, flush=True)
        time.sleep(draw.uniform(0, PAUSE))


def disturb(workers: dict, start: Callable[[int], None], draw: random.Random, soak: Soak) -> None:
    """Kills processes and takes files of the cache, so many a second."""
    while soak.done["killed"] < KILLS_A_SECOND * soak.seconds():
        victim = draw.choice(list(workers)[min(SPARED, len(workers) // 2) :])
        os.kill(workers[victim].pid, signal.SIGKILL)
        workers[victim].join()
        workers[victim].close()
        soak.done["killed"] += 1
        start(victim)
    while soak.done["files taken away"] < TAKEN_A_SECOND * soak.seconds():
        (cache_dir() / draw.choice(list(Handler.files))).unlink(missing_ok=True)
        soak.done["files taken away"] += 1


def judge(soak: Soak, port: int, counts: list[int]) -> None:
    """What was counted, and what is in the cache after one fetch of each file."""
    for kind, count in zip(KINDS, counts, strict=True):
        soak.done[kind] = count
    for kind in ("wrong", "other errors"):
        if soak.done[kind]:
            soak.lost.append(f"{kind}: {soak.done[kind]}")
    for name, data in Handler.files.items():
        for _ in range(50):  # the server goes on with its faults
            with suppress(WeightsError):
                path = fetch(Remote.from_url(f"http://127.0.0.1:{port}/{name}"), progress=False)
                break
        if path.name != name or path.read_bytes() != data:
            soak.lost.append(f"{name} in the cache is wrong")
    known = {f"{name}{end}" for name in Handler.files for end in ("", ".sha256", ".lock")}
    names = {path.name for path in cache_dir().iterdir() if not path.name.startswith("own")}
    left = sorted(names - known)  # `own` ones are of who was killed before it fetched them
    soak.lost += [f"left behind: {name}" for name in left]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=50)
    versions = {"resnet-zoo": resnet_zoo.__version__, "torch": torch.__version__}
    soak = Soak("soak_cache", versions, parser)
    downloading.FIRST_PAUSE = 0.01
    draw, many = random.Random(soak.options.seed), soak.options.processes
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCH_HOME"] = folder
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        port = server.server_port
        gc.freeze()  # a collection in a child would copy the pages that it shares with this process
        serving = FORK.Process(target=serve, args=(server,), daemon=True)
        serving.start()
        server.socket.close()
        shared = [RawArray(c_uint64, len(KINDS)) for _ in range(many)]
        workers: dict[int, multiprocessing.process.BaseProcess] = {}

        def start(number: int) -> None:
            arguments = port, draw.randrange(1 << 30), shared[number]
            workers[number] = FORK.Process(target=work, args=arguments, daemon=True)
            workers[number].start()

        for number in range(many):
            start(number)
        while soak.goes_on():
            disturb(workers, start, draw, soak)
            time.sleep(0.1)
        for worker in workers.values():
            worker.kill()
            worker.join()
        judge(soak, port, [sum(column) for column in zip(*shared, strict=True)])
        serving.kill()
        serving.join()
    return soak.finish()


if __name__ == "__main__":
    sys.exit(main())
