"""SparseConvTensor: features on the active sites of a grid."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..geometry import (
    Rulebook,
    check_sites,
    row_major,
    site_key,
    sort_keys,
    sort_unique,
)
from ..kernels import ops
from ..kernels.ops import is_symmetric, transpose_rulebook


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None where torch does not count."""
    if torch.compiler.is_compiling() or tensor.is_inference():
        return None
    return tensor._version


Size = int | Sequence[int]  # one number, or one for each axis


def expand_nd(ndim: int, val: Size, name: str = "the value") -> list[int]:
    """One integer for each of `ndim` axes. Raises TypeError for what is no integer and ValueError
    for another number of them."""
    try:
        single = not isinstance(val, Sequence) and getattr(val, "ndim", 0) == 0
        values = [operator.index(val)] * ndim if single else [operator.index(v) for v in val]  # type: ignore[arg-type,union-attr]
    except TypeError:
        raise TypeError(
            f"SparseConvolution: {name} must be an integer or {ndim} integers, got {val!r}"
        ) from None
    if len(values) != ndim:
        raise ValueError(
            f"SparseConvolution: {name} must be an integer or {ndim} integers, got {val!r}"
        )
    return values


class CUDAKernelTimer:
    """spconv's timer by its interface; it measures nothing (torch.profiler does)."""

    def __init__(self, enable: bool = False) -> None:
        self.enable = False

    def namespace(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A context without effect."""
        return contextlib.nullcontext()

    def record(self, name: str, stream: int = 0) -> contextlib.AbstractContextManager[None]:
        """A context without effect."""
        return contextlib.nullcontext()

    def get_all_pair_time(self) -> dict[str, float]:
        """Nothing was measured."""
        return {}


class SiteStamp:
    """The sites that a rulebook was built for. The same tensor is known at once, if it was not
    changed in place since; another one is compared row by row (which waits for the device)."""

    def __init__(self, indices: Tensor) -> None:
        self.indices, self.version = indices, _version(indices)
        self.copy = indices.clone()

    def demand(self, indices: Tensor, message: str) -> None:
        """Raises ValueError(message) if these are not the same sites in the same order."""
        if indices is self.indices:
            if torch.compiler.is_compiling():
                return
            if self.version is not None and _version(indices) == self.version:
                return
        if torch.compiler.is_compiling():
            torch._check(indices.shape[0] == self.copy.shape[0])
            torch._assert_async((indices == self.copy).all(), message)
        elif not torch.equal(indices, self.copy):
            raise ValueError(message)


@dataclass
class IndiceData:
    """What an `indice_key` remembers: one rulebook and the sites on both sides of it."""

    rulebook: Rulebook
    in_indices: Tensor
    out_indices: Tensor
    in_spatial_shape: list[int]
    out_spatial_shape: list[int]
    ksize: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    is_subm: bool
    transposed: bool = False
    batch_size: int = 0
    out_padding: list[int] | None = None
    algo: object = None
    voxel_num: Tensor | None = None
    _turned: Rulebook | None = None
    _in_stamp: SiteStamp | None = field(default=None, repr=False)
    _out_stamp: SiteStamp | None = field(default=None, repr=False)

    @property
    def symmetric(self) -> bool:
        """Whether the rulebook read backwards is itself with the kernel mirrored."""
        return self.is_subm and is_symmetric(self.ksize)

    @property
    def indices(self) -> Tensor:
        """spconv's name of `in_indices`."""
        return self.in_indices

    @property
    def spatial_shape(self) -> list[int]:
        """spconv's name of `in_spatial_shape`."""
        return self.in_spatial_shape

    @property
    def indice_pairs(self) -> Tensor:
        """(2, K, N) int32 as spconv lays pairs out, unused places -1; built at each call."""
        return self._padded()[1]

    @property
    def indice_pair_num(self) -> Tensor:
        """(K,) int32, the pairs of each kernel offset; built at each call."""
        return self._padded()[2]

    def _padded(self) -> tuple[Tensor, Tensor, Tensor]:
        more = self.out_padding or [0] * len(self.ksize)
        sizes = self.ksize, self.stride, self.padding, self.dilation, more
        indices = self.in_indices if self._in_stamp is None else self._in_stamp.copy
        batch = max(self.batch_size, 1)
        return ops.get_indice_pairs(
            indices, batch, self.in_spatial_shape, *sizes, self.is_subm, self.transposed
        )

    def remember_sites(self) -> None:
        """Stamps the sites of both sides, for `demand_in` and `demand_out`."""
        self._in_stamp = SiteStamp(self.in_indices)
        self._out_stamp = self._in_stamp if self.is_subm else SiteStamp(self.out_indices)

    def demand_in(self, indices: Tensor, message: str) -> None:
        """Raises ValueError(message) unless these are the rulebook's input sites."""
        (self._in_stamp or SiteStamp(self.in_indices)).demand(indices, message)

    def demand_out(self, indices: Tensor, message: str) -> None:
        """Raises ValueError(message) unless these are the rulebook's output sites."""
        (self._out_stamp or SiteStamp(self.out_indices)).demand(indices, message)

    def turned(self) -> Rulebook:
        """The rulebook read backwards, from output sites to input sites; made once."""
        if self._turned is None:
            rows = self.in_indices.shape[0], self.out_indices.shape[0]
            self._turned = Rulebook(
                *transpose_rulebook(*self.rulebook, *rows, math.prod(self.ksize))
            )
        return self._turned


ImplicitGemmIndiceData = IndiceData  # spconv keeps one for each of its algorithms


class SparseConvTensor:
    """A batch of sparse feature maps.

    Args:
        features: (N, C), any floating dtype.
        indices: (N, 1 + ndim) int32, columns batch index and coordinates in the order of
            `spatial_shape` (z, y, x in 3-D). int64 is accepted and narrowed. Each site at most
            once: layers raise on duplicates, see `spconv_lite.coalesce`.
        spatial_shape: ndim lengths, 1 to 4 of them.
        batch_size: number of samples.
        indice_dict: rulebooks by `indice_key`, shared by the tensors of one network pass.
        grid, voxel_num, benchmark, permanent_thrust_allocator, enable_timer, force_algo: taken for
            spconv's signature and kept as attributes, and without effect.

    `features`, `indices`, `spatial_shape` and `batch_size` may be assigned one after the other;
    `_features` is spconv's private name of `features`. What they say together is checked where it
    is used: by every layer, `dense`, `coalesce`.

    Raises: TypeError or ValueError for a wrong dtype or shape; RuntimeError on a device without
    kernels and under torch.jit.trace.
    """

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        grid: Tensor | None = None,
        voxel_num: Tensor | None = None,
        indice_dict: dict[str, IndiceData] | None = None,
        benchmark: bool = False,
        permanent_thrust_allocator: bool = False,
        enable_timer: bool = False,
        force_algo: object = None,
    ) -> None:
        _demand_features("SparseConvTensor", features)
        self._features = features
        self.indices = indices
        self.spatial_shape = spatial_shape
        self.batch_size = _whole("batch_size", batch_size)
        if self.batch_size < 1:
            raise ValueError(f"SparseConvTensor: batch_size must be at least 1, got {batch_size}")
        self._demand_form("SparseConvTensor")
        ops.kernels_for(self._indices)
        if torch.jit.is_tracing():
            raise RuntimeError(
                "SparseConvTensor: torch.jit.trace keeps the number of sites of its example, and "
                "is wrong for any other; use torch.export.export"
            )
        self.indice_dict: dict[str, IndiceData] = {} if indice_dict is None else indice_dict
        self.grid = grid
        self.voxel_num = voxel_num
        self.benchmark = benchmark
        self.benchmark_record: dict[str, Any] = {}
        self.thrust_allocator: object = None
        self._timer = CUDAKernelTimer(enable_timer)
        self.force_algo = force_algo
        self.int8_scale: object = None

    def __repr__(self) -> str:
        return (
            f"SparseConvTensor({self.features.shape[0]} sites, {self.features.shape[1]} channels, "
            f"spatial_shape={self.spatial_shape}, batch_size={self.batch_size}, "
            f"{self.features.dtype}, {self.features.device})"
        )

    # ------------------------------------------------------------------------------ what it holds

    @property
    def features(self) -> Tensor:
        """(N, C)."""
        return self._features

    @features.setter
    def features(self, value: Tensor) -> None:
        self._features = value

    @property
    def indices(self) -> Tensor:
        """(N, 1 + ndim) int32: batch index and coordinates."""
        return self._indices

    @indices.setter
    def indices(self, value: Tensor) -> None:
        if value.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"SparseConvTensor: indices must be int32 or int64, got {value.dtype}")
        self._indices = _narrow(value)
        self._checked: tuple[object, ...] | None = None

    @property
    def spatial_shape(self) -> list[int]:
        """The length of each axis, in the order of the indices' columns."""
        return self._spatial_shape

    @spatial_shape.setter
    def spatial_shape(self, value: Sequence[int]) -> None:
        self._spatial_shape = [_whole("spatial_shape", n) for n in value]

    @property
    def ndim(self) -> int:
        """The number of spatial axes."""
        return len(self.spatial_shape)

    @property
    def spatial_size(self) -> int:
        """The number of cells of one sample."""
        return math.prod(self.spatial_shape)

    @property
    def sparity(self) -> float:
        """The share of cells that are active (spconv's spelling)."""
        return self.indices.shape[0] / (self.spatial_size * self.batch_size)

    @property
    def is_quantized(self) -> bool:
        """False: features are floating point."""
        return False

    # ------------------------------------------------------------------------------ checks

    def _demand_form(self, name: str) -> None:
        ndim = len(self.spatial_shape)
        features, indices = self._features, self._indices
        if indices.ndim != 2 or indices.shape[1] != ndim + 1:
            raise ValueError(
                f"{name}: indices must have shape (N, {ndim + 1}) for spatial_shape "
                f"{list(self.spatial_shape)}, got {tuple(indices.shape)}"
            )
        if features.device != indices.device:
            raise TypeError(
                f"{name}: features and indices must be on one device, got {features.device} and "
                f"{indices.device}"
            )
        self.demand_rows(name)

    def demand_rows(self, name: str) -> None:
        """Raises ValueError in the name of a layer where `features` was assigned other rows than
        the sites have: an index out of bounds on CUDA ends the process."""
        if self._features.shape[0] != self._indices.shape[0]:
            raise ValueError(
                f"{name}: features and indices must have as many rows, got "
                f"{self._features.shape[0]} and {self._indices.shape[0]}"
            )

    def _stamp(self) -> tuple[object, ...] | None:
        """What a check was about; None where torch does not count changes in place."""
        version = _version(self._indices)
        return None if version is None else (version, self.batch_size, *self.spatial_shape)

    def mark_checked(self) -> None:
        """Remembers that the sites are distinct and inside the grid, since a rulebook was built for
        them."""
        self._checked = self._stamp()

    def check_sites(self, name: str) -> None:
        """Raises ValueError in the name of a layer unless every site lies inside the grid and
        occurs once. Waits for the device, unless the same sites were checked before."""
        self._demand_form(name)
        stamp = self._stamp()
        if stamp is None or self._checked != stamp:
            check_sites(name, self._indices, self.batch_size, self.spatial_shape)
            self._checked = stamp

    # ------------------------------------------------------------------------------ other tensors

    def replace_feature(self, feature: Tensor) -> SparseConvTensor:
        """The same sites with other features (N, C'). Where `feature` has another number of rows,
        assign `indices` before the result is used."""
        _demand_features("SparseConvTensor.replace_feature", feature)
        new = self.shadow_copy()
        new._features = feature
        return new

    def shadow_copy(self) -> SparseConvTensor:
        """A new tensor that shares everything with this one."""
        new = SparseConvTensor.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also of a tensor that spconv pickled, without its rulebooks."""
        for name, value in state.items():
            setattr(self, name, value)
        books = self.indice_dict.items()
        self.indice_dict = {key: data for key, data in books if "rulebook" in vars(data)}

    def with_sites(
        self, features: Tensor, indices: Tensor, spatial_shape: list[int], known: bool = False
    ) -> SparseConvTensor:
        """A tensor on other sites that keeps the rest; `known` says that a rulebook gave them."""
        new = self.shadow_copy()
        new._features = features
        new.indices, new.spatial_shape = indices, spatial_shape
        if known:
            new.mark_checked()
        return new

    def find_indice_pair(self, key: str | None) -> IndiceData | None:
        """The rulebook stored under an `indice_key`, or None."""
        return None if key is None else self.indice_dict.get(key)

    def __add__(self, other: SparseConvTensor | Tensor) -> SparseConvTensor:
        """Adds features row by row; for tensors of different sites use `AddTableMisaligned`."""
        return self.replace_feature(self.features + _features_of(other, self))

    __radd__ = __add__

    def minus(self) -> SparseConvTensor:
        """The same sites with the features negated."""
        return self.replace_feature(-self.features)

    def select_by_index(self, valid_indices: Tensor) -> SparseConvTensor:
        """The sites of these rows (int64 indices or a bool mask); rulebooks are not kept."""
        new = self.with_sites(
            self.features[valid_indices], self.indices[valid_indices], self.spatial_shape
        )
        new.indice_dict = {}
        return new

    def select_batch(self, batch: int) -> SparseConvTensor:
        """Sample `batch` alone, as a tensor of batch size 1."""
        if not 0 <= batch < self.batch_size:
            raise ValueError(
                f"SparseConvTensor.select_batch: batch must be in [0, {self.batch_size}), got "
                f"{batch}"
            )
        rows = (self.indices[:, 0] == batch).nonzero().squeeze(1)
        indices = self.indices[rows]
        indices[:, 0] = 0
        return SparseConvTensor(self.features[rows], indices, self.spatial_shape, 1)

    def dense(self, channels_first: bool = True) -> Tensor:
        """The dense tensor with zeros at inactive cells: (batch, C, ...) or, with
        channels_first=False, (batch, ..., C). Differentiable. Raises ValueError for a site outside
        the grid or one that occurs twice."""
        self.check_sites("SparseConvTensor.dense")
        shape = [self.batch_size, *self.spatial_shape]
        cell = row_major(self.indices.unbind(1), shape)
        flat = self.features.new_zeros((math.prod(shape), self.features.shape[1]))
        full = flat.index_put((cell,), self.features).view(*shape, self.features.shape[1])
        if not channels_first:
            return full
        return full.permute(0, self.ndim + 1, *range(1, self.ndim + 1)).contiguous()

    @classmethod
    def from_dense(cls, x: Tensor) -> SparseConvTensor:
        """The cells of x (batch, ..., C), channels last, that hold a non-zero channel, in row-major
        order."""
        indices = (x.detach() != 0).any(-1).nonzero()
        features = x[tuple(indices.unbind(1))]
        return cls(features, indices.int(), list(x.shape[1:-1]), x.shape[0])


def _whole(name: str, number: Any) -> int:
    if int(number) != number:
        raise ValueError(f"SparseConvTensor: {name} must be whole, got {number!r}")
    return int(number)


def _demand_features(name: str, features: Tensor) -> None:
    if not features.dtype.is_floating_point:
        raise TypeError(f"{name}: features must be floating point, got {features.dtype}")
    if features.ndim != 2:
        raise ValueError(f"{name}: features must have shape (N, C), got {tuple(features.shape)}")


def scatter_nd(indices: Tensor, updates: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros of `shape` with updates[i] at indices[i] (the leading axes); spconv's function. Raises
    ValueError for indices outside the shape or twice the same."""
    flat = indices.reshape(-1, indices.shape[-1])
    lead = list(shape[: flat.shape[1]])
    outside = ((flat < 0) | (flat >= torch.tensor(lead, device=flat.device))).any(1)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"scatter_nd: indices row {row} is {tuple(flat[row].tolist())}, outside {tuple(shape)}"
        )
    key = row_major(flat.unbind(1), lead)
    sort_unique("scatter_nd", key, flat, math.prod(lead))
    rest = list(shape[flat.shape[1] :])
    zeros = updates.new_zeros((math.prod(lead), *rest))
    return zeros.index_put((key,), updates.reshape(-1, *rest)).view(*shape)


