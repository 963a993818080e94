"""Text from a checkpoint: `python -m tp_parallel.generate --checkpoint run/step_00000200`.

Any checkpoint runs on any tensor-parallel size, whatever grid trained it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ..grid.context import ParallelContext
from ..grid.mappings import gather_from_region
from ..grid.rng import derive_seed
from ..layers.cache import KeyValueCache
from ..models.gpt import GPTModel
from . import checkpoint
from .data import make_tokenizer


@torch.no_grad()
def generate(
    model: GPTModel,
    ids: torch.Tensor,
    tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 1234,
) -> torch.Tensor:
    """Continues `ids`, int64 [batch, length], by `tokens` tokens; returns [batch, length + tokens].

    temperature 0 takes the likeliest token; top_k keeps that many candidates. Keys and values are
    kept, so that a token is run once, until max_positions tokens are there; from then on each new
    token reads the last max_positions anew. Every tp rank returns the same. For a whole model (pp =
    1) without sequence or context parallelism, as `load_model` gives it; it is left in evaluation
    mode. Raises ValueError for another one, ids without a token or a number that is out of range.
    """
    config, axis = model.config, model.context.tp
    if not (model.pre_process and model.post_process):
        raise ValueError("generate: needs the whole model; load the checkpoint with pp=1")
    if model.context.cp.size > 1:
        raise ValueError(
            "generate: every rank must hold whole sequences, got a context of cp "
            f"{model.context.cp.size}; load the checkpoint with cp=1 (its parameters are the same)"
        )
    if ids.dim() != 2 or not ids.shape[1]:
        raise ValueError(
            f"generate: ids must be [batch, length] with a token at least, got {tuple(ids.shape)}"
        )
    if tokens < 0:
        raise ValueError(f"generate: tokens must be at least 0, got {tokens}")
    if not temperature >= 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            "generate: temperature must be at least 0 and top_k at least 1 or None, got "
            f"{temperature} and {top_k}"
        )
    model.eval()
    generator = torch.Generator().manual_seed(derive_seed(seed, "generate"))
    capacity = min(config.max_positions, ids.shape[1] + tokens)
    cache, new = KeyValueCache(capacity), ids
    for _ in range(tokens):
        if ids.shape[1] <= capacity:
            logits = model(new, cache=cache, last_only=True)
        else:  # the window has moved, and with it every token's position
            logits = model(ids[:, -capacity:], last_only=True)
        logits = gather_from_region(logits[:, -1], axis, -1)[:, : config.vocab_size]
        new = _choose(logits.float().cpu(), temperature, top_k, generator).to(ids.device)
        ids = torch.cat((ids, new), 1)
    return ids


def _choose(
    logits: torch.Tensor, temperature: float, top_k: int | None, generator: torch.Generator
) -> torch.Tensor:
    if temperature == 0.0:
        return logits.argmax(-1, keepdim=True)
    if top_k is not None:
        lowest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)


def load_model(path: str, context: ParallelContext) -> tuple[GPTModel, dict]:
    """The whole model of a checkpoint, cut over `context.tp`, and its manifest. Raises
    CheckpointError for one that is not whole or does not say of which model it is.
    """
    manifest = checkpoint.read_manifest(path)
    config = checkpoint.demand_config("load_model", path, manifest)
    config = replace(config, sequence_parallel=False)
    model = GPTModel(config, context=context, initialize=False)
    checkpoint.load(path, [model], context=context)
    return model, manifest


def _tokenizer_of(path: Path, manifest: dict) -> str:
    """What `make_tokenizer` takes: the run's, or the tokenizer.json that came with the model."""
    name = manifest["extra"].get("settings", {}).get("tokenizer", "bytes")
    came = path / checkpoint.ASIDE / "tokenizer.json"
    return str(came) if name == "bytes" and came.is_file() else name


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tp-parallel generate", description="Continue a prompt from a checkpoint."
    )
    parser.add_argument("--checkpoint", required=True, help="step_XXXXXXXX folder, or its parent")
    parser.add_argument("--prompt", default="\n", help="text to continue")
    parser.add_argument(
        "--tokens", type=int, default=200, help="tokens to add (default: %(default)s)"
    )
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (default: 0.8)")
    parser.add_argument("--top-k", type=int, default=None, help="keep that many candidates")
    parser.add_argument("--seed", type=int, default=1234, help="of the choice (default: 1234)")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel size, under torchrun")
    options = parser.parse_args(arguments)
    with ParallelContext(tp=options.tp) as context:
        path = checkpoint.latest(options.checkpoint) or options.checkpoint
        model, manifest = load_model(path, context)
        tokenizer = make_tokenizer(_tokenizer_of(Path(path), manifest))
        ids = torch.tensor([tokenizer.encode(options.prompt)], device=context.device)
        if ids.numel() == 0:
            parser.error("--prompt must hold at least one token")
        out = generate(model, ids, options.tokens, temperature=options.temperature,
                       top_k=options.top_k, seed=options.seed)  # fmt: skip
        if context.rank == 0:
            print(tokenizer.decode(out[0].tolist()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
