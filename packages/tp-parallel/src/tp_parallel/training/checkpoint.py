"""Checkpoints that any grid can read: written aside, committed by a manifest, checked before use.

Tensors go through torch.distributed.checkpoint as slices of the unsplit tensors (vocabulary padding
left out), so that a run saved on one (tp, pp, dp) resumes on any other. A checkpoint is a folder
`step_00000100`; it is written as `step_00000100.part`, gets a manifest with the size and SHA-256 of
every file, and is renamed as the last act. A folder without a true manifest is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..data_parallel.optimizer import AdamW
from ..grid.context import ParallelContext
from ..grid.errors import CheckpointError
from ..layers.config import GPTConfig
from ..layers.layout import placed_parameters
from .files import system_error
from .parts import part_of_whole

FORMAT = 1
# fields of a config that change no result
_FREE = ("init_std", "recompute", "recompute_keep", "sequence_parallel")
_MANIFEST = "manifest.json"
# of the manifest's entries; older ones have no model, imported ones no grid and no seed
_KINDS: dict[str, Any] = {"step": int, "grid": dict | None, "model": dict | None, "extra": dict,
                          "files": dict}  # fmt: skip
ASIDE = "huggingface"  # folder of a checkpoint for config.json, tokenizer and the like
_READ_BYTES = 1 << 20


def save(
    root: str | os.PathLike[str],
    step: int,
    models: Iterable[nn.Module],
    optimizer: AdamW | None,
    *,
    context: ParallelContext,
    extra: dict[str, Any] | None = None,
    keep: int | None = None,
    aside: Path | None = None,
) -> Path:
    """Writes `root/step_XXXXXXXX` with parameters, optimizer state, random streams and `extra`.

    Every rank calls it with the same arguments; `root` is one folder that all ranks see. `extra`
    is JSON. Each rank hashes the files that it wrote. `keep`: of the checkpoints under `root` only
    the `keep` newest stay, once this one is committed. `aside`: a folder of small files that goes
    with it (config and tokenizer of where the model came from), as `ASIDE`. Returns the path, once
    it is complete on disk. Synchronises all ranks. Raises ValueError for a `keep` below 1, OSError
    or CheckpointError if it cannot be written; whatever was committed before stays as it was.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"checkpoint.save: keep must be at least 1 or None, got {keep}")
    models = list(models)
    import torch.distributed.checkpoint as dcp

    final = Path(root) / f"step_{step:08d}"
    part = begin(final, context, aside)
    state = state_of(models, optimizer, context)
    try:
        with quiet_alone() as alone, context.doing("checkpoint.save"):
            dcp.save(state, storage_writer=dcp.FileSystemWriter(part), no_dist=alone)
    except (Exception, dcp.api.CheckpointException) as error:
        raise CheckpointError(_failure("checkpoint.save", part, context, error)) from error
    context.world.barrier(label="checkpoint.save: tensors")
    complete(part, final, describe(step, models, extra, context), context, keep)
    context.world.barrier(label="checkpoint.save: manifest")
    return final


def begin(
    final: Path, context: ParallelContext, aside: Path | None,
    group: dist.ProcessGroup | None = None,
) -> Path:  # fmt: skip
    """Makes the empty folder in which the checkpoint `final` is written; on `group`, if given."""
    part = final.with_suffix(".part")
    if context.rank == 0:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        if aside is not None and aside.is_dir():
            shutil.copytree(aside, part / ASIDE)
    if group is None:
        context.world.barrier(label="checkpoint.save: folder")
    else:
        dist.barrier(group=group)
    return part


def state_of(
    models: Iterable[nn.Module], optimizer: AdamW | None, context: ParallelContext
) -> dict[str, torch.Tensor]:
    """Everything to save, by global name."""
    return _state(models, optimizer, context) | _random_state(context)


def describe(
    step: int, models: Iterable[nn.Module], extra: dict[str, Any] | None, context: ParallelContext
) -> dict[str, Any]:
    """The manifest of a checkpoint, its files still missing."""
    return {"format": FORMAT, "step": step, "grid": _grid_of(context), "seed": context.seed,
            "model": _config_of(models), "extra": extra or {}}  # fmt: skip