def same_sites(a: SparseConvTensor, b: SparseConvTensor) -> bool:
    """Whether two tensors have one grid and the same sites in the same order."""
    if a.spatial_shape != b.spatial_shape or a.batch_size != b.batch_size:
        return False
    return a.indices is b.indices or torch.equal(a.indices, b.indices)


def demand_channels(name: str, tensors: Sequence[SparseConvTensor]) -> None:
    """Raises ValueError in the name of a caller that would add one channel to all of another."""
    channels = sorted({x.features.shape[1] for x in tensors})
    if len(channels) > 1:
        raise ValueError(f"{name}: the tensors must have as many channels, got {channels}")


def _features_of(other: SparseConvTensor | Tensor, like: SparseConvTensor) -> Tensor:
    if not isinstance(other, SparseConvTensor):
        return other
    if not same_sites(other, like):
        raise ValueError(
            "SparseConvTensor: + needs tensors with the same sites in the same order; use "
            "AddTableMisaligned"
        )
    demand_channels("SparseConvTensor: +", (like, other))
    return other.features


def _narrow(indices: Tensor) -> Tensor:
    if indices.dtype == torch.int32:
        return indices
    if indices.numel() and bool((indices != indices.int()).any()):
        raise ValueError("SparseConvTensor: indices must fit int32; a coordinate passes 2^31 - 1")
    return indices.int()


