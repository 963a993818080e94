"""Arrays at the door: numpy or anything that speaks DLPack, checked and made contiguous."""

from typing import Any

import numpy as np


def as_numpy(value: Any, function: str, name: str) -> np.ndarray:
    """`value` as a numpy array without a copy where possible. Raises TypeError for other kinds."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):  # torch: a tensor that requires grad gives its values
        value = value.detach()
    if hasattr(value, "__dlpack__"):
        if hasattr(value, "device") and str(value.device).split(":")[0] not in ("cpu", "Device"):
            raise TypeError(
                f"{function}: {name} must be on the cpu, got {value.device}; call .cpu()"
            )
        try:
            return np.from_dlpack(value)
        except (RuntimeError, BufferError, TypeError) as error:  # bfloat16 and its like
            raise TypeError(
                f"{function}: {name} must be of a type that numpy has, got "
                f"{getattr(value, 'dtype', type(value).__name__)}; convert it, tensors by .float()"
            ) from error
    if isinstance(value, (list, tuple)):
        return np.asarray(value)
    raise TypeError(
        f"{function}: {name} must be an array (numpy, torch or DLPack), got {type(value).__name__}"
    )


def floats(
    value: Any,
    function: str,
    name: str,
    width: int,
    rows: int | None = None,
    dtype: Any = np.float32,
) -> np.ndarray:
    """A contiguous array of shape (rows, width), float32 unless `dtype` says otherwise."""
    array = as_numpy(value, function, name)
    want = f"(N, {width})" if rows is None else f"({rows}, {width})"
    if array.ndim != 2 or array.shape[1] != width or (rows is not None and array.shape[0] != rows):
        raise ValueError(f"{function}: {name} must have shape {want}, got {array.shape}")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{function}: {name} must be numbers, got {array.dtype}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=dtype)


def colors(value: Any, function: str, name: str, rows: int) -> np.ndarray:
    """Colours as (rows, 4) float32 in 0 to 1: floats as they are, integers in parts of 255 (uint16:
    of 65535); without the fourth they are opaque."""
    array = as_numpy(value, function, name)
    if array.ndim != 2 or array.shape[1] not in (3, 4) or len(array) != rows:
        raise ValueError(
            f"{function}: {name} must have shape ({rows}, 3) or ({rows}, 4), got {array.shape}"
        )
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{function}: {name} must be numbers, got {array.dtype}")
    top = 1 if array.dtype.kind == "f" else 65535 if array.dtype.str[1:] == "u2" else 255
    out = np.ones((rows, 4), np.float32)
    out[:, : array.shape[1]] = array.astype(np.float32) / np.float32(top)
    if not np.isfinite(out).all():
        raise ValueError(f"{function}: {name} must be finite")
    if len(out) and (out.min() < -1e-3 or out.max() > 1 + 1e-3):
        worst = array.max() if out.max() > 1 else array.min()
        raise ValueError(
            f"{function}: {name} of {array.dtype} must be 0 to {top}, got {worst}; "
            "scale them, or give uint8 for 0 to 255"
        )
    return np.clip(out, 0, 1, out=out)


def indices(value: Any, function: str, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """A contiguous uint32 array; negative or too large values become an error here."""
    array = as_numpy(value, function, name)
    want = "(" + ", ".join("N" if n is None else str(n) for n in shape) + ")"
    if array.ndim != len(shape) or any(
        n is not None and n != m for n, m in zip(shape, array.shape, strict=True)
    ):
        raise ValueError(f"{function}: {name} must have shape {want}, got {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{function}: {name} must be integers, got {array.dtype}")
    if array.size and array.dtype.itemsize > 4:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= 2**32 - 1:
            raise ValueError(
                f"{function}: {name} must be 0 to 2**32 - 2, got {low if low < 0 else high}"
            )
    elif array.dtype.kind == "i" and array.size and int(array.min()) < 0:
        raise ValueError(f"{function}: {name} must not be negative, got {int(array.min())}")
    if array.dtype == np.int32:
        return np.ascontiguousarray(array).view(np.uint32)
    return np.ascontiguousarray(array, dtype=np.uint32)
