"""What a log of FFmpeg, of a build or of a driver means, and the cure."""

from .failures import FAILURES, Diagnosis, Failure, diagnose, last_lines
from .traps import TRAPS, recognise

__all__ = ["FAILURES", "TRAPS", "Diagnosis", "Failure", "diagnose", "last_lines", "recognise"]
