"""A Hugging Face folder to a checkpoint and back, in pieces: no process holds the model.

    tp-parallel convert hf-dir run --tp 8 --pp 4
    tp-parallel convert run hf-dir

The checkpoint is read by any grid. `--tp` and `--pp` say along which cuts it is laid out in files,
so that ranks of that grid read each their own. Nothing is computed, so both ways are exact.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..grid.context import planned_grid
from ..grid.errors import CheckpointError
from ..layers.config import GPTConfig
from ..models.families import FAMILIES, ROPE_NAMES
from ..models.huggingface import (
    Entry,
    check_left,
    config_from_huggingface,
    find,
    part,
    read_config,
    runs,
    shapes,
    table,
)
from ..models.safetensors import READ_BYTES, TensorFiles, write_file
from ..pipeline.stages import build_stages
from . import checkpoint
from .parts import part_of_whole

if TYPE_CHECKING:
    from .contents import Reader

FILE_BYTES = 1 << 30  # of a file of the checkpoint, which is held while it is written
SHARD_BYTES = 5 << 30  # of a safetensors file
_TEXT = ("*.json", "*.txt", "*.model", "*.jinja")


# -- in


class _Source:
    """Boxes of our unsplit tensors out of their files. A planner of torch.distributed.checkpoint,
    of which the writer asks one thing: the values of an item.
    """

    def __init__(self, files: TensorFiles, config: GPTConfig) -> None:
        self.files, self.config = files, config
        self.entries = {entry.ours: entry for entry in table(config)}
        self.shapes = shapes(config)
        self._check()

    def _check(self) -> None:
        wanted, taken = self.shapes, set()
        for entry in self.entries.values():
            for name, shape in zip(entry.theirs, wanted[entry.ours], strict=True):
                found = find(name, self.files.shapes)
                if found is None:
                    raise ValueError(f"convert: {name!r} is in no file of the folder")
                if self.files.shapes[found] != shape:
                    raise ValueError(
                        f"convert: {found!r} must have the shape {shape} by config.json, got "
                        f"{self.files.shapes[found]}"
                    )
                taken.add(found)
        check_left(self.files.shapes.keys() - taken, self.config)

    def resolve_data(self, item: Any) -> torch.Tensor:
        """The values of one box, of the config's dtype."""
        chunk, size = item.tensor_data.chunk, item.tensor_data.size
        entry = self.entries[item.index.fqn.removeprefix("model/")]
        offsets, lengths = list(chunk.offsets), list(chunk.sizes)
        whole = list(size)
        if len(size) > len(self.shapes[entry.ours][0]):  # blocks stand in a dimension of their own
            offsets[1] += offsets[0] * whole[1]
            lengths[1] *= lengths[0]
            offsets, lengths, whole = offsets[1:], lengths[1:], [whole[0] * whole[1], *whole[2:]]
        rows = offsets[0], offsets[0] + lengths[0]
        columns = (offsets[1], offsets[1] + lengths[1]) if len(offsets) > 1 else None
        parts = [
            self._read(entry, run.source, (run.start, run.start + run.length), columns)
            for run in runs(entry, self.config, rows, whole[0])
        ]
        value = parts[0] if len(parts) == 1 else torch.cat(parts)
        return value.to(self.config.torch_dtype).reshape(tuple(chunk.sizes))

    def _read(
        self, entry: Entry, source: int, rows: tuple[int, int], columns: tuple[int, int] | None
    ) -> torch.Tensor:
        name = find(entry.theirs[source], self.files.shapes)
        assert name is not None
        if columns is None or not entry.form.startswith("transposed"):
            return self.files.read(name, rows, columns)
        return self.files.read(name, columns, rows).t()


