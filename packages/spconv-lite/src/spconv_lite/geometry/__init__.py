"""Sites on a grid and the rulebooks that join them: what is known before anything is computed."""

from .rulebook import (
    BLOCK_ROWS,
    Rulebook,
    block_offsets,
    compact,
    identity_book,
    pair_offsets,
    pair_rows,
    restrict_outputs,
)
from .settings import (
    CONVOLUTION,
    MAX_AXES,
    SUBMANIFOLD,
    TRANSPOSED,
    Geometry,
    get_conv_output_size,
    get_deconv_output_size,
    make_geometry,
)
from .sites import (
    check_inside,
    check_unique,
    outside_grid,
    raise_duplicate,
    raise_outside,
    row_major,
    site_key,
    sites_of,
)

__all__ = [
    "BLOCK_ROWS",
    "CONVOLUTION",
    "MAX_AXES",
    "SUBMANIFOLD",
    "TRANSPOSED",
    "Geometry",
    "Rulebook",
    "block_offsets",
    "check_inside",
    "check_unique",
    "compact",
    "get_conv_output_size",
    "get_deconv_output_size",
    "identity_book",
    "make_geometry",
    "outside_grid",
    "pair_offsets",
    "pair_rows",
    "raise_duplicate",
    "raise_outside",
    "restrict_outputs",
    "row_major",
    "site_key",
    "sites_of",
]
