"""HDF5 files of strangers, read from their bytes alone, as much of the format as Keras' files have.

By HDF5 File Format Specification 3.0 (The HDF Group), whose section numbers stand in the modules.
Not by HDF5's own library, whose faults on damaged files end the process: each offset is checked
against the file's length, nothing is read again and again, and nothing is allocated for a size that
the file only claims. What Keras never writes (chunk indexes of HDF5 1.10, shared types, other
files) is refused by name.
"""

from .objects import is_hdf5
from .reader import MAX_RATIO, MAX_TEXT_BYTES, Reader, Tree, h5py

__all__ = ["MAX_RATIO", "MAX_TEXT_BYTES", "Reader", "Tree", "h5py", "is_hdf5"]
