"""What users ask to be written: permissions, links, devices, failures."""

import json
import os
import stat

import pytest
from PIL import Image

from resnet_zoo import get_model, save_weights
from resnet_zoo.cli import main
from resnet_zoo.files import replacing, write_text

ARGUMENTS = {"num_classes": 2, "stem": "small", "planes": 8}


@pytest.fixture
def trained(tmp_path):
    path = tmp_path / "w.safetensors"
    transforms = {"crop_size": 16, "resize_size": 16}
    metadata = {"model": "resnet18", "model_args": ARGUMENTS, "transforms": transforms}
    save_weights(get_model("resnet18", **ARGUMENTS), path, metadata)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    return path


def write_all(trained, folder):
    """Every writer of the package, each into `folder`."""
    photo = str(trained.with_name("a.png"))
    save_weights(get_model("resnet18", **ARGUMENTS), folder / "w.safetensors")
    assert main(["draw", "resnet18", "-o", str(folder / "d.svg")]) == 0
    predict = ["predict", photo, "--weights", str(trained)]
    assert main([*predict, "-o", str(folder / "p.jsonl"), "--cam", str(folder)]) == 0
    write_text(folder / "t.txt", "text")
    return {"w.safetensors", "d.svg", "p.jsonl", "t.txt", "a-cam.png"}


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_files_have_the_permissions_that_the_umask_leaves(trained, tmp_path, mask, mode):
    (tmp_path / "out").mkdir()
    before = os.umask(mask)
    try:
        names = write_all(trained, tmp_path / "out")
    finally:
        os.umask(before)
    found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").iterdir()}
    assert found == dict.fromkeys(names, mode)


def test_links_are_followed_and_old_files_keep_their_permissions(trained, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "out").mkdir()
    for name in write_all(trained, tmp_path / "far"):
        (tmp_path / "far" / name).write_bytes(b"old")
        (tmp_path / "far" / name).chmod(0o640)
        (tmp_path / "out" / name).symlink_to(tmp_path / "far" / name)
    for name in write_all(trained, tmp_path / "out"):
        assert (tmp_path / "out" / name).is_symlink()
        assert (tmp_path / "far" / name).read_bytes() != b"old"
        assert stat.S_IMODE((tmp_path / "far" / name).stat().st_mode) == 0o640


def test_devices_are_written_to_and_never_replaced(trained):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    model = get_model("resnet18", **ARGUMENTS)
    save_weights(model, "/dev/null")
    with pytest.raises(OSError, match="No space left"):
        save_weights(model, "/dev/full")
    assert main(["predict", str(trained.with_name("a.png")), "--weights", str(trained),
                 "-o", "/dev/null"]) == 0  # fmt: skip
    for name in ("/dev/null", "/dev/full"):
        assert stat.S_ISCHR(os.stat(name).st_mode)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as aside:
        aside.write_text(json.dumps([1 / 0]))
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "x")
    with pytest.raises(NotADirectoryError, match=r"cannot be written: .*: '.*/a/b\.svg'$"):
        write_text(tmp_path / "a" / "b.svg", "x")


def test_a_link_that_leads_to_itself_is_told_and_stays(tmp_path):
    (tmp_path / "a.txt").symlink_to("b.txt")
    (tmp_path / "b.txt").symlink_to("a.txt")
    with pytest.raises(OSError, match="a symlink that leads to itself"):
        write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "b.txt").is_symlink()
