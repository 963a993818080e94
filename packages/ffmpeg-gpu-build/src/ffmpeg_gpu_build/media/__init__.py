"""Frames out of files and into them, and transcodes: on a GPU where that is proven."""

from .audio import Sound, read_audio
from .batch import Item, transcode_folder
from .damage import DamageWarning
from .frames import Frame, Frames, read_frames, write_frames
from .pipeline import HardwareError, Pipeline
from .probing import Audio, Media, VideoStream, probe, require_whole
from .reach import PROTOCOLS
from .session import Cancelled, Progress
from .transcoding import Transcoded, transcode
from .video import Video

__all__ = [
    "PROTOCOLS",
    "Audio",
    "Cancelled",
    "DamageWarning",
    "Frame",
    "Frames",
    "HardwareError",
    "Item",
    "Media",
    "Pipeline",
    "Progress",
    "Sound",
    "Transcoded",
    "Video",
    "VideoStream",
    "probe",
    "read_audio",
    "read_frames",
    "require_whole",
    "transcode",
    "transcode_folder",
    "write_frames",
]
