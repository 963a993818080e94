"""The compiled CUDA kernels behind the operators (csrc/cuda). Compiled and simulated, never run.

Outputs and scratch memory come from torch's allocator, work is queued on torch's current stream of
the tensors' device. Building a rulebook waits for the device once, to learn the number of output
sites and whether the coordinates are in order; nothing else waits. Rulebooks have the table form.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _C
from ..geometry import (
    SUBMANIFOLD,
    TRANSPOSED,
    Geometry,
    Rulebook,
    raise_duplicate,
    raise_outside,
)
from .cpu import explain
from .plain import max_pool, select_sum  # on the device, over either form of a rulebook
from .reads import demand_reads, note_reads

__all__ = [
    "build",
    "conv",
    "conv_input_grad",
    "conv_weight_grad",
    "mask_words",
    "max_pool",
    "padded_pairs",
    "require_kernels",
    "select_sum",
    "turn",
]

MERGES: frozenset[torch.dtype] = frozenset()
WAITS = frozenset({"get_indice_pairs", "subm_rulebook", "rulebook", "max_pool", "select_sum"})
TILE_ROWS = 64  # as tile_rows in csrc/cuda/rulebook.h
_NO_ROW = 0x7F7F7F7F  # as Report::none in csrc/cuda/rulebook.h


def require_kernels() -> None:
    """Raises RuntimeError where this build has no CUDA kernels, or torch does not say on which
    stream they are to run: on another one they would race with it."""
    if not _C.cuda_architectures:
        raise RuntimeError(
            "set_kernels: this build of spconv-lite has no CUDA kernels; install the CUDA toolkit "
            "and build with GPU=ON"
        )
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        raise RuntimeError(
            "set_kernels: the CUDA kernels run on torch's current stream, which torch "
            f"{torch.__version__} does not name (it has no DLPack exchange table); install a newer "
            "torch or stay with plain torch operators"
        )


def mask_words(rows: int, volume: int) -> int:
    """The length of `block_offset` in the table form; at least 2, because graphs of torch.export
    treat a size of 1 apart."""
    return (rows // TILE_ROWS + 2) * ((volume + 31) // 32)


def _on_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _scratch(like: Tensor, size: int) -> Tensor:
    return torch.empty((size,), dtype=torch.uint8, device=like.device)


# ---------------------------------------------------------------------------------- rulebooks


def _geometry(g: Geometry) -> _C.cuda.Geometry:
    return _C.cuda.Geometry(*g.as_four()[:-1])


def _checked(report: tuple[int, int, int, int], indices: Tensor, g: Geometry) -> int:
    """The number of output sites; raises what the kernels found wrong with the input's."""
    outside, duplicate, unplaced, out_rows = report
    if outside != _NO_ROW:
        raise_outside("get_indice_pairs", indices, outside, g.batch_size, g.in_shape)
    if duplicate != _NO_ROW:
        raise_duplicate("get_indice_pairs", indices, duplicate)
    if unplaced:
        raise RuntimeError(f"get_indice_pairs: the hash table had no place for {unplaced} sites")
    return out_rows


def _subm_table(indices: Tensor, g: Geometry) -> Tensor:
    geometry, rows = _geometry(g), indices.shape[0]
    table = indices.new_empty((g.volume, rows))
    workspace = _scratch(indices, _C.cuda.subm_workspace_bytes(geometry, rows))
    report = indices.new_empty((4,))
    _checked(_C.cuda.subm_neighbours(indices, geometry, table, report, workspace), indices, g)
    return table


def _find_sites(indices: Tensor, g: Geometry) -> tuple[int, Tensor]:
    """The number of output sites, and the workspace that holds them."""
    transposed = g.kind == TRANSPOSED
    geometry, rows = _geometry(g), indices.shape[0]
    workspace = _scratch(indices, _C.cuda.conv_workspace_bytes(geometry, rows, transposed))
    report = indices.new_empty((4,))
    found = _C.cuda.find_conv_sites(indices, geometry, transposed, report, workspace)
    return _checked(found, indices, g), workspace


