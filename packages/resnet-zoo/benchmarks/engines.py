"""Inference engines in processes of their own, driven in turn by a benchmark.

`Engine("torchvision")` starts a worker; `build` prepares a model, `run` times forwards there. One
engine's threads, allocator and caches never touch another's.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))


class Engine:
    """A worker process that runs one kind of engine."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.process = subprocess.Popen(
            [sys.executable, __file__, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions = self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self.kind} ended")
        return json.loads(line)

    def _ask(self, **message: object) -> dict:
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return self._read()

    def build(self, model: str, batch: int, threads: int) -> dict:
        """Prepare a model; says what the engine did, and its first logits."""
        return self._ask(model=model, batch=batch, threads=threads)

    def run(self) -> tuple[float, float]:
        """Wall and CPU seconds of one forward, the mean of as many as fit into 0.1 s."""
        answer = self._ask(run=True)
        return answer["wall"], answer["cpu"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)


def summary(times: list[tuple[float, float]]) -> dict[str, float]:
    """The same figures as measure.Timing.summary."""
    wall = [pair[0] for pair in times]
    quartiles = statistics.quantiles(wall, n=4)
    median = statistics.median(wall)
    return {
        "median_ms": median * 1e3,
        "min_ms": min(wall) * 1e3,
        "cpu_ms": statistics.median(pair[1] for pair in times) * 1e3,
        "spread": (quartiles[2] - quartiles[0]) / median,
        "runs": len(times),
    }


def interleaved(engines: list[Engine], repeats: int) -> list[dict[str, float]]:
    """One forward of each engine in turn, `repeats` times after a warm-up."""
    for engine in engines:
        engine.run()
    times: list[list[tuple[float, float]]] = [[] for _ in engines]
    for _ in range(repeats):
        for engine, list_ in zip(engines, times, strict=True):
            list_.append(engine.run())
    return [summary(list_) for list_ in times]


# -- the worker ---------------------------------------------------------------------------------


def _weights(name: str):
    """Seeded weights with calibrated norms, the same in every worker."""
    import torch

    import resnet_zoo

    torch.manual_seed(0)
    model = resnet_zoo.get_model(name).train()
    with torch.no_grad():
        model(torch.randn(4, 3, 64, 64))
    return model.eval()


@functools.cache
def torchvision_models():
    """torchvision beside a CPU build of torch: the operators its import asks for are declared."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    torchvision.library_kept_alive = library
    return torchvision.models


def _build(kind: str, name: str, batch: int, threads: int):
    """(callable without arguments, note); the callable runs one forward and returns logits."""
    import torch

    torch.set_num_threads(threads)
    model = _weights(name)
    x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    if kind == "torchvision":
        theirs = torchvision_models().get_model(name).eval()
        theirs.load_state_dict(model.state_dict())
        return lambda: theirs(x), "eager"
    if kind in ("fold", "fast", "max"):
        import resnet_zoo

        fast = resnet_zoo.optimize(model, kind, example=x)
        return lambda: fast(x), fast.report.kept
    if kind == "onnxruntime":
        from resnet_zoo.export import OnnxRuntimeModel

        session = OnnxRuntimeModel(model, x)
        return lambda: session(x), "onnxruntime"
    import tempfile

    import openvino

    from resnet_zoo.export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(model, Path(folder) / "m.onnx")
        network = openvino.Core().read_model(path)
        network.reshape([batch, 3, 224, 224])
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.compile_model(network, "CPU", options)
    return lambda: torch.from_numpy(compiled([x.numpy()])[0]), "openvino"


def _versions(kind: str) -> dict[str, str]:
    from importlib.metadata import version

    names = {
        "torchvision": ["torchvision"],
        "onnxruntime": ["onnxruntime"],
        "openvino": ["openvino"],
    }
    return {name: version(name) for name in ["torch", *names.get(kind, [])]}


def worker(kind: str) -> None:
    import contextlib
    import io
    import os

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr

    def say(message: dict) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    import torch

    say(_versions(kind))
    call = None
    with torch.inference_mode(), contextlib.redirect_stdout(io.StringIO()):
        for line in sys.stdin:
            message = json.loads(line)
            if "run" in message:
                count, wall, cpu = 0, time.perf_counter(), time.process_time()
                while count == 0 or time.perf_counter() - wall < 0.1:
                    call()
                    count += 1
                cpu = (time.process_time() - cpu) / count
                say({"wall": (time.perf_counter() - wall) / count, "cpu": cpu})
            else:
                call, note = _build(kind, message["model"], message["batch"], message["threads"])
                say({"note": note, "logits": call()[0, :4].tolist()})


if __name__ == "__main__":
    worker(sys.argv[1])
