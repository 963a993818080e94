"""One training step of a Llama in one process, beside transformers' own.

hidden 512, 8 heads, 4 layers, inner width 1408, sequence 256, batch 4, vocabulary 32,000, untied,
float32; forward and backward, one thread, the same weights.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import torch
from measure import Bench

from tp_parallel import GPTModel, ParallelContext
from tp_parallel.models.huggingface import config_from_huggingface, import_huggingface

VOCABULARY, BATCH, LENGTH = 32000, 4, 256


def main() -> None:
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # text needs none
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    bench = Bench("llama", f"transformers {transformers.__version__}",
                  versions={"torch": torch.__version__, "transformers": transformers.__version__},
                  repeats=7)  # fmt: skip
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1408, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=LENGTH,
    ))  # fmt: skip
    config = config_from_huggingface(theirs.config.to_dict())
    mine = GPTModel(config, context=ParallelContext(device="cpu"), initialize=False)
    mine.load_full(import_huggingface(theirs.state_dict(), config))
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH))
    labels = torch.cat((ids[:, 1:], torch.full((BATCH, 1), -100)), 1)
    valid = BATCH * (LENGTH - 1)

    def clear() -> None:
        for model in (mine, theirs):
            for parameter in model.parameters():
                parameter.grad = None

    def ours() -> None:
        (mine(ids, labels).sum() / valid).backward()

    def chunked() -> None:
        (mine.loss_sum(ids, labels) / valid).backward()

    def peer() -> None:
        theirs(ids, labels=ids).loss.backward()

    bench.compare("step", ours, peer, setup=clear)
    bench.compare("step with the chunked loss", chunked, peer, setup=clear)
    bench.finish()


if __name__ == "__main__":
    main()