def complete(
    part: Path, final: Path, manifest: dict[str, Any], context: ParallelContext,
    keep: int | None, group: dist.ProcessGroup | None = None,
) -> None:  # fmt: skip
    """Hashes what is written, commits it as `final` and removes checkpoints beyond `keep`."""
    files = _all_files(part, context, group)
    if context.rank:
        return
    _commit(part, final, {**manifest, "files": files})
    if keep is not None:
        for old in committed(final.parent)[keep:]:
            (old / _MANIFEST).unlink()  # first: what is half removed is no checkpoint
            shutil.rmtree(old)


def load(
    path: str | os.PathLike[str],
    models: Iterable[nn.Module],
    optimizer: AdamW | None = None,
    *,
    context: ParallelContext,
    allow: Iterable[str] = (),
) -> dict[str, Any]:
    """Reads a checkpoint into models and optimizer, whatever grid wrote it; returns its manifest.

    The model's config must be the saved one, but for what changes no result (how it is split and
    recomputed, how it was initialised) and for the fields named in `allow`; every parameter saved
    must have its place in some stage.

    Random streams continue where they were if the grid is the same; on another grid they start anew
    from the seed and the step, since there is no stream to continue. Synchronises all ranks. Raises
    CheckpointError, on every rank, if a file is missing or damaged or a tensor does not fit.
    """

    path = Path(path)
    return _read(path, verify(path, context), list(models), optimizer, context, allow)


def resume(
    root: str | os.PathLike[str],
    models: Iterable[nn.Module],
    optimizer: AdamW | None = None,
    *,
    context: ParallelContext,
    allow: Iterable[str] = (),
) -> dict[str, Any] | None:
    """Reads the newest whole checkpoint under `root` as `load` does; None where there is none.

    A damaged one is warned of and an older one tried. Raises CheckpointError if all are damaged or
    the model is another one.
    """
    found = committed(root)
    context.check_equal("checkpoints to resume from", [str(path) for path in found])
    problem = None
    for path in found:
        try:
            manifest = verify(path, context)
        except CheckpointError as error:
            problem = problem or error
            warnings.warn(f"{error}; trying the one before", stacklevel=2)
            continue
        return _read(path, manifest, list(models), optimizer, context, allow)
    if problem is not None:
        raise problem
    return None


def _read(
    path: Path,
    manifest: dict[str, Any],
    models: list[nn.Module],
    optimizer: AdamW | None,
    context: ParallelContext,
    allow: Iterable[str],
) -> dict[str, Any]:
    import torch.distributed.checkpoint as dcp

    from .contents import Reader  # which imports torch's

    _check_config(path, manifest, models, allow)
    state = _state(models, optimizer, context)
    same_grid = manifest["grid"] == _grid_of(context)
    if same_grid:
        state |= _random_state(context)
    _check_complete(path, state, context)
    try:
        with quiet_alone() as alone:
            dcp.load(state, storage_reader=Reader(path), no_dist=alone)
    except CheckpointError:
        raise
    except (Exception, dcp.api.CheckpointException) as error:
        if system := system_error(error):
            raise OSError(system.errno, system.strerror, system.filename or str(path)) from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"checkpoint.load: {path} does not fit the model: {lines[-1]}; build the model "
            "from the "
            "config in the manifest"
        ) from error
    if same_grid:
        context.rng.load_state_dict(_random_streams(state, context))
    else:
        context.rng.reseed("resumed", manifest["step"])
    if optimizer is not None:
        optimizer.masters_to_parameters()
    return manifest


def latest(root: str | os.PathLike[str]) -> Path | None:
    """The committed checkpoint with the highest step under `root`, or None."""
    return next(iter(committed(root)), None)


def committed(root: str | os.PathLike[str]) -> list[Path]:
    """The committed checkpoints under `root`, the newest first.

    Where a second save of a step was broken off between its two renames, the first is still there
    as `step_XXXXXXXX.old`.
    """
    found: dict[int, Path] = {}
    for suffix in (".old", ""):
        for path in Path(root).glob(f"step_*{suffix}"):
            number = path.name.removeprefix("step_").removesuffix(suffix)
            if number.isdecimal() and _whole(path):  # step_best is a copy that somebody keeps
                found[int(number)] = path
    return [found[step] for step in sorted(found, reverse=True)]


def _whole(path: Path) -> bool:
    return (path / _MANIFEST).is_file()


def _config_of(models: Iterable[nn.Module]) -> dict[str, Any] | None:
    """The fields of the models' config, if they have one."""
    config = next((getattr(model, "config", None) for model in models), None)
    return config.to_dict() if isinstance(config, GPTConfig) else None


