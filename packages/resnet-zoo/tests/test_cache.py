"""Faults of servers, disks and processes: each ends in the right file or in the right sentence."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from resnet_zoo import ResNet18_Weights, WeightsError, cache_dir, get_model, resnet18, save_weights
from resnet_zoo import download as downloading
from resnet_zoo.weights.cache import Remote, fetch, recorded_hash, sha256_of

DATA = bytes(torch.randint(0, 256, (600_000,), generator=torch.Generator().manual_seed(1)).tolist())
ARGUMENTS = {"num_classes": 4, "stem": "small", "planes": 8}


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch):
    monkeypatch.setattr(downloading, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("RESNET_ZOO_TIMEOUT", "5")


@pytest.fixture
def remote(server):
    name, _ = server.add("data", DATA, ".bin")
    return Remote.from_url(f"{server.url}/{name}")


def assert_good(path):
    assert path.read_bytes() == DATA
    left = {p.name for p in path.parent.iterdir()} - {path.name + ".lock"}
    assert left == {path.name, path.name + ".sha256"}
    assert recorded_hash(path) == hashlib.sha256(DATA).hexdigest()


def names(server):
    return [name for name, _ in server.requests]


def test_a_download_is_verified_recorded_and_used_again_without_the_network(server, remote):
    path = fetch(remote)
    assert path == cache_dir() / remote.name
    assert_good(path)
    assert fetch(remote, offline=True) == path
    assert len(server.requests) == 1


def test_the_record_has_the_format_of_sha256sum(remote):
    path = fetch(remote)
    check = ["sha256sum", "-c", path.name + ".sha256"]
    assert subprocess.run(check, cwd=path.parent, capture_output=True).returncode == 0


@pytest.mark.parametrize("faults", [["drop"], ["drop", "drop", "drop"], ["500", "drop", "500"]])
def test_a_dropped_connection_is_resumed_where_it_broke(server, remote, faults):
    server.faults[remote.name] = list(faults)
    assert_good(fetch(remote))
    resumed = [int(asked[6:-1]) for _, asked in server.requests if asked]
    assert resumed == sorted(resumed)
    assert resumed[0] == len(DATA) // 2


def test_a_stalled_connection_times_out_and_is_resumed(server, remote, monkeypatch):
    monkeypatch.setenv("RESNET_ZOO_TIMEOUT", "0.3")
    server.faults[remote.name] = ["stall"]
    assert_good(fetch(remote))
    assert [asked is None for _, asked in server.requests] == [True, False]


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused_by_name(remote, monkeypatch, text):
    monkeypatch.setenv("RESNET_ZOO_TIMEOUT", text)
    with pytest.raises(ValueError, match=f"RESNET_ZOO_TIMEOUT must be .* got '{text}'"):
        fetch(remote)


def test_a_server_without_ranges_starts_over(server, remote):
    server.faults[remote.name] = ["drop", "no ranges"]
    assert_good(fetch(remote))


def test_a_file_that_changed_on_the_server_is_not_stitched_together(server, remote):
    part = cache_dir() / (remote.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    part.with_name(part.name + ".json").write_text(
        f'{{"url": "{remote.url}", "etag": "\\"old\\""}}'
    )
    assert_good(fetch(remote))
    assert server.requests == [(remote.name, "bytes=1000-")]


def test_a_bad_kept_part_is_thrown_away_and_fetched_whole(server, remote):
    part = cache_dir() / (remote.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    part.with_name(part.name + ".json").write_text(f'{{"url": "{remote.url}", "etag": "\\"v1\\""}}')
    assert_good(fetch(remote))
    assert [asked for _, asked in server.requests] == ["bytes=1000-", None]


def test_a_kept_part_longer_than_the_file_starts_over(server, remote):
    part = cache_dir() / (remote.name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA + b"more")
    part.with_name(part.name + ".json").write_text(f'{{"url": "{remote.url}", "etag": ""}}')
    assert_good(fetch(remote))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("flip", "expected"),
        ("short file", "300,000 bytes"),
        ("html", "web page"),
        ("html as octets", "looks like a web page"),
        ("404", "404"),
    ],
)
def test_wrong_content_is_refused_with_address_fact_and_cure(server, remote, fault, said):
    server.faults[remote.name] = [fault] * 9
    with pytest.raises(WeightsError) as caught:
        fetch(remote)
    text = str(caught.value)
    assert said in text
    assert remote.url in text
    assert "Cure:" in text
    assert "RESNET_ZOO_MIRROR" in text
    assert not any(p.name.startswith(remote.name + ".part") for p in cache_dir().iterdir())
    assert not (cache_dir() / remote.name).exists()
    assert len(server.requests) == 1


def test_a_server_that_stays_down_keeps_the_part_and_says_so(server, remote):
    server.faults[remote.name] = ["drop", *["500"] * 20]
    with pytest.raises(WeightsError, match=r"300,000 bytes are kept"):
        fetch(remote)
    server.faults[remote.name] = []
    assert_good(fetch(remote))


def test_nobody_listening_is_one_sentence():
    with pytest.raises(WeightsError, match="Connection refused"):
        fetch(Remote.from_url("http://127.0.0.1:9/w-00000000.pth"))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
def test_a_damaged_file_in_the_cache_is_replaced_online_and_named_offline(
    server, remote, capsys, damage
):
    path = fetch(remote)
    bad = {"flipped": b"\0" + DATA[1:], "truncated": DATA[:-1], "empty": b""}[damage]
    path.write_bytes(bad)
    with pytest.raises(WeightsError) as caught:
        fetch(remote, offline=True)
    assert str(path) in str(caught.value)
    assert "RESNET_ZOO_OFFLINE" in str(caught.value)
    assert path.read_bytes() == bad
    assert_good(fetch(remote))
    assert "damaged" in capsys.readouterr().err


def test_the_recorded_full_hash_catches_what_a_name_without_hash_cannot(server):
    server.files["plain.bin"] = DATA
    remote = Remote.from_url(f"{server.url}/plain.bin")
    path = fetch(remote)
    path.write_bytes(DATA[:-1] + b"\0")
    with pytest.raises(WeightsError, match="was recorded when it was downloaded"):
        fetch(remote, offline=True)
    assert_good(fetch(remote))


def test_a_file_that_torch_hub_left_is_used_and_recorded(server, remote):
    path = cache_dir() / remote.name
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    assert fetch(remote) == path
    assert server.requests == []
    assert recorded_hash(path) == sha256_of(path)


@pytest.mark.parametrize("variable", ["RESNET_ZOO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_variables_forbid_the_network(server, remote, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(WeightsError, match="downloads are off"):
        fetch(remote)
    assert server.requests == []


@pytest.mark.parametrize("name", ["../evil.pth", "a/b.pth", ".hidden", "", "x" * 300])
def test_a_name_that_could_leave_the_folder_is_refused(name):
    with pytest.raises(WeightsError, match="not a plain file name"):
        fetch(Remote("http://127.0.0.1:9/x", name))


def test_a_symlinked_cache_folder_works(remote, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "link"))
    assert_good(fetch(remote))


CHILD = textwrap.dedent(
    """
    import sys
    from resnet_zoo.weights.cache import Remote, WeightsError, fetch
    try:
        print(fetch(Remote.from_url(sys.argv[1]), progress=False))
    except WeightsError as error:
        sys.exit(f"refused: {error}")
    """
)


def child(remote, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, remote.url],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_download_once(server, remote):
    server.faults[remote.name] = ["drop"]
    children = [child(remote) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in children]
    assert [process.returncode for process in children] == [0, 0], outputs
    assert_good(cache_dir() / remote.name)
    assert [asked is None for _, asked in server.requests] == [True, False]


def test_a_killed_download_is_resumed_by_the_next_process(server, remote):
    server.faults[remote.name] = ["stall"]
    process = child(remote, RESNET_ZOO_TIMEOUT="60")
    part = cache_dir() / (remote.name + ".part")
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 0):
        assert time.monotonic() < deadline, process.poll()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (cache_dir() / remote.name).exists()
    kept = part.stat().st_size
    assert_good(fetch(remote))
    assert server.requests[1] == (remote.name, f"bytes={kept}-")


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A file system of 256 KiB, where the tests may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command).returncode != 0:
        pytest.skip("mounting a small file system needs root on Linux")
    monkeypatch.setenv("TORCH_HOME", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_too_small_is_told_before_the_first_byte(small_disk, remote):
    with pytest.raises(WeightsError, match="no space for") as caught:
        fetch(remote)
    assert "TORCH_HOME" in str(caught.value)
    assert not (cache_dir() / remote.name).exists()


def test_a_disk_that_fills_up_in_the_middle_is_told(small_disk, remote, monkeypatch):
    monkeypatch.setattr(downloading, "_refuse_full_disk", lambda *_: None)
    with pytest.raises(WeightsError, match="no space for"):
        fetch(remote)
    assert not (cache_dir() / remote.name).exists()


def test_a_file_size_limit_is_told(remote):
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    process = subprocess.run(
        [sys.executable, "-c", limited + CHILD, remote.url], capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "no space for" in process.stderr


def test_a_read_only_cache_serves_its_files_and_says_what_to_do_for_others(
    small_disk, server, remote
):
    name, _ = server.add("small", DATA[:1000], ".bin")
    there = fetch(Remote.from_url(f"{server.url}/{name}"))
    there.with_name(there.name + ".sha256").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert fetch(Remote.from_url(f"{server.url}/{name}")) == there
    with pytest.raises(WeightsError, match="cannot be written") as caught:
        fetch(remote)
    assert "TORCH_HOME" in str(caught.value)


# -- from the cache into models ---------------------------------------------------------------


@pytest.fixture
def published(server, tmp_path):
    """A tiny trained-like model on the server; returns (model, address)."""
    model = resnet18(**ARGUMENTS)
    save_weights(model, tmp_path / "w.safetensors")
    name, _ = server.add("tiny", (tmp_path / "w.safetensors").read_bytes())
    return model, f"{server.url}/{name}"


def test_a_model_loads_from_an_address_through_the_cache(server, published):
    model, url = published
    again = resnet18(weights=url, stem="small", planes=8)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    resnet18(weights=url, stem="small", planes=8, offline=True)
    assert len(server.requests) == 1


def test_an_entry_goes_through_the_mirror_and_its_hash_still_counts(server, monkeypatch):
    monkeypatch.setenv("RESNET_ZOO_MIRROR", server.url + "/mirror/")
    server.files["resnet18-f37072fd.pth"] = DATA
    with pytest.raises(WeightsError, match="expected f37072fd"):
        resnet18(weights="IMAGENET1K_V1")
    assert names(server) == ["resnet18-f37072fd.pth"]
    assert ResNet18_Weights.DEFAULT.url == f"{server.url}/mirror/resnet18-f37072fd.pth"


def test_a_hugging_face_repo_is_verified_by_the_declared_hash(server, published, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    data = server.files[published[1].rsplit("/", 1)[1]]
    server.files["model.safetensors"] = data
    server.files["config.json"] = (
        b'{"architecture": "resnet18", "num_classes": 4, "label_names": ["a", "b", "c", "d"], '
        b'"pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.8, '
        b'"interpolation": "bicubic", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}'
    )
    server.faults["model.safetensors"] = ["redirect", "flip"]
    with pytest.raises(WeightsError, match="expected"):
        resnet18(weights="owner/tiny", stem="small", planes=8)
    server.faults["model.safetensors"] = ["redirect"]
    model = resnet18(weights="hf:owner/tiny", stem="small", planes=8)
    assert model.source.categories() == ["a", "b", "c", "d"]
    transform = model.source.transforms()
    assert (transform.crop_size, transform.resize_size) == (64, 80)
    assert (transform.interpolation, transform.mean) == ("bicubic", (0.5, 0.5, 0.5))
    offline = get_model("resnet18", weights="owner/tiny", stem="small", planes=8, offline=True)
    assert torch.equal(offline.fc.weight, model.fc.weight)
    assert Path(model.source.path()).name == "owner--tiny--model.safetensors"
