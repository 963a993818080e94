"""Answers kept on disk: used again, asked again when something changed, harmless when torn."""

import os
import shutil
import threading

import pytest

from ffmpeg_gpu_build import kept
from ffmpeg_gpu_build.__main__ import main
from ffmpeg_gpu_build.build.work import only_one
from ffmpeg_gpu_build.ffmpeg import Ffmpeg
from ffmpeg_gpu_build.media import pipeline
from ffmpeg_gpu_build.verification.verdict import ABSENT, Verdict


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ffmpeg-gpu-build"


@pytest.fixture
def asked(monkeypatch, cache):
    """The devices that were really asked; what the process itself remembers is forgotten."""
    found = []

    def check(machine, name):
        found.append(name)
        return Verdict(f"device.{name}", ABSENT, "no-driver", "none here", command=("ffmpeg",))

    monkeypatch.setattr(pipeline, "check_device", check)
    pipeline._proof.cache_clear()
    yield found
    pipeline._proof.cache_clear()


def again(program, device=""):
    pipeline._proof.cache_clear()
    return pipeline.proof(program, "device.opencl", device)


def test_a_proof_is_not_made_twice_for_one_program_driver_and_device(ffmpeg, asked, monkeypatch):
    first = again(ffmpeg)
    assert again(ffmpeg) == first
    assert asked == ["opencl"]
    again(ffmpeg, device="1")
    assert len(asked) == 2
    monkeypatch.setattr(kept, "stamp_of_devices", lambda: ("another driver",))
    again(ffmpeg)
    assert len(asked) == 3
    again(Ffmpeg.at(ffmpeg, LD_LIBRARY_PATH="/elsewhere"))
    assert len(asked) == 4


def test_a_proof_is_made_again_for_a_program_that_changed_and_after_a_day(
    asked, tmp_path, monkeypatch
):
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    again(Ffmpeg(script))
    script.write_text("#!/bin/sh\n\n")
    again(Ffmpeg(script))
    assert len(asked) == 2
    now = kept.time.time()
    monkeypatch.setattr(kept.time, "time", lambda: now + pipeline.PROOF_SECONDS + 1)
    again(Ffmpeg(script))
    assert len(asked) == 3


@pytest.mark.parametrize("torn", [b"", b'{"time": 1e18, "ans', b"[]", b"\xff\xfe", b"{}"])
def test_a_torn_file_is_no_answer(cache, torn):
    assert kept.answer("proofs", "q", lambda: 1) == 1
    (file,) = (cache / "proofs").iterdir()
    file.write_bytes(torn)
    assert kept.answer("proofs", "q", lambda: 2) == 2
    assert kept.answer("proofs", "q", lambda: 3) == 2


def test_a_cache_that_cannot_be_written_keeps_nothing_and_is_no_error(cache):
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert [kept.answer("proofs", "q", lambda n=n: n) for n in (1, 2)] == [1, 2]


def test_the_file_has_the_users_umask_and_many_writers_leave_one(cache):
    old = os.umask(0o027)
    try:
        work = lambda: [kept.answer("x", n % 3, lambda n=n: n % 3) for n in range(60)]  # noqa: E731
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.umask(old)
    files = list((cache / "x").iterdir())
    assert len(files) == 3
    assert {f.stat().st_mode & 0o777 for f in files} == {0o640}


def test_what_a_program_lists_is_kept_for_the_next_process_until_it_changes(cache, tmp_path):
    script = tmp_path / "ffmpeg"
    text = "#!/bin/sh\necho x >> {0}/runs\ncase $2 in -encoders) printf ' ------\\n V..... one\\n';; *) echo ffmpeg version 9;; esac\n"  # noqa: E501
    script.write_text(text.format(tmp_path))
    script.chmod(0o755)
    code = f"from ffmpeg_gpu_build.ffmpeg import Ffmpeg; print(Ffmpeg.at({str(script)!r}).encoders)"
    import subprocess
    import sys

    for runs in (1, 1):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "one" in done.stdout, done.stderr
        assert (tmp_path / "runs").read_text().count("x") == runs
    script.write_text(text.format(tmp_path) + "\n")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "runs").read_text().count("x") == 2


def test_clean_removes_what_is_kept_but_not_under_a_build_at_work(cache, capsys):
    kept.answer("proofs", "q", lambda: 1)
    work = cache / "9.0.2-small-llvm"
    (work / "objects").mkdir(parents=True)
    assert main(["clean", "--dry-run"]) == 0
    assert (cache / "proofs").is_dir()
    with only_one(work / "build"):
        assert main(["clean"]) == 1
    assert "at work" in capsys.readouterr().err
    assert os.listdir(cache) == [work.name]
    assert main(["clean"]) == 0
    assert os.listdir(cache) == []
    shutil.rmtree(cache)
    assert main(["clean"]) == 0
