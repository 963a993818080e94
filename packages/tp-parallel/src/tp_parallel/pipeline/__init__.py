"""Layers cut into stages: schedules as data, and their execution."""

from .communication import communicate
from .run import LossFunction, evaluate_schedule, run_schedule
from .schedules import Action, Exchange, Schedule, Transfer, make_schedule, simulate, validate
from .stages import build_stages, layers_of_stage

__all__ = [
    "Action",
    "Exchange",
    "LossFunction",
    "Schedule",
    "Transfer",
    "build_stages",
    "communicate",
    "evaluate_schedule",
    "layers_of_stage",
    "make_schedule",
    "run_schedule",
    "simulate",
    "validate",
]
