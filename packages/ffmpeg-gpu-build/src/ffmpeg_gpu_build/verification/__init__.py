"""The truth about an FFmpeg on this machine: each path run, its pixels compared, a verdict."""

from .judge import DEVICES, Facts, Report, ask_nvidia, facts, floor_of, paths_of, verify
from .verdict import ABSENT, BROKEN, NOT_TRIED, PROVEN, Verdict, exit_code

__all__ = [
    "ABSENT",
    "BROKEN",
    "DEVICES",
    "NOT_TRIED",
    "PROVEN",
    "Facts",
    "Report",
    "Verdict",
    "ask_nvidia",
    "exit_code",
    "facts",
    "floor_of",
    "paths_of",
    "verify",
]