def coalesce(x: SparseConvTensor, reduce: str = "sum") -> SparseConvTensor:
    """Merges the rows of equal sites; the result is in row-major order of its sites.

    Args:
        reduce: "sum", "mean", "max" or "first" (the row that comes first). Deterministic: the rows
            of a site are taken in their order. Sums of float16 and bfloat16 are in float32, with
            one rounding at the end.

    Raises: ValueError for another `reduce`, or a site outside the grid.
    """
    if reduce not in ("sum", "mean", "max", "first"):
        raise ValueError(
            f'coalesce: reduce must be "sum", "mean", "max" or "first", got {reduce!r}'
        )
    x._demand_form("coalesce")
    keys = site_key("coalesce", x.indices, x.batch_size, x.spatial_shape)
    keys, order = sort_keys(keys, x.batch_size * x.spatial_size)
    fresh = torch.ones_like(keys, dtype=torch.bool)
    fresh[1:] = keys[1:] != keys[:-1]
    start = fresh.nonzero().squeeze(1)
    count = start.diff(append=start.new_full((1,), len(keys)))
    if reduce == "first" or len(start) == len(keys):
        features = x.features[order[start]]
    elif x.features.is_cpu and reduce != "max":  # there the rows are added one after the other
        site = torch.empty_like(order)
        site[order] = fresh.cumsum(0) - 1
        narrow = x.features.dtype in (torch.float16, torch.bfloat16)
        wide = x.features.float() if narrow else x.features
        sums = wide.new_zeros((len(start), wide.shape[1])).index_add_(0, site, wide)
        features = (sums.div_(count[:, None]) if reduce == "mean" else sums).to(x.features.dtype)
    else:
        rows = x.features[order]
        wide = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        features = torch.segment_reduce(wide, reduce, lengths=count).to(rows.dtype)
    merged = SparseConvTensor(features, x.indices[order[start]], x.spatial_shape, x.batch_size)
    merged.mark_checked()
    return merged
