#!/usr/bin/env python3
"""Make `.venv`: the tools, the named packages (default: all six) editable and built, their peers.

The other commands do this by themselves; alone it is for a first look, an editor, a container
image. A second run looks at stamps and ends in seconds, without the network.

  python tools/setup.py                 all six packages
  python tools/setup.py spconv-lite     one package, and only what it needs
  python tools/setup.py --gpu AUTO      with CUDA kernels where nvcc is found
"""

from __future__ import annotations

import argparse
import sys

import workspace


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", nargs="*", help="only these packages (default: all)")
    parser.add_argument("--gpu", choices=("OFF", "AUTO", "ON"), default="OFF", help="CUDA kernels")
    options = parser.parse_args()
    wanted = workspace.packages(options.package)
    workspace.ensure_system_packages(wanted)
    workspace.ensure_environment(wanted, gpu=options.gpu)
    print(workspace.PYTHON)
    return 0


if __name__ == "__main__":
    sys.exit(main())
