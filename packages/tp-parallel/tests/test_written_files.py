"""Files that people share: modes, links and devices, for everything that this package writes."""

import os
import stat

import pytest

from tp_parallel import GPTConfig, GPTModel, ParallelContext, checkpoint
from tp_parallel.training import convert
from tp_parallel.training.files import replacing
from tp_parallel.training.tokens import open_tokens, write_tokens


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_new_files_carry_the_users_umask(umask, tmp_path):
    config = GPTConfig(vocab_size=13, hidden=8, layers=1, heads=2, max_positions=8,
                       activation="gelu_tanh", dtype="float32")  # fmt: skip
    before = os.umask(umask)
    try:
        write_tokens(tmp_path / "tokens", [[1, 2], [3]])
        with ParallelContext(device="cpu") as context:
            models = [GPTModel(config, context=context)]
            saved = checkpoint.save(tmp_path / "run", 1, models, None, context=context)
        convert.export_folder(saved, tmp_path / "hf")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"tokens.bin", "tokens.idx", "manifest.json", ".metadata", "config.json"} <= {
        path.name for path in files
    }
    modes = {str(path): stat.S_IMODE(path.stat().st_mode) for path in files}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)


def test_tokens_follow_links_keep_modes_and_leave_nothing_of_a_failure(tmp_path):
    (tmp_path / "far.bin").write_bytes(b"old")
    (tmp_path / "far.bin").chmod(0o640)
    (tmp_path / "c.bin").symlink_to("far.bin")
    (tmp_path / "c.idx").symlink_to("later.idx")
    with pytest.raises(ValueError, match="must fit into"):
        write_tokens(tmp_path / "c", [[1], [1 << 40]])
    assert (tmp_path / "far.bin").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["c.bin", "c.idx", "far.bin"]
    write_tokens(tmp_path / "c", [[1, 2], [3]])
    assert (tmp_path / "c.bin").is_symlink()
    assert (tmp_path / "c.idx").is_symlink()
    assert stat.S_IMODE((tmp_path / "far.bin").stat().st_mode) == 0o640
    assert open_tokens(tmp_path / "c").stream.tolist() == [1, 2, 3]


def test_a_full_device_is_an_error_and_stays_a_device(tmp_path):
    (tmp_path / "c.bin").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_tokens(tmp_path / "c", [[1, 2]])
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert os.listdir(tmp_path) == ["c.bin"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="leads to itself"), replacing(tmp_path / "loop"):
        pass
