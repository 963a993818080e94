"""The kinds of kernels that the tests of test_kernels.py and test_kernel_layers.py run, each beside
the compiled CPU kernels: plain torch operators on the CPU, the CUDA kernels in the simulator and,
where a device answers, both choices on CUDA."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from spconv_lite import cpu, cuda, ops

PACKAGE = Path(__file__).resolve().parents[1]
EXTENSION = PACKAGE / "tests" / "sim" / "extension" / "build.py"


@functools.cache
def simulator() -> ModuleType | None:
    """The bindings of the CUDA kernels over the simulator; None where they cannot be built."""
    if not (PACKAGE.parents[1] / "tests" / "cuda_sim").is_dir():
        return None  # an sdist
    spec = importlib.util.spec_from_file_location("build_simulated", EXTENSION)
    build = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = build
    spec.loader.exec_module(build)
    return None if build.simulate.missing() else build.load()


@dataclass(frozen=True)
class Kernels:
    """One choice: where its tensors are, and what runs them."""

    device: str
    module: ModuleType
    extension: ModuleType | None = None  # in the place of _C.cuda

    @property
    def native(self) -> bool:
        return self.module is cuda

    @contextlib.contextmanager
    def chosen(self) -> Iterator[None]:
        before, built = dict(ops._chosen), getattr(ops._C, "cuda", None)
        ops._chosen[self.device] = self.module
        if self.extension is not None:
            ops._C.cuda = self.extension
        try:
            yield
        finally:
            ops._chosen.update(before)
            ops._C.cuda = built

    def beside_the_cpu(self, function: Callable, *args, **kwargs) -> tuple[object, object]:
        """What function(device, ...) gives here, and what it gives with the CPU kernels."""
        with Kernels("cpu", cpu).chosen():
            expected = function("cpu", *args, **kwargs)
        with self.chosen():
            return function(self.device, *args, **kwargs), expected


def choices(on_gpu: pytest.MarkDecorator) -> list:
    """Parameters for a fixture. A file names `pytest.mark.gpu` itself: tools/gpu_check.py reads
    only files that do."""
    return [
        pytest.param(("cpu", "torch"), id="torch-cpu"),
        pytest.param(("cpu", "simulated"), id="simulated"),
        pytest.param(("cuda", "torch"), id="torch-cuda", marks=on_gpu),
        pytest.param(("cuda", "native"), id="native-cuda", marks=on_gpu),
    ]


def make(choice: tuple[str, str]) -> Kernels:
    """The kernels of one parameter; skips where they cannot be had."""
    device, name = choice
    if name == "simulated":
        built = simulator()
        if built is None:
            pytest.skip("the simulator of CUDA kernels cannot be built here")
        return Kernels(device, cuda, built.cuda)
    module = ops._KERNELS[device, name]
    if module is cuda:
        try:
            cuda.require_kernels()
        except RuntimeError as error:
            pytest.skip(str(error))
    return Kernels(device, module)
