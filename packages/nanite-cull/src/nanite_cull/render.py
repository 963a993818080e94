"""From a scene and a camera to pixels."""

import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import numpy as np

from nanite_cull import _C  # type: ignore[attr-defined]
from nanite_cull._options import CAPACITIES, FIXED, MAX_VIEWS, checked
from nanite_cull.camera import Camera
from nanite_cull.frame import Frame, Shadows
from nanite_cull.lights import Lamp, Sun, shadow_cameras
from nanite_cull.scene import Scene


def _sample_offsets(count: int) -> np.ndarray:
    """(count, 2): parts of a pixel, -0.5 to 0.5, the first none: the sequence of Halton, "On the
    Efficiency of Certain Quasi-Random Sequences of Points", 1960, in bases 2 and 3."""
    out = np.zeros((count, 2))
    for axis, base in enumerate((2, 3)):
        rest, part = np.arange(count), 1.0
        while rest.any():
            part /= base
            out[:, axis] += part * (rest % base)
            rest = rest // base
    return (out + 0.5) % 1 - 0.5


def _check_seen(scene: Any, *cameras: Any) -> None:
    if not isinstance(scene, Scene):
        raise TypeError(f"Renderer: scene must be a Scene, got {type(scene).__name__}")
    for camera in cameras:
        if not isinstance(camera, Camera):
            raise TypeError(f"Renderer: camera must be a Camera, got {type(camera).__name__}")


