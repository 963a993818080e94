"""`python -m resnet_zoo` and `resnet-zoo`: the command line, with a memory of its own choice."""

import os
import sys

# torch asks when it first takes memory: weights and maps in huge pages are read faster.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
