"""What the system refuses (no descriptors, a bad disk) is told as that, with the file's name, and
not as a damaged file."""

import contextlib
import errno
import os
import resource
from collections.abc import Iterator

import pytest
import torch

from resnet_zoo import load_model, read_metadata, read_state_dict
from resnet_zoo.training.state import load_checkpoint
from resnet_zoo.weights.cards import read_json


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


@pytest.mark.parametrize("read", [read_state_dict, read_metadata, load_model, read_json])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_file_that_the_system_does_not_open_is_not_called_damaged(read, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"no content of this kind")
    with no_descriptors(), pytest.raises(OSError, match=name) as found:
        read(path)
    assert found.value.errno == errno.EMFILE


def test_a_disk_that_fails_under_the_unpickler_is_named_with_the_file(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(OSError, match=r"Input/output error: '.*a\.pth'"):
        read_state_dict(tmp_path / "a.pth")


def test_a_model_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors"):
        load_model(tmp_path / "missing.safetensors")


def test_a_run_that_cannot_be_read_is_not_said_to_be_damaged_and_overwritten(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"no checkpoint")
    nothing: tuple = (None, None, None, None, None, {})
    with pytest.raises(ValueError, match=r"last\.pt is damaged .*--overwrite"):
        load_checkpoint(path, *nothing)
    with no_descriptors(), pytest.raises(OSError, match=r"Too many open files: '.*last\.pt'"):
        load_checkpoint(path, *nothing)
