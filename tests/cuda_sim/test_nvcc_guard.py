"""The guard accepts the demonstration kernels and refuses warnings, spills and budget overruns."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def _load(name):
    spec = importlib.util.spec_from_file_location(f"cuda_sim_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


guard = _load("nvcc_guard")
needs_nvcc = pytest.mark.skipif(guard.missing() is not None, reason=str(guard.missing()))

USAGE = guard.Usage(registers=24, shared=128)
BUDGET = {"nvcc": "13.0", "kernels": {"sm_90": {"k(int)": {"registers": 24, "shared": 128}}}}


@needs_nvcc
def test_the_demonstration_kernels_compile_clean_and_within_budget():
    report = guard.check(HERE / "budget.json", [HERE / "kernels.cu"])
    assert len(report["sm_90"]) == 4


@needs_nvcc
def test_acquire_and_release_reach_the_ptx():
    text = guard.ptx(HERE / "kernels.cu")
    assert "ld.acquire.gpu" in text
    assert "st.release.gpu" in text
    assert "atom.add.acq_rel.gpu" in text


@needs_nvcc
@pytest.mark.parametrize(
    ("body", "report"),
    [
        ("float x[512]; for (int i = 0; i < n; ++i) x[p[i]] = i; *o = x[p[n]];", "ocal memory"),
        ("int unused = n; *o = 1;", "declared but never referenced"),
        ("*o = missing_function(n);", "is undefined"),
    ],
)
def test_local_memory_warnings_and_errors_are_refused_in_nvccs_words(tmp_path, body, report):
    source = tmp_path / "k.cu"
    source.write_text(f"__global__ void k(const int *p, float *o, int n) {{ {body} }}\n")
    with pytest.raises(guard.GuardError, match=report) as refused:
        guard.compile_kernels(source)
    assert "k.cu (sm_90) does not compile clean" in str(refused.value)


@needs_nvcc
def test_a_kernel_header_alone_is_compiled_too():
    assert len(guard.compile_kernels(HERE / "kernels.cuh")) == 4


@needs_nvcc
def test_the_command_updates_the_budget_and_then_holds_to_it(tmp_path):
    source, budget = tmp_path / "k.cu", tmp_path / "budget.json"
    source.write_text("__global__ void k(float *x) { x[threadIdx.x] *= 2.0f; }\n")
    command = [sys.executable, str(HERE / "nvcc_guard.py"), str(source), "--budget", str(budget)]
    subprocess.run([*command, "--update"], check=True, capture_output=True)
    subprocess.run(command, check=True, capture_output=True)
    limits = json.loads(budget.read_text())
    limits["kernels"]["sm_90"]["k(float*)"]["registers"] = 1
    budget.write_text(json.dumps(limits))
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "sm_90: k(float*): uses" in refused.stderr
    assert "registers, the budget allows 1" in refused.stderr


def test_a_report_of_ptxas_is_read_by_kernel(monkeypatch):
    monkeypatch.setattr(guard, "_demangle", lambda names: names)
    text = """ptxas info    : Compiling entry function '_Z1a' for 'sm_90'
ptxas info    : Function properties for _Z1a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 128 bytes smem
ptxas info    : Function properties for _Z6device
    16 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
ptxas info    : Compiling entry function '_Z1b' for 'sm_90'
ptxas info    : Function properties for _Z1b
    64 bytes stack frame, 12 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers"""
    assert guard.parse_ptxas(text) == {
        "_Z1a": guard.Usage(32, 128),
        "_Z1b": guard.Usage(255, 0, 64, 12),
    }


def test_a_kernel_within_its_budget_is_accepted():
    assert guard.compare(BUDGET, {"sm_90": {"k(int)": USAGE}}, "13.0") == []


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        ({"sm_90": {"k(int)": guard.Usage(25, 128)}}, "uses 25 registers, the budget allows 24"),
        ({"sm_90": {"k(int)": guard.Usage(24, 129)}}, "uses 129 bytes of shared, the budget"),
        ({"sm_90": {"k(int)": guard.Usage(24, 128, 0, 8)}}, "uses 8 bytes of spill, the budget"),
        ({"sm_90": {"k(int)": USAGE, "new(int)": USAGE}}, "new(int): not in the budget"),
        ({"sm_90": {}}, "k(int): in the budget but not compiled"),
        ({"sm_75": {"k(int)": USAGE}}, "sm_75: the budget has no such architecture"),
    ],
)
def test_what_is_outside_the_budget_is_named(report, sentence):
    (found,) = guard.compare(BUDGET, report, "13.0")
    assert sentence in found


def test_registers_are_not_compared_across_releases_of_nvcc_but_spills_are():
    report = {"sm_90": {"k(int)": guard.Usage(30, 128, 0, 8)}}
    (found,) = guard.compare(BUDGET, report, "12.9")
    assert "8 bytes of spill" in found
