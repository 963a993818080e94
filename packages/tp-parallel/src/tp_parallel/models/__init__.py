"""Models, whole or one pipeline stage of them, and their names in other libraries."""

from .codegeex import CodeGeeXModel
from .gpt import Embedding, GPTModel
from .huggingface import config_from_huggingface, export_huggingface, import_huggingface

__all__ = [
    "CodeGeeXModel",
    "Embedding",
    "GPTModel",
    "config_from_huggingface",
    "export_huggingface",
    "import_huggingface",
]
