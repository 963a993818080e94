"""Sources: the wrong file is never unpacked, and a hostile archive leaves nothing behind."""

import hashlib
import io
import subprocess
import tarfile

import pytest

from ffmpeg_gpu_build.build import source
from ffmpeg_gpu_build.build.description import DATA, releases
from ffmpeg_gpu_build.build.source import SourceError


def tarball(path, members, top="ffmpeg-9.9.9"):
    with tarfile.open(path, "w:xz") as archive:
        for name, kind, extra in [(f"{top}/VERSION", "file", b"9.9.9"), *members]:
            info = tarfile.TarInfo(name)
            if kind == "file":
                info.size = len(extra)
                archive.addfile(info, io.BytesIO(extra))
                continue
            info.type = {"symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE,
                         "device": tarfile.CHRTYPE, "fifo": tarfile.FIFOTYPE}[kind]  # fmt: skip
            info.linkname = extra.decode()
            archive.addfile(info)
    return path


def test_a_whole_archive_is_unpacked_under_its_folder(tmp_path):
    inside = [
        ("ffmpeg-9.9.9/a/b.c", "file", b"int b;"),
        ("ffmpeg-9.9.9/link.c", "symlink", b"a/b.c"),
        ("ffmpeg-9.9.9/a/up.c", "symlink", b"../VERSION"),
    ]
    file = tarball(tmp_path / "x.tar.xz", inside)
    folder = source.unpack(file, tmp_path / "out")
    assert (folder / "link.c").read_text() == "int b;"
    assert (folder / "a" / "up.c").read_text() == "9.9.9"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["ffmpeg-9.9.9"]


@pytest.mark.parametrize(
    ("name", "kind", "extra", "reason"),
    [
        ("ffmpeg-9.9.9/../../evil", "file", b"x", "leaves the folder"),
        ("/etc/evil", "file", b"x", "leaves the folder"),
        ("other/evil", "file", b"x", "is not below"),
        ("ffmpeg-9.9.9/l", "symlink", b"/etc/passwd", "links to '/etc/passwd'"),
        ("ffmpeg-9.9.9/l", "symlink", b"../../etc/passwd", "outside"),
        ("ffmpeg-9.9.9/a/l", "symlink", b"../../x", "outside"),
        ("ffmpeg-9.9.9/l", "link", b"../outside", "outside"),
        ("ffmpeg-9.9.9/l", "symlink", b"a/../../x", "outside"),
        ("ffmpeg-9.9.9/l", "symlink", b"a/..", "through another link"),
        ("ffmpeg-9.9.9/l", "symlink", b"a/b/..", "through another link"),
        ("ffmpeg-9.9.9", "symlink", b"ffmpeg-9.9.9", "goes through a link"),
        ("ffmpeg-9.9.9/null", "device", b"", "is a device"),
        ("ffmpeg-9.9.9/pipe", "fifo", b"", "is a device"),
    ],
)
def test_a_hostile_member_stops_the_whole_archive(tmp_path, name, kind, extra, reason):
    file = tarball(tmp_path / "x.tar.xz", [(name, kind, extra)])
    with pytest.raises(SourceError, match=reason) as caught:
        source.unpack(file, tmp_path / "out")
    assert caught.value.code == "unsafe-archive"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("filtered", [True, False])  # Python 3.10.0 has no filter of its own
@pytest.mark.parametrize(
    "members",
    [
        # each link stays inside by its words; together they climb to the folder above
        [("d/s", "symlink", b".."), ("e", "symlink", b"d/s/../.."), ("e/evil", "file", b"x")],
        [("d/s", "symlink", b".."), ("d/s/evil", "file", b"x")],
        [("s", "symlink", b"d"), ("h", "link", b"ffmpeg-9.9.9/s/x")],
    ],
)
def test_links_that_leave_only_together_stop_the_whole_archive(
    tmp_path, monkeypatch, members, filtered
):
    if not filtered:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    file = tarball(tmp_path / "x.tar.xz", [(f"ffmpeg-9.9.9/{n}", k, e) for n, k, e in members])
    with pytest.raises(SourceError, match="link") as caught:
        source.unpack(file, tmp_path / "out")
    assert caught.value.code == "unsafe-archive"
    assert [p.name for p in tmp_path.rglob("evil")] == []


