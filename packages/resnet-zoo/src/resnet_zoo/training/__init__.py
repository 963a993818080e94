"""Training: a recipe, a data source, a loop that resumes exactly.

from resnet_zoo.training import ArraySource, Recipe, train
result = train(ArraySource(images, labels), valid, Recipe(model="resnet18", epochs=30), "run")
"""

from .data import ArraySource, FolderSource, open_source
from .loop import Result, evaluate, train
from .recipe import PRESETS, Recipe

__all__ = [
    "PRESETS",
    "ArraySource",
    "FolderSource",
    "Recipe",
    "Result",
    "evaluate",
    "open_source",
    "train",
]