def model_fields(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The fields of the GPTConfig of a checkpoint's model; None where it does not say them."""
    found = manifest.get("model") or manifest["extra"].get("config")
    return found if isinstance(found, dict) else None


def demand_config(name: str, path: str | os.PathLike[str], manifest: dict[str, Any]) -> GPTConfig:
    """The config of a checkpoint's model. Raises CheckpointError, in the name of the caller, where
    the manifest does not say it."""
    fields = model_fields(manifest)
    if fields is None:
        raise CheckpointError(
            f"{name}: {path} does not say of which model it is; save it from a GPTModel, or build "
            "the model yourself and use checkpoint.load"
        )
    try:
        config = GPTConfig(**fields)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{name}: {path} has a damaged model config: {error}") from error
    # each number takes two bytes at least: no memory is taken for a model larger than its files
    heads = config.heads * config.head_dim
    numbers = config.hidden * (config.vocab_size + config.layers * (heads + config.inner))
    numbers += config.hidden * config.max_positions * (config.position == "learned")
    there = sum(file.stat().st_size for _, file in _files_under(Path(path)))
    if 2 * numbers > there:
        raise CheckpointError(
            f"{name}: {path} has the config of a model of {numbers:,} numbers at least, and "
            f"{there:,} bytes; its files are missing, or the config is damaged"
        )
    return config


def _check_config(
    path: Path, manifest: dict[str, Any], models: list[nn.Module], allow: Iterable[str]
) -> None:
    saved = model_fields(manifest)
    mine = _config_of(models)
    if saved is None or mine is None:
        return
    default = {f.name: f.default for f in dataclasses.fields(GPTConfig)}
    free = {*_FREE, *allow}
    other = [
        f"{name} {saved.get(name, default[name])!r} there, {value!r} here"
        for name, value in mine.items()
        if name not in free and saved.get(name, default[name]) != value
    ]
    if other:
        raise CheckpointError(
            f"checkpoint.load: {path} does not fit the model: {'; '.join(other)}; build the model "
            "from the config in the manifest, or allow what may differ by `allow` (--allow)"
        )


def _check_complete(path: Path, state: dict[str, Any], context: ParallelContext) -> None:
    """Refuses to leave saved parameters unread: those of a larger model."""
    from .contents import Reader

    read = set(state)
    if context.pp.size > 1:
        every: list[Any] = [None] * context.pp.size
        dist.all_gather_object(every, sorted(read), group=context.pp.group)
        read = {name for names in every for name in names}
    saved = Reader(path).read_metadata().state_dict_metadata
    left = sorted(name for name in saved if name.startswith("model/") and name not in read)
    if left:
        raise CheckpointError(
            f"checkpoint.load: {path} does not fit the model: no stage has "
            f"{', '.join(name.removeprefix('model/') for name in left[:5])}; build the model from "
            "the config in the manifest"
        )


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a checkpoint: step, grid, extra, files. Raises CheckpointError if
    unreadable.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"checkpoint: {path} has no {_MANIFEST}: it was not written to the end; use another one"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint: {path / _MANIFEST} is no JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise CheckpointError(
            f"checkpoint: {path} has format {found!r}, this version reads {FORMAT}"
        )
    for name, kinds in _KINDS.items():
        if not isinstance(manifest.get(name), kinds):
            raise CheckpointError(
                f"checkpoint: {path / _MANIFEST} is damaged: {name} is {manifest.get(name)!r:.80}"
            )
    for name, facts in manifest["files"].items():
        outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
        if outside or not isinstance(facts, dict) or not {"size", "sha256"} <= facts.keys():
            raise CheckpointError(
                f"checkpoint: {path / _MANIFEST} is damaged: its file {name!r} is {facts!r:.80}"
            )
    return manifest


def verify(path: Path, context: ParallelContext) -> dict[str, Any]:
    """Checks size and SHA-256 of every file, the work shared among ranks; returns the manifest."""
    problem, manifest = None, {}
    try:
        manifest = read_manifest(path)
        for name in sorted(manifest["files"])[context.rank :: context.world_size]:
            _verify_file(path / name, manifest["files"][name])
    except CheckpointError as error:
        problem = str(error)
    problems: list[str | None] = [problem]
    if context.world_size > 1:
        problems = [None] * context.world_size
        dist.all_gather_object(problems, problem)
    for found in problems:
        if found:
            raise CheckpointError(found)
    return manifest


def _failure(what: str, path: Path, context: ParallelContext, error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    ranks = tuple(range(context.world_size))
    return (
        f"rank {context.rank} ({context.coordinates()}), step {context.step}: {what} of {path} "
        f"failed. {context.diagnose(ranks, error)}Cause: {lines[-1]}; the last committed "
        "checkpoint "
        "is as it was"
    )


@contextmanager
def quiet_alone() -> Iterator[bool]:
    """Whether this is a single process; torch's warning about just that is not shown."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield not dist.is_initialized()


def _verify_file(path: Path, want: dict[str, Any]) -> None:
    if not path.is_file():
        raise CheckpointError(f"checkpoint: {path} is missing; the checkpoint is incomplete")
    size = path.stat().st_size
    if size != want["size"]:
        raise CheckpointError(
            f"checkpoint: {path} has {size} bytes, the manifest says {want['size']}; it is damaged"
        )
    if _digest(path) != want["sha256"]:
        raise CheckpointError(f"checkpoint: {path} differs from its SHA-256; it is damaged")


def _all_files(
    part: Path, context: ParallelContext, group: dist.ProcessGroup | None = None
) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the files in `part`, all on rank 0; each rank reads what it wrote."""
    mine = {}
    for file in sorted(part.glob(f"__{context.rank}_*")):
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
        mine[file.name] = {"size": file.stat().st_size, "sha256": _digest(file)}
    if context.world_size == 1:
        every: list[Any] = [mine]
    else:
        every = [None] * context.world_size
        if group is not None:  # in the background: what the training does is none of it
            dist.all_gather_object(every, mine, group=group)
        else:
            with context.doing("checkpoint.save: hashes"):
                dist.all_gather_object(every, mine)
    files = {name: facts for each in every for name, facts in each.items()}
    if context.rank:
        return files
    for name, file in _files_under(part):  # the table of contents, files aside: small, of all
        if name not in files:
            files[name] = {"size": file.stat().st_size, "sha256": _digest(file)}
    return files


def _files_under(folder: Path) -> list[tuple[str, Path]]:
    """Every file with its name in a manifest."""
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return [(file.relative_to(folder).as_posix(), file) for file in found]


def _commit(part: Path, final: Path, manifest: dict[str, Any]) -> None:
    """Makes `part` the checkpoint `final`; one of these, old or new, is whole at every moment."""
    with open(part / _MANIFEST, "w") as stream:
        json.dump(manifest, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    _sync_folder(part)
    old = final.with_suffix(".old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(final, old)
    os.replace(part, final)
    _sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def commit_files(part: Path, final: Path, manifest: dict[str, Any]) -> None:
    """Makes the folder `part`, all of whose files one process has written, the checkpoint `final`:
    `manifest` gets format, sizes and hashes.
    """
    files = {
        name: {"size": file.stat().st_size, "sha256": _digest(file)}
        for name, file in _files_under(part)
    }
    _commit(part, final, {"format": FORMAT, **manifest, "files": files})


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _grid_of(context: ParallelContext) -> dict[str, int]:
    return {"tp": context.tp.size, "pp": context.pp.size, "dp": context.dp.size}


def _state(
    models: Iterable[nn.Module], optimizer: AdamW | None, context: ParallelContext
) -> dict[str, torch.Tensor]:
    """Everything to save or to read into, by global name, as slices of unsplit tensors."""
    moments = {} if optimizer is None else optimizer.moments()
    state = {}
    for placed in placed_parameters(models, context):
        # a tied copy is read from its original, and only read: saving it is the first stage's part
        name, parameter, layout = placed
        state[f"model/{placed.source}"] = part_of_whole(parameter.detach(), layout.shard, context)
        for key, value in moments.get(name, {}).items():
            if value.dim():
                value = part_of_whole(value.detach(), layout.shard, context)
            state[f"optimizer/{placed.source}/{key}"] = value
    return state


def _random_state(context: ParallelContext) -> dict[str, torch.Tensor]:
    return {
        f"random/{context.coordinates()}/{stream}/{index}": state
        for stream, states in context.rng.state_dict().items()
        for index, state in enumerate(states)
    }


def _random_streams(
    state: dict[str, torch.Tensor], context: ParallelContext
) -> dict[str, list[torch.Tensor]]:
    return {
        stream: [
            state[f"random/{context.coordinates()}/{stream}/{index}"]
            for index in range(len(states))
        ]
        for stream, states in context.rng.state_dict().items()
    }
