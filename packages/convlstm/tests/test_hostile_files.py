"""Keras files of strangers: nothing outside the file is read, no size is believed."""

import io
import json
import tracemalloc
import zipfile
from contextlib import contextmanager

import h5py
import numpy as np
import pytest
import torch

import convlstm
from convlstm.keras import read_keras

BOUND = 32 << 20  # more than any file here may take


@contextmanager
def measured():
    """Fails where the block allocates more than BOUND bytes at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < BOUND
    finally:
        tracemalloc.stop()


def weights_file(path, fill):
    with h5py.File(path, "w") as file:
        fill(file.create_group("layers/conv_lstm2d/cell/vars"), path)
    return path


def external_storage(group, path):
    secret = path.parent / "secret.txt"
    secret.write_text("TOP-SECRET-KEY-0123456789abcdef-" * 4)
    group.create_dataset("0", (1, 1, 1, 4), "f4", external=[(str(secret), 0, 16)])


def external_link(group, path):
    with h5py.File(path.parent / "other.h5", "w") as other:
        other["x"] = np.full((1, 1, 1, 4), 7, "f4")
    group["0"] = h5py.ExternalLink("other.h5", "x")


def external_group(group, path):
    with h5py.File(path.parent / "other.h5", "w") as other:
        other["vars/0"] = np.full((1, 1, 1, 4), 7, "f4")
    group.file["layers/conv3d"] = h5py.ExternalLink("other.h5", "/")


def soft_link(group, path):
    group.file["elsewhere"] = np.zeros((1, 1, 1, 4), "f4")
    group["0"] = h5py.SoftLink("/elsewhere")


def virtual(group, path):
    with h5py.File(path.parent / "other.h5", "w") as other:
        other["x"] = np.full(4, 7, "f4")
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(path.parent / "other.h5"), "x", (4,))
    group.create_virtual_dataset("0", layout)


def never_written(group, path):
    group.create_dataset("0", (20000, 20000), "f4", chunks=(100, 100))


def compressed_bomb(group, path):
    group.create_dataset("0", (1 << 26,), "f4", chunks=(1 << 20,), compression=9, fillvalue=0)
    group["0"][: 1 << 22] = 0


def contiguous_but_absent(group, path):
    group.create_dataset("0", (1 << 28,), "f4")


def objects(group, path):
    group.create_dataset("0", data=["text"], dtype=h5py.string_dtype())


def wide_numbers(group, path):
    group.create_dataset("0", data=np.zeros(4, np.longdouble))


def complex_numbers(group, path):
    group.create_dataset("0", data=np.zeros(4, np.complex64))


def not_numbered(group, path):
    group["kernel"] = np.zeros(4, "f4")


def circle(group, path):
    group.file["layers/conv_lstm2d/cell/cell"] = group.file["layers"]


HOSTILE = [
    external_storage, external_link, external_group, soft_link, virtual, never_written,
    compressed_bomb, contiguous_but_absent, objects, wide_numbers,
    complex_numbers, not_numbered, circle,
]  # fmt: skip


@pytest.mark.parametrize("fill", HOSTILE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("packed", [False, True], ids=["weights", "keras"])
def test_a_hostile_weights_file_is_refused_without_reading_or_allocating(tmp_path, fill, packed):
    path = weights_file(tmp_path / "evil.weights.h5", fill)
    if packed:
        data = path.read_bytes()
        path = tmp_path / "evil.keras"
        archive_of(path, {"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": data})
    message = rf"{path.name} is no Keras file, or damaged"
    with measured(), pytest.raises(ValueError, match=message):
        read_keras(path)


def test_numbers_of_another_byte_order_are_read(tmp_path):
    def fill(group, path):
        group.create_dataset("0", data=np.arange(4, dtype=">f4"))

    layer = read_keras(weights_file(tmp_path / "big.weights.h5", fill)).layers[0]
    (found,) = (torch.as_tensor(array) for array in layer.weights)
    assert found.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("link", [h5py.ExternalLink("other.h5", "x"), h5py.SoftLink("/secret")])
def test_a_legacy_file_that_points_elsewhere_is_refused(tmp_path, link):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.zeros(4, "f4")
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file["secret"] = np.zeros(4, "f4")
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [b"conv3d"]
        node = root.create_group("conv3d")
        node.attrs["weight_names"] = [b"kernel:0"]
        node["kernel:0"] = link
    with pytest.raises(ValueError, match="not followed"):
        read_keras(tmp_path / "evil.h5")


def archive_of(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def empty_weights():
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        file.create_group("layers")
    return data.getvalue()


@pytest.mark.parametrize("member", ["config.json", "metadata.json", "model.weights.h5"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, member):
    members = {"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": empty_weights()}
    members[member] = b" " * (100 << 20)
    path = archive_of(tmp_path / "bomb.keras", members, zipfile.ZIP_DEFLATED)
    with measured(), pytest.raises(ValueError, match=f"{member} unpacks to more than"):
        read_keras(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_a_zip_bomb_that_lies_about_its_size_is_refused(tmp_path, method):
    """zipfile unpacks a block of these as a whole, whatever the member says that it unpacks to."""
    members = {"config.json": b" " * (200 << 20), "metadata.json": b"{}"}
    path = archive_of(tmp_path / "bomb.keras", members, method)
    data = path.read_bytes().replace((200 << 20).to_bytes(4, "little"), (64).to_bytes(4, "little"))
    path.write_bytes(data)
    with measured(), pytest.raises(ValueError, match="a way that Keras does not write"):
        read_keras(path)


def test_a_member_that_claims_more_than_the_archive_has_is_refused(tmp_path):
    """The bound follows from the archive, not from the size that a member says it is packed to."""
    weights = b" " * (100 << 20)
    members = {"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": weights}
    path = archive_of(tmp_path / "bomb.keras", members, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        packed = archive.getinfo("model.weights.h5").compress_size
    data = path.read_bytes().replace(packed.to_bytes(4, "little"), (1 << 30).to_bytes(4, "little"))
    path.write_bytes(data)
    with measured(), pytest.raises(ValueError, match="unpacks to more than"):
        read_keras(path)


def test_members_are_never_unpacked_to_files(tmp_path):
    members = {
        "../escaped": b"x", "config.json": b"{}", "metadata.json": b"{}",
        "model.weights.h5": empty_weights(),
    }  # fmt: skip
    path = archive_of(tmp_path / "m.keras", members)
    read_keras(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.keras"]
    assert not (tmp_path.parent / "escaped").exists()


def model_of(layer, **config):
    entries = [
        {"class_name": "InputLayer", "config": {"batch_shape": [None, 3, 8, 8, 1], "name": "i"}},
        {"class_name": layer, "config": {"name": "evil", **config}},
    ]
    return {"class_name": "Sequential", "config": {"name": "m", "layers": entries}}


@pytest.mark.parametrize(
    "config",
    [
        model_of("ConvLSTM2D", filters=10**6, kernel_size=[99, 99]),
        model_of("Dense", units=10**12),
        model_of("Dense", units="many"),
        model_of("Conv3D", filters=4, kernel_size=[3, 3]),
        model_of("ConvLSTM2D", filters=2),
        {"class_name": "Sequential", "config": {"layers": []}},
        {"class_name": "Functional", "config": {"layers": [], "input_layers": [["a", 0, 0]]}},
        {"class_name": "MyModel", "config": {}},
        [],
        {},
    ],
)
def test_a_hostile_configuration_is_a_value_error_and_takes_no_memory(tmp_path, config):
    members = {
        "config.json": json.dumps(config).encode(), "metadata.json": b"{}",
        "model.weights.h5": empty_weights(),
    }  # fmt: skip
    path = archive_of(tmp_path / "m.keras", members)
    with pytest.raises(ValueError):
        convlstm.load_keras(path)


def test_configurations_nested_without_end_are_refused(tmp_path):
    text = '{"class_name":"Sequential","config":{"layers":[' * 3000 + "]}}" * 3000
    members = {
        "config.json": text, "metadata.json": b"{}", "model.weights.h5": empty_weights(),
    }  # fmt: skip
    with pytest.raises(ValueError):
        convlstm.load_keras(archive_of(tmp_path / "m.keras", members))


@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5"])
def test_changed_bytes_are_an_error_or_a_model_and_nothing_else(tmp_path, ending):
    model = convlstm.next_frame("small", size=(8, 8), filters=1)
    path = tmp_path / f"m{ending}"
    convlstm.save_keras(model, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 8)):
            data[place] = rng.integers(256)
        path.write_bytes(bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.2 else data))
        try:
            if ending == ".weights.h5":
                convlstm.load_keras_weights(model, path)
            else:
                convlstm.load_keras(path)
        except ValueError:
            continue
    assert torch.is_tensor(model.layers[0].weight_ih)
