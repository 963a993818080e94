"""A script that ends without closing its context ends quietly."""

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from tp_parallel import ColumnParallelLinear, ParallelContext

def work():
    context = ParallelContext(tp=2)
    return ColumnParallelLinear(64, 64, context=context)(torch.ones(2, 64))

{start}
"""


@pytest.mark.parametrize("start", ["work()", "kept = ParallelContext(tp=2)"])
def test_a_script_that_closes_nothing_ends_with_code_0(start, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(start=start))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(script)]
    # without an orderly end about one run of three aborted
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
