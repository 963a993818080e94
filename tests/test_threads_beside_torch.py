"""Our cores and torch in one process: one OpenMP runtime, and no hang in a forked worker."""

import subprocess
import sys

import pytest
import workspace

NATIVE = [package.import_name for package in workspace.packages() if package.native]

ONE_RUNTIME = """
import importlib, torch, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
torch.mm(torch.ones(300, 300), torch.ones(300, 300))
maps = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
runtimes = {path for path in maps if any(k in path for k in ("libgomp", "libiomp", "libomp"))}
print(len(runtimes), runtimes)
"""

FORKED = """
import torch
import spconv_lite as sp

def encode(seed):
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randperm(32**3, generator=generator)[:4000]
    zyx = torch.stack([flat // 1024, flat // 32 % 32, flat % 32], 1)
    sites = torch.cat([torch.zeros(4000, 1, dtype=torch.int64), zyx], 1).int()
    features = torch.randn(4000, 8, generator=generator)
    torch.manual_seed(0)
    layer = sp.SubMConv3d(8, 16, 3, bias=False)
    with torch.no_grad():
        return layer(sp.SparseConvTensor(features, sites, [32, 32, 32], 1)).features

class Scans(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return encode(i)

here = [encode(i) for i in range(4)]                       # threads are used in the parent first
loader = torch.utils.data.DataLoader(Scans(), num_workers=2, multiprocessing_context="fork")
for mine, theirs in zip(here, loader):
    assert torch.equal(mine, theirs[0])

import os
child = os.fork()                                          # a plain fork: nobody set one thread
if child == 0:
    same = bytes(encode(0).numpy()) == bytes(here[0].numpy())   # torch's own threads would hang
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
print("done")
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("order", ["torch first", "ours first"])
def test_there_is_one_openmp_runtime_in_either_import_order(order):
    code = ONE_RUNTIME
    if order == "ours first":
        code = code.replace("import importlib, torch, sys", "import importlib, sys") + ""
        code = code.replace("torch.mm", "import torch; torch.mm", 1)
    assert python(code, *NATIVE).startswith("1 ")


def test_workers_forked_after_threads_were_used_compute_the_same_and_end():
    assert python(FORKED).strip() == "done"
