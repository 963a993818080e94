"""Tensor, pipeline and data parallel training on torch.distributed, equal to the unsplit model."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

from .attention import ParallelSelfAttention
from .axis import Axis, Traffic
from .cache import KeyValueCache
from .codegeex import CodeGeeXModel
from .config import GPTConfig
from .context import ParallelContext
from .cross_entropy import vocab_parallel_cross_entropy
from .data_parallel import DataParallel
from .embedding import VocabParallelEmbedding
from .errors import CheckpointError, CollectiveError, MismatchError
from .gpt import Embedding, GPTModel
from .gradients import GradientBuckets, finish_gradients
from .linear import ColumnParallelLinear, RowParallelLinear
from .linear_cross_entropy import vocab_parallel_linear_cross_entropy
from .mappings import (
    copy_to_region,
    gather_from_region,
    gather_to_split_region,
    reduce_from_region,
    reduce_scatter_to_region,
    scatter_to_region,
)
from .module import MegatronModule
from .norm import LayerNorm, RMSNorm
from .optimizer import AdamW, gradient_norm, learning_rate
from .output import parallel_lm_logits
from .rng import RngTracker, recompute
from .transformer import ParallelMLP, ParallelTransformerLayer

try:
    __version__ = _version("tp-parallel")
except PackageNotFoundError:
    __version__ = "0+source"

__all__ = [
    "AdamW",
    "Axis",
    "CheckpointError",
    "CodeGeeXModel",
    "CollectiveError",
    "ColumnParallelLinear",
    "DataParallel",
    "Embedding",
    "GPTConfig",
    "GPTModel",
    "GradientBuckets",
    "KeyValueCache",
    "LayerNorm",
    "MegatronModule",
    "MismatchError",
    "ParallelContext",
    "ParallelMLP",
    "ParallelSelfAttention",
    "ParallelTransformerLayer",
    "RMSNorm",
    "RngTracker",
    "RowParallelLinear",
    "Traffic",
    "VocabParallelEmbedding",
    "copy_to_region",
    "finish_gradients",
    "gather_from_region",
    "gather_to_split_region",
    "gradient_norm",
    "learning_rate",
    "parallel_lm_logits",
    "recompute",
    "reduce_from_region",
    "reduce_scatter_to_region",
    "scatter_to_region",
    "vocab_parallel_cross_entropy",
    "vocab_parallel_linear_cross_entropy",
]
