"""One layer over a whole sequence: the definition, the plans that compute it, the operator."""

# The definition is reference.py, the door is ops.py; activations.py and spec.py say what a cell is.
from .activations import ACTIVATIONS, NATIVE_CODES, activation_name, resolve_activation
from .ops import PLANS, sequence, why_not_fused
from .reference import CellExtras
from .spec import CellSpec

__all__ = [
    "ACTIVATIONS",
    "NATIVE_CODES",
    "PLANS",
    "CellExtras",
    "CellSpec",
    "activation_name",
    "resolve_activation",
    "sequence",
    "why_not_fused",
]
