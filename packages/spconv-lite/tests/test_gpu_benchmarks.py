"""The benchmarks for a GPU run to their end on the CPU, so that the first run on a GPU finds none
of their faults."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

if not (BENCHMARKS.parents[2] / "tools" / "measure.py").is_file():
    pytest.skip("tools/measure.py is not part of this tree", allow_module_level=True)


SCRIPTS = sorted(BENCHMARKS.glob("gpu_*.py"))


@pytest.mark.parametrize(
    "networks",
    [["SECOND encoder"], pytest.param(["SECOND encoder", "14 layers"], marks=pytest.mark.slow)],
    ids=len,
)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_gpu_benchmark_runs_on_the_cpu(script, networks, tmp_path):
    result = tmp_path / "result.json"
    only = networks[0] if len(networks) == 1 else ""
    command = [sys.executable, str(script), "--device", "cpu", "--sites", "300", "--quick"]
    command += ["--only", only, "--json", str(result)]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=alone)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(result.read_text())
    assert "a trial on the CPU" in written["benchmark"]  # never taken for a GPU's
    expected = {
        f"{network}, {dtype}, {what}"
        for network in networks
        for dtype in ("float16", "bfloat16", "tf32")
        for what in ("inference", "training step")
    }
    assert {row["case"] for row in written["rows"]} == expected


def test_a_choice_of_kernels_that_raises_leaves_the_rows_of_the_others(tmp_path, monkeypatch):
    """Plain torch in Triton's place; the first choice is no kernels at all."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["gpu_networks.py", "--device", "cpu", "--sites", "40"])
    result = tmp_path / "result.json"
    only = "SECOND encoder, tf32, inference"
    sys.argv += ["--quick", "--only", only, "--json", str(result)]
    import gpu_networks as script

    before = script.torch.get_float32_matmul_precision()
    monkeypatch.setattr(script, "choices", lambda device: ["none", "triton"])
    monkeypatch.setattr(script, "BY", script.BY | {"none": ""})
    monkeypatch.setitem(script.ops._KERNELS, ("cpu", "triton"), script.plain)
    try:
        with pytest.raises(SystemExit) as ended:
            script.main()
    finally:
        script.torch.set_float32_matmul_precision(before)
    assert ended.value.code == 1
    written = json.loads(result.read_text())
    assert [row["case"] for row in written["rows"]] == [f"{only}, by Triton"]
    assert "ValueError: set_kernels" in written["facts"]["SECOND encoder, tf32: failed"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_gpu_benchmark_says_what_it_lacks(script):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 3
    assert "it needs a CUDA device and a build with CUDA kernels" in done.stdout
