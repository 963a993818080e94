"""Run the Dockerfile that `build --docker` writes, step by step, without Docker.

    sudo python run_dockerfile.py --base debian:12 --json results/dockerfile-DATE.json

Each stage is a bare Debian made by debootstrap; each step runs in it by chroot with the stage's
ENV; COPY takes from the committed files or from another stage. The ENTRYPOINT ends it, with
-version and with one transcode, `--also debian:13` in another bare system too: the build carries
what it loads. Needs root, debootstrap and Debian's archive.
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from measure import machine

ROOT = Path(__file__).resolve().parents[3]
SUITES = {"debian:12": "bookworm", "debian:13": "trixie"}
KNOWN = ("FROM", "ENV", "RUN", "COPY", "ENTRYPOINT")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The certificates that this machine trusts, where it says so: those of a proxy, for pip.
CERTIFICATES = "/etc/certificates-of-the-host.crt"
TRUST_BY = ("SSL_CERT_FILE", "PIP_CERT") if os.environ.get("SSL_CERT_FILE") else ()
TRUST = dict.fromkeys(TRUST_BY, CERTIFICATES)
CLIP = Path("packages/ffmpeg-gpu-build/src/ffmpeg_gpu_build/data/clips/hevc.mkv")


@dataclass
class Stage:
    """One FROM with its steps: (instruction, rest of the line)."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def stages(text: str) -> list[Stage]:
    """Parse a Dockerfile. Raises ValueError for a line that is no instruction we write."""
    found: list[Stage] = []
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        word, _, rest = line.partition(" ")
        if not line.strip():
            continue
        if word not in KNOWN or not rest.strip() or (word != "FROM" and not found):
            raise ValueError(f"no instruction: {line!r}")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name or str(len(found))))
        else:
            found[-1].steps.append((word, " ".join(rest.split())))
    return found


@contextlib.contextmanager
def proc_mounted(root: Path):
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", root / "proc"], check=True)


def run_in(root: Path, env: dict[str, str], command: list[str]) -> str:
    """A command in a chroot, its output passed on; returns what it printed."""
    with proc_mounted(root):
        process = subprocess.Popen(
            ["chroot", root, *command], env={"HOME": "/root", "PATH": PATH, **TRUST, **env},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = []
        for line in process.stdout:
            sys.stderr.write(line)
            said.append(line)
        if process.wait():
            sys.exit(f"exit code {process.returncode}: {shlex.join(command)}")
    return "".join(said)


def bare(base: str, root: Path, kept: Path) -> None:
    """A bare system in `root`; the first of its kind is kept as a copy."""
    if not kept.exists():
        part = kept.with_name(kept.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", SUITES[base], part], check=True)
        part.rename(kept)
    subprocess.run(["cp", "-a", kept, root], check=True)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    command = ["apt-config", "dump", "Acquire::Check-Valid-Until"]  # a mirror behind its time
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (root / "etc/apt/apt.conf.d/90host").write_text(said)
    if TRUST:
        shutil.copy(os.environ["SSL_CERT_FILE"], root / CERTIFICATES.lstrip("/"))


def copy(rest: str, root: Path, context: Path, made: dict[str, Path]) -> None:
    match = re.fullmatch(r"(?:--from=(\S+) )?(.+) (\S+)", rest)
    origin = made[match[1]] if match[1] else context
    target = root / match[3].lstrip("/")
    for name in match[2].split():
        source = origin / name.lstrip("/")
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def perform(
    stage: Stage, root: Path, context: Path, made: dict[str, Path]
) -> tuple[dict[str, str], list[dict]]:
    """All steps of a stage; (its ENV, what each step took in seconds)."""
    env: dict[str, str] = {}
    took = []
    for word, rest in stage.steps:
        started, before = time.monotonic(), cpu()
        if word == "ENV":
            given = dict(part.split("=", 1) for part in shlex.split(rest))
            env |= {name: value.replace("$PATH", PATH) for name, value in given.items()}
        elif word == "COPY":
            copy(rest, root, context, made)
        elif word == "RUN":
            run_in(root, env, ["/bin/sh", "-c", rest])
        spent = {"wall": round(time.monotonic() - started, 1), "cpu": round(cpu() - before, 1)}
        took.append({"stage": stage.name, "step": f"{word} {rest}"[:100], **spent})
    return env, took


def enter(root: Path, env: dict[str, str], entry: list[str], clip: Path) -> dict[str, object]:
    """The ENTRYPOINT: what it says of its version, and the frames of a clip that it transcodes."""
    shutil.copy(clip, root / "tmp/in.mkv")
    version = run_in(root, env, [*entry, "-version"]).splitlines()[0]
    job = ["-i", "/tmp/in.mkv", "-c:v", "libx264", "-f", "framecrc", "-"]
    frames = re.findall(r"^0, ", run_in(root, env, [*entry, *job]), re.M)
    files = [p for p in (root / "opt/ffmpeg").rglob("*") if p.is_file() and not p.is_symlink()]
    size = round(sum(p.stat().st_size for p in files) / 2**20, 1)
    return {"says": version, "frames of 12": len(frames), "MiB of /opt/ffmpeg": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", choices=SUITES, default="debian:12")
    parser.add_argument("--profile", default="small")
    parser.add_argument("--folder", type=Path, help="where the systems are made (default: /tmp)")
    parser.add_argument("--also", choices=SUITES, action="append", default=[])
    parser.add_argument("--keep", type=Path, help="where the build is copied to")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    command = [sys.executable, "-m", "ffmpeg_gpu_build", "build", "--profile", a.profile]
    command += ["--docker", a.base]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    folder = Path(tempfile.mkdtemp(prefix="dockerfile-", dir=a.folder))
    try:
        context = folder / "context"
        context.mkdir()
        archive = subprocess.run(
            ["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "x"], cwd=context, input=archive.stdout, check=True)
        made: dict[str, Path] = {}
        steps: list[dict] = []
        for stage in stages(text):
            root = made[stage.name] = folder / f"stage-{stage.name}"
            bare(stage.base, root, folder.parent / f"dockerfile-{SUITES[stage.base]}")
            env, took = perform(stage, root, context, made)
            steps += took
        entry = json.loads(next(rest for word, rest in stage.steps if word == "ENTRYPOINT"))
        said = {a.base: enter(root, env, entry, context / CLIP)}
        for base in a.also:
            other = folder / f"also-{SUITES[base]}"
            bare(base, other, folder.parent / f"dockerfile-{SUITES[base]}")
            shutil.copytree(root / "opt/ffmpeg", other / "opt/ffmpeg", symlinks=True)
            said[base] = enter(other, env, entry, context / CLIP)
        if a.keep:
            shutil.copytree(root / "opt/ffmpeg", a.keep, symlinks=True)
    finally:
        shutil.rmtree(folder)
    result = {
        "benchmark": "run_dockerfile",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "base": a.base,
        "profile": a.profile,
        "steps": steps,
        "entry point": said,
    }
    print(json.dumps(result, indent=1))
    if a.json:
        a.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
