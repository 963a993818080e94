"""What of spconv is not here, each with what to use in its place. A name can be imported, so that a
client whose other parts run on does; what is called says why it cannot be."""

from __future__ import annotations

from typing import Any, NoReturn

LAYERS = (
    "it takes the masks of spconv's CUDA kernels; use a layer (SubMConv3d, SparseMaxPool3d, ...), "
    "or get_indice_pairs with indice_conv and indice_maxpool"
)
CORE = (
    "it belongs to spconv's compiled core; the operators are torch.ops.spconv_lite, on torch "
    "tensors and torch's current stream"
)
BOXES = (
    "boxes are no part of sparse convolution; use torchvision.ops.nms, box_iou or "
    "nms_rotated and box_iou_rotated of mmcv.ops"
)
FUNCTIONS = (
    "spconv's autograd functions are torch.ops.spconv_lite here; use a layer, or indice_conv"
)
EIGHT_BITS = (
    "networks in int8 are for spconv's CUDA kernels; run the float network, under "
    "torch.autocast in bfloat16 or float16 where it is to be smaller"
)
TRACES = "torch.fx cannot see into spconv's modules; torch.export takes these networks as they are"
BUILDING = "it builds spconv from source; this package has nothing to generate or to tune"

_IMPLICIT = (
    "implicit_gemm implicit_gemm_backward get_indice_pairs_implicit_gemm "
    "indice_maxpool_implicit_gemm indice_maxpool_implicit_gemm_backward "
    "indice_avgpool_implicit_gemm indice_avgpool_implicit_gemm_backward fused_indice_conv "
    "global_pool_rearrange maximum_value_int_"
)
_CORE = (
    "AllocKeys ConvGemmOps ExternalAllocator InferenceOps SpconvOps ThrustSortAllocator "
    "TorchAllocator TorchSpconvMatmul get_arch get_current_stream torch_tensor_to_tv"
)
_FUNCTIONS = (
    "SparseConvFunction SparseImplicitGemmFunction SparseInverseConvFunction SubMConvFunction "
    "SparseMaxPoolFunction SparseMaxPoolImplicitGemmFunction SparseAvgPoolImplicitGemmFunction"
)
_BOXES = (
    "BoxOps non_max_suppression_cpu rotate_non_max_suppression_cpu rbbox_iou rbbox_intersection "
    "rbbox_iou_loss"
)
_FUSED = "implicit_gemm indice_maxpool_implicit_gemm indice_avgpool_implicit_gemm"

# names by module, and what to use in their place
NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "spconv.constants": (("AllocKeys", CORE),),
    "spconv.cppconstants": (("SpconvOps CompileInfo", CORE), ("BoxOps", BOXES)),
    "spconv.utils": ((_BOXES, BOXES), ("Point2VoxelGPU1d Point2VoxelGPU2d Point2VoxelGPU3d", CORE)),
    "spconv.pytorch.core": (("ThrustSortAllocator", CORE),),
    "spconv.pytorch.functional": ((_FUNCTIONS, FUNCTIONS), (_FUSED, LAYERS)),
    "spconv.pytorch.hash": (("get_current_stream torch_tensor_to_tv", CORE),),
    "spconv.pytorch.ops": ((_IMPLICIT, LAYERS), (_CORE, CORE)),
    "spconv.pytorch.utils": (("SpconvOps get_current_stream torch_tensor_to_tv", CORE),),
}

# modules, with what lies below them
MODULES: dict[str, str] = {
    "spconv.algo": BUILDING,
    "spconv.algocore": BUILDING,
    "spconv.benchmark": BUILDING,
    "spconv.build": BUILDING,
    "spconv.core_cc": CORE,
    "spconv.csrc": BUILDING,
    "spconv.debug_utils": BUILDING,
    "spconv.gencode": BUILDING,
    "spconv.pytorch.cppcore": CORE,
    "spconv.pytorch.interpreter": TRACES,
    "spconv.pytorch.quantization": EIGHT_BITS,
    "spconv.test_utils": BUILDING,
}


class Refused:
    """Stands for a function or class that is not here, and says so when it is used."""

    def __init__(self, path: str, cure: str) -> None:
        self._message = f"{path} is not in spconv_lite: {cure}"

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(self._message)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(self._message)


def refusals(module: str) -> dict[str, Refused]:
    """The names of a module that are not here."""
    return {
        name: Refused(f"{module}.{name}", cure)
        for names, cure in NAMES.get(module, ())
        for name in names.split()
    }


def explain_missing(module: str, name: str) -> NoReturn:
    """Raises AttributeError for a name that a module of ours does not have."""
    raise AttributeError(
        f"{module}.{name} is not in spconv_lite: what is there of spconv's names is listed by "
        f"dir({module}), what differs by docs/from-spconv.md"
    )


def refuse_module(name: str) -> None:
    """Raises ModuleNotFoundError for a module of spconv that is not here."""
    for module, cure in MODULES.items():
        if name == module or name.startswith(f"{module}."):
            raise ModuleNotFoundError(f"{name} is not in spconv_lite: {cure}", name=name)
