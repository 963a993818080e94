"""What the system refuses (no descriptors, a bad disk) is told as that, with the file's name, and
not as a damaged file."""

import contextlib
import errno
import os
import resource
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

import convlstm
from convlstm.__main__ import main
from convlstm._files import system_error
from convlstm.forecasting.recordings import load_recordings
from convlstm.forecasting.training import read_checkpoint

READERS = {
    "a.keras": convlstm.load_keras,
    "a.h5": convlstm.load_keras,
    "a.npy": load_recordings,
    "a.npz": load_recordings,
    "a.png": load_recordings,
    "a.gif": load_recordings,
    "a.mp4": load_recordings,
    "a.pt": read_checkpoint,
}


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_the_system_does_not_open_is_not_called_damaged(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"no content of this kind")
    with pytest.raises(ValueError, match=name):
        READERS[name](path)
    with no_descriptors(), pytest.raises(OSError, match=name) as found:
        READERS[name](path)
    assert found.value.errno == errno.EMFILE


@pytest.mark.parametrize("name", ["a.npy", "a.png"])
def test_a_disk_that_fails_under_a_library_is_named_with_the_file(name, tmp_path, monkeypatch):
    path = tmp_path / name
    np.save(path, np.zeros((2, 8, 8))) if name == "a.npy" else Image.new("L", (8, 8)).save(path)

    def fail(*args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(np, "load", fail)
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match=rf"Input/output error: '.*{name}'"):
        load_recordings(path)


def test_a_lack_of_memory_is_said_of_a_keras_file(tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_bytes(b"")
    monkeypatch.setattr("convlstm.keras.files._read_hdf5", lambda _: bytes(1 << 62))
    monkeypatch.setattr("convlstm.keras.files.Reader", lambda file: file)
    with pytest.raises(ValueError, match=r"a\.h5 is no Keras file, or damaged: or not enough mem"):
        convlstm.load_keras(tmp_path / "a.h5")


def test_what_a_library_raises_of_the_content_is_no_error_of_the_system():
    foreign = type("FFmpegError", (OSError,), {"__module__": "av.error"})
    assert system_error(OSError("cannot identify image file"), "a") is None
    assert system_error(OSError(errno.EINVAL, "a seek to a negative place"), "a") is None
    assert system_error(OSError(-51, "NetCDF: Unknown file format"), "a") is None
    assert system_error(foreign(errno.EIO, "damaged"), "a") is None
    assert system_error(ValueError(5), "a") is None
    told = system_error(OSError(errno.EACCES, "Permission denied"), "a")
    assert isinstance(told, PermissionError)
    assert told.filename == "a"


def test_a_file_in_place_of_the_folder_for_a_run_is_told_before_work_begins(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    missing = str(tmp_path / "missing")
    for out in (str(tmp_path / "file"), str(tmp_path / "file" / "run")):
        for words in (["train", "-o", out, "--data", missing], ["import-keras", missing, out]):
            assert main(words) == 1
            said = capsys.readouterr().err
            assert said.startswith(f"convlstm: {words[0]}: out must be a folder, got {out}: ")
