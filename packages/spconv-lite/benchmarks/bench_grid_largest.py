"""The cells of the grid that bench_grid.py leaves out, beyond MOST_WORK: submanifold forward and
forward + backward beside spconv, three repeats each, with one thread and with two."""

import peer
import torch
from bench_grid import CHANNELS, MOST_WORK, SITES, cloud, compare_subm
from measure import Bench


def main() -> None:
    bench = Bench("grid-largest", peer.NAME, versions=peer.versions(), repeats=3)
    for sites in SITES:
        for channels in CHANNELS:
            if sites * channels**2 <= MOST_WORK:
                continue
            for threads in (1, 2):
                torch.set_num_threads(threads)
                name = f"{sites} sites, C{channels}, {threads} threads"
                compare_subm(bench, name, cloud(sites), channels, 3)
    bench.finish()


if __name__ == "__main__":
    main()
