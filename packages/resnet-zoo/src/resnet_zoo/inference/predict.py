"""Predictions for image files: decode, preprocess, classify, report.

A file that cannot be decoded becomes a row with `error`, and the others go on.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..distributed import World
from ..files import replacing
from ..models.builders import get_model, load_model
from ..models.resnet import ResNet
from ..pictures.images import SUFFIXES, decoded_ahead, images_below, open_image
from ..pictures.transforms import ImageClassification

DECODE = ("exact", "fast")


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """The files among `paths`, and all images below the folders among them, in sorted order.

    Raises FileNotFoundError for a path that does not exist, ValueError if nothing is found.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += images_below(path)
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"predict: there is no file or folder {path}")
    if not found:
        told = ", ".join(map(str, paths))
        raise ValueError(f"predict: no images ({', '.join(SUFFIXES)}) in {told}")
    return found


def open_model(name: str | None, weights: str | None, **kwargs: Any) -> ResNet:
    """A model in evaluation mode from `--model` and `--weights`, with its `source` attached.

    Without a name the weights must be a file that says which model it is; without weights the
    model's DEFAULT entry is taken.
    """
    if name is None:
        if weights is not None and Path(weights).is_file():
            return load_model(weights, **kwargs).eval()
        name = "resnet50"
    return get_model(name, weights=weights or "DEFAULT", **kwargs).eval()


def top_k(logits: Tensor, k: int, categories: Sequence[str] | None) -> list[list[dict[str, Any]]]:
    """The k best classes of each row of (N, classes) logits, with softmax probabilities."""
    values, indices = logits.float().softmax(1).topk(min(k, logits.shape[1]), dim=1)
    return [
        [
            {
                "index": index,
                "category": categories[index] if categories else str(index),
                "probability": round(value, 6),
            }
            for value, index in zip(row_values, row_indices, strict=True)
        ]
        for row_values, row_indices in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def predict(
    model: nn.Module,
    files: Sequence[str | Path],
    *,
    transforms: ImageClassification,
    categories: Sequence[str] | None = None,
    k: int = 5,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    decode: str = "exact",
    workers: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows {"file", "predictions"} or {"file", "error"}, in the order of `files`.

    Pictures are decoded and scaled by threads while the network runs; about three batches of them
    are held. A file that cannot be read makes no batch smaller.

    Args:
        model: gives (N, classes) logits; in evaluation mode and on `device`.
        files: image files.
        transforms: preprocessing, e.g. `model.source.transforms()`.
        categories: class names; without them the index is the name.
        k: predictions for each file.
        batch_size: images of one forward.
        device: where the batches go.
        decode: "exact", or "fast", which decodes large JPEGs at a fraction of their size: other
            pixels, several times as fast (see `open_image`).
        workers: decoding threads; as many as torch has by default. 0 decodes one picture after the
            other, while the network waits.
    """
    if decode not in DECODE:
        raise ValueError(f"predict: decode must be {' or '.join(DECODE)}, got {decode!r}")
    short = _shorter_side(transforms) if decode == "fast" else None
    threads = torch.get_num_threads() if workers is None else workers

    def prepared(path: str | Path) -> Tensor:
        return transforms(open_image(path, short))

    ahead = 2 * batch_size + threads
    # Names of the files since the last forward, each with its tensor or its error.
    chunk: list[tuple[str | Path, Tensor | ValueError]] = []
    good = 0
    for path, found in zip(files, decoded_ahead(files, prepared, threads, ahead), strict=True):
        chunk.append((path, found))
        good += isinstance(found, Tensor)
        if good == batch_size:
            yield from _rows(model, chunk, categories, k, device)
            chunk, good = [], 0
    yield from _rows(model, chunk, categories, k, device)


def first_pictures(
    files: Sequence[str | Path],
    transforms: ImageClassification,
    decode: str = "exact",
    count: int = 64,
) -> Tensor:
    """The first `count` readable files as one batch (N, C, H, W), to calibrate on.

    Raises ValueError if none can be read.
    """
    short = _shorter_side(transforms) if decode == "fast" else None
    found: list[Tensor] = []
    for path in files:
        with contextlib.suppress(ValueError):  # told by predict
            found.append(transforms(open_image(path, short)))
        if len(found) == count:
            break
    if not found:
        raise ValueError(f"predict: none of {len(files)} files can be read to calibrate on")
    return torch.stack(found)


def _shorter_side(transforms: ImageClassification) -> int:
    size = transforms.resize_size
    return size if isinstance(size, int) else max(size)


def _rows(
    model: nn.Module,
    chunk: list[tuple[str | Path, Tensor | ValueError]],
    categories: Sequence[str] | None,
    k: int,
    device: torch.device | str,
) -> Iterator[dict[str, Any]]:
    """One forward for the tensors of a chunk; a row for each of its files."""
    tensors = [found for _, found in chunk if isinstance(found, Tensor)]
    best = iter(())
    if tensors:
        with torch.inference_mode():
            best = iter(top_k(model(torch.stack(tensors).to(device)), k, categories))
    for path, found in chunk:
        if isinstance(found, Tensor):
            yield {"file": str(path), "predictions": next(best)}
        else:
            yield {"file": str(path), "error": str(found).removeprefix(f"{path}: ")}


def json_line(row: dict[str, Any]) -> str:
    """A row as JSON on one line; all but ASCII is escaped only where a file name is not UTF-8."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return line


def write_shared(rows: Iterator[dict[str, Any]], out: Path, here: World, total: int) -> int:
    """Write the rows of all processes into one JSON-lines file, in the order of the input files.

    Process r holds `total` of them: r, r + size, ...; each writes its part aside, and the first
    one merges them and renames. Shows progress on stderr, if that is a terminal. Returns the number
    of rows with errors in all processes.
    """
    failed = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part{here.rank}")
    bar = tqdm(rows, out.name, total, disable=not (here.first and sys.stderr.isatty()))
    with open(part, "w", encoding="utf-8") as file:
        for row in bar:
            failed += "error" in row
            file.write(json_line(row) + "\n")
    here.wait()
    if here.first:
        parts = [out.with_name(f"{out.name}.part{rank}") for rank in range(here.size)]
        # not splitlines: a file name may hold U+2028, which JSON does not escape
        columns = [path.read_text(encoding="utf-8").split("\n")[:-1] for path in parts]
        with replacing(out) as aside, open(aside, "w", encoding="utf-8") as file:
            for position in range(max(map(len, columns))):
                for column in columns:
                    if position < len(column):
                        file.write(column[position] + "\n")
        for path in parts:
            path.unlink()
    here.wait()
    return int(here.total(torch.tensor(failed, device=here.device)))
