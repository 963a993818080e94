"""`python -m spconv_lite`: what this build is. `voxelize`: a scan as voxels and as a picture."""

from __future__ import annotations

import argparse
import json
import sys

import torch

from . import _C, __version__


def build_info() -> dict[str, object]:
    """Version, kind of build, instruction set, threads, and why CUDA is off if it is."""
    architectures = _C.cuda_architectures
    if not architectures:
        cuda = "off: built without CUDA; install the CUDA toolkit and build with GPU=ON"
    else:
        cuda = f"kernels for {architectures}, compiled and simulated, never run; not used by layers"
        if not torch.cuda.is_available():
            cuda += f"; no CUDA device answers torch {torch.__version__}"
    return {
        "spconv-lite": __version__,
        "build": "CUDA" if architectures else "CPU",
        "instruction set": _C.isa(),
        "threads": torch.get_num_threads(),
        "cuda": cuda,
        "torch": torch.__version__,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="spconv-lite", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    info = commands.add_parser("info", help="version, build, threads and CUDA")
    info.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(argv)
    facts = build_info()
    if getattr(options, "json", False):
        print(json.dumps(facts))
    else:
        print("\n".join(f"{name:16} {value}" for name, value in facts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
