"""Which CPU filter says what a GPU filter must produce, and how close it must come.

Tolerances in grey levels (mean over all samples). Those of OpenCL were measured on PoCL 3.1; shape
filters must agree exactly. A check whose CPU filter leaves the picture alone would pass for a
filter that does nothing, so (upload apart) each one moves the picture by far more than its
tolerance: a test holds that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..build.description import DATA


@dataclass(frozen=True)
class FilterCheck:
    """A GPU filter and its CPU twin.

    `pixels` is the software format that is uploaded; `size` the output's (width, height); `second`
    makes the second input out of the first, `before` prepares the frames and `after` makes what is
    compared of the result, all on the CPU (`before` not by vflip: it leaves rows in reverse, which
    FFmpeg 9's upload to Vulkan takes for a huge buffer).
    """

    gpu: str
    cpu: str
    mean: float = 0.0
    pixels: str = "yuv420p"
    size: tuple[int, int] = (320, 180)
    second: str = ""
    before: str = ""
    after: str = ""

    @property
    def filter(self) -> str:
        """The GPU filter's name."""
        return self.gpu.partition("=")[0]


def graph_value(path: Path) -> str:
    """A path as the value of an option in a filter graph, which reads it twice: the graph, then
    the option.
    """
    option = re.sub(r"([\\':])", r"\\\1", str(path))
    return re.sub(r"([\\'\[\],;])", r"\\\1", option)


_SHARPEN = "0 -1 0 -1 5 -1 0 -1 0"
_KERNELS = f"0m='{_SHARPEN}':1m='{_SHARPEN}':2m='{_SHARPEN}':3m='{_SHARPEN}'"
_BOX = "crop=96:64:8:8"
_FIELDS = "setfield=tff"

CHECKS: dict[str, FilterCheck] = {
    check.filter: check
    for check in (
        # OpenCL
        FilterCheck("transpose_opencl=dir=clock", "transpose=dir=clock", size=(180, 320)),
        FilterCheck("avgblur_opencl=sizeX=3", "avgblur=sizeX=3", 1.0),
        FilterCheck(
            "boxblur_opencl=luma_radius=4:luma_power=1", "boxblur=luma_radius=4:luma_power=1", 1.0
        ),
        FilterCheck(f"convolution_opencl={_KERNELS}", f"convolution={_KERNELS}", 1.0),
        FilterCheck("dilation_opencl", "dilation", 0.5),
        FilterCheck("erosion_opencl", "erosion", 0.5),
        FilterCheck("sobel_opencl", "sobel", 1.0),
        FilterCheck("prewitt_opencl", "prewitt", 1.0),
        FilterCheck("roberts_opencl", "roberts", 1.0),
        FilterCheck("unsharp_opencl=lx=5:ly=5:la=1.5", "unsharp=lx=5:ly=5:la=1.5", 1.0),
        FilterCheck("overlay_opencl=x=40:y=20", "overlay=x=40:y=20:format=yuv420", second=_BOX),
        FilterCheck(
            "pad_opencl=w=352:h=200:x=16:y=10:color=gray",
            "pad=w=352:h=200:x=16:y=10:color=gray",
            1.0,
            size=(352, 200),
        ),
        FilterCheck(
            "xfade_opencl=transition=fade:duration=0.24:offset=0",
            "xfade=transition=fade:duration=0.24:offset=0",
            1.0,
            second="hflip",
        ),
        FilterCheck("nlmeans_opencl=s=12:p=7:r=7", "nlmeans=s=12:p=7:r=7", 1.5),
        # the distance of two colours is 3 ** 0.5 times that of the CPU filter
        FilterCheck(
            "colorkey_opencl=color=olive:similarity=0.173205:blend=0.519615",
            "format=rgba,colorkey=color=olive:similarity=0.1:blend=0.3,format=rgba",
            0.5,
            "rgba",
            after="extractplanes=a",
        ),
        FilterCheck(
            f"program_opencl=source={graph_value(DATA / 'mirror.cl')}:kernel=mirror", "hflip"
        ),
        # CUDA: the shape filters are exact by definition; kernels of the others may round otherwise
        FilterCheck("hwupload_cuda", "null"),
        FilterCheck(
            "scale_cuda=w=640:h=360:interp_algo=nearest",
            "scale=w=640:h=360:flags=neighbor",
            1.0,
            size=(640, 360),
        ),
        FilterCheck("transpose_cuda=dir=clock", "transpose=dir=clock", size=(180, 320)),
        FilterCheck("overlay_cuda=x=40:y=20", "overlay=x=40:y=20:format=yuv420", 1.0, second=_BOX),
        FilterCheck(
            "pad_cuda=w=352:h=200:x=16:y=10:color=gray",
            "pad=w=352:h=200:x=16:y=10:color=gray",
            1.0,
            size=(352, 200),
        ),
        FilterCheck("yadif_cuda", "yadif", 0.5, before=_FIELDS),
        FilterCheck("bwdif_cuda=mode=send_frame", "bwdif=mode=send_frame", 0.5, before=_FIELDS),
        # Vulkan
        FilterCheck("hflip_vulkan", "hflip"),
        FilterCheck("vflip_vulkan", "vflip"),
        FilterCheck("flip_vulkan", "hflip,vflip"),
        FilterCheck("transpose_vulkan=dir=clock", "transpose=dir=clock", size=(180, 320)),
        FilterCheck("avgblur_vulkan=sizeX=3:sizeY=3", "avgblur=sizeX=3", 1.0),
        FilterCheck("gblur_vulkan=sigma=2", "gblur=sigma=2", 1.0),
        FilterCheck(
            "scale_vulkan=w=640:h=360:scaler=nearest",
            "scale=w=640:h=360:flags=neighbor",
            1.0,
            size=(640, 360),
        ),
        FilterCheck("overlay_vulkan=x=40:y=20", "overlay=x=40:y=20:format=yuv420", second=_BOX),
        FilterCheck(
            "blend_vulkan=all_mode=multiply", "blend=all_mode=multiply", 1.0, second="hflip"
        ),
        FilterCheck(
            "xfade_vulkan=transition=fade:duration=0.24:offset=0",
            "xfade=transition=fade:duration=0.24:offset=0",
            1.0,
            second="hflip",
        ),
        FilterCheck("bwdif_vulkan=mode=send_frame", "bwdif=mode=send_frame", 0.5, before=_FIELDS),
        FilterCheck("nlmeans_vulkan=s=12:p=7:r=7", "nlmeans=s=12:p=7:r=7", 1.5),
        # VAAPI
        FilterCheck("transpose_vaapi=dir=clock", "transpose=dir=clock", 1.0, "nv12", (180, 320)),
        FilterCheck(
            "scale_vaapi=w=640:h=360", "scale=w=640:h=360:flags=bilinear", 3.0, "nv12", (640, 360)
        ),
    )
}
"""GPU filter -> its check."""


def device_of(name: str) -> str:
    """The kind of device that a filter, encoder or decoder runs on, by its name."""
    for suffix, device in (
        ("_nvenc", "cuda"),
        ("_nvdec", "cuda"),
        ("_cuvid", "cuda"),
        ("_cuda", "cuda"),
        ("_opencl", "opencl"),
        ("_vulkan", "vulkan"),
        ("_vaapi", "vaapi"),
        ("_qsv", "qsv"),
    ):
        if name.endswith(suffix):
            return device
    return "cpu"
