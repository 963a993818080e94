"""The layers of a transformer, their weights cut over the tensor axis, and how each is cut."""

from .attention import ParallelSelfAttention
from .cache import KeyValueCache
from .config import GPTConfig
from .context_parallel import cut_sequence
from .embedding import VocabParallelEmbedding
from .layout import Layout, declare, declare_replicated, placed_parameters
from .linear import ColumnParallelLinear, RowParallelLinear
from .module import MegatronModule
from .norm import LayerNorm, RMSNorm
from .output import parallel_lm_logits
from .sharding import Shard
from .transformer import ParallelMLP, ParallelTransformerLayer

__all__ = [
    "ColumnParallelLinear",
    "GPTConfig",
    "KeyValueCache",
    "LayerNorm",
    "Layout",
    "MegatronModule",
    "ParallelMLP",
    "ParallelSelfAttention",
    "ParallelTransformerLayer",
    "RMSNorm",
    "RowParallelLinear",
    "Shard",
    "VocabParallelEmbedding",
    "cut_sequence",
    "declare",
    "declare_replicated",
    "parallel_lm_logits",
    "placed_parameters",
]
