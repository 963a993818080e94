"""Seeing: what a network is made of, as a table or a picture, and what it looks at."""

from .draw import draw_svg, draw_text
from .gradcam import colorize, grad_cam, overlay
from .summary import Row, summarize
from .trace import Layer

__all__ = [
    "Layer",
    "Row",
    "colorize",
    "draw_svg",
    "draw_text",
    "grad_cam",
    "overlay",
    "summarize",
]