def import_folder(
    folder: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    tp: int = 1,
    pp: int = 1,
    dtype: str | None = None,
    most: int = READ_BYTES,
    file_bytes: int = FILE_BYTES,
) -> Path:
    """Writes the model of a Hugging Face folder as `root/step_00000000`; returns that path.

    dtype: of the parameters; None: that of the files, where it is one this library has. `most`:
    bytes of one read; `file_bytes`: of one file of the checkpoint: what is held at once. Raises
    ValueError for a config or tensors that are not the model's, naming field or tensor.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
    from torch.distributed.checkpoint.planner import SavePlan

    folder, final = Path(folder), Path(root) / "step_00000000"
    hf = read_config(folder / "config.json")
    files = TensorFiles(folder, most)
    config = config_from_huggingface(hf, dtype=dtype or _common_dtype(files))
    if config.layers > len(files.shapes):
        raise ValueError(
            f"convert: {folder / 'config.json'} has {config.layers} layers, its files "
            f"{len(files.shapes)} tensors"
        )
    source = _Source(files, config)
    part_folder = final.with_suffix(".part")
    shutil.rmtree(part_folder, ignore_errors=True)
    part_folder.mkdir(parents=True)
    writer = dcp.FileSystemWriter(part_folder)
    writer.set_up_storage_writer(is_coordinator=True)
    items = [group for rank in range(tp * pp) for group in _groups(
        list(_items(config, rank, tp, pp)), file_bytes)]  # fmt: skip
    plans, metadata = create_default_global_save_plan([SavePlan(group) for group in _once(items)])
    plans = writer.prepare_global_plan(plans)
    results = [writer.write_data(plan, source).wait() for plan in plans]  # type: ignore[arg-type]
    metadata = dataclasses.replace(metadata, storage_meta=writer.storage_meta())
    writer.finish(metadata, results)
    _copy_text(folder, part_folder / checkpoint.ASIDE)
    checkpoint.commit_files(part_folder, final, {
        "step": 0, "grid": None, "seed": None, "model": config.to_dict(),
        "extra": {"config": config.to_dict(), "huggingface": hf},
    })  # fmt: skip
    return final


def _common_dtype(files: TensorFiles) -> str:
    found = sorted({str(dtype).removeprefix("torch.") for dtype in files.dtypes.values()})
    if found not in (["bfloat16"], ["float32"], ["float64"]):
        raise ValueError(
            f"convert: the files hold {' and '.join(found)}; say by dtype (--dtype) what the "
            "parameters shall be: bfloat16, float32 or float64"
        )
    return found[0]


def _items(config: GPTConfig, rank: int, tp: int, pp: int) -> Iterator[Any]:
    """What rank `rank` of a (tp, pp) grid holds, as items to write."""
    from torch.distributed.checkpoint.planner_helpers import _create_write_items

    with planned_grid(rank, tp, pp, 1) as context:
        for model in build_stages(config, context, device="meta"):
            for placed in model.placed():
                value = part_of_whole(placed.parameter.detach(), placed.layout.shard, context)
                yield from _create_write_items(f"model/{placed.source}", value)


def _groups(items: list[Any], file_bytes: int) -> Iterator[list[Any]]:
    """`items` in groups of at most `file_bytes`."""
    group, held = [], 0
    for item in items:
        data = item.tensor_data
        size = torch.Size(data.chunk.sizes).numel() * data.properties.dtype.itemsize
        if group and held + size > file_bytes:
            yield group
            group, held = [], 0
        group.append(item)
        held += size
    yield group


def _once(groups: list[list[Any]]) -> Iterator[list[Any]]:
    """Leaves out what an earlier group holds: copies, tied embeddings."""
    seen = set()
    for group in groups:
        new = [item for item in group if item.index not in seen]
        seen |= {item.index for item in new}
        if new:
            yield new


# -- out


def export_folder(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes a checkpoint (`path`, or the newest under it) as a Hugging Face folder: safetensors of
    at most `shard_bytes` (one tensor at least), an index, and the files that came with the model.

    Raises CheckpointError for a checkpoint that is not whole, ValueError for a model that no family
    of Hugging Face computes; `folder` must be empty or not there.
    """
    path, folder = checkpoint.latest(path) or Path(path), Path(folder)
    manifest = checkpoint.read_manifest(path)
    config = checkpoint.demand_config("convert", path, manifest)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"convert: {folder} must be empty; choose another folder")
    hf = manifest["extra"].get("huggingface")
    try:
        hf = hf if hf and isinstance(hf, dict) else config_to_huggingface(config)
    except ValueError as error:
        raise ValueError(f"convert: {path}: {error}") from error
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _copy_text(path / checkpoint.ASIDE, aside)
    hf = {**hf, "torch_dtype": config.dtype}
    (aside / "config.json").write_text(json.dumps(hf, indent=2) + "\n")
    _write_shards(path, aside, config, shard_bytes)
    if folder.exists():
        folder.rmdir()
    os.replace(aside, folder)
    return folder


