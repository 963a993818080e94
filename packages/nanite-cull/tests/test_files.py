"""Files that people share: modes, links and devices, for everything that writes."""

import os
import stat
import threading

import numpy as np
import pytest

import nanite_cull as nc
from nanite_cull import orbit, pictures

IMAGE = np.zeros((4, 4, 3), np.uint8)
WRITERS = {
    "a.ncl": lambda asset, path: asset.save(path),
    "a.png": lambda asset, path: pictures.save(IMAGE, path),
    "a.jpg": lambda asset, path: pictures.save(IMAGE, path),
    "a.gif": lambda asset, path: orbit.save_gif([IMAGE, IMAGE], path),
}


@pytest.fixture(params=sorted(WRITERS))
def name(request):
    return request.param


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_a_new_file_carries_the_users_umask(name, umask, planet_asset, tmp_path):
    before = os.umask(umask)
    try:
        WRITERS[name](planet_asset, tmp_path / name)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_old_file_keeps_its_mode_and_a_link_stays_a_link(name, planet_asset, tmp_path):
    real, link = tmp_path / f"real-{name}", tmp_path / name
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to(real.name)
    WRITERS[name](planet_asset, link)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert len(real.read_bytes()) > 3


def test_a_link_that_points_nowhere_yet_is_filled(name, planet_asset, tmp_path):
    (tmp_path / name).symlink_to("later")
    WRITERS[name](planet_asset, tmp_path / name)
    assert (tmp_path / name).is_symlink()
    assert (tmp_path / "later").is_file()


def test_a_full_device_is_an_error_and_stays_a_device(name, planet_asset, tmp_path):
    link = tmp_path / name
    link.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        WRITERS[name](planet_asset, link)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_fifo_is_written_to(name, planet_asset, tmp_path):
    os.mkfifo(tmp_path / name)
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / name).read_bytes()))
    reader.start()
    WRITERS[name](planet_asset, tmp_path / name)
    reader.join()
    assert stat.S_ISFIFO((tmp_path / name).stat().st_mode)
    WRITERS[name](planet_asset, tmp_path / f"again-{name}")
    assert received == [(tmp_path / f"again-{name}").read_bytes()]


def test_a_missing_folder_is_named(name, planet_asset, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        WRITERS[name](planet_asset, tmp_path / "nowhere" / name)


def test_a_suffix_that_is_no_image_is_refused(planet_asset, tmp_path):
    frame = nc.Renderer(8, 8).render(nc.Scene(planet_asset), nc.Camera.around(planet_asset))
    with pytest.raises(ValueError, match=r"'\.xyz' names no kind of image"):
        frame.save(tmp_path / "a.xyz")


def test_a_link_that_leads_to_itself_is_told_and_stays(name, planet_asset, tmp_path):
    (tmp_path / name).symlink_to(name)
    with pytest.raises(OSError, match="a symlink that leads to itself"):
        WRITERS[name](planet_asset, tmp_path / name)
    assert (tmp_path / name).is_symlink()
