"""Layers cut into stages: schedules as data, and their execution."""

from .run import LossFunction, build_stages, evaluate_schedule, layers_of_stage, run_schedule
from .schedules import Action, Schedule, make_schedule, simulate, validate

__all__ = [
    "Action",
    "LossFunction",
    "Schedule",
    "build_stages",
    "evaluate_schedule",
    "layers_of_stage",
    "make_schedule",
    "run_schedule",
    "simulate",
    "validate",
]
