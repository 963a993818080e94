"""Forecasts of frames: data, models, training, the rollout, metrics, pictures and commands."""

# Called forecasting, not forecast: `convlstm.forecast` is a function.
from .advection import advect_last
from .ensembles import ensemble
from .forecasters import forecaster
from .matching import matched
from .models import next_frame
from .rollout import copy_last, forecast, shift_last
from .streaming import Stream
from .training import Trainer, TrainOptions, load_checkpoint

__all__ = [
    "Stream",
    "TrainOptions",
    "Trainer",
    "advect_last",
    "copy_last",
    "ensemble",
    "forecast",
    "forecaster",
    "load_checkpoint",
    "matched",
    "next_frame",
    "shift_last",
]
