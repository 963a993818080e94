"""Files that people share: modes, links and devices, for everything that this package writes; and
what the system refuses is told as that, not as a damaged file."""

import errno
import os
import resource
import stat
import subprocess
import sys

import numpy as np
import pytest

from spconv_lite.data import pictures, scans

PICTURE = np.zeros((4, 5, 3), np.uint8)


@pytest.fixture(params=["a.png", "a.jpg"])
def name(request):
    if request.param.endswith("jpg"):
        pytest.importorskip("PIL")
    return request.param


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_a_new_file_carries_the_users_umask(name, umask, tmp_path):
    before = os.umask(umask)
    try:
        pictures.write(tmp_path / name, PICTURE)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_old_file_keeps_its_mode_and_a_link_stays_a_link(name, tmp_path):
    real = tmp_path / "real"
    real.write_bytes(b"old")
    real.chmod(0o604)
    (tmp_path / name).symlink_to("real")
    pictures.write(tmp_path / name, PICTURE)
    assert (tmp_path / name).is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o604
    assert real.read_bytes() != b"old"


def test_a_full_device_is_an_error_that_names_the_file_and_stays_a_device(name, tmp_path):
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '.*{name}'"):
        pictures.write(tmp_path / name, PICTURE)
    assert (tmp_path / name).is_symlink()
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_what_cannot_be_written_is_named_and_leaves_the_old_file(name, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"cannot be written.*nowhere/{name}"):
        pictures.write(tmp_path / "nowhere" / name, PICTURE)
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(OSError, match="leads to itself"):
        pictures.write(tmp_path / "loop.png", PICTURE)
    (tmp_path / name).write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "bad")))
    with pytest.raises(OSError, match=f"bad: '.*{name}'"):
        pictures.write(tmp_path / name, PICTURE)
    assert (tmp_path / name).read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "loop.png"])


@pytest.mark.parametrize("ending", ["npy", "bin", "ply", "pcd"])
def test_a_scan_that_the_system_does_not_open_is_not_called_damaged(ending, tmp_path):
    path = tmp_path / f"scan.{ending}"
    path.write_bytes(b"")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
    try:
        with pytest.raises(OSError, match=path.name) as found:
            scans.read_points(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
    assert found.value.errno == errno.EMFILE


def test_a_disk_that_fails_while_a_scan_is_read_is_named_with_the_scan(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(OSError, match=r"Input/output error: '.*a\.npy'"):
        scans.read_points(tmp_path / "a.npy")


def test_a_command_whose_output_nobody_takes_ends_with_a_sentence():
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "spconv_lite", "info"],
            env=environment, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.stderr == "spconv-lite: [Errno 28] No space left on device\n"
    assert done.returncode == 2
