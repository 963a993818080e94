"""`python -m spconv_lite`: what this build is. `voxelize`: a scan as voxels and as a picture.
`bench`: how fast it is here."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from . import PointToVoxel, __version__, ops
from .data import pictures, scans, timing


def build_info() -> dict[str, object]:
    """Version, kind of build, instruction set, threads, and what runs on CUDA."""
    architectures = ops._C.cuda_architectures
    if not architectures:
        cuda = "plain torch operators; no kernels: build with the CUDA toolkit and GPU=ON"
    else:
        cuda = f"plain torch operators until set_kernels; kernels for {architectures}, never run"
        if not torch.cuda.is_available():
            cuda += f"; no CUDA device answers torch {torch.__version__}"
    return {
        "spconv-lite": __version__,
        "build": "CUDA" if architectures else "CPU",
        "instruction set": ops._C.isa(),
        "threads": torch.get_num_threads(),
        "cuda": cuda,
        "torch": torch.__version__,
    }


def _print(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in facts.items()))


def voxelize(options: argparse.Namespace) -> dict[str, object]:
    """Reads a scan, cuts it into voxels and draws them from above."""
    pictures.check_name(options.out)
    points = torch.from_numpy(scans.read_points(options.scan, options.columns))
    make = PointToVoxel(options.voxel, options.range, points.shape[1], len(points) + 1, 1)
    _, indices, _ = make(points)
    picture = pictures.from_above(indices.numpy(), tuple(make.grid_size))
    pictures.write(options.out, picture)
    return {
        "points": len(points),
        "voxels": len(indices),
        "grid (z, y, x)": " x ".join(map(str, make.grid_size)),
        "picture": str(options.out),
    }


def bench(options: argparse.Namespace) -> dict[str, object]:
    """Times one 3x3x3 layer on voxels of a street."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    facts = timing.measure(options.sites, options.channels, options.repeats)
    threads = {"instruction set": ops._C.isa(), "threads": torch.get_num_threads()}
    return {"sites": options.sites, "channels": options.channels, **threads, **facts}


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


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
    parser = argparse.ArgumentParser(prog="spconv-lite", description=__doc__)
    parser.add_argument("--version", action="version", version=f"spconv-lite {__version__}")
    parser.add_argument("--json", action="store_true", help="for machines")
    commands = parser.add_subparsers(dest="command")
    text = "version, build, threads and CUDA (the default)"
    info = commands.add_parser("info", help=text, description=text)
    text = "a scan (.npy, KITTI .bin, .ply, .pcd) as voxels, drawn from above"
    make = commands.add_parser(
        "voxelize",
        help=text,
        description=text,
        epilog="example: spconv-lite voxelize 000000.bin -o scan.png --voxel 0.1 0.1 0.2",
    )
    make.add_argument("scan", type=Path, help=".npy, .bin (KITTI, nuScenes), .ply or .pcd")
    out = make.add_mutually_exclusive_group(required=True)
    out.add_argument("-o", "--out", type=Path, help="the picture, a .png or (with Pillow) a .jpg")
    out.add_argument("--output", dest="out", action=Renamed, type=Path, help=argparse.SUPPRESS)
    make.add_argument(
        "--columns", type=int, metavar="N",
        help="floats a point of a .bin; default 5 for .pcd.bin (nuScenes), else 4 (KITTI)",
    )  # fmt: skip
    make.add_argument(
        "--voxel", type=float, nargs=3, default=[0.1, 0.1, 0.2], metavar=("X", "Y", "Z"),
        help="size in metres, default 0.1 0.1 0.2",
    )  # fmt: skip
    make.add_argument(
        "--range", type=float, nargs=6, default=[-50.0, -50.0, -4.0, 50.0, 50.0, 4.0],
        metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"), help="default -50 -50 -4 50 50 4",
    )  # fmt: skip
    text = "rulebooks and convolutions on voxels of a street"
    time = commands.add_parser("bench", help=text, description=text)
    for name, default, meaning in (
        ("sites", 120_000, "voxels"),
        ("channels", 32, "input and output channels"),
        ("repeats", 7, "of which the median is taken"),
        ("threads", None, "default: what torch takes"),
    ):
        shown = meaning if default is None else f"{meaning}, default {default}"
        time.add_argument(f"--{name}", type=_positive, default=default, metavar="N", help=shown)
    for command in (info, make, time):  # before or behind the command's name
        command.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="for machines"
        )
    return parser


COMMANDS = {"voxelize": voxelize, "bench": bench, "info": lambda _: build_info()}


def main(argv: list[str] | None = None) -> int:
    """0, or 2 with a sentence on stderr when a file or an option does not fit; 130 after Ctrl-C."""
    options = _parser().parse_args(argv)
    try:
        _print(COMMANDS[options.command or "info"](options), options.json)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of stdout left
        _leave_stdout()
    except (ValueError, OSError) as error:
        print(f"spconv-lite: {error}", file=sys.stderr)
        _leave_stdout()
        return 2
    except KeyboardInterrupt:
        print("spconv-lite: interrupted", file=sys.stderr)
        return 130
    return 0


def _leave_stdout() -> None:
    """What could not be printed is dropped: Python tries again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
