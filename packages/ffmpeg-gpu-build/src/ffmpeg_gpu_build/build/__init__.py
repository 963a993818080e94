"""From one description to an FFmpeg in a prefix: sources, tools, stages, papers."""

from .builder import STAGES, Built, Options, build, default_work, dry_run
from .description import DescriptionError, Plan, profiles, resolve
from .make import BuildError, Step

__all__ = [
    "STAGES",
    "BuildError",
    "Built",
    "DescriptionError",
    "Options",
    "Plan",
    "Step",
    "build",
    "default_work",
    "dry_run",
    "profiles",
    "resolve",
]