def neighbour_tables(indices: Tensor, g: Geometry) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output sites, the input rows of each of them int32 (K, M) and, but for a submanifold layer,
    the output rows of each input site (K, N); -1 where there is none."""
    if g.kind == SUBMANIFOLD:
        return indices, _subm_table(indices, g), None
    out_rows, workspace = _find_sites(indices, g)
    out_indices = indices.new_empty((out_rows, g.ndim + 1))
    targets = indices.new_empty((g.volume, indices.shape[0]))
    sources = indices.new_empty((g.volume, out_rows))
    _C.cuda.conv_neighbours(
        indices,
        _geometry(g),
        g.kind == TRANSPOSED,
        out_indices,
        targets,
        sources,
        workspace,
        _scratch(indices, _C.cuda.sort_workspace_bytes(out_rows)),
    )
    return out_indices, sources, targets


def _ordered(table: Tensor) -> Rulebook:
    volume, rows = table.shape
    order, masks = table.new_empty((rows,)), table.new_empty((mask_words(rows, volume),))
    workspace = _scratch(table, _C.cuda.order_workspace_bytes(rows))
    _C.cuda.order_rows(table, order, masks, workspace)
    return Rulebook(table, order, masks)


def padded_pairs(indices: Tensor, g: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Output sites, `indice_pairs` (2, K, N) and `indice_num` (K,), as spconv lays them out; the
    order of the pairs of one offset is not fixed."""
    rows, geometry = indices.shape[0], _geometry(g)
    pairs, number = indices.new_empty((2, g.volume, rows)), indices.new_empty((g.volume,))
    with _on_device(indices):
        if g.kind == SUBMANIFOLD:
            workspace = _scratch(indices, _C.cuda.subm_workspace_bytes(geometry, rows))
            report = indices.new_empty((4,))
            found = _C.cuda.subm_indice_pairs(indices, geometry, pairs, number, report, workspace)
            _checked(found, indices, g)
            return indices.clone(), pairs, number
        out_rows, workspace = _find_sites(indices, g)
        out_indices = indices.new_empty((out_rows, g.ndim + 1))
        sort = _scratch(indices, _C.cuda.sort_workspace_bytes(out_rows))
        _C.cuda.conv_indice_pairs(
            indices, geometry, g.kind == TRANSPOSED, out_indices, pairs, number, workspace, sort
        )
        return out_indices, pairs, number


def build(indices: Tensor, g: Geometry) -> tuple[Tensor, Rulebook]:
    """Output sites (those of the input for a submanifold layer) and the rulebook."""
    with _on_device(indices):
        out_indices, table, _ = neighbour_tables(indices, g)
        return out_indices, note_reads(_ordered(table), indices.shape[0])


def turn(book: Rulebook, in_rows: int, out_rows: int, volume: int) -> Rulebook:
    """The rulebook read backwards."""
    _check_form("transpose_rulebook", book)
    demand_reads("transpose_rulebook", in_rows, book)
    with _on_device(book.pair_in):
        table = book.pair_in.new_empty((volume, in_rows))
        _C.cuda.turn_neighbours(book.pair_in.contiguous(), table)
        return note_reads(_ordered(table), book.pair_in.shape[1])


# ---------------------------------------------------------------------------------- convolution


def _check_form(name: str, book: Rulebook) -> None:
    if not book.is_table:
        raise TypeError(
            f"{name}: the rulebook has the compact form of the CPU and of plain torch operators, "
            "but the CUDA kernels are chosen for this device; build it again, or choose "
            'spconv_lite.set_kernels("cuda", "torch")'
        )


def tf32_products() -> bool:
    """torch's own switch for float32 matrix products on tensor cores."""
    matmul = torch.backends.cuda.matmul
    try:
        precision = matmul.fp32_precision
    except AttributeError:  # torch before 2.9
        return matmul.allow_tf32
    return (torch.backends.fp32_precision if precision == "none" else precision) == "tf32"


def _arithmetic(x: Tensor) -> str:
    if x.dtype == torch.float32:
        return "tf32" if tf32_products() else "float32"
    return str(x.dtype).removeprefix("torch.")


def conv(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    book: Rulebook,
    out_rows: int,
    groups: int,
) -> Tensor:
    _check_form("conv", book)
    explain("conv", "features", features, "weight", weight, groups)
    demand_reads("conv", features.shape[0], book)
    out = features.new_empty((out_rows, weight.shape[0]))
    with _on_device(features):
        _C.cuda.convolve(
            features.contiguous(),
            weight.contiguous(),
            None if bias is None else bias.contiguous(),
            *book,
            out,
            groups,
            _arithmetic(features),
        )
    return out


def conv_input_grad(
    grad: Tensor, weight: Tensor, book: Rulebook, in_rows: int, groups: int, symmetric: bool
) -> Tensor:
    _check_form("conv_input_grad", book)
    explain("conv_input_grad", "grad", grad, "weight of out channels", weight, groups)
    if symmetric:  # the table itself is read, mirrored
        demand_reads("conv_input_grad", grad.shape[0], book)
    else:
        book = turn(book, in_rows, grad.shape[0], math.prod(weight.shape[1:-1]))
    out = grad.new_empty((in_rows, weight.shape[-1] * groups))
    with _on_device(grad):
        _C.cuda.convolve_back(
            grad.contiguous(),
            weight.contiguous(),
            *book,
            symmetric,
            out,
            groups,
            _arithmetic(grad),
        )
    return out


def conv_weight_grad(
    features: Tensor, grad: Tensor, book: Rulebook, weight_shape: Sequence[int], groups: int
) -> Tensor:
    _check_form("conv_weight_grad", book)
    explain("conv_weight_grad", "features", features, "grad", grad, groups)
    demand_reads("conv_weight_grad", features.shape[0], book)
    features, grad = features.contiguous(), grad.contiguous()
    out = features.new_empty(tuple(weight_shape))
    settings = groups, _arithmetic(features)
    with _on_device(features):
        size = _C.cuda.correlate_workspace_bytes(features, grad, out, *settings)
        _C.cuda.correlate(features, grad, *book, out, _scratch(out, size), *settings)
    return out