def _write_shards(path: Path, folder: Path, config: GPTConfig, shard_bytes: int) -> None:
    from .contents import Reader  # which imports torch's

    sizes, reader = shapes(config), Reader(path)
    groups: list[list[Entry]] = [[]]
    held = 0
    for entry in table(config):
        size = sum(torch.Size(s).numel() for s in sizes[entry.ours]) * config.torch_dtype.itemsize
        if groups[-1] and held + size > shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append(entry)
        held += size
    where: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        names = [(t, s) for e in group for t, s in zip(e.theirs, sizes[e.ours], strict=True)]
        source = {theirs: entry for entry in group for theirs in entry.theirs}
        kept: dict[str, torch.Tensor] = {}  # the parts of one of our tensors, until all are written

        def produce(theirs: str, source=source, kept=kept) -> torch.Tensor:
            if theirs not in kept:
                entry = source[theirs]
                kept.clear()
                kept.update(zip(entry.theirs, part(entry, _load(reader, entry, config), config),
                                strict=True))  # fmt: skip
            return kept[theirs]

        write_file(folder / name, names, config.torch_dtype, produce)
        where |= {theirs: name for theirs, _ in names}
    total = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _load(reader: Reader, entry: Entry, config: GPTConfig) -> torch.Tensor:
    """One unsplit tensor of a checkpoint."""
    import torch.distributed.checkpoint as dcp

    name, path = f"model/{entry.ours}", reader.path
    saved = reader.read_metadata().state_dict_metadata.get(name)
    wanted = sum(torch.Size(size).numel() for size in shapes(config)[entry.ours])
    if saved is None or torch.Size(saved.size).numel() != wanted:
        raise CheckpointError(f"convert: {path} does not hold {entry.ours!r} as its config has it")
    value = torch.empty(saved.size, dtype=config.torch_dtype)
    try:
        with checkpoint.quiet_alone() as alone:
            dcp.load({name: value}, storage_reader=reader, no_dist=alone)
    except (Exception, dcp.api.CheckpointException) as error:
        raise CheckpointError(f"convert: {path}: {entry.ours!r} is damaged: {error}") from error
    several = entry.form == "stacked" and len(entry.theirs) > 1
    return value.flatten(0, 1) if several else value


def config_to_huggingface(config: GPTConfig) -> dict[str, Any]:
    """A `config.json` for a model trained here. Raises ValueError if none gives `config` back."""
    for kind in FAMILIES:
        hf = _described(kind, config)
        try:
            if _same(config_from_huggingface(hf), config):
                return hf
        except (ValueError, TypeError):
            continue
    raise ValueError("config_to_huggingface: no model_type of Hugging Face computes this model")


_HERE_ALONE = ("dtype", "init_std", "sequence_parallel", "recompute", "recompute_keep",
               "head_size", "kv_heads", "ffn", "embedding_dropout", "attention_scale",
               "rotary_base_windowed")  # fmt: skip


def _same(one: GPTConfig, other: GPTConfig) -> bool:
    def plain(config: GPTConfig) -> tuple[Any, ...]:
        resolved = (config.head_dim, config.groups, config.inner, _scale(config), _local(config))
        drop = config.dropout if config.embedding_dropout is None else config.embedding_dropout
        kept = {k: v for k, v in config.to_dict().items() if k not in _HERE_ALONE}
        kept |= {f"{p}_bias": config.has_bias(p) for p in ("qkv", "out", "mlp")}
        return kept, resolved, drop

    return plain(one) == plain(other)


def _scale(config: GPTConfig) -> float:
    """Factor of the scores."""
    return config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale


