"""The README's two commands on a bare Debian, as an ordinary user, with no `CI` variable.

A chroot made by debootstrap holds Python, a C++ compiler and git, and nothing else that we ask for:
no ffmpeg, no EGL, no clang, no gpg. What a system lacks has an embedded default or is a skip.
"""

import os
import re
import resource
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlparse

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = "python3-dev,python3-venv,g++,git,ca-certificates"
RELEASES = ["bookworm", "trixie"]  # Debian 12 with Python 3.11, Debian 13 with Python 3.13
MINUTE_S = 60
SECOND_SET_UP_S = 20  # of the processor's time, so that a busy machine gives the same verdict

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="a chroot needs root"),
    pytest.mark.skipif(
        shutil.which("debootstrap") is None, reason="no debootstrap: apt-get install debootstrap"
    ),
]


def pip_settings() -> dict[str, str]:
    """This machine's pip settings, so that the chroot asks the same indexes."""
    done = subprocess.run(["pip3", "config", "list"], capture_output=True, text=True)
    pairs = re.findall(r"^(?:global|user|:env:|install)\.([a-z-]+)='(.*)'$", done.stdout, re.M)
    return {key: value for key, value in pairs if key != "cert"}


def local_paths(settings: dict[str, str]) -> set[Path]:
    """Files and folders that the settings name; of an index on disk the folder with its wheels."""
    words = [urlparse(word).path for value in settings.values() for word in value.split()]
    paths = {Path(word) for word in words if word.startswith("/") and Path(word).exists()}
    return {path.parent if path.name == "simple" else path for path in paths}


def processor_seconds() -> float:
    """Of all programs that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class BareMachine:
    """A Debian of one release with a clone of this repository, and a user called visitor."""

    def __init__(self, folder: Path, release: str) -> None:
        self.folder = folder
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"debootstrap could not make {release}: {done.stdout[-300:]}")
        subprocess.run(["chroot", folder, "useradd", "-m", "visitor"], check=True)
        settings = pip_settings()
        lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
        (folder / "etc" / "pip.conf").write_text(f"[global]\n{lines}")
        self.mounts = [path for path in local_paths(settings) if path.is_dir()]
        clone = folder / "home" / "visitor" / "clone"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, clone], check=True)
        for path in local_paths(settings) - set(self.mounts):
            (folder / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / path.relative_to("/"))
        certificates = Path("/etc/ssl/certs/ca-certificates.crt")
        if certificates.exists():
            shutil.copy(certificates, folder / certificates.relative_to("/"))
        shutil.copy("/etc/resolv.conf", folder / "etc" / "resolv.conf")
        hosts = f"127.0.0.1 localhost\n127.0.1.1 {socket.gethostname()}\n"
        (folder / "etc" / "hosts").write_text(hosts)  # Debian's installer writes it
        subprocess.run(["chroot", folder, "chown", "-R", "visitor:", "/home/visitor"], check=True)

    def run(self, command: str, *, minutes: float, network: bool = True) -> str:
        """The output of a command in the clone; its mounts vanish with its name space."""
        mounts = [f"mount -t proc proc {self.folder}/proc", f"mount -t tmpfs shm {self.folder}/dev"]
        for device in ("null", "zero", "full", "random", "urandom", "tty"):
            mounts.append(f"mknod_bind {device}")
        mounts.append(f"mkdir {self.folder}/dev/shm && mount -t tmpfs shm {self.folder}/dev/shm")
        for number, name in enumerate(["stdin", "stdout", "stderr"]):
            mounts.append(f"ln -s /proc/self/fd/{number} {self.folder}/dev/{name}")
        mounts.append(f"ln -s /proc/self/fd {self.folder}/dev/fd")
        for path in self.mounts:
            inside = self.folder / path.relative_to("/")
            mounts.append(f"mkdir -p {inside} && mount --bind {path} {inside}")
        script = (
            f"mknod_bind() {{ touch {self.folder}/dev/$1 && "
            f"mount --bind /dev/$1 {self.folder}/dev/$1; }}\n"
            + " &&\n".join(mounts)
            + f" &&\nexec chroot --userspec=visitor:visitor {self.folder} "
            f"env -i HOME=/home/visitor PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 "
            f"sh -c 'cd ~/clone && {command}'"
        )
        spaces = ["unshare", "--mount", "--pid", "--fork"] + ([] if network else ["--net"])
        done = subprocess.run(
            [*spaces, "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=minutes * MINUTE_S,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout


@pytest.fixture(scope="module", params=RELEASES)
def bare(request, tmp_path_factory) -> BareMachine:
    return BareMachine(tmp_path_factory.mktemp("bare") / request.param, request.param)


def test_the_demo_shows_its_cards_and_a_second_run_is_offline(bare):
    bare.run("python3 tools/demo.py", minutes=30)
    page = (bare.folder / "home/visitor/clone/demo/index.html").read_text()
    assert page.count("<section id=") == 7  # six packages, and one where several meet
    assert 'class="failed"' not in page
    before = processor_seconds()
    bare.run("python3 tools/setup.py", minutes=5, network=False)
    assert processor_seconds() - before < SECOND_SET_UP_S
    bare.run("python3 tools/demo.py", minutes=30, network=False)


def test_the_tests_pass_and_what_was_skipped_is_named(bare):
    printed = bare.run("python3 tools/test.py", minutes=90)
    assert re.search(r"^\d+ passed, 0 failed, \d+ skipped$", printed, re.M)
    assert "apt-get install" in printed