def test_an_archive_of_the_folder_itself_is_refused_by_name(tmp_path):
    file = tmp_path / "x.tar"
    with tarfile.open(file, "w") as archive:
        folder = tarfile.TarInfo(".")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    with pytest.raises(SourceError, match="is not below"):
        source.unpack(file, tmp_path / "out")


@pytest.mark.parametrize("keep", [0, 10, 100, -60])
def test_a_damaged_archive_is_called_damaged(tmp_path, keep):
    file = tarball(tmp_path / "x.tar.xz", [("ffmpeg-9.9.9/a", "file", bytes(range(256)) * 40)])
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(SourceError) as caught:
        source.unpack(file, tmp_path / "out")
    assert caught.value.code == "damaged"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wrong_checksum_is_refused_and_a_right_one_is_not(tmp_path):
    file = tmp_path / "ffmpeg-9.0.2.tar.xz"
    file.write_bytes(b"something else")
    with pytest.raises(SourceError, match="damaged or another one") as caught:
        source.check(file, "9.0.2")
    assert caught.value.code == "wrong-checksum"
    digest = hashlib.sha256(b"something else").hexdigest()
    assert source.check(file, "9.0.2", sha256=digest.upper()).sha256 == digest
    with pytest.raises(SourceError) as caught:
        source.check(file, "1.2.3")
    assert caught.value.code == "not-pinned"


def test_every_pinned_release_has_a_whole_checksum():
    for version, entry in releases()["release"].items():
        assert len(bytes.fromhex(entry["sha256"])) == 32, version


@pytest.fixture(scope="module")
def signer(need, tmp_path_factory):
    """A key of our own, made here: signs a file, gives its armoured public key."""
    need("gpg", "gpgv")
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    base = ["gpg", "--homedir", str(home), "--batch", "--quiet"]
    spec = "%no-protection\nKey-Type: eddsa\nKey-Curve: ed25519\nName-Real: Test\n%commit\n"
    subprocess.run([*base, "--gen-key"], input=spec, text=True, check=True, timeout=60)
    key = home / "key.asc"
    key.write_bytes(
        subprocess.run([*base, "--armor", "--export"], check=True, capture_output=True).stdout
    )

    def sign(file):
        target = file.with_name(file.name + ".asc")
        subprocess.run(
            [*base, "--armor", "-o", str(target), "--detach-sign", str(file)], check=True
        )
        return target

    yield sign, key
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def test_a_good_signature_passes_and_a_changed_file_does_not(signer, tmp_path):
    sign, key = signer
    file = tmp_path / "a.tar.xz"
    file.write_bytes(b"the release")
    signature = sign(file)
    assert len(source.check_signature(file, signature, key)) == 40
    file.write_bytes(b"the release, changed")
    with pytest.raises(SourceError, match="do not use this file") as caught:
        source.check_signature(file, signature, key)
    assert caught.value.code == "bad-signature"


def test_another_key_is_not_the_release_key(signer, tmp_path):
    sign, _ = signer
    file = tmp_path / "a.tar.xz"
    file.write_bytes(b"the release")
    with pytest.raises(SourceError) as caught:
        source.check(file, "9.0.2", signature=sign(file), sha256=source.sha256_of(file))
    assert caught.value.code == "bad-signature"


def test_the_release_key_that_comes_with_the_package_is_the_pinned_one(need, tmp_path):
    need("gpg")
    file = DATA / releases()["key"]["file"]
    tmp_path.chmod(0o700)
    shown = subprocess.run(
        ["gpg", "--homedir", str(tmp_path), "--with-colons", "--show-keys", str(file)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    first = next(line for line in shown.splitlines() if line.startswith("fpr:"))
    assert first.split(":")[9] == releases()["key"]["fingerprint"]
    assert source.dearmoured(file.read_text())[0] & 0x80  # an OpenPGP packet


def test_no_connection_is_a_sentence_and_leaves_no_part(tmp_path, monkeypatch):
    import urllib.error

    def refuse(*_, **__):
        raise urllib.error.URLError("unreachable")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(SourceError, match="--source FILE") as caught:
        source.download("9.0.2", tmp_path)
    assert caught.value.code == "offline"
    assert list(tmp_path.iterdir()) == []
