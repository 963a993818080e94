"""Inference engines in processes of their own, driven in turn by a benchmark.

`Engine("torchvision")` starts a worker; `build` prepares a model, `run` times forwards there. One
engine's threads, allocator and caches never touch another's.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

from measure import Bench, Row


class Engine:
    """A worker process that runs one kind of engine; `environment` changes the process's."""

    def __init__(self, kind: str, environment: dict[str, str] | None = None) -> None:
        self.kind = kind
        self.process = subprocess.Popen(
            [sys.executable, __file__, kind],
            env={**os.environ, **(environment or {})},
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

    def build(self, model: str, batch: int, threads: int, dtype: str = "float32") -> dict:
        """Prepare a model; says what the engine did, and its first logits."""
        return self._ask(model=model, batch=batch, threads=threads, dtype=dtype)

    def run(self) -> list[list[float]]:
        """[wall, CPU] seconds of each of the forwards that fit into 0.1 s, at least one."""
        return self._ask(run=True)["forwards"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)


def built_alike(
    engines: dict[str, Engine], used: list[str], case: str, tolerance: float, **message: object
) -> list[dict]:
    """What the engines in `used` say to `build`; all logits agree with those of the first."""
    built = [engines[kind].build(**message) for kind in used]
    for kind, other in zip(used, built, strict=True):
        for a, b in zip(built[0]["logits"], other["logits"], strict=True):
            assert math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance), (case, kind, a, b)
    return built


def summary(times: list[list[float]]) -> dict[str, float]:
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
    """0.1 s of forwards of each engine in turn, `repeats` times after a warm-up."""
    for engine in engines:
        engine.run()
    times: list[list[list[float]]] = [[] for _ in engines]
    for _ in range(repeats):
        for engine, list_ in zip(engines, times, strict=True):
            list_ += engine.run()
    return [summary(list_) for list_ in times]


def compare(case: str, ours: dict[str, float], peer: dict[str, float], note: str) -> Row:
    """A row of two summaries."""
    by_wall = peer["median_ms"] / ours["median_ms"]
    return Row(case, ours, peer, by_wall, peer["cpu_ms"] / ours["cpu_ms"], note)


def keep_other_cases(bench: Bench) -> None:
    """Take over rows, facts and versions of the --json file: a long run may be split."""
    path = bench.options.json
    if bench.options.only and path is not None and path.exists():
        measured = {row.case for row in bench.rows}
        earlier = json.loads(path.read_text())
        bench.versions = {**earlier["versions"], **bench.versions}
        rows = [Row(**row) for row in earlier["rows"]]
        bench.rows[:0] = [row for row in rows if row.case not in measured]
        bench.facts = {**earlier["facts"], **bench.facts}


def facts(bench: Bench, label: str, rows: list[Row]) -> None:
    """Geometric mean and smallest of the ratios: by medians, least disturbed forwards, CPU time."""
    least = [row.peer["min_ms"] / row.ours["min_ms"] for row in rows]
    kinds = {
        "": [row.ratio for row in rows],
        " by least disturbed forward": least,
        " by CPU time": [row.cpu_ratio for row in rows],
    }
    for kind, ratios in kinds.items():
        mean, low = statistics.geometric_mean(ratios), min(ratios)
        bench.fact(f"{label}{kind}", {"geometric mean": round(mean, 3), "smallest": round(low, 3)})


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

    library = None
    if torch.version.cuda is None:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    torchvision.library_kept_alive = library
    return torchvision.models


def _build(kind: str, name: str, batch: int, threads: int, dtype: str):
    """(callable without arguments, note); the callable runs one forward and returns logits."""
    import torch

    torch.set_num_threads(threads)
    model = _weights(name)
    x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    if kind == "torchvision":
        theirs = torchvision_models().get_model(name).eval()
        theirs.load_state_dict(model.state_dict())
        return lambda: theirs(x), "eager"
    if kind == "compile":
        theirs = torchvision_models().get_model(name).eval()
        theirs.load_state_dict(model.state_dict())
        theirs = theirs.to(getattr(torch, dtype), memory_format=torch.channels_last)
        y = x.to(getattr(torch, dtype), memory_format=torch.channels_last)
        import torch._inductor.config as inductor

        inductor.freezing = True
        compiled = torch.compile(theirs, dynamic=False)
        with torch.no_grad():
            compiled(y)
        return lambda: compiled(y).float(), "torch.compile, frozen"
    if kind == "int8":
        import resnet_zoo

        fast = resnet_zoo.optimize(model, dtype=torch.int8, calibration=x, example=x)
        return lambda: fast(x), f"error {fast.report.trials[0].error:.1e} of the largest logit"
    if kind in ("fold", "fast", "max", "auto"):
        import resnet_zoo

        how = ("fast", "auto") if kind == "auto" else (kind, "torch")
        wish = {"example": x, "dtype": getattr(torch, dtype), "engine": how[1]}
        fast = resnet_zoo.optimize(model, how[0], **wish)
        return lambda: fast(x), fast.report.kept
    if kind == "onnxruntime":
        from resnet_zoo.inference.export import OnnxRuntimeModel

        session = OnnxRuntimeModel(model, x)
        return lambda: session(x), "onnxruntime"
    return _openvino(model, x, threads, dtype), "openvino"


def _openvino(model, x, threads: int, dtype: str):
    """The exported model in OpenVINO, compiled for the shape of `x`."""
    import tempfile

    import openvino
    import torch

    from resnet_zoo.inference.export import export_onnx

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        "PERFORMANCE_HINT": "LATENCY",
    }
    with tempfile.TemporaryDirectory() as folder:
        network = openvino.Core().read_model(export_onnx(model, Path(folder) / "m.onnx"))
        network.reshape(list(x.shape))
        compiled = openvino.compile_model(network, "CPU", options)
    return lambda: torch.from_numpy(compiled([x.numpy()])[0])


def versions(*packages: str) -> dict[str, str]:
    """Those of the packages that are installed."""
    from importlib.metadata import version

    return {name: version(name) for name in packages if importlib.util.find_spec(name)}


# What each engine is made of, beside torch.
MADE_OF = {"torchvision": "torchvision", "compile": "torchvision", "onnxruntime": "onnxruntime",
           "openvino": "openvino"}  # fmt: skip


def worker(kind: str) -> None:
    import contextlib
    import io

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr

    def say(message: dict) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    import torch

    say(versions("torch", *([MADE_OF[kind]] if kind in MADE_OF else [])))
    call = None
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        for line in sys.stdin:
            message = json.loads(line)
            if "run" in message:
                say({"forwards": _forwards(call)})
            else:
                call, note = _build(kind, message.pop("model"), **message)
                say({"note": note, "logits": call()[0, :4].tolist()})


def _forwards(call) -> list[tuple[float, float]]:
    """(wall, CPU) seconds of each forward, for 0.1 s."""
    times: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < 0.1:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return times


if __name__ == "__main__":
    worker(sys.argv[1])
