"""Tensor, pipeline and data parallel training on torch.distributed, equal to the unsplit model."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

from . import _moved
from .data_parallel import (
    AdamW,
    DataParallel,
    GradientBuckets,
    finish_gradients,
    gradient_norm,
    learning_rate,
    shard_over_data,
)
from .grid import (
    Axis,
    CheckpointError,
    CollectiveError,
    MismatchError,
    ParallelContext,
    RngTracker,
    Traffic,
    copy_to_region,
    gather_from_region,
    gather_to_split_region,
    recompute,
    reduce_from_region,
    reduce_scatter_to_region,
    scatter_to_region,
)
from .layers import (
    ColumnParallelLinear,
    GPTConfig,
    KeyValueCache,
    LayerNorm,
    MegatronModule,
    ParallelMLP,
    ParallelSelfAttention,
    ParallelTransformerLayer,
    RMSNorm,
    RowParallelLinear,
    Shard,
    VocabParallelEmbedding,
    cut_sequence,
    declare,
    declare_replicated,
    parallel_lm_logits,
)
from .loss import vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy
from .models import CodeGeeXModel, Embedding, GPTModel

_moved.install()

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
    "Shard",
    "Traffic",
    "VocabParallelEmbedding",
    "copy_to_region",
    "cut_sequence",
    "declare",
    "declare_replicated",
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
    "shard_over_data",
    "vocab_parallel_cross_entropy",
    "vocab_parallel_linear_cross_entropy",
]
