"""HDF5 files read from their bytes alone, beside HDF5's own library."""

import io
import itertools
import struct

import h5py
import numpy as np
import pytest

from convlstm.keras.h5 import Reader


def written(fill, **options):
    """(our reader, h5py's file) of one file in memory."""
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as writer:
        fill(writer)
    return Reader(file), h5py.File(file)


rng = np.random.default_rng(0)
ARRAYS = {
    "half": rng.normal(size=(3, 4)).astype("f2"),
    "double": rng.normal(size=5),
    "scalar": np.array(3, "i8"),
    "truth": np.array([True, False]),
    "big-endian": np.arange(4, dtype=">u2"),
    "bytes": np.arange(-3, 3, dtype="i1"),
    "empty": np.zeros((0, 5), "f4"),
}
CHUNKED = {
    "chunks": {"chunks": (7, 70)},
    "gzip": {"chunks": (16, 32), "compression": 4},
    "all": {"chunks": (16, 32), "compression": 9, "shuffle": True, "fletcher32": True},
    "may grow": {"chunks": (20, 9), "maxshape": (None, None)},
}
VERSIONS = [{}, {"libver": "v108"}, {"track_order": True}, {"libver": "latest"}]


def same(ours, theirs):
    assert ours.dtype == theirs.dtype.newbyteorder("=")
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_numbers_of_each_type_are_those_of_h5py(version):
    def fill(file):
        for name, array in ARRAYS.items():
            file[name] = array

    ours, theirs = written(fill, **version)
    for name in ARRAYS:
        same(ours.array(ours.item(ours.root, name)), theirs[name][()])


@pytest.mark.parametrize("options", CHUNKED.values(), ids=CHUNKED)
def test_chunks_are_put_together_as_h5py_does(options):
    values = rng.normal(size=(50, 70)).round(1).astype("f4")

    def fill(file):
        file.create_dataset("x", data=values, **options)

    ours, theirs = written(fill)
    same(ours.array(ours.item(ours.root, "x")), theirs["x"][()])


def test_data_inside_the_header_are_read():
    def fill(file):
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((6,))
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, properties)
        file["x"][:] = np.arange(6)

    ours, theirs = written(fill)
    same(ours.array(ours.item(ours.root, "x")), theirs["x"][()])


def test_bfloat16_becomes_float32():
    kind = h5py.h5t.IEEE_F32LE.copy()  # sign at 15, exponent of 8 bits, mantissa of 7
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)

    def fill(file):
        dataset = h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((3,)))
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1.0, -2.5, 1 / 3], "f4"))

    ours, _ = written(fill)
    got = ours.array(ours.item(ours.root, "x"))
    assert got.dtype == np.float32
    assert np.abs(got - [1.0, -2.5, 1 / 3]).max() < 2e-3
    assert got[:2].tolist() == [1.0, -2.5]


@pytest.mark.parametrize("version", VERSIONS, ids=str)
@pytest.mark.parametrize("many", [3, 12, 2000])
def test_groups_and_texts_of_any_number_are_found(version, many):
    def fill(file):
        for k in range(many):
            file.create_group(f"a/g{k}" + "x" * (k % 30))
        for k in range(min(many, 300)):
            file["a"].attrs[f"n{k}"] = "é" * k
        file["a"].attrs["fixed"] = [b"ab", b"c"]
        file["a"].attrs["variable"] = np.array(["x", "", "yy"], dtype=h5py.string_dtype())
        file["a"].attrs["none"] = np.array([], "S1")
        file["a"].attrs["empty"] = ""

    ours, theirs = written(fill, **version)
    group = ours.item(ours.root, "a")
    assert [name for name, _ in ours.members(group)] == sorted(theirs["a"])
    assert all(ours.text(group, f"n{k}") == "é" * k for k in range(min(many, 300)))
    assert ours.texts(group, "fixed") == ["ab", "c"]
    assert ours.texts(group, "variable") == ["x", "", "yy"]
    assert ours.texts(group, "none") == []
    assert ours.texts(group, "empty") == [""]
    assert ours.text(group, "absent") is None


@pytest.mark.parametrize("options", [{"compression": "lzf"}, {"scaleoffset": 2}], ids=str)
def test_filters_that_are_not_read_are_named(options):
    def fill(file):
        file.create_dataset("x", data=np.arange(100), chunks=(10,), **options)

    ours, _ = written(fill)
    with pytest.raises(ValueError, match=r"filter \d+, which is not read"):
        ours.array(ours.item(ours.root, "x"))


def test_chunks_of_newer_kinds_are_named():
    def fill(file):
        file.create_dataset("x", data=np.arange(100), chunks=(10,), maxshape=(None,))

    ours, _ = written(fill, libver="latest")
    with pytest.raises(ValueError, match="layout of /x is not read"):
        ours.array(ours.item(ours.root, "x"))


# What damage can ask for


def test_texts_that_share_one_place_do_not_multiply():
    """4,000 references of 16 bytes to one text of 200 KB ask for 800 MB."""
    file = io.BytesIO()
    with h5py.File(file, "w") as writer:
        kind = h5py.string_dtype()
        writer.attrs["layer_names"] = np.array(["y" * 200_000] + ["z"] * 3999, dtype=kind)
    data = file.getvalue()
    first = data.index(struct.pack("<I", 200_000))
    reference = data[first : first + 16]
    start = first + 16
    data = data[:start] + reference * 3999 + data[start + 16 * 3999 :]
    reader = Reader(io.BytesIO(data))
    with pytest.raises(ValueError, match="far more text"):
        reader.texts(reader.root, "layer_names")


def test_a_tree_that_leads_to_itself_is_refused():
    file = io.BytesIO()
    with h5py.File(file, "w") as writer:
        for k in range(500):
            writer.create_group(f"g{k}")
    data = bytearray(file.getvalue())
    node = data.index(b"TREE\0\1")  # a node of group names, above others
    data[node + 32 : node + 40] = struct.pack("<Q", node)
    reader = Reader(io.BytesIO(bytes(data)))
    with pytest.raises(ValueError, match=r"another kind|circle"):
        list(reader.members(reader.root))


def test_a_group_that_is_linked_everywhere_ends_in_time():
    """Ten groups, each with ten links to the next: 10^10 ways."""
    file = io.BytesIO()
    with h5py.File(file, "w") as writer:
        groups = [writer.create_group(f"layers{k}") for k in range(10)]
        for group, next_one in itertools.pairwise(groups):
            for k in range(10):
                group[f"g{k}"] = next_one
    reader = Reader(file)
    with pytest.raises(ValueError, match=r"again and again|groups"):
        reader.tree(reader.root)


def test_a_text_without_length_does_not_loop():
    file = io.BytesIO()
    with h5py.File(file, "w") as writer:
        writer.attrs["layer_names"] = np.array([b"abcdefg"] * 3)
    data = file.getvalue()
    at = data.index(b"\x13\x01\x00\x00\x07\x00\x00\x00")  # a fixed string of 7 bytes
    data = data[: at + 4] + bytes(4) + data[at + 8 :]
    at = data.index(struct.pack("<Q", 3), at)
    data = data[:at] + struct.pack("<Q", 2**60) + data[at + 8 :]
    reader = Reader(io.BytesIO(data))
    with pytest.raises(ValueError, match="must be text"):
        reader.texts(reader.root, "layer_names")


def test_a_file_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="HDF5"):
        Reader(io.BytesIO(b"PK\3\4" * 10))
    with pytest.raises(ValueError, match="shorter"):
        Reader(io.BytesIO(b""))
