"""A run from text to text: `data`, `pretrain`, `checkpoint`, `generate`, and pictures by `draw`."""

from .data import TextData, make_tokenizer

__all__ = ["TextData", "make_tokenizer"]
