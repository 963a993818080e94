"""A script that ends without closing its context ends quietly."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="threads are counted by Linux's /proc"
)

# Runs each of the scripts it is given on two ranks. torch is imported once, then the ranks are
# forked, of which each leaves the interpreter as any script does; the parent keeps the store, as
# torchrun does.
LAUNCHER = """
import os, socket, sys, time, torch, torch.distributed as dist
from pathlib import Path
from tp_parallel import AdamW, ColumnParallelLinear, GPTConfig, GPTModel, ParallelContext
from tp_parallel import shard_over_data
import torch.distributed.fsdp, torch.distributed.optim

def gloo_threads():
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").glob("*")]
    return sum(name.startswith("pt_gloo") for name in names)

def fork(place, port):
    os.environ |= {"RANK": place, "LOCAL_RANK": place, "WORLD_SIZE": "2", "MASTER_PORT": port,
                   "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return os.fork()

for script in sys.argv[1:]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for place in "01":
        ranks.append(fork(place, str(port)))
        if not ranks[-1]:
            torch.set_num_threads(1)
            exec(Path(script).read_text())
            sys.exit(0)
    store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    codes = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
    print(Path(script).stem, *codes, flush=True)
    del store
"""
CLOSED = """
context = ParallelContext(tp=2)
layer = ColumnParallelLinear(64, 64, context=context)
layer(torch.ones(2, 64))
context.tp.barrier(label="a thread names itself when it runs")
assert gloo_threads() > 0
context.close()
assert gloo_threads() == 0, gloo_threads()  # though context and layer are still there
try:
    layer(torch.ones(2, 64, requires_grad=True)).sum().backward()
except RuntimeError as error:
    assert "ParallelContext is closed" in str(error), error
else:
    raise AssertionError("a closed axis did something")
"""
OTHERS_WORLD = """
dist.init_process_group("gloo")
for _ in range(4):
    dist.barrier()  # each thread names itself when it begins to run
before = gloo_threads()
context = ParallelContext(tp=2)
ColumnParallelLinear(64, 64, context=context)(torch.ones(2, 64))
context.close()
assert gloo_threads() == before and dist.is_initialized()
dist.barrier()
dist.destroy_process_group()
"""
# rank 0's thread frees a tensor last, and is given the interpreter only when that ends
LATE = """
context = ParallelContext(tp=2)
rank = context.rank
time.sleep(2 * rank)
tensor = torch.ones(8)
work = dist.all_reduce(tensor, group=context.tp.group, async_op=True)
if rank == 1:
    work.wait()
    time.sleep(3)
del tensor, work
if rank == 0:
    sys.setswitchinterval(1000)  # the main thread keeps the interpreter
    until = time.monotonic() + 3
    while time.monotonic() < until:
        pass
"""
# FSDP2 and ZeRO hold groups of their own
HELD = """
context = ParallelContext(dp=2)
config = GPTConfig(vocab_size=32, hidden=16, layers=1, heads=2, max_positions=8)
ids = torch.arange(16).reshape(2, 8)
model = shard_over_data(GPTModel(config, context=context), context)
model(ids, ids).mean().backward()
other = GPTModel(config, context=context)
optimizer = AdamW([other], context, zero=True)
other(ids, ids).mean().backward()
optimizer.step()
"""


SCRIPTS = {"closed": CLOSED, "others_world": OTHERS_WORLD, "late": LATE, "held": HELD}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How the ranks of each script ended, and all that was said on standard error."""
    folder = tmp_path_factory.mktemp("scripts")
    for name, script in SCRIPTS.items():
        (folder / f"{name}.py").write_text(script)
    command = [sys.executable, "-c", LAUNCHER, *(folder / f"{name}.py" for name in SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split() for line in done.stdout.splitlines()], done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_ends_with_code_0_and_leaves_no_thread_of_gloo(ended, script):
    codes, said = ended
    assert [script, "0", "0"] in codes, said[-3000:]
