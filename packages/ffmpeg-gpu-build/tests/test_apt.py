"""apt without touching the system: which archives are read, and what happens without parts."""

import os
import shutil
import subprocess

import pytest

from ffmpeg_gpu_build.build import apt, headers
from ffmpeg_gpu_build.build.apt import AptError, Archive, PrivateApt

DEB822 = """\
# the distribution
Types: deb
# a comment inside
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://archive.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://other.example/debian
Suites: x
"""
ONE_LINE = """\
# deb http://commented.example/debian x main
deb [arch=amd64 signed-by=/k.gpg] http://archive.example/ubuntu noble main universe
deb-src http://archive.example/ubuntu noble main
"""


@pytest.fixture
def etc(tmp_path, monkeypatch):
    folder = tmp_path / "etc"
    (folder / "sources.list.d").mkdir(parents=True)
    (folder / "sources.list.d" / "debian.sources").write_text(DEB822)
    (folder / "sources.list.d" / "old.list.disabled").write_text(ONE_LINE)
    monkeypatch.setattr(apt, "system_id", lambda *_: "debian")
    return folder


def test_both_formats_are_read_and_what_is_disabled_is_not(etc):
    (etc / "sources.list").write_text(ONE_LINE)
    assert apt.archives(etc) == [
        Archive("http://archive.example/ubuntu", "/k.gpg"),
        Archive("http://archive.example/debian", "/usr/share/keyrings/debian.gpg"),
        Archive("http://archive.example/debian-security", ""),
    ]
    assert apt.main_archive(etc).uri == "http://archive.example/debian"


def test_no_archive_of_the_system_is_an_error(tmp_path):
    with pytest.raises(AptError, match="no archive of"):
        apt.main_archive(tmp_path)


SHOWSRC = """Package: ffmpeg
Version: 7:7.1.5-0+deb13u1
Checksums-Sha256:
 aa 1 ffmpeg_7.1.5.orig.tar.xz

Package: ffmpeg
Version: 7:9.0.2-4
Checksums-Sha256:
 bb 1 ffmpeg_9.0.2.orig.tar.xz
 cc 1 ffmpeg_9.0.2.orig.tar.xz.asc
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """apt-get and apt-cache of our own in front of PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(name, body):
        (folder / name).write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{body}\n')
        (folder / name).chmod(0o755)

    return write


def private(etc, tmp_path, programs):
    lists = tmp_path / "apt" / "lists"
    programs("apt-get", f"""case "$*" in
  *update*) touch {lists}/x_Sources.gz;;
  *--download-only*) touch ffmpeg_9.0.2.orig.tar.xz ffmpeg_9.0.2.orig.tar.xz.asc
            echo "E: Failed to fetch ffmpeg_9.0.2-4.dsc  404" >&2; exit 100;;
  *download*) for p in "$@"; do :; done; touch "$(echo $p | sed 's/=/_/;s/:/%3a/')_all.deb";;
esac""")  # fmt: skip
    programs("apt-cache", f"""case "$*" in
  *showsrc*) cat <<'X'
{SHOWSRC}X
;;
  *madison*) for v in 9.0-1 12.1.14.0-1 13.1-1; do echo " h | $v | x Packages"; done
             echo " h | 12.2-1 | x Sources";;
esac""")  # fmt: skip
    programs("dpkg-deb", 'mkdir -p "$3/usr"; basename "$2" > "$3/usr/which"')
    return PrivateApt(tmp_path / "apt", etc)


def test_a_tarball_is_had_though_the_packaging_is_gone(etc, tmp_path, programs):
    here = private(etc, tmp_path, programs)
    file, signature = here.fetch_source("ffmpeg", "9.0.2")
    assert file.name == "ffmpeg_9.0.2.orig.tar.xz"
    assert signature.name == file.name + ".asc"
    calls = (tmp_path / "calls").read_text()
    assert "--download-only ffmpeg=7:9.0.2-4" in calls
    assert f"Dir::State::Lists={tmp_path}/apt/lists" in calls
    assert calls.count(" update") == 1
    with pytest.raises(AptError, match=r"no suite here has ffmpeg 6\.0"):
        here.fetch_source("ffmpeg", "6.0")


