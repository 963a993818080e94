"""Frames out of files and into them, and transcodes: on a GPU where that is proven."""

from .batch import Item, transcode_folder
from .frames import read_frames, write_frames
from .pipeline import HardwareError, Pipeline
from .probing import PROTOCOLS, Media, Video, probe, require_whole
from .session import Cancelled, Progress
from .transcoding import Transcoded, transcode

__all__ = [
    "PROTOCOLS",
    "Cancelled",
    "HardwareError",
    "Item",
    "Media",
    "Pipeline",
    "Progress",
    "Transcoded",
    "Video",
    "probe",
    "read_frames",
    "require_whole",
    "transcode",
    "transcode_folder",
    "write_frames",
]
