"""What a plan is written out as: package lists, the recipe of the built FFmpeg, a summary."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable

from .description import NVIDIA_HEADERS, Plan, nvenc_floor, releases

RECIPE_HEAD = """\
# The FFmpeg that the profile describes. Written by `ffmpeg-gpu-build plan --show recipe`; a test
# holds the two equal, so change the profile or the components, not this file.
"""
BINUTILS = ("cc", "ar", "nm", "ranlib", "strip")


def apt_packages(plan: Plan) -> list[str]:
    """Every apt package of the plan, once; those to unpack from a newer suite are not among
    them.
    """
    return packages_of(plan, "apt")


def packages_of(plan: Plan, manager: str) -> list[str]:
    """Every package of the plan by the names of "apt", "rpm" or "pacman", once."""
    named = getattr(plan, manager)
    return list(dict.fromkeys(p for packages in named.values() for p in packages))


def headers_version(plan: Plan) -> str | None:
    """The NVIDIA headers that the plan builds against, or None without NVIDIA parts."""
    return plan.unpack.get(NVIDIA_HEADERS)


def summary(plan: Plan) -> str:
    """What would be built, for a reader."""
    release = releases()["release"].get(plan.version, {})
    headers = headers_version(plan)
    lines = [
        f"FFmpeg {plan.version}, profile {plan.profile}: {plan.summary}",
        f"source    sha256 {release.get('sha256', 'not pinned: pass --sha256')}",
        f"licence   {plan.licence_sentence}",
    ]
    if headers:
        floor = nvenc_floor(headers)
        lines.append(f"NVIDIA    headers {headers}: NVENC needs driver {floor} or newer")
    lines += ["", "components"]
    for name in plan.components:
        packages = " ".join(plan.apt.get(name, ()))
        lines.append(
            f"  {name:<14}{plan.component_summaries[name]}"
            + (f"  [{packages}]" if packages else "")
        )
    if plan.unpack:
        lines += ["", "unpacked into the build folder where the system's are older"]
        lines += [f"  {package} >= {lowest}" for package, lowest in plan.unpack.items()]
    lines += ["", "configure", "  " + _folded(plan.configure_line(), 96).replace("\n", "\n  ")]
    lines += ["", f"asserted after configure: {len(plan.component_macros())} settings"]
    lines += [f"judged by verify: {len(plan.verification())} paths"]
    return "\n".join(lines)


def _folded(arguments: Iterable[str], width: int) -> str:
    rows, row = [], ""
    for word in (shlex.quote(a) for a in arguments):
        if row and len(row) + len(word) + 1 > width:
            rows.append(row + " \\")
            row = ""
        row += (" " if row else "") + word
    return "\n".join([*rows, row])


def _list(items: Iterable[str], indent: int) -> str:
    pad = " " * indent
    return "".join(f"{pad}- {item}\n" for item in items)


def recipe(plan: Plan) -> str:
    """A v1 recipe of the built FFmpeg. Raises ValueError if the release has no pinned SHA-256."""
    release = releases()["release"].get(plan.version)
    if release is None:
        raise ValueError(
            f"recipe: FFmpeg {plan.version} is not pinned here, and a recipe needs its SHA-256: "
            f"take one of {', '.join(releases()['release'])}"
        )
    configure = plan.configure_line({"clang": "clang", "glslang": "glslang"})
    url = releases()["key"]["url"].replace("{version}", "${{ version }}")
    quoted = "\n".join(f"        {shlex.quote(argument)} \\" for argument in configure)
    licences = {
        "lgpl": "LGPL-3.0-or-later",
        "gpl": "GPL-3.0-or-later",
        "nonfree": "LicenseRef-nonfree",
    }
    verify = f'ffmpeg-gpu-build verify --ffmpeg "$PREFIX/bin/ffmpeg" --profile {plan.profile}'
    # by their names, for FFmpeg keeps its configure line and a path would be the build machine's
    tools = " ".join(f'--{name}="${{{name.upper()}##*/}}"' for name in BINUTILS)
    files = ["COPYING.LGPLv3", *(["COPYING.GPLv3"] if plan.licence != "lgpl" else [])]
    return f"""{RECIPE_HEAD}schema_version: 1
context:
  name: ffmpeg-gpu
  version: "{plan.version}"
package:
  name: ${{{{ name }}}}
  version: ${{{{ version }}}}
source:
  url: {url}
  sha256: {release["sha256"]}
build:
  number: 0
  string: {plan.licence}_{plan.profile}_h${{{{ hash }}}}_0
  script:
    content: |
      set -e
      unset SUBDIR  # conda's platform, but a folder of sources in FFmpeg's makefiles
      ./configure --prefix="$PREFIX" {tools} \\
        --extra-cflags="-I$PREFIX/include" --extra-ldflags="-L$PREFIX/lib" \\
{quoted}
        || {{ tail -n 40 ffbuild/config.log; exit 1; }}
      make -j"$CPU_COUNT"
      make install
requirements:
  build:
{_list(plan.conda_build, 4)}  host:
{_list(plan.conda_host, 4)}  run:
{_list(plan.conda_run, 4)}tests:
  - script:
      # the build is judged, not the Vulkan driver of the machine that builds it
      - export VK_LOADER_DRIVERS_DISABLE='*'
      - {verify}
    requirements:
      run:
        - ffmpeg-gpu-build
about:
  license: {licences[plan.licence]}
  license_file: {json.dumps(files)}
  summary: {json.dumps("FFmpeg " + plan.version + ": " + plan.summary)}
  homepage: https://ffmpeg.org
"""