def test_a_suite_that_apt_refuses_is_named_and_asked_for_again(etc, tmp_path, programs):
    here = private(etc, tmp_path, programs)
    programs(
        "apt-get",
        f"""case "$*" in *update*) touch {tmp_path}/apt/lists/x_Sources.gz
        echo 'E: Release file for sid is expired' >&2; exit 100;; esac""",
    )
    with pytest.raises(AptError, match=r"has ffmpeg 6\.0 \(apt refused a suite: E: Release file"):
        here.fetch_source("ffmpeg", "6.0")
    private(etc, tmp_path, programs).fetch_source("ffmpeg", "9.0.2")
    private(etc, tmp_path, programs).fetch_source("ffmpeg", "9.0.2")
    assert (tmp_path / "calls").read_text().count(" update") == 2  # the whole one is kept


def test_a_suite_that_can_not_be_reached_is_an_error_to_apt_too(etc, tmp_path, programs):
    system = shutil.which("apt-get")
    if not system:
        pytest.skip("no apt-get")
    here = private(etc, tmp_path, programs)
    (tmp_path / "apt" / "lists" / "x_Sources").touch()  # those of another suite
    (here.folder / "sources.list").write_text("deb http://127.0.0.1:1/debian sid main\n")
    programs("apt-get", f'exec {system} -o Acquire::Retries=0 "$@"')
    here.update()
    assert "E: Failed to fetch http://127.0.0.1:1" in here.refused
    assert not (here.folder / "lists.whole").exists()


def test_the_system_s_own_lists_are_not_read_and_its_keys_are(etc, tmp_path, programs):
    private(etc, tmp_path, programs)
    text = (tmp_path / "apt" / "sources.list").read_text()
    for suite in ("trixie", "sid"):
        line = f"[signed-by=/usr/share/keyrings/debian.gpg] http://archive.example/debian {suite}"
        assert f"deb {line} main\n" in text
        assert f"deb-src {line} main\n" in text


def test_the_lowest_version_that_will_do_is_unpacked(etc, tmp_path, programs):
    here = private(etc, tmp_path, programs)
    into = tmp_path / "headers"
    assert here.unpack("nv", "12.1", into) == "12.1.14.0-1"
    assert (into / "usr" / "which").read_text() == "nv_12.1.14.0-1_all.deb\n"
    with pytest.raises(AptError, match="no suite here has nv 99 or newer"):
        here.unpack("nv", "99", into)


def test_unpacked_pc_files_point_to_where_they_lie(need, tmp_path):
    need("pkg-config")
    folder = tmp_path / "nv" / "usr" / "share" / "pkgconfig"
    folder.mkdir(parents=True)
    text = "prefix=/usr\nincludedir=${prefix}/include\nName: n\nDescription: n\nVersion: 12.1\n"
    (folder / "nv.pc").write_text(text + "Cflags: -I${includedir}\n")
    assert headers.repoint(tmp_path / "nv") == 1
    env = {**os.environ, **headers.environment(tmp_path / "nv")}
    done = subprocess.run(["pkg-config", "--cflags", "nv"], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == f"-I{tmp_path}/nv/usr/include"


@pytest.mark.parametrize("lists", ["empty", "whole"])
def test_a_bare_machine_fetches_its_lists_before_it_installs(tmp_path, programs, lists):
    programs("apt-cache", "" if lists == "empty" else 'echo "  Candidate: 1.0"')
    programs("apt-get", "")
    assert apt.install(["nasm"]) == {}
    calls = (tmp_path / "calls").read_text()
    assert ("update" in calls) == (lists == "empty")
    assert "DPkg::Lock::Timeout=300 install -y" in calls  # another apt at work is waited for


def test_arm_machines_have_their_archive_under_another_name(tmp_path, monkeypatch):
    monkeypatch.setattr(apt, "system_id", lambda *_: "ubuntu")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://ports.example/ubuntu-ports noble main\n")
    assert apt.main_archive(tmp_path).uri == "http://ports.example/ubuntu-ports"