def _local(config: GPTConfig) -> float | None:
    """Rotary base of the layers with a window, where it is not that of the others."""
    other = config.windows is not None and any(config.windows)
    base = config.rotary_base_windowed if other else None
    return None if base == config.rotary_base and config.rotary_scaling is None else base


def _described(kind: str, config: GPTConfig) -> dict[str, Any]:
    """The config of family `kind` that is nearest to `config`."""
    family = FAMILIES[kind]
    resolved = {"kv_heads": config.groups, "head_size": config.head_dim, "ffn": config.inner}
    hf: dict[str, Any] = {"model_type": kind}
    for theirs, ours in family.renamed.items():
        hf[theirs] = resolved.get(ours, getattr(config, ours))
    if kind == "gpt2":
        hf["scale_attn_weights"] = config.attention_scale is None
        hf["embd_pdrop"] = (
            config.dropout if config.embedding_dropout is None else config.embedding_dropout
        )
    hf[family.act] = next(
        (name for name, ours in family.activations.items() if ours == config.activation), "none"
    )
    if kind != "gpt2":
        hf["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rotary_base,
                                 "partial_rotary_factor": config.rotary_fraction}  # fmt: skip
        scaling = config.rotary_scaling
        if scaling is not None:
            hf["rope_parameters"] |= {"rope_type": scaling.kind} | {
                theirs: getattr(scaling, ours) for theirs, ours in ROPE_NAMES.items()}  # fmt: skip
        if scaling is not None and scaling.kind == "dynamic":
            hf["max_position_embeddings"] = scaling.original
        if config.windows is not None:
            types = ["sliding_attention" if w else "full_attention" for w in config.windows]
            hf |= {"sliding_window": max(config.windows), "use_sliding_window": True,
                   "layer_types": types}  # fmt: skip
        if kind.startswith("gemma"):
            hf |= _described_gemma(kind, config, hf["rope_parameters"])
        hf["attention_bias"] = config.has_bias("out")
        hf["use_parallel_residual"] = config.parallel_residual
        hf["mlp_bias"] = config.has_bias("mlp")
    known = {*family.reads, *family.renamed, family.act, "model_type", "rope_parameters"}
    return {name: value for name, value in hf.items() if name in known}


def _described_gemma(kind: str, config: GPTConfig, rope: dict[str, Any]) -> dict[str, Any]:
    """What Gemma's families say in their own way."""
    scalar = _scale(config) ** -2
    windows = config.windows or (0,) * config.layers
    own = {
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-9 else scalar,
        "layer_types": ["sliding_attention" if w else "full_attention" for w in windows],
        "sliding_window": max(windows) or config.max_positions,
    }
    if kind == "gemma3_text":
        base = config.rotary_base if config.rotary_base_windowed is None else (
            config.rotary_base_windowed
        )  # fmt: skip
        local = {"rope_type": "default", "rope_theta": base}
        own["rope_parameters"] = {"full_attention": rope, "sliding_attention": local}
    return own


def _copy_text(source: Path, target: Path) -> None:
    """The small files beside the weights: config, tokenizer, template."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for pattern in _TEXT:
            for file in source.glob(pattern):
                if not file.name.endswith(".index.json"):
                    shutil.copyfile(file, target / file.name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tp-parallel convert",
        description="A Hugging Face folder to a checkpoint, or a checkpoint to such a folder.",
    )
    parser.add_argument("source", help="folder with config.json and *.safetensors, or a checkpoint")
    parser.add_argument("target", help="folder for checkpoints, or for the Hugging Face model")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel size of the layout")
    parser.add_argument("--pp", type=int, default=1, help="pipeline stages of the layout")
    parser.add_argument("--dtype", default=None, choices=("bfloat16", "float32", "float64"),
                        help="of the parameters; default: that of the files")  # fmt: skip
    options = parser.parse_args(arguments)
    if (Path(options.source) / "config.json").is_file():
        done = import_folder(options.source, options.target, tp=options.tp, pp=options.pp,
                             dtype=options.dtype)  # fmt: skip
    else:
        done = export_folder(options.source, options.target)
    print(done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