class Renderer:
    """Culls and draws; headless, no graphics API. Keeps its buffers between frames.

    width, height: pixels. threshold: pixels of error that may show, in the middle of the image (a
    lens stretches by 1 / cos² of the angle towards the corners); 0 draws the source mesh exactly.
    cull_back: leave out triangles that turn their back. frustum, hierarchy: switches for tests and
    for looking at the cost. max_candidate_nodes, max_candidate_clusters, max_visible_clusters:
    capacities; what does not fit is counted in Frame.stats and on_overflow says whether that raises
    (RuntimeError) or warns. threads: 0 means all; the result is the same for any number.

    device: "cpu", or "cuda": culling and drawing by CUDA kernels, on the device that is current,
    with the bits of the CPU; the scene stays there and what changes is copied. Compiled and
    simulated, never run. Needs a build with CUDA (GPU=ON). Shadow maps are made and read there.
    Planes and lit pictures of the last frame (ids, normal, uv, color, albedo, velocity,
    lit) are made there, those of older ones on the CPU, with the same bits; `Frame.device_array`
    and `Frame.device_picture` leave them where they are. Pages of streamed assets are decoded on
    the CPU and copied as they come, beside the culling of the frame that first needs them.

    traversal: the order in which the hierarchies are gone through; what is found is the same. None
    is "instances" on the CPU and "levels" on a device.
    "instances": one instance after the other. "levels": all nodes of one depth of all instances,
    then the next. "persistent": threads take nodes and groups from a queue until none is left
    (Karis et al. 2021). The candidate capacities hold for one instance in the first, for all
    instances and views together in the others: max_candidate_nodes of one level, or of the whole
    pass ("persistent"); max_candidate_clusters counts groups of clusters there. "persistent" takes
    at most 2**28 of each. hierarchy=False needs "instances".

    occlusion: leave out what is hidden, by the depth of this Renderer's last frame and then of this
    one (two passes); the picture is the one without it, bit for bit, only `Frame.visibility` names
    other slots. Shadow maps and `render_depths` leave out what is hidden likewise. Pays where much
    is hidden and successive frames resemble each other; `forget` says that the next one does not.
    Frame.stats then counts what was hidden (`occluded_instances`,
    `occluded_nodes`, `occluded_clusters`) and what the second pass brought (`post_clusters`).

    samples: pictures are the mean of so many (1 to 256), each with its rays moved by parts of a
    pixel, which takes away stairs and flicker; all planes are those of the first, whose rays go
    through the pixels' centres. Each sample costs a frame.

    velocity: keep what `Frame.velocity` needs: this Renderer's last frame and where instances were
    then. Each Renderer has its own memory of a scene.

    lights: suns and lamps (`Sun`, `Lamp`) for lit pictures and `Frame.lit`; each frame then draws
    their shadow maps of shadow_size x shadow_size pixels too, a sun's cascades fitted to what the
    frame shows, in the detail that `threshold` asks of the map's pixels.

    Streamed assets (`nanite_cull.open`): `budget` is the memory for their pages, in bytes, all
    assets of this Renderer together; nothing else sets it. A frame draws what is there, coarser
    where pages are missing and never with a hole, and what it would rather have shown is read for
    the next ones: by `decode_threads` threads, at most `max_installs` pages from frame to frame.
    What was not wanted for longest goes first; where a frame, its shadows and samples with it,
    wants more than 85 % of the budget the threshold rises, below 70 % it falls back
    (`Frame.stats["threshold"]`). With `wait_resident` a frame waits for its pages and is the
    picture that the whole mesh in memory gives; a view that does not fit the budget then is an
    overflow (see on_overflow).

    Options are attributes too. One that is set counts from the next frame on and is checked as
    here; budget, wait_resident, decode_threads, max_installs and device are read-only.

    Raises ValueError for a value out of its range, TypeError for one of the wrong kind.
    """

    width: int
    height: int
    threshold: float
    samples: int
    threads: int
    occlusion: bool
    velocity: bool
    on_overflow: str
    lights: tuple[Sun | Lamp, ...]
    shadow_size: int
    budget: int
    wait_resident: bool
    decode_threads: int
    max_installs: int
    device: str

    def __init__(
        self,
        width: int = 1280,
        height: int = 720,
        *,
        threshold: float = 1.0,
        cull_back: bool = False,
        overdraw: bool = False,
        frustum: bool = True,
        hierarchy: bool = True,
        traversal: str | None = None,
        occlusion: bool = False,
        velocity: bool = False,
        large_path_only: bool = False,
        max_candidate_nodes: int = 1 << 16,
        max_candidate_clusters: int = 1 << 22,
        max_visible_clusters: int = 1 << 20,
        on_overflow: str = "raise",
        threads: int = 0,
        samples: int = 1,
        lights: Sequence[Sun | Lamp] = (),
        shadow_size: int = 1024,
        budget: int = 512 << 20,
        wait_resident: bool = False,
        decode_threads: int = 1,
        max_installs: int = 128,
        device: str = "cpu",
    ) -> None:
        options = checked({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        self.__dict__.update(options, _options=options)
        self._device = _C.DeviceFrame() if self.device == "cuda" else None
        self._drawing = threading.Lock()  # one thread at a time on the device
        self._streamer = _C.Streamer(
            self.budget, self.max_installs, self.decode_threads, self.wait_resident
        )
        self._waiting = threading.Lock() if self.wait_resident else nullcontext()
        self._stats: dict[str, Any] = {}
        self._tell_core()

    def _tell_core(self) -> None:
        """Makes the options of the core anew."""
        self._cull, self._raster = _C.CullOptions(), _C.RasterOptions()
        for name in ("frustum", "hierarchy", "threads", *CAPACITIES):
            setattr(self._cull, name, self._options[name])
        self._cull.traversal = getattr(_C.Traversal, self._options["traversal"])
        for name in ("cull_back", "overdraw", "large_path_only", "threads"):
            setattr(self._raster, name, self._options[name])

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dict__.get("_options", ()):
            super().__setattr__(name, value)
        elif name in FIXED:
            raise AttributeError(
                f"Renderer: {name} is read-only, it is set when a Renderer is made; make another: "
                f"Renderer(..., {name}={value!r})"
            )
        else:
            options = checked({**self._options, name: value})
            self.__dict__.update(options, _options=options)
            self._tell_core()
            if name in ("occlusion", "velocity"):
                self.forget()  # a history keeps what it was made for

    def _check_overflow(self, stats: dict[str, Any]) -> None:
        dropped = {
            k.removeprefix("dropped_"): v for k, v in stats.items() if k.startswith("dropped_")
        }
        if not any(dropped.values()):
            return
        text = "cull: geometry is missing, capacities were too small: " + ", ".join(
            f"{what} dropped {count} at capacity {getattr(self._cull, 'max_' + what)}"
            for what, count in dropped.items()
            if count
        )
        if self.on_overflow == "raise":
            raise RuntimeError(text + "; raise them in Renderer(...)")
        warnings.warn(text, RuntimeWarning, stacklevel=4)

    def _take_core(self) -> _C.Frame:
        """The last frame's buffers if nobody holds it or one of its arrays, else new ones; nobody
        else gets them until they are back in `_core`."""
        core = self.__dict__.pop("_core", None)  # one step: two threads never take the same
        if core is None or sys.getrefcount(core) > 2:  # ours and the call's
            return _C.Frame()
        return core

    def forget(self) -> None:
        """The next frame takes nothing from the last one: after a cut. Only speed and velocities
        depend on it."""
        for history in ("_history", "_view_histories", "_shadow_histories"):
            self.__dict__.pop(history, None)
        if self._device is not None:
            with self._drawing:
                self._device.forget()

    @property
    def stats(self) -> dict[str, Any]:
        """What the last frame took, by stage; empty before the first.

        instances, candidates (clusters handed to the cut's test), visited (nodes), visible
        (clusters), triangles; culled: by "frustum" (instances outside or hidden by `Scene.hide`),
        "occlusion" (instances, nodes and clusters behind others), "detail" (candidates that are
        too coarse or outside); overflow: what did not fit, by capacity; resident_pages and what
        else streaming says, where an asset is streamed; ms: wall milliseconds of "stream", "cull"
        and "raster" (with occlusion or velocity, both in "cull"), of "shadows" and "samples".
        """
        return dict(self._stats)

    def _note(self, stats: dict[str, Any], seconds: dict[str, float]) -> None:
        visible = stats["visible_small"] + stats["visible_large"]
        hidden = {w: stats[f"occluded_{w}"] for w in ("instances", "nodes", "clusters")}
        detail = stats["candidate_clusters"] - visible - hidden["clusters"]
        self._stats = {
            "instances": stats["instances"],
            "candidates": stats["candidate_clusters"],
            "visited": stats["nodes"],
            "visible": visible,
            "triangles": stats["triangles"],
            "culled": {
                "frustum": stats["instances"] - stats["visible_instances"],
                "occlusion": sum(hidden.values()),
                "detail": max(detail, 0),
            },
            "overflow": {
                k.removeprefix("dropped_"): v for k, v in stats.items() if k.startswith("dropped_")
            },
            **{k: v for k, v in stats.items() if k.endswith(("_pages", "_bytes", "threshold"))},
            "ms": {stage: 1e3 * s for stage, s in seconds.items()},
        }

    def _cull_until_resident(
        self,
        scene: Scene,
        camera: Camera,
        seconds: dict[str, float],
        cull: Callable[[_C.View], dict[str, Any]],
        more: bool = False,
    ) -> tuple[_C.View, dict[str, Any]]:
        """Begins a frame of the streamer (`more`: one more view of the one that has begun) and
        culls, with wait_resident until no page is missing. Adds to `seconds` what each stage took.

        A view that waits is a frame of its own, and the same one each time it is culled again: what
        it wants only grows, so this ends, also where the budget has no room for all of it.
        """
        joins = more and not self.wait_resident
        begin = self._streamer.begin_view if joins else self._streamer.begin_frame
        with self._waiting:  # one frame's pages may be another's victims
            while True:
                start = perf_counter()
                begin(scene._core)
                begun = perf_counter()
                threshold = self.threshold * self._streamer.threshold_scale
                view = camera._core(self.width, self.height, threshold)
                stats = cull(view)
                culled = perf_counter()
                complete = not self.wait_resident or not self._load_wanted()
                seconds["stream"] += begun - start + perf_counter() - culled
                seconds["cull"] += culled - begun
                if complete:
                    break
                begin = self._streamer.begin_view
        self._check_overflow(stats)
        if any(asset.streamed for asset in scene.assets):
            stats |= self._streamer.stats() | {"threshold": view.threshold}
        return view, stats

    def _load_wanted(self) -> bool:
        """Waits for the pages that the last frame wanted; whether there were any. What the budget
        has no room for raises, or warns when all others are there."""
        loaded = self._streamer.load_wanted() > 0
        wanted = self._streamer.stats()["wanted_bytes"]
        if wanted > self.budget:
            text = (
                f"Renderer: what this view shows takes {wanted} bytes of pages, more than the "
                f"budget of {self.budget}; raise budget= or threshold="
            )
            if self.on_overflow == "raise":
                raise RuntimeError(text)
            if not loaded:
                warnings.warn(text, RuntimeWarning, stacklevel=4)
        return loaded

    def cull(self, scene: Scene, camera: Camera) -> tuple[np.ndarray, dict[str, Any]]:
        """Visible clusters, (n, 2) uint32 (instance, cluster), and statistics; draws nothing.

        Nothing is left out for being hidden: that needs a picture.
        """
        _check_seen(scene, camera)
        core, seconds = self._take_core(), Counter[str]()

        def cull(view: _C.View) -> dict[str, Any]:
            if self._device is not None:
                with self._drawing:
                    return self._device.cull(core, scene._core, view, self._cull, self._streamer)
            return core.cull(scene._core, view, self._cull, False, self._streamer, view)

        _, stats = self._cull_until_resident(scene, camera, seconds, cull)
        self._note(stats, seconds)
        visible = core.visible()
        self._core = core
        return visible, stats

    def render(self, scene: Scene, camera: Camera, *, cull_camera: Camera | None = None) -> Frame:
        """Culls and draws one frame.

        cull_camera: freezes culling: what this camera sees, in the detail that it sees it in, is
        drawn as `camera` sees it (without occlusion), to look at a cut from elsewhere.
        """
        _check_seen(scene, camera, cull_camera or camera)
        core, seconds = self._take_core(), Counter[str]()
        if (self.occlusion or self.velocity) and cull_camera is None:
            history = self.__dict__.pop("_history", None) or _C.History(self.occlusion)
            if self.velocity:
                history.begin_frame()
            if self._device is not None:
                view, stats = self._draw_on_device(
                    scene, camera, core, seconds, self.occlusion, history if self.velocity else None
                )
            else:
                view, stats = self._draw_by_history(scene, camera, core, seconds, history)
            self._history = history
        elif self._device is not None:
            view, stats = self._draw_on_device(
                scene, camera, core, seconds, False, cull_camera=cull_camera
            )
        else:
            view, stats = self._draw(scene, camera, cull_camera or camera, core, seconds)
        shadows = self._draw_shadows(scene, camera, core.depth, seconds) if self.lights else None
        device = None if self._device is None else (self._device, self._drawing)
        shared = {"lights": self.lights, "shadows": shadows, "has_velocity": self.velocity,
                  "device": device}  # fmt: skip
        frame = Frame(core, scene.assets, camera, view, self.threads, stats, **shared)
        start = perf_counter()
        for x, y in _sample_offsets(self.samples)[1:]:
            sample, shifted = _C.Frame(), camera.shifted(x, y, self.width, self.height)
            if self._device is not None:
                its_view, its_stats = self._draw_on_device(
                    scene,
                    shifted,
                    sample,
                    Counter[str](),
                    False,
                    cull_camera=cull_camera,
                    more=True,
                )
            else:
                its_view, its_stats = self._draw(
                    scene, shifted, cull_camera or shifted, sample, Counter[str](), more=True
                )
            frame._samples.append(
                Frame(sample, scene.assets, shifted, its_view, self.threads, its_stats, **shared)
            )
        if self.samples > 1:
            seconds["samples"] = perf_counter() - start
        self._note(stats, seconds)
        self._core = core
        return frame

    def _draw(
        self,
        scene: Scene,
        camera: Camera,
        cull_camera: Camera,
        core: _C.Frame,
        seconds: Counter[str],
        more: bool = False,
    ) -> tuple[_C.View, dict[str, Any]]:
        """Culls and draws without a history; `more`: see _cull_until_resident."""
        view = camera._core(self.width, self.height, self.threshold)

        def cull(culled: _C.View) -> dict[str, Any]:
            return core.cull(scene._core, culled, self._cull, True, self._streamer, view)

        _, stats = self._cull_until_resident(scene, cull_camera, seconds, cull, more)
        start = perf_counter()
        stats |= core.raster(view, self._raster)
        seconds["raster"] = perf_counter() - start
        return view, stats

    def _draw_by_history(
        self,
        scene: Scene,
        camera: Camera,
        core: _C.Frame,
        seconds: Counter[str],
        history: _C.History,
    ) -> tuple[_C.View, dict[str, Any]]:
        """Culls and draws in two passes, or with what velocities need of the last frame."""

        def draw(view: _C.View) -> dict[str, Any]:
            return core.draw_two_pass(
                scene._core, view, self._cull, self._raster, history, self._streamer
            )

        return self._cull_until_resident(scene, camera, seconds, draw)

    def _draw_on_device(
        self,
        scene: Scene,
        camera: Camera,
        core: _C.Frame,
        seconds: Counter[str],
        occlusion: bool,
        history: _C.History | None = None,
        cull_camera: Camera | None = None,
        more: bool = False,
    ) -> tuple[_C.View, dict[str, Any]]:
        """Culls and draws on a device; with occlusion by its last such frame. `history`: for
        velocities. `more`: see _cull_until_resident."""
        device: Any = self._device
        drawn = camera._core(self.width, self.height, self.threshold)

        def draw(view: _C.View) -> dict[str, Any]:
            views = (view, None) if cull_camera is None else (drawn, view)
            with self._drawing:
                return device.draw(
                    core, scene._core, views[0], self._cull, self._raster, occlusion, history,
                    self._streamer, views[1],
                )  # fmt: skip

        view, stats = self._cull_until_resident(scene, cull_camera or camera, seconds, draw, more)
        return view if cull_camera is None else drawn, stats

    def _draw_shadows(
        self, scene: Scene, camera: Camera, depth: np.ndarray, seconds: Counter[str]
    ) -> Shadows | None:
        """The shadow maps of a frame that drew `depth`; None for one that shows nothing."""
        start, size = perf_counter(), self.shadow_size
        if not depth.any():
            return None
        ends = np.array([depth.max(), depth.min(where=depth > 0, initial=1)])
        near, far = (float(d) for d in camera.distances(ends))
        box = np.array(scene._core.box(), float)
        image = (self.width, self.height)
        cameras, lights = shadow_cameras(self.lights, camera, (near, far), box, image, size)
        core = self.__dict__.pop("_shadow_core", None) or _C.Frame()
        views, maps, _ = self._draw_views(
            scene, cameras, (size, size), core, Counter[str](), "_shadow_histories"
        )
        self._shadow_core = core
        seconds["shadows"] = perf_counter() - start
        return Shadows(lights, views, maps)

    def render_depths(self, scene: Scene, cameras: Sequence[Camera]) -> np.ndarray:
        """Depth alone, of 1 to 255 cameras in one call: lamps, cascades of a sun, a camera rig.

        Returns (cameras, height, width) float32, each as `Frame.depth`. Faster than as many frames
        where views are small: all are culled side by side, and no ids are kept. With occlusion each
        camera has a last frame of its own, by its place in `cameras`. `stats` counts all views
        together; max_visible_clusters holds for all together, with device="cuda" for as many as
        have room at once (4 million instances times views, 64 million pixels).
        """
        out = self._depths(scene, cameras)
        return out if isinstance(out, np.ndarray) else out.read_back()

    def device_depths(self, scene: Scene, cameras: Sequence[Camera]) -> Any:
        """`render_depths` in the memory of the device: an object of the DLPack protocol, as
        `Frame.device_array`. Raises RuntimeError for a Renderer of the CPU."""
        if self._device is None:
            raise RuntimeError(
                'Renderer.device_depths: needs Renderer(device="cuda"); on the CPU '
                "torch.from_dlpack(renderer.render_depths(...)) shares the memory of the array"
            )
        return self._depths(scene, cameras).array()

    def _depths(self, scene: Scene, cameras: Sequence[Camera]) -> Any:
        if not isinstance(cameras, Iterable):
            raise TypeError(
                "Renderer.render_depths: cameras must be a sequence of Camera, got "
                f"{type(cameras).__name__}; put one camera into a list"
            )
        cameras = list(cameras)
        _check_seen(scene, *cameras)
        core, seconds = self._take_core(), Counter[str]()
        if not 1 <= len(cameras) <= MAX_VIEWS:
            raise ValueError(
                f"Renderer.render_depths: needs 1 to {MAX_VIEWS} cameras, got {len(cameras)}"
            )
        _, out, stats = self._draw_views(
            scene, cameras, (self.width, self.height), core, seconds, "_view_histories"
        )
        self._note(stats, seconds)
        self._core = core
        return out

    def _take_histories(self, name: str, count: int) -> list[_C.History]:
        """What the last frames of so many views left; nobody else gets them until they are back.
        Empty without occlusion, and on a device, which keeps them."""
        if not self.occlusion or self._device is not None:
            return []
        histories = self.__dict__.pop(name, [])[:count]
        return histories + [_C.History(True) for _ in range(count - len(histories))]

    def _draw_views(
        self,
        scene: Scene,
        cameras: list[Camera],
        image: tuple[int, int],
        core: _C.Frame,
        seconds: Counter[str],
        which: str,
    ) -> tuple[list[_C.View], Any, dict[str, Any]]:
        """Views of (width, height) `image`, their depths (an array, or _C.DeviceDepths) and what
        they took together. `which`: "_view_histories" or "_shadow_histories"."""
        views: list[_C.View] = []
        out: list[Any] = []

        def draw(first: _C.View) -> dict[str, Any]:
            views[:] = [camera._core(*image, first.threshold) for camera in cameras]
            if self._device is None:
                depths = np.empty((len(cameras), *image[::-1]), np.float32)
                stats = core.draw_views(
                    scene._core, views, self._cull, self._raster, self._streamer, depths, histories
                )
            else:
                of = _C.ViewsOf.lights if which == "_shadow_histories" else _C.ViewsOf.cameras
                with self._drawing:
                    stats, depths = self._device.draw_views(
                        core, scene._core, views, self._cull, self._raster, self.occlusion, of,
                        self._streamer,
                    )  # fmt: skip
            out[:] = [depths]
            return stats

        histories, more = self._take_histories(which, len(cameras)), which == "_shadow_histories"
        _, stats = self._cull_until_resident(scene, cameras[0], seconds, draw, more)
        setattr(self, which, histories)
        return views, out[0], stats

    def __getstate__(self) -> dict[str, Any]:
        return dict(self._options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).__init__(self, **state)
