"""A Dockerfile that does what `build` does, on a bare Ubuntu or Debian."""

from __future__ import annotations

import base64
import shlex
from pathlib import Path

from .description import Plan, components
from .emit import apt_packages

BASES = ("ubuntu:22.04", "ubuntu:24.04", "debian:12", "debian:13")


def _profile(profile: str) -> tuple[str, str]:
    """(what --profile is given in the image, the step that brings it there): your own TOML goes
    along in the text, for it may lie outside the context.
    """
    file = Path(profile)
    if file.suffix != ".toml":
        return profile, ""
    there = f"/tool/{file.name}"
    text = base64.b64encode(file.read_bytes()).decode()
    return there, f"RUN echo {text} | base64 -d > {shlex.quote(there)}\n"


def _refuse_what_is_too_old(plan: Plan, base: str) -> None:
    """Raises ValueError for a component whose package is older in that base than it must be."""
    for name in plan.components:
        entry = components()[name]
        has = entry.get("too_old", {}).get(base)
        if has:
            raise ValueError(
                f"docker: component {name} needs {', '.join(entry['needs'])}, {base} has {has}: "
                f"add --without {name}, or take a newer base of {', '.join(BASES)}"
            )


def dockerfile(plan: Plan, base: str, profile: str, choices: list[str]) -> str:
    """The text of a Dockerfile for one of `BASES`; its context is the root of this repository.

    `profile` and `choices` are the arguments that chose the plan ("small", ["--without", "x264"]).
    The second stage holds the build and, by `--bundle`, the libraries that it loads, nothing of the
    compilers.
    Raises ValueError for another base, and for a component that the base has too old.
    """
    if base not in BASES:
        raise ValueError(f"docker: base must be one of {', '.join(BASES)}, got {base!r}")
    _refuse_what_is_too_old(plan, base)
    vulkan = "vulkan" in plan.components
    loader = ["libvulkan1"] if vulkan else []  # opened at run time: what is here is carried
    names = ["ca-certificates", "python3-venv", *loader, *apt_packages(plan)]
    packages = " \\\n        ".join(names)
    sources = "packages/ffmpeg-gpu-build"
    chosen, bring = _profile(profile)
    arguments = shlex.join(["--profile", chosen, *choices])
    capabilities = "compute,utility,video" + (",graphics" if vulkan else "")
    return f"""\
# FFmpeg {plan.version}, profile {plan.profile}. {plan.licence_sentence}.
# docker build -f Dockerfile -t ffmpeg-gpu .    (in the root of the repository)
FROM {base} AS build
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends \\
        {packages}
COPY VERSION LICENSE /tool/
COPY {sources} /tool/{sources}
RUN python3 -m venv /venv && /venv/bin/pip install /tool/{sources}
{bring}RUN /venv/bin/ffmpeg-gpu-build build {arguments} --release {plan.version} \\
        --cuda {plan.cuda} --bundle --prefix /opt/ffmpeg --work /build

FROM {base}
COPY --from=build /opt/ffmpeg /opt/ffmpeg
ENV PATH=/opt/ffmpeg/bin:$PATH NVIDIA_DRIVER_CAPABILITIES={capabilities}
ENTRYPOINT ["ffmpeg"]
"""
