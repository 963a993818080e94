"""The specialisations of Triton's kernels that a GPU would run, compiled ahead of time.

specialisations.py [--arch 90] [--only bf16] [--update]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
BUDGET = HERE / "budget.json"
sys.path.insert(0, str(HERE.parents[3] / "tests" / "cuda_sim"))
import triton_guard  # noqa: E402
from triton_guard import Kernel  # noqa: E402

from spconv_lite.kernels.triton import depthwise, operators, products, tiles  # noqa: E402

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "tf32": torch.float32,
}
POINTERS = ["x", "weight", "bias", "mean", "variance", "gain", "offset", "y"]


def ended(plain: bool) -> dict[str, bool]:
    """Constants of a forward pass with all that may follow the sums, or of one with nothing."""
    names = "HAS_BIAS", "NORM", "HAS_GAIN", "HAS_OFFSET", "RECTIFIED"
    return dict.fromkeys(names, not plain)


def of_products() -> list[Kernel]:
    """Forward and input gradient in the three configurations; pair products. float32 both by tensor
    cores (tf32) and without (fp32)."""
    found = []
    for name, dtype in DTYPES.items():
        precision = "tf32" if name == "tf32" else "ieee"
        value = "fp32" if name == "tf32" else name
        for channels in (32, 64, 128):
            config = operators.configuration(channels, channels, dtype)
            for back in (False, True):
                # one stride of the weight is 1 and becomes a constant
                unit, free = ("w_out", "w_in") if back else ("w_in", "w_out")
                ints = ["rows", "table_pitch", "volume", "c_in", "c_out", "groups"]
                signature = dict.fromkeys(POINTERS, f"*{value}") | {"eps": "fp32"}
                signature |= dict.fromkeys(["table", "order", "lists"], "*i32")
                signature |= dict.fromkeys([*ints, "w_group", free, "w_offset"], "i32")
                constants = {unit: 1, "MIRROR": back} | ended(plain=back)
                constants |= {"PRECISION": precision, "BM": tiles.TILE_ROWS}
                constants |= {"BN": config.columns, "BK": config.depth}
                found.append(
                    Kernel(
                        f"{'input_gradient' if back else 'forward'} {name} {channels}",
                        products.masked_product,
                        signature,
                        constants,
                        ("c_in", "c_out", "w_group", free, "w_offset"),
                        config.warps,
                        config.stages,
                    )
                )
        config = operators.pair_configuration(64, 64, dtype)
        signature = pair_signature(value)
        ints = ["pitch", "volume", "c_in", "c_out", "groups", "splits"]
        signature |= dict.fromkeys(ints, "i32")
        constants = dict(zip(("BN", "BC", "BR"), config, strict=True)) | {"PRECISION": precision}
        pair = products.pair_product
        found.append(
            Kernel(f"weight_gradient {name} 64", pair, signature, constants, ("c_in", "c_out"))
        )
    return found


def pair_signature(value: str) -> dict[str, str]:
    signature = {"x": f"*{value}", "gradient": f"*{value}", "partial": "*fp32"}
    return signature | dict.fromkeys(["pairs_in", "pairs_out", "counts"], "*i32")


def of_depthwise() -> list[Kernel]:
    found, lanes = [], operators.depthwise_lanes(64)
    for value in ("bf16", "fp32"):
        signature = dict.fromkeys(POINTERS, f"*{value}") | {"eps": "fp32"}
        signature |= dict.fromkeys(["table", "order", "lists"], "*i32")
        signature |= dict.fromkeys(["rows", "table_pitch", "volume", "channels"], "i32")
        constants = {"MIRROR": False, "BM": tiles.TILE_ROWS, "BC": lanes} | ended(plain=False)
        forward = depthwise.masked_depthwise, signature, constants, ["channels"]
        found.append(Kernel(f"depthwise forward {value}", *forward))
        ints = dict.fromkeys(["pitch", "volume", "channels", "splits"], "i32")
        constants = {"BC": lanes, "BR": operators.PAIR_ROWS}
        back = depthwise.pair_depthwise, pair_signature(value) | ints, constants, ["channels"]
        found.append(Kernel(f"depthwise weight_gradient {value}", *back))
    return found


def of_tiles() -> list[Kernel]:
    i32 = "*i32"
    return [
        Kernel(
            "row_keys",
            tiles.row_keys,
            {"table": i32, "keys": i32, "rows": "i32", "volume": "i32"},
            {"KEY_BITS": 62, "BLOCK": 256},
        ),
        Kernel(
            "tile_lists",
            tiles.tile_lists,
            {"table": i32, "order": i32, "lists": i32, "rows": "i32", "volume": "i32"},
            {"BM": 64},
        ),
        Kernel(
            "count_pairs",
            tiles.count_pairs,
            {"table": i32, "counts": i32, "rows": "i32", "blocks": "i32"},
            {"BLOCK": 256},
        ),
        Kernel(
            "write_pairs",
            tiles.write_pairs,
            dict.fromkeys(("table", "ends", "pairs_in", "pairs_out"), i32)
            | {"rows": "i32", "blocks": "i32"},
            {"BLOCK": 256},
        ),
        Kernel(
            "add_splits bf16",
            products.add_splits,
            {"partial": "*fp32", "total": "*bf16", "size": "i32", "splits": "i32"},
            {"BLOCK": 1024},
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile Triton's kernels and check their budget.")
    parser.add_argument("--arch", type=int, action="append", help="default: 80, 90, 120")
    parser.add_argument("--only", default="", help="only kernels whose name has this text")
    parser.add_argument("--update", action="store_true", help="write what was measured as limits")
    options = parser.parse_args()
    made = of_products() + of_depthwise() + of_tiles()
    kernels = [k for k in made if options.only in k.name]
    report = triton_guard.measure(kernels, options.arch or triton_guard.ARCHITECTURES)
    if options.update:
        triton_guard.write(BUDGET, triton_guard.budget_of(report))
    for arch, found in report.items():
        for name, usage in found.items():
            print(arch, name, usage)
    wrong = triton_guard.compare(json.loads(BUDGET.read_text()), report)
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
