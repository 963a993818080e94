"""Copies of a model that see different data: gradients, optimizer, replicas in one process."""

from .fsdp import shard_over_data
from .gradients import GradientBuckets, finish_gradients
from .optimizer import AdamW, gradient_norm, learning_rate
from .replicas import DataParallel, gather, parallel_apply, replicate, scatter

__all__ = [
    "AdamW",
    "DataParallel",
    "GradientBuckets",
    "finish_gradients",
    "gather",
    "gradient_norm",
    "learning_rate",
    "parallel_apply",
    "replicate",
    "scatter",
    "shard_over_data",
]
