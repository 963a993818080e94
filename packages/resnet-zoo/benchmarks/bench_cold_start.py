"""From starting Python to the first prediction: `fold` beside torchvision eager.

Both load ResNet-50 from the same weight file; each run is a fresh process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import engines
from measure import Bench

OURS = """
import sys, torch, resnet_zoo
torch.set_num_threads(2)
model = resnet_zoo.optimize(resnet_zoo.resnet50(weights=sys.argv[1]).eval(), "fold")
model(torch.zeros(1, 3, 224, 224))
"""
PEER = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from engines import torchvision_models
torch.set_num_threads(2)
model = torchvision_models().resnet50()
model.load_state_dict(torch.load(sys.argv[1], weights_only=True))
with torch.inference_mode():
    model.eval()(torch.zeros(1, 3, 224, 224))
"""


def main() -> None:
    import torch

    from resnet_zoo import resnet50

    bench = Bench("resnet-zoo cold start", "torchvision eager", repeats=7)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.pth"
        torch.save(resnet50().state_dict(), path)

        def run(code: str) -> None:
            arguments = [str(path), str(Path(engines.__file__).parent)]
            subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=os.environ)

        bench.compare("ResNet-50, process start to logits", lambda: run(OURS), lambda: run(PEER))
    bench.finish()


if __name__ == "__main__":
    main()
