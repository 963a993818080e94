"""A pool of worker processes that run the same case on every rank of a fresh gloo world.

`world(size, case, **arguments)` sends `case` (a top-level function of a test file) to `size`
workers; each calls `case(**arguments)` inside a new process group of that size and the list of what
they returned comes back, rank by rank. Workers are forked once for the whole run from a server that
has imported torch, so a case costs milliseconds, not a start of Python.
"""

import gc
import importlib.util
import multiprocessing
import os
import sys
import traceback
from datetime import timedelta

import pytest

WORKERS = 4
CASE_TIMEOUT = 300  # seconds a case may take on a busy machine: two ranks compile in one


def _load(path, name):
    spec = importlib.util.spec_from_file_location(f"case_{os.path.basename(path)[:-3]}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _serve(rank, port, pipe):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    cases = {}
    gc.collect()
    gc.freeze()  # what stands for ever is not gone through after each case
    while True:
        try:
            number, size, path, name, arguments = pipe.recv()
        except EOFError:  # the pool has closed its end
            return
        try:
            if (path, name) not in cases:
                cases[path, name] = _load(path, name)
            dist.init_process_group(
                "gloo", rank=rank, world_size=size, store=dist.PrefixStore(f"case{number}", store),
                timeout=timedelta(seconds=60),
            )  # fmt: skip
            pipe.send((True, cases[path, name](**arguments)))
        except BaseException as error:
            pipe.send((False, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            gc.collect()  # a group has a thread that polls as long as anything holds it


@pytest.fixture(scope="session")
def forkserver(pytestconfig):
    """A multiprocessing context whose processes have imported the slow modules when they start."""
    # workers import the test files by their place under the root, wherever pytest was started
    if str(pytestconfig.rootpath) not in sys.path:
        sys.path.append(str(pytestconfig.rootpath))
    method = multiprocessing.get_context("forkserver")
    method.set_forkserver_preload(
        ["tp_parallel", "torch.distributed.tensor", "torch.distributed.checkpoint"]
    )
    return method


class World:
    def __init__(self, method):
        import torch.distributed as dist

        self._method = method
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._workers = []
        self._number = 0

    def _start(self):
        for rank in range(WORKERS):
            here, there = self._method.Pipe()
            process = self._method.Process(
                target=_serve, args=(rank, self._store.port, there), daemon=True
            )
            process.start()
            there.close()
            self._workers.append((process, here))

    def __call__(self, size, case, **arguments):
        """What each rank returned; fails with the ranks' tracebacks if any raised."""
        results = self.outcomes(size, case, **arguments)
        broken = [f"rank {r}: {value}" for r, (ok, value) in enumerate(results) if not ok]
        if broken:
            pytest.fail("\n".join(broken), pytrace=False)
        return [value for _, value in results]

    def outcomes(self, size, case, **arguments):
        """(True, result) or (False, message with traceback) of each rank."""
        if not self._workers:
            self._start()
        self._number += 1
        path, name = case.__code__.co_filename, case.__name__
        for _, pipe in self._workers[:size]:
            pipe.send((self._number, size, path, name, arguments))
        results = []
        for rank, (_, pipe) in enumerate(self._workers[:size]):
            if not pipe.poll(CASE_TIMEOUT):
                self.stop()
                pytest.fail(f"{name}: rank {rank} gave no answer in {CASE_TIMEOUT} s")
            try:
                results.append(pipe.recv())
            except (EOFError, OSError):
                self.stop()
                pytest.fail(f"{name}: rank {rank} died")
        return results

    def stop(self):
        for process, pipe in self._workers:
            pipe.close()
            process.kill()
            process.join()
        self._workers = []


@pytest.fixture(scope="session")
def world(forkserver):
    import torch

    torch.set_num_threads(1)  # as in the workers; more would wait for each other
    pool = World(forkserver)
    yield pool
    pool.stop()
