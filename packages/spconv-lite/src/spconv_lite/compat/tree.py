"""Which of our names stand under which module of spconv (2.3.8) and of cumm, its tensor library."""

from __future__ import annotations

import contextlib
import enum
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import data, geometry, kernels, layers
from ..geometry import hash as hash_module
from ..kernels import ops
from ..layers import constants, functional
from ..layers import conv as conv_module
from ..layers import modules as modules_module
from ..layers import pool as pool_module
from ..layers import tables as tables_module
from ..layers import tensor as tensor_module
from . import pairs

VERSION = "2.3.8"  # the release whose names these are
TORCH = [int(part) for part in torch.__version__.split("+")[0].split(".")[:2]]
# what spconv's modules ask each other, and clients then them
_FLAGS = {"CPU_ONLY_BUILD": not torch.cuda.is_available(), "nullcontext": contextlib.nullcontext}

Names = dict[str, Any]


def public(module: types.ModuleType) -> Names:
    """What a module defines, without its imports and privates."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


class AlgoHint(enum.Enum):
    """spconv's hints; taken, and without effect."""

    NoHint = 0b000
    Fowrard = 0b001
    BackwardInput = 0b010
    BackwardWeight = 0b100


def get_indice_pairs(
    indices: Tensor,
    batch_size: int,
    spatial_shape: list[int],
    algo: object,
    ksize: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    out_padding: list[int],
    subm: bool = False,
    transpose: bool = False,
    num_out_act_bound: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output sites, pairs (2, K, N), their numbers (K,); spconv's arguments, `algo` and the bound
    without effect."""
    sizes = ksize, stride, padding, dilation, out_padding
    return ops.get_indice_pairs(indices, batch_size, spatial_shape, *sizes, subm, transpose)


class PickledActivation:
    """cumm's `Activation` as it stands in a pickle: a number that comes after the object."""

    name = conv_module.Activation.None_.name

    def __setstate__(self, value: int) -> None:
        self.name = conv_module.Activation(value).name


class RemoveDuplicate(layers.SparseModule):
    """Keeps the first row of each site."""

    def forward(self, x: layers.SparseConvTensor) -> layers.SparseConvTensor:
        return layers.coalesce(x, "first")


def _from_numpy(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _spconv() -> Names:
    return {
        "__version__": VERSION,
        "SPCONV_VERSION_NUMBERS": [int(part) for part in VERSION.split(".")],
        **_core(),
    }


def _core() -> Names:
    return {"ConvAlgo": kernels.ConvAlgo, "AlgoHint": AlgoHint}


def _constants() -> Names:
    return {name: value for name, value in vars(constants).items() if name.isupper()}


def _tensor() -> Names:
    names = public(tensor_module)
    names["ImplicitGemmIndiceData"] = tensor_module.IndiceData
    names["PYTORCH_VERSION"] = TORCH
    return {**names, "ConvAlgo": kernels.ConvAlgo}


# what spconv's modules import from each other, and clients then from any of them
def _everywhere() -> Names:
    return {**_tensor(), "SparseModule": modules_module.SparseModule}


def _conv() -> Names:
    names = {**public(conv_module), "SparseConvolutionBase": conv_module.SparseConvolution}
    names["_MAX_NUM_VOXELS_DURING_TRAINING"] = conv_module.VOXEL_COUNT
    kinds = (v for v in vars(conv_module).values() if isinstance(v, type))
    sparse = {v for v in kinds if issubclass(v, conv_module.SparseConvolution)}
    names["DEFAULT_SPARSE_CONV_TYPES"] = {v for v in sparse if hasattr(v, "_axes")}
    return {**_everywhere(), **_constants(), **_FLAGS, **names}


def _pool() -> Names:
    base = pool_module.SparsePool
    names = {**public(pool_module), **_FLAGS, "SparseMaxPool": base, "SparseAvgPool": base}
    names["_MAX_NUM_VOXELS_DURING_TRAINING"] = conv_module.VOXEL_COUNT
    kinds = (v for v in vars(pool_module).values() if isinstance(v, type))
    names["ALL_POOL_LAYERS"] = {v for v in kinds if issubclass(v, base) and hasattr(v, "_axes")}
    return {**_everywhere(), **names, "SparseGlobalMaxOrAvgPool": pool_module.SparseGlobalPool}


def _functional() -> Names:
    return {
        **_everywhere(),
        **public(functional),
        "HashTable": hash_module.HashTable,
        "sparse_add_hash_based": functional.sparse_add,
        "indice_conv": pairs.indice_conv,
        "indice_subm_conv": pairs.indice_conv,
        "indice_inverse_conv": pairs.indice_inverse_conv,
        "indice_maxpool": pairs.indice_maxpool,
    }


def _ops() -> Names:
    return {
        **_core(),
        "get_conv_output_size": geometry.get_conv_output_size,
        "get_deconv_output_size": geometry.get_deconv_output_size,
        "CUDAKernelTimer": tensor_module.CUDAKernelTimer,
        **_constants(),
        **_FLAGS,
        "INT32_MAX": np.iinfo(np.int32).max,
        "get_indice_pairs": get_indice_pairs,
        "indice_conv": ops.indice_conv,
        "indice_conv_backward": pairs.indice_conv_backward,
        "indice_maxpool": pairs.indice_maxpool,
        "indice_maxpool_backward": pairs.indice_maxpool_backward,
    }


def _utils() -> Names:
    return {
        "PointToVoxel": data.PointToVoxel,
        "gather_features_by_pc_voxel_id": data.gather_features_by_pc_voxel_id,
    }


def _pytorch() -> Names:
    names: Names = {}
    for part in (_tensor(), _conv(), _pool(), public(modules_module), public(tables_module)):
        names.update(part)
    return names


def _voxels() -> Names:
    by_axes = {f"Point2VoxelCPU{n}d": data.Point2VoxelCPU for n in range(1, 5)}
    generators = {
        "VoxelGenerator": data.VoxelGenerator,
        "VoxelGeneratorV2": data.VoxelGeneratorV2,
    }
    return {**by_axes, **generators, **_FLAGS}


def _tensorview() -> Names:
    gemm = types.SimpleNamespace(Activation=conv_module.Activation)
    return {"from_numpy": _from_numpy, "gemm": gemm, "Tensor": Tensor}


TREE: dict[str, Callable[[], Names]] = {
    "spconv": _spconv,
    "spconv.constants": _constants,
    "spconv.core": _core,
    "spconv.cppconstants": lambda: {**_FLAGS, "HAS_BOOST": False},
    "spconv.tools": lambda: {**_FLAGS, "CUDAKernelTimer": tensor_module.CUDAKernelTimer},
    "spconv.utils": _voxels,
    "spconv.pytorch": _pytorch,
    "spconv.pytorch.constants": lambda: {
        "PYTORCH_VERSION": TORCH,
        "TORCH_HAS_AMP": True,
        "is_amp_enabled": torch.is_autocast_enabled,
    },
    "spconv.pytorch.conv": _conv,
    "spconv.pytorch.core": _tensor,
    "spconv.pytorch.functional": _functional,
    "spconv.pytorch.hash": lambda: {"HashTable": hash_module.HashTable},
    "spconv.pytorch.identity": lambda: {"Identity": modules_module.Identity},
    "spconv.pytorch.modules": lambda: {**_everywhere(), **public(modules_module)},
    "spconv.pytorch.ops": _ops,
    "spconv.pytorch.pool": _pool,
    "spconv.pytorch.spatial": lambda: {**_everywhere(), "RemoveDuplicate": RemoveDuplicate},
    "spconv.pytorch.tables": lambda: {**_everywhere(), **public(tables_module)},
    "spconv.pytorch.utils": _utils,
    "cumm": lambda: {"__version__": "0.7.11"},
    "cumm.tensorview": _tensorview,
    "cumm.core_cc": dict,
    "cumm.core_cc.tensorview_bind": lambda: {"Activation": PickledActivation},
}
