"""What a training run is, as options of a command line and as one object."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..grid.context import DEFAULT_TIMEOUT
from ..layers.activation import ACTIVATIONS
from ..layers.config import GPTConfig
from ..layers.kinds import check_kinds
from ..models.huggingface import config_from_huggingface, read_config
from ..pipeline.schedules import SCHEDULES
from .checkpoint import demand_config, latest, read_manifest


def _option(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass
class Settings:
    """What a run is; every field is an option of the command line."""

    data: str = _option("", "what to learn: a text file, or tokens: .npy, or Megatron's .bin/.idx")
    end_token: int | None = _option(None, "token that ends a document of a .npy", type=int)
    documents: bool = _option(False, "documents of a token file do not see each other, and their "
                              "positions begin anew")  # fmt: skip
    load: str | None = _option(None, "checkpoint (of 'tp-parallel convert', say) whose model and "
                               "weights to begin with", type=str)  # fmt: skip
    architecture: str | None = _option(None, "config.json of a Hugging Face model: its shape, with "
                                       "new weights", type=str)  # fmt: skip
    init: str = _option("whole", "new weights: the same bits for any tp ('whole'), or each shard "
                        "drawn where it is ('local')", choices=("whole", "local"))  # fmt: skip
    tokenizer: str = _option("bytes", "'bytes', or the path of a tokenizer.json")
    layers: int = _option(4, "transformer layers")
    hidden: int = _option(128, "model width")
    heads: int = _option(4, "attention heads")
    kv_heads: int | None = _option(None, "key/value heads (grouped-query attention)", type=int)
    ffn: int | None = _option(None, "inner width of the MLP; default 4 * hidden", type=int)
    position: str = _option("learned", "positions", choices=("learned", "rotary"))
    norm: str = _option("layernorm", "normalisation", choices=("layernorm", "rmsnorm"))
    activation: str = _option("gelu", "MLP", choices=tuple(ACTIVATIONS))
    untie: bool = _option(False, "an output layer of its own instead of the tied embedding")
    dropout: float = _option(0.0, "dropout, in attention too")
    dtype: str | None = _option(None, "of the parameters; default: float32, or as in --load",
                                choices=("float32", "bfloat16", "float64"), type=str)  # fmt: skip
    seq: int = _option(128, "tokens of a sequence")
    batch: int = _option(16, "sequences of a step, over all ranks")
    micro_batch: int | None = _option(None, "sequences of a micro-batch; default: as many as "
                                      "give 2 * pp micro-batches", type=int)  # fmt: skip
    steps: int = _option(200, "optimizer steps")
    lr: float = _option(3e-3, "peak learning rate")
    warmup: int = _option(20, "steps of linear warm-up")
    weight_decay: float = _option(0.1, "decay of matrices")
    clip_grad: float = _option(1.0, "largest gradient norm over all ranks")
    seed: int = _option(1234, "root of every random stream")
    tp: int = _option(1, "tensor-parallel size")
    pp: int = _option(1, "pipeline stages")
    dp: int | None = _option(None, "data-parallel size; default: the rest of the world", type=int)
    cp: int = _option(1, "context-parallel size: so many of the data ranks share each sequence")
    order: str = _option("tp-dp-pp", "axes from fastest to slowest changing rank")
    schedule: str = _option("1f1b", "pipeline schedule", choices=tuple(SCHEDULES))
    chunks: int = _option(1, "model chunks a rank, for 'interleaved'")
    sequence_parallel: bool = _option(False, "cut activations between split layers too")
    zero: bool = _option(False, "share the optimizer's state out over the data ranks (ZeRO 1)")
    recompute: bool = _option(False, "store only each layer's input, compute it again")
    recompute_keep: str = _option("nothing", "what --recompute stores besides",
                                  choices=("nothing", "attention"))  # fmt: skip
    save: str | None = _option(None, "folder for checkpoints; resumes from the last one in it",
                               type=str)  # fmt: skip
    save_every: int = _option(100, "steps between checkpoints")
    async_save: bool = _option(False, "write checkpoints in the background, from copies")
    keep: int | None = _option(None, "newest checkpoints to keep; default: all", type=int)
    allow: str = _option("", "fields of the model, separated by commas, that may differ from those "
                         "of the checkpoint to resume from")  # fmt: skip
    skip_steps: int = _option(0, "steps of a run whose gradient may be infinite or NaN: they are "
                              "skipped and counted; one more ends the run")  # fmt: skip
    timeout: float = _option(DEFAULT_TIMEOUT, "seconds until a stuck collective raises")
    eval_every: int = _option(50, "steps between evaluations; 0 never")
    held_out: float = _option(0.05, "share at the end of the text kept for evaluation")
    eval_batches: int = _option(4, "batches of an evaluation")
    log_every: int = _option(10, "steps between lines on stderr")
    metrics: str | None = _option(None, "file for one JSON line a step", type=str)
    tensorboard: str | None = _option(None, "folder for TensorBoard", type=str)
    peak_tflops: float | None = _option(None, "of one device, to report MFU", type=float)
    dry_run: bool = _option(False, "print memory, messages and waiting of the run; start nothing")
    world: int | None = _option(None, "processes of a dry run; default: tp * pp * dp", type=int)
    device_gib: float | None = _option(None, "memory of a device, for a dry run", type=float)

    def model(self, vocab_size: int) -> GPTConfig:
        """The model these settings describe. Raises ValueError or CheckpointError for a `load` or
        `architecture` that cannot be read.
        """
        run = {"dropout": self.dropout, "attention_dropout": self.dropout,
               "embedding_dropout": None, "recompute": self.recompute,
               "recompute_keep": self.recompute_keep,
               "sequence_parallel": self.sequence_parallel}  # fmt: skip
        if self.dtype is not None:
            run["dtype"] = self.dtype
        if self.load:
            manifest = read_manifest(latest(self.load) or self.load)
            return GPTConfig(**demand_config("load", self.load, manifest).to_dict() | run)
        if self.architecture:
            return config_from_huggingface(read_config(Path(self.architecture)), **run)
        return GPTConfig(
            vocab_size=vocab_size, hidden=self.hidden, layers=self.layers, heads=self.heads,
            kv_heads=self.kv_heads, ffn=self.ffn, max_positions=self.seq, position=self.position,
            norm=self.norm, activation=self.activation, tie_embeddings=not self.untie, **run,
        )  # fmt: skip


_AT_LEAST = {
    0: ("steps", "warmup", "eval_every", "skip_steps", "weight_decay", "lr"),
    1: ("layers", "hidden", "heads", "kv_heads", "ffn", "seq", "batch", "micro_batch", "tp", "pp",
        "dp", "cp", "world", "chunks", "save_every", "keep", "eval_batches", "log_every"),
}  # fmt: skip


# a setting that has an effect only with another one
_NEEDS = {"recompute_keep": "recompute", "world": "dry_run", "device_gib": "dry_run"}
# what --load and --architecture say themselves
_SHAPE = ("layers", "hidden", "heads", "kv_heads", "ffn", "position", "norm", "activation", "untie")
# files whose bytes are no text
_CONTAINERS = (".npz", ".pt", ".pth", ".pkl", ".pickle", ".safetensors", ".parquet", ".arrow",
               ".h5", ".gz", ".zip", ".bz2", ".xz", ".zst", ".tar")  # fmt: skip


def check_settings(settings: Settings) -> None:
    """Raises ValueError, naming the setting, for a value that no run can have or that would have
    no effect in this one; TypeError for one of another kind.
    """
    check_kinds("pretrain", settings)
    _check_choices(settings)
    for least, names in _AT_LEAST.items():
        for name in names:
            value = getattr(settings, name)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"pretrain: {name} must be at least {least}, got {value}")
    for name in ("clip_grad", "timeout", "peak_tflops", "device_gib"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"pretrain: {name} must be above 0, got {value}")
    for name in ("dropout", "held_out"):
        if not 0.0 <= getattr(settings, name) < 1.0:
            raise ValueError(f"pretrain: {name} must be in [0, 1), got {getattr(settings, name)}")
    if settings.eval_every and not settings.held_out:
        raise ValueError(
            "pretrain: eval_every needs a held_out above 0, got 0; set eval_every to 0 to learn "
            "from the whole text"
        )
    if not (settings.data or settings.dry_run):
        raise ValueError("pretrain: data must name a text or token file (--data)")
    known = {"data", *(f.name for f in fields(GPTConfig))}
    for name in filter(None, settings.allow.split(",")):
        if name not in known:
            raise ValueError(f"pretrain: allow must name fields of the model, got {name!r}")
    _check_effects(settings)
    _check_paths(settings)


def _check_paths(settings: Settings) -> None:
    """Before the first step, not at the first save: an output that cannot be one, data that is not
    there."""
    for name in ("save", "tensorboard"):
        path = getattr(settings, name)
        held = path and next((p for p in (Path(path), *Path(path).parents) if p.exists()), None)
        if held and not held.is_dir():
            raise ValueError(f"pretrain: {name} must be a folder, got {path!r}: {held} is a file")
    if settings.metrics and Path(settings.metrics).is_dir():
        raise ValueError(f"pretrain: metrics must be a file, got the folder {settings.metrics!r}")
    if settings.metrics and not Path(settings.metrics).parent.is_dir():
        raise ValueError(
            "pretrain: metrics must be a file in a folder that is there, got "
            f"{settings.metrics!r}; make the folder {Path(settings.metrics).parent}"
        )
    if settings.data and Path(settings.data).is_dir():
        raise ValueError(f"pretrain: data must be a file, got the folder {settings.data!r}")
    files = (settings.data, f"{settings.data}.idx")  # Megatron's prefix names two files
    if settings.data and not settings.dry_run and not any(Path(file).exists() for file in files):
        raise FileNotFoundError(
            f"pretrain: data must name a text or token file, there is no {settings.data!r}"
        )


def _check_choices(settings: Settings) -> None:
    for option in fields(Settings):
        value, choices = getattr(settings, option.name), option.metadata.get("choices")
        if choices and value is not None and value not in choices:
            raise ValueError(
                f"pretrain: {option.name} must be one of {', '.join(choices)}, got {value!r}"
            )


def _check_effects(settings: Settings) -> None:
    given = {f.name for f in fields(Settings) if getattr(settings, f.name) != f.default}
    for name, other in _NEEDS.items():
        if name in given and not getattr(settings, other):
            raise ValueError(f"pretrain: {name} has no effect without {other}; give both or none")
    if settings.chunks > 1 and settings.schedule != "interleaved":
        raise ValueError(
            f"pretrain: only 'interleaved' takes chunks, got {settings.schedule!r}, "
            f"{settings.chunks}"
        )
    if settings.load and settings.architecture:
        raise ValueError("pretrain: give load or architecture, not both")
    if settings.load or settings.architecture:
        source = "load" if settings.load else "architecture"
        more = ("init",) if settings.load else ()
        for name in given.intersection((*_SHAPE, *more)):
            raise ValueError(
                f"pretrain: {name} comes from what {source} names; leave {name} out, got "
                f"{getattr(settings, name)!r}"
            )
    suffix = Path(settings.data).suffix.lower()
    if settings.end_token is not None and suffix != ".npy":
        raise ValueError(
            f"pretrain: end_token needs a .npy as data, got {settings.data!r}; .bin/.idx know "
            "where their documents end"
        )
    if suffix in _CONTAINERS:
        raise ValueError(
            f"pretrain: data must be a text file or tokens (.npy, .bin/.idx), got {settings.data!r}"
        )


def cut_batch(settings: Settings, dp: int, pp: int) -> tuple[int, int]:
    """(rows of this data rank, rows of a micro-batch)."""
    cp = settings.cp
    if dp % cp or settings.seq % (2 * cp if cp > 1 else 1):
        raise ValueError(
            f"pretrain: --cp must divide the data-parallel size {dp}, and --seq must be a multiple "
            f"of 2 cp, got cp {cp} and seq {settings.seq}"
        )
    copies = dp // cp  # data ranks that see other sequences
    if settings.batch % copies:
        raise ValueError(
            f"pretrain: --batch must be a multiple of the data-parallel size {copies}, got "
            f"{settings.batch}"
        )
    rows = settings.batch // copies
    micro = settings.micro_batch
    if micro is None:
        wanted = 2 * pp if pp > 1 else 1
        micro = max(1, rows // wanted)
    if micro < 1 or rows % micro:
        raise ValueError(
            f"pretrain: the {rows} sequences of a data rank must be a multiple of --micro-batch, "
            f"got {micro}"
        )
    return rows, micro


_TOPICS = {"data": "data", "load": "where the model comes from", "layers": "its shape",
           "seq": "batch, steps and optimizer", "tp": "the grid of processes",
           "save": "checkpoints", "skip_steps": "faults", "eval_every": "evaluation and logs",
           "dry_run": "dry run"}  # fmt: skip


def parse(arguments: list[str] | None = None) -> Settings:
    """Settings from command-line arguments."""
    parser = argparse.ArgumentParser(
        prog="tp-parallel pretrain",
        description="Train a GPT on text or tokens, in one process or under torchrun.",
    )
    group: Any = parser
    for option in fields(Settings):
        if option.name in _TOPICS:
            group = parser.add_argument_group(_TOPICS[option.name])
        flag = "--" + option.name.replace("_", "-")
        more = dict(option.metadata)
        if isinstance(option.default, bool):
            group.add_argument(flag, action="store_true", **more)
            continue
        more.setdefault("type", type(option.default))
        if option.default not in (None, ""):
            more["help"] += " (default: %(default)s)"
        group.add_argument(flag, default=option.default, **more)
    return Settings(**vars(parser.parse_args(arguments)))
