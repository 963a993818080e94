"""The options of a Renderer: what they may be, and what None stands for."""

from collections.abc import Iterable, Sequence
from typing import Any

from nanite_cull import _C  # type: ignore[attr-defined]
from nanite_cull._numbers import flag, real, whole
from nanite_cull.lights import Lamp, Sun

ON_OVERFLOW = ("raise", "warn")
MAX_VIEWS = 255  # of one call
TRAVERSALS = ("instances", "levels", "persistent")
DEVICES = ("cpu", "cuda")
CAPACITIES = ("max_candidate_nodes", "max_candidate_clusters", "max_visible_clusters")
FLAGS = ("cull_back", "overdraw", "frustum", "hierarchy", "occlusion", "velocity",
         "large_path_only", "wait_resident")  # fmt: skip
FIXED = ("budget", "wait_resident", "decode_threads", "max_installs", "device")  # once it is made


def _numbers(options: dict[str, Any]) -> dict[str, Any]:
    """The numbers and switches among the options, as Python's own."""
    out: dict[str, Any] = {}
    for name in ("width", "height", "samples", "shadow_size", "decode_threads", "max_installs"):
        out[name] = whole(options[name], "Renderer", name)
    for name in ("threads", *CAPACITIES):
        out[name] = whole(options[name], "Renderer", name, 0)
    for name in ("threshold", "budget"):
        out[name] = real(options[name], "Renderer", name)
    for name in FLAGS:
        out[name] = flag(options[name], "Renderer", name)
    width, height = out["width"], out["height"]
    if not (1 <= width <= 16384 and 1 <= height <= 16384):
        raise ValueError(f"Renderer: width and height must be 1 to 16384, got {width} x {height}")
    if not 0 <= out["threshold"] <= 1e9:
        raise ValueError(f"Renderer: threshold must be 0 to 1e9 pixels, got {out['threshold']}")
    if not 1 <= out["samples"] <= 256:
        raise ValueError(f"Renderer: samples must be 1 to 256, got {out['samples']}")
    if not 1 <= out["decode_threads"] <= 256:
        raise ValueError(f"Renderer: decode_threads must be 1 to 256, got {out['decode_threads']}")
    for name in ("budget", "max_installs"):
        if not 1 <= out[name] < 2**63:
            raise ValueError(f"Renderer: {name} must be at least 1, got {options[name]}")
    return out | {"budget": int(out["budget"])}


def checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a Renderer, with what None stands for. Raises as Renderer does."""
    options = options | _numbers(options)
    options["device"] = str(options["device"])  # of a torch.device too
    if options["traversal"] is None:
        options["traversal"] = "levels" if options["device"] == "cuda" else "instances"
    for name, known in (("on_overflow", ON_OVERFLOW), ("traversal", TRAVERSALS)):
        if options[name] not in known:
            raise ValueError(f"Renderer: {name} must be one of {known}, got {options[name]!r}")
    options["lights"] = _check_lights(options["lights"], options["shadow_size"])
    _check_device(options)
    return options


def _check_lights(lights: Sequence[Sun | Lamp], size: int) -> tuple[Sun | Lamp, ...]:
    if not isinstance(lights, Iterable):
        raise TypeError(
            f"Renderer: lights must be a sequence of Sun or Lamp, got {type(lights).__name__}; put "
            "one light into a list, none is ()"
        )
    lights = tuple(lights)
    for light in lights:
        if not isinstance(light, Sun | Lamp):
            raise TypeError(
                f"Renderer: lights must be Sun or Lamp, got {type(light).__name__}; "
                "a direction becomes one by Sun(direction)"
            )
    maps = sum(light._maps for light in lights)
    if maps > MAX_VIEWS:
        raise ValueError(
            f"Renderer: lights may have {MAX_VIEWS} shadow maps together, got {maps}; a Sun has "
            "one for each cascade, a Lamp 6"
        )
    if not 16 <= size <= 8192:
        raise ValueError(f"Renderer: shadow_size must be 16 to 8192, got {size}")
    return lights


def _check_device(options: dict[str, Any]) -> None:
    """Raises for a device that this build or machine lacks, and for what it does not do there."""
    device = options["device"]
    if device not in DEVICES:
        raise ValueError(
            f"Renderer: device must be one of {DEVICES}, got {device!r}; of several CUDA devices "
            "it is the current one (CUDA_VISIBLE_DEVICES chooses)"
        )
    if device == "cpu":
        return
    if not _C.cuda_architectures:
        raise RuntimeError(
            'Renderer: device "cuda" needs a build with CUDA kernels, and this one has none; build '
            'with GPU=ON in the environment where nvcc is, or use device "cpu"'
        )
    wanted = {
        "traversal": options["traversal"] == "instances",
        "hierarchy": not options["hierarchy"],
        "large_path_only": options["large_path_only"],
    }
    for name, given in wanted.items():
        if given:
            raise ValueError(
                f'Renderer: {name}={options[name]!r} is not to be had on device "cuda", which '
                'culls by "levels" or "persistent" and draws; leave it out or use device "cpu"'
            )
    if not _C.cuda_devices():
        raise RuntimeError(
            'Renderer: device "cuda" needs a CUDA device, and none answers (nvidia-smi lists those '
            'that the driver knows); use device "cpu"'
        )
