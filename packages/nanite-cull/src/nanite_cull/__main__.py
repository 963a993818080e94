"""The command `nanite-cull`."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import nanite_cull as nc
from nanite_cull import _C, flight, meshes, ncl, orbit, pictures  # type: ignore[attr-defined]
from nanite_cull._core import open_meshoptimizer

PROCEDURAL: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "icosphere": meshes.icosphere,
    "planet": meshes.planet,
    "heightfield": meshes.heightfield,
    "gyroid": meshes.gyroid,
}
MESH_HELP = (
    "a built .ncl file, a mesh file (GLB, glTF, OBJ, PLY, STL), or a procedural mesh: planet:8, "
    "icosphere:8 (subdivisions), heightfield:1000 (vertices a side), gyroid:200 (cells a side)"
)
KIND_HELP = (
    "shaded: lit surface; cluster, triangle, instance: one stable colour each; level: blue is the "
    "source, red is coarse; normal: xyz as rgb; depth: light is near; overdraw: light was drawn "
    "over often (default shaded)"
)
OUTPUT_HELP = {
    "render": "picture to write",
    "orbit": "GIF to write",
    "fly": "a folder for frames, a .gif, or a video (.mp4, .mkv, .mov, .webm: ffmpeg-gpu-build)",
}
EXAMPLES = {
    "version": "nanite-cull version --json",
    "build": "nanite-cull build dragon.ply -o dragon.ncl\n"
    "  nanite-cull build planet:9 -o planet.ncl",
    "info": "nanite-cull info dragon.ncl\n  nanite-cull info --json dragon.ply",
    "validate": "nanite-cull validate dragon.ncl && echo sound",
    "render": "nanite-cull render dragon.ncl -o dragon.png --azimuth 60\n"
    "  nanite-cull render heightfield:1000 -o levels.png --kind level --distance 0.4\n"
    "  nanite-cull render dragon.ncl -o exact.png --threshold 0   # the source, to the pixel",
    "orbit": "nanite-cull orbit planet:8 -o orbit.gif --size 640x360\n"
    "  nanite-cull orbit dragon.ncl -o clusters.gif --kind cluster --frames 24",
    "fly": "nanite-cull fly city.ncl -o flight.mp4 --budget 256\n"
    "  nanite-cull fly planet:8 -o frames --kind cluster --path path.json",
    "view": "nanite-cull view city.ncl\n  nanite-cull view dragon.glb --port 8000",
    "bench": "nanite-cull bench heightfield:1000 --size 1920x1080",
}


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must look like 1280x720, got {text!r}") from None
    return width, height


def _asset(args: argparse.Namespace) -> nc.Asset:
    kind, _, size = args.mesh.partition(":")
    if kind in PROCEDURAL and size.isdigit():
        return nc.build(*PROCEDURAL[kind](int(size)), threads=args.threads)
    return nc.load(args.mesh, threads=args.threads)


def _streamed(args: argparse.Namespace) -> nc.Asset:
    """As `_asset`, but an .ncl file is streamed where its version can be."""
    if Path(args.mesh).suffix.lower() == ".ncl" and ncl.version(args.mesh) >= 3:
        return nc.open(args.mesh)
    return _asset(args)


def _renderer(args: argparse.Namespace, **options: Any) -> nc.Renderer:
    return nc.Renderer(
        *args.size,
        **options,
        threshold=args.threshold,
        threads=args.threads,
        cull_back=args.cull_back,
        overdraw=getattr(args, "kind", "") == "overdraw",
    )


def _print(args: argparse.Namespace, values: dict) -> None:
    if args.json:
        print(json.dumps(values))
        return
    width = max(len(key) for key in values)
    for key, value in values.items():
        text = (
            f"{value:,}"
            if isinstance(value, int)
            else f"{value:.6g}"
            if isinstance(value, float)
            else value
        )
        print(f"{key.replace('_', ' '):{width}}  {text}")


def _cuda() -> str:
    """What this build has for CUDA."""
    built = _C.cuda_architectures
    if not built:
        return "not in this build (GPU=ON builds it)"
    answer = "" if _C.cuda_devices() else "; no CUDA device answers"
    return f"compiled for {built}, never run{answer}"


def _version(args: argparse.Namespace) -> int:
    _print(
        args,
        {
            "version": nc.__version__,
            "instruction_set": _C.instruction_set(),
            "threads": _C.max_threads(),
            "cuda": _cuda(),
            "meshoptimizer": open_meshoptimizer(),
        },
    )
    return 0


def _build(args: argparse.Namespace) -> int:
    asset = _asset(args)
    ncl.save(asset, args.out, threads=args.threads)
    size, source = args.out.stat().st_size, asset.statistics()["source_triangles"]
    _print(args, {"file": str(args.out), "bytes": size, "bytes_per_triangle": size / source})
    if not args.json:
        print()
        _print_levels(asset)
    return 0


def _print_levels(asset: nc.Asset) -> None:
    print("level  clusters   triangles   fill  ratio")
    for level in asset.levels():
        counts = f"{level.level:5}  {level.clusters:8,}  {level.triangles:10,}"
        print(f"{counts}  {level.fill:5.1f}  {level.ratio:5.2f}")


def _info(args: argparse.Namespace) -> int:
    asset = _asset(args)
    _print(args, asset.statistics())
    if not args.json:
        print()
        _print_levels(asset)
    return 0


def _validate(args: argparse.Namespace) -> int:
    problems = _asset(args).validate()
    if args.json:
        print(json.dumps({"problems": problems}))
    else:
        print("\n".join(problems) or "all promises hold")
    return 1 if problems else 0


def _camera(args: argparse.Namespace, asset: nc.Asset) -> nc.Camera:
    return nc.Camera.around(asset, args.azimuth, args.elevation, args.distance)


def _render(args: argparse.Namespace) -> int:
    asset = _asset(args)
    frame = _renderer(args).render(nc.Scene(asset), _camera(args, asset))
    frame.save(args.out, args.kind)
    _print(args, {"picture": str(args.out), **frame.stats})
    return 0


def _orbit(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    asset, renderer = _asset(args), _renderer(args)
    frames = orbit.turn(asset, renderer, args.frames, distances=(args.distance, args.distance))
    images = [f.picture(args.kind) for f in tqdm(frames, "orbit", args.frames, disable=None)]
    orbit.save_gif(images, args.out)
    _print(args, {"animation": str(args.out), "frames": len(images)})
    return 0


def _fly(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    asset = _streamed(args)
    places = flight.read_path(args.path) if args.path else flight.around(asset)
    renderer = _renderer(args, budget=args.budget << 20, wait_resident=not args.live)
    scene, count = nc.Scene(asset), args.frames
    images = (
        renderer.render(scene, camera).picture(args.kind)
        for camera in tqdm(flight.cameras(places, count, asset), "fly", count, disable=None)
    )
    flight.write(images, args.out, args.fps)
    _print(args, {"flight": str(args.out), "frames": count, "fps": args.fps})
    return 0


def _view(args: argparse.Namespace) -> int:
    from nanite_cull.viewer import Viewer

    kind, _, size = args.mesh.partition(":")
    procedural = kind in PROCEDURAL and size.isdigit()
    built = procedural or Path(args.mesh).suffix.lower() == ".ncl"
    scene = nc.Scene(_streamed(args)) if built else nc.Scene.from_file(args.mesh)
    with Viewer(scene, Path(args.mesh).name, port=args.port, threads=args.threads) as viewer:
        _print(args, {"address": viewer.address})
        if not args.json:
            print("for a browser on this machine; Ctrl-C ends it")
        sys.stdout.flush()  # a program that reads the address waits for it
        viewer.serve_forever()
    return 0


def _bench(args: argparse.Namespace) -> int:
    start = time.perf_counter(), time.process_time()
    asset = _asset(args)
    built = time.perf_counter() - start[0], time.process_time() - start[1]
    scene, camera, renderer = nc.Scene(asset), _camera(args, asset), _renderer(args)
    wall, cpu = [], []
    for _ in range(args.frames + 1):
        a, b = time.perf_counter(), time.process_time()
        frame = renderer.render(scene, camera)
        wall.append(time.perf_counter() - a)
        cpu.append(time.process_time() - b)
        stats = frame.stats
        del frame
    _print(
        args,
        {
            "source_triangles": asset.statistics()["source_triangles"],
            "build_wall_s": built[0],
            "build_cpu_s": built[1],
            "frame_wall_ms": 1e3 * float(np.median(wall[1:])),
            "frame_cpu_ms": 1e3 * float(np.median(cpu[1:])),
            "drawn_clusters": stats["clusters"],
            "drawn_triangles": stats["triangles"],
        },
    )
    return 0


def _add_budget(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--budget", type=_positive, default=512, metavar="MIB", help="for pages (default 512)"
    )


def _add_out(p: argparse.ArgumentParser, text: str) -> None:
    names = p.add_mutually_exclusive_group(required=True)
    names.add_argument("-o", "--out", type=Path, help=text)
    names.add_argument("--output", dest="out", action=Renamed, type=Path, help=argparse.SUPPRESS)


class Renamed(argparse.Action):
    """An option under its former name: it counts, and a line on stderr tells the new one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        print(f"{parser.prog}: {option_string} is called --{self.dest} now", file=sys.stderr)
        setattr(namespace, self.dest, values if self.nargs != 0 else True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nanite-cull",
        description="Cluster level of detail: build, look at and draw huge meshes.",
        epilog="Exit code: 0 done, 1 a check failed, 2 wrong usage or input.",
    )
    parser.add_argument("--version", action="version", version=f"nanite-cull {nc.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *groups: str
    ) -> argparse.ArgumentParser:
        p = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog="examples:\n  " + EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        p.set_defaults(run=run)
        p.add_argument("--json", action="store_true", help="figures as one line of JSON")
        if "mesh" in groups:
            p.add_argument("mesh", help=MESH_HELP)
            p.add_argument(
                "--threads",
                type=int,
                default=0,
                metavar="N",
                help="0: all (default); the result is the same for any number",
            )
        if "view" in groups:
            p.add_argument(
                "--size",
                type=_size,
                default=(1280, 720),
                metavar="WxH",
                help="pixels (default 1280x720)",
            )
            p.add_argument(
                "--threshold",
                type=float,
                default=1.0,
                metavar="PIXELS",
                help="error that may show (default 1; 0 draws the source exactly)",
            )
            p.add_argument(
                "--azimuth",
                type=float,
                default=30,
                metavar="DEGREES",
                help="around the mesh (default 30)",
            )
            p.add_argument(
                "--elevation",
                type=float,
                default=25,
                metavar="DEGREES",
                help="above the ground (default 25)",
            )
            p.add_argument(
                "--distance",
                type=float,
                default=1.0,
                metavar="X",
                help="1 shows the whole mesh (default), 0.5 is twice as near",
            )
            p.add_argument(
                "--cull-back", action="store_true", help="leave out triangles that turn their back"
            )
        if "picture" in groups:
            p.add_argument(
                "--kind",
                choices=pictures.KINDS,
                default="shaded",
                metavar="KIND",
                help=KIND_HELP,
            )
            _add_out(p, OUTPUT_HELP[name])
        return p

    command("version", _version, "what this build is and where meshoptimizer was found")
    p = command("build", _build, "build a mesh and store it as .ncl", "mesh")
    _add_out(p, ".ncl file to write")
    command("info", _info, "levels, clusters and figures of a mesh", "mesh")
    command("validate", _validate, "check every structural promise", "mesh")
    command("render", _render, "draw one picture", "mesh", "view", "picture")
    p = command("orbit", _orbit, "draw a turn around the mesh as a GIF", "mesh", "view", "picture")
    p.add_argument(
        "--frames", type=_positive, default=48, metavar="N", help="of a turn (default 48)"
    )
    p = command("fly", _fly, "draw a flight past the mesh", "mesh", "view", "picture")
    p.add_argument(
        "--frames", type=_positive, default=120, metavar="N", help="of the flight (default 120)"
    )
    p.add_argument(
        "--fps",
        type=_positive,
        default=25,
        metavar="N",
        help="frames a second (default 25; of a GIF at most 50)",
    )
    p.add_argument(
        "--path", type=Path, metavar="FILE", help='JSON: [{"eye": [x, y, z], "target": [...]}, ...]'
    )
    _add_budget(p)
    p.add_argument(
        "--live", action="store_true", help="do not wait for pages: pictures as a viewer has them"
    )
    p = command("view", _view, "look at the mesh in a browser on this machine", "mesh")
    p.add_argument("--port", type=int, default=0, metavar="N", help="default: a free one")
    p = command("bench", _bench, "time the build and frames", "mesh", "view")
    p.add_argument("--frames", type=_positive, default=10, metavar="N", help="timed (default 10)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.command is None:
        args = parser.parse_args(["version"])
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of stdout left: `nanite-cull stats a.ncl | head`
        _leave_stdout()
        return 0
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        print(f"nanite-cull {args.command}: {error}", file=sys.stderr)
        _leave_stdout()
        return 2
    except KeyboardInterrupt:
        print("nanite-cull: interrupted", file=sys.stderr)
        return 130


def _leave_stdout() -> None:
    """What could not be printed is dropped: Python tries again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
