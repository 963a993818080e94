"""Building the rulebook of a 3x3x3 layer: our compact form and the padded one, beside spconv."""

import peer
import torch
from measure import Bench

from spconv_lite import ops

ONES, THREES, ZEROS = [1] * 3, [3] * 3, [0] * 3


def same_pairs(indices: torch.Tensor, stride: int, subm: bool) -> bool:
    """Whether both libraries join the same sites, offset by offset; spconv gives half of a
    submanifold."""
    out, pairs, number = peer.peer_pairs(indices, stride, subm)
    ours = ops.get_indice_pairs(
        indices, 1, peer.SHAPE, THREES, [stride] * 3, ONES, ONES, ZEROS, subm, False
    )

    def key(sites: torch.Tensor) -> torch.Tensor:
        return (sites[:, 1].long() * 1440 + sites[:, 2]) * 1440 + sites[:, 3]

    def joined(sites, book, k, n):
        ends = key(indices)[book[0, k, :n].long()], key(sites)[book[1, k, :n].long()]
        return (ends[0] * 2**32 + ends[1]).sort()[0]

    offsets = range(13 if subm else 27)
    return all(
        torch.equal(joined(out, pairs, k, number[k]), joined(ours[0], ours[1], k, ours[2][k]))
        for k in offsets
    )


def main() -> None:
    bench = Bench("rulebook", peer.NAME, versions=peer.versions(), repeats=7)
    inputs = [(f"lidar {n // 1000}k", lambda n=n: peer.lidar(n)) for n in (20_000, 60_000, 120_000)]
    for name, make in [*inputs, ("random 120k", lambda: peer.scattered(120_000))]:
        indices = make()
        for subm, stride in ((True, 1), (False, 2)):
            kind = "submanifold" if subm else "stride 2"
            strides = [stride] * 3
            if not same_pairs(indices, stride, subm):
                raise SystemExit(f"{name}, {kind}: the two libraries join different sites")
            for threads in (1, 2):
                torch.set_num_threads(threads)
                geometry = (indices, 1, peer.SHAPE, THREES)
                rest = (strides, ONES, ONES, ZEROS)
                compact = (
                    (lambda g=geometry: ops.subm_rulebook(*g, ONES))
                    if subm
                    else (lambda g=geometry, r=rest: ops.rulebook(*g, *r, False))
                )
                theirs = lambda i=indices, s=stride, m=subm: peer.peer_pairs(i, s, m)  # noqa: E731
                bench.compare(f"{kind}, {name}, {threads} threads", compact, theirs)
                if name == "lidar 120k":
                    padded = lambda g=geometry, r=rest, m=subm: ops.get_indice_pairs(  # noqa: E731
                        *g, *r, m, False
                    )
                    bench.compare(f"{kind} padded, {name}, {threads} threads", padded, theirs)
    book = ops.subm_rulebook(peer.lidar(120_000), 1, peer.SHAPE, THREES, ONES)
    ours = sum(t.numel() * t.element_size() for t in book)
    theirs = sum(
        t.numel() * t.element_size() for t in peer.peer_pairs(peer.lidar(120_000), 1, True)[1:]
    )
    bench.fact("bytes of the submanifold rulebook, lidar 120k", f"{ours:,} (spconv {theirs:,})")
    bench.finish()


if __name__ == "__main__":
    main()
