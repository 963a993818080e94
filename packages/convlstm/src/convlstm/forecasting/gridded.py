"""NetCDF and Zarr through xarray, which is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

GRIDDED_ENDINGS = {".nc", ".nc4", ".netcdf", ".zarr"}
# What files call the axis of time.
_TIMES = ("time", "t", "valid_time", "step", "frame")
# What they call the axis across, which comes last.
_ACROSS = ("x", "lon", "longitude", "easting", "column")

# What is longer than so many usual steps of time is a gap.
_GAP = 1.5


def gridded_array(path: Path, variable: str = "") -> tuple[Any, str, list[int]]:
    """(an xarray.DataArray (time, y, x) in the order of time, read when it is used; its unit; where
    a stretch without a gap begins).

    variable: its name; "" for the only one over three axes (others may have length 1). Packed
    values (scale_factor) are unpacked and _FillValue is NaN, as the conventions for climate and
    forecast data have it (CF 1.11, section 2.5.1 and 8.1). Raises RuntimeError without xarray,
    ValueError for a file without such a variable, or with two frames of one time.
    """
    try:
        import xarray
    except ImportError:
        raise RuntimeError(
            f"load_frames: reading {path} needs xarray: pip install xarray h5netcdf zarr"
        ) from None
    try:
        data = xarray.open_zarr(path) if path.suffix == ".zarr" else xarray.open_dataset(path)
    except ImportError as error:  # an engine or dask is missing
        raise RuntimeError(f"load_frames: reading {path} needs one more package: {error}") from None
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"load_frames: {path} cannot be read: {error}") from error
    flat = {n: _three_axes(v) for n, v in data.data_vars.items()}
    fit = [n for n, v in flat.items() if v.ndim == 3 and v.dtype.kind in "buif"]
    if not variable and len(fit) == 1:
        variable = str(fit[0])
    if variable not in fit:
        named = f"{path}::{fit[0]}" if fit else ""
        raise ValueError(
            f"load_frames: {path} has {', '.join(map(str, fit)) or 'no variable'} over three axes "
            f"(time, y, x); name one{', as ' + named if named else ''}; got {variable!r}"
        )
    array = flat[variable]
    time = next((d for d in array.dims if str(d).lower() in _TIMES), array.dims[0])
    rest = [d for d in array.dims if d != time]
    rest.sort(key=lambda d: str(d).lower() in _ACROSS)  # stable: else as the file has them
    unit = str(array.attrs.get("units", ""))
    array = array.transpose(time, *rest)
    if time not in array.coords or array.coords[time].dtype.kind not in "Mmuif":
        return array, unit, [0]
    steps = np.diff(array.coords[time].values).astype(np.float64)
    if not (steps > 0).all():
        array = array.sortby(time)
        steps = np.diff(array.coords[time].values).astype(np.float64)
        if not (steps > 0).all():
            raise ValueError(f"load_frames: {path} has two frames of one {time}")
    gaps = steps > _GAP * np.median(steps) if len(steps) else steps > 0
    return array, unit, [0, *(int(k) + 1 for k in np.flatnonzero(gaps))]


def _three_axes(array: Any) -> Any:
    """Without axes of length 1 beyond the third, but for time."""
    alone = [d for d in array.dims if array.sizes[d] == 1 and str(d).lower() not in _TIMES]
    return array.squeeze(alone[: max(0, array.ndim - 3)], drop=True)
