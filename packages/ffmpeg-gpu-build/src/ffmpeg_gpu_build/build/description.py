"""The one description of a build.

`data/components.toml` says what a build can be made of, `data/profiles/*.toml` what one build
wants, `data/releases.toml` which FFmpeg. `resolve` joins them into a `Plan`; the configure line,
the package lists, the conda recipe, the assertions after configure and the list that `verify` goes
through are all read from that plan, so they cannot disagree.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DATA = Path(__file__).parent.parent / "data"
# What --toolchain=hardened does, but for -fstack-protector-all, with which gcc 12.2 at -O3 compiles
# ffv1enc.c wrongly: lossless FFV1 then loses the picture.
HARDENED = (
    "--extra-cflags=-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -fno-strict-overflow "
    "-fstack-protector-strong -fPIE",
    "--extra-ldflags=-Wl,-z,relro -Wl,-z,now",
    "--extra-ldexeflags=-fPIE -pie",
)
# Part, as configure names it -> what `ffmpeg -encoders` and `-decoders` call it.
LISTED_AS = {"libvpx_vp8": "libvpx", "libvpx_vp9": "libvpx-vp9"}
# Debian's package of NVIDIA's headers; it has the series 12.1 alone.
NVIDIA_HEADERS = "libffmpeg-nvenc-dev"
LICENCES = ("lgpl", "gpl", "nonfree")  # each one binds more than the one before
PART_KINDS = (
    "decoder",
    "encoder",
    "hwaccel",
    "parser",
    "demuxer",
    "muxer",
    "bsf",
    "protocol",
    "indev",
    "filter",
)
DEVICE_SUFFIXES = ("_nvenc", "_nvdec", "_cuvid", "_cuda", "_opencl", "_vulkan", "_vaapi", "_qsv")
PROFILE_KEYS = {
    "summary": "text",
    "version": "text",
    "everything": "true or false",
    "cuda": "text",
    "components": "a list of names",
    "parts": "a table of lists of names",
    "configure": "a list of arguments",
}
COMPONENT_KEYS = {
    "summary",
    "licence",
    "configure",
    "apt",
    "rpm",
    "pacman",
    "unpack",
    "conda_build",
    "conda_host",
    "conda_run",
    "needs",
    "too_old",
    "headers",
    "tools",
    "asserts",
    "parts",
    "llvm",
    "nvcc",
}
# Each refused component, with what to do instead.
RETIRED = {
    "npp": "FFmpeg 9 removed libnpp and ignores --enable-libnpp; FFmpeg 8 refuses CUDA 13's. "
    "Use scale_cuda for scale_npp and transpose_cuda for transpose_npp (component cuda-filters)",
}


class DescriptionError(ValueError):
    """A profile or a component that cannot be built; the message names the key and the cure."""


@dataclass(frozen=True)
class Part:
    """One of FFmpeg's own parts: an encoder, a filter, a demuxer."""

    kind: str
    name: str
    component: str

    @property
    def macro(self) -> str:
        """The key in config_components.h that is 1 when the part is really built."""
        return f"CONFIG_{self.name.upper()}_{self.kind.upper()}"

    @property
    def path_id(self) -> str | None:
        """The id under which `verify` judges this part, or None if it is no path of its own.

        Paths are what runs on a device, and the software codecs that come from a library.
        """
        on_device = self.name.endswith(DEVICE_SUFFIXES)
        if self.kind == "encoder" and (on_device or self.name.startswith("lib")):
            return f"encode.{LISTED_AS.get(self.name, self.name)}"
        if self.kind == "hwaccel" and on_device:
            return f"decode.{self.name}"
        if self.kind == "decoder" and (on_device or self.name.startswith("lib")):
            return f"decode.{LISTED_AS.get(self.name, self.name)}"
        if self.kind == "filter" and on_device:
            return f"filter.{self.name}"
        return None


@dataclass(frozen=True)
class Plan:
    """A resolved build. Lists are in order of the components, without repeats."""

    profile: str
    summary: str
    version: str
    everything: bool
    cuda: str
    licence: str
    components: tuple[str, ...]
    component_summaries: Mapping[str, str]
    configure: tuple[str, ...]
    parts: tuple[Part, ...]
    apt: Mapping[str, tuple[str, ...]]
    unpack: Mapping[str, str]
    conda_build: tuple[str, ...]
    conda_host: tuple[str, ...]
    conda_run: tuple[str, ...]
    needs: tuple[str, ...]
    tools: tuple[str, ...]
    macros: Mapping[str, str] = field(default_factory=dict)
    rpm: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pacman: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def licence_sentence(self) -> str:
        """FFmpeg's own name of the licence, then what may be done with the binaries."""
        return {
            "lgpl": "LGPL version 3 or later: may be passed on, with the source of FFmpeg",
            "gpl": "GPL version 3 or later: may be passed on, with the source of all of it",
            "nonfree": "nonfree and unredistributable: for your own machines only",
        }[self.licence]

    def verification(self) -> list[str]:
        """The ids that `verify` must judge for this build, in order."""
        return list(dict.fromkeys(p.path_id for p in self.parts if p.path_id))

    def component_macros(self) -> dict[str, str]:
        """Every macro that must be 1 after configure -> the component that asked for it."""
        found = dict(self.macros)
        for part in self.parts:
            found.setdefault(part.macro, part.component)
        return found

    def configure_line(self, tools: Mapping[str, str] | None = None) -> list[str]:
        """The arguments of FFmpeg's configure, without --prefix.

        `tools` fills the names in braces ({clang}, {nvcc}, {nvccflags}, {glslang}); a name not
        given stands for itself, so that the line can be shown before any tool has been looked for.
        """
        names = {
            "clang": "clang",
            "nvcc": "nvcc",
            "glslang": "glslang",
            "nvccflags": "-gencode arch=compute_75,code=sm_75 -O2",
        }
        names |= dict(tools or {})
        line = [
            "--disable-autodetect",
            "--disable-debug",
            "--disable-doc",
            "--disable-ffplay",
            "--enable-shared",
            "--disable-static",
            *HARDENED,
            "--enable-version3",
        ]
        if self.licence in ("gpl", "nonfree") and self._is_gpl():
            line.append("--enable-gpl")
        if self.licence == "nonfree":
            line.append("--enable-nonfree")
        line += [re.sub(r"\{(\w+)\}", lambda m: names[m[1]], arg) for arg in self.configure]
        if not self.everything:
            line.append("--disable-everything")
            for kind in PART_KINDS:
                of_kind = [p.name for p in self.parts if p.kind == kind]
                if of_kind:
                    line.append(f"--enable-{kind}={','.join(dict.fromkeys(of_kind))}")
        return line

    def _is_gpl(self) -> bool:
        catalogue = components()
        return any(catalogue[name]["licence"] == "gpl" for name in self.components)


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DescriptionError(f"{path}: no valid TOML: {error}") from None


@cache
def components() -> dict[str, dict[str, Any]]:
    """The catalogue: component name -> its table. Raises DescriptionError on an unknown key."""
    table = _load(DATA / "components.toml")
    for name, entry in table.items():
        for key in entry.keys() - COMPONENT_KEYS:
            raise DescriptionError(f"components.toml: [{name}] has an unknown key {key!r}")
    return table


@cache
def releases() -> dict[str, Any]:
    """The releases, the signing key and the driver floors, as in releases.toml."""
    return _load(DATA / "releases.toml")


def profiles() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in (DATA / "profiles").glob("*.toml"))


def version_key(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing: "9.0.2" -> (9, 0, 2); other text is ignored."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def load_profile(profile: str | Path) -> tuple[str, dict[str, Any]]:
    """A profile by name ("small") or by path to a TOML file -> (name, table)."""
    path = Path(profile)
    if path.suffix != ".toml":
        path = DATA / "profiles" / f"{profile}.toml"
        if not path.exists():
            raise DescriptionError(
                f"profile: there is no {profile!r}; take one of {', '.join(profiles())}, or the "
                "path of your own .toml"
            )
    elif not path.is_file():
        raise DescriptionError(f"profile: no such file: {path}")
    table = _load(path)
    for key in table:
        if key not in PROFILE_KEYS:
            raise DescriptionError(
                f"{path.name}: unknown key {key!r}; known: {', '.join(sorted(PROFILE_KEYS))}"
            )
        if not _has_form(table[key], PROFILE_KEYS[key]):
            raise DescriptionError(
                f"{path.name}: {key} must be {PROFILE_KEYS[key]}, got {table[key]!r}"
            )
    if not table.get("components"):
        raise DescriptionError(f"{path.name}: components must be a list of names")
    for argument in table.get("configure", []):
        if re.match(r"--(prefix|\w*dir)\b", argument):
            raise DescriptionError(
                f"{path.name}: configure must not have {argument!r}: the build sets where things go"
            )
    return path.stem, table


def _has_form(value: Any, form: str) -> bool:
    """Whether a value of a profile is what `PROFILE_KEYS` says."""
    if form == "text":
        return isinstance(value, str)
    if form == "true or false":
        return isinstance(value, bool)
    if form.startswith("a table"):
        return isinstance(value, dict) and all(_has_form(v, "a list") for v in value.values())
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _entry(name: str, cuda: str, where: str) -> dict[str, Any]:
    """A component's table with the chosen CUDA compiler merged in."""
    if name in RETIRED:
        raise DescriptionError(f"{where}: {RETIRED[name]}")
    if name not in components():
        raise DescriptionError(
            f"{where}: unknown component {name!r}; known: {', '.join(sorted(components()))}"
        )
    entry = dict(components()[name])
    flavour = entry.get(cuda)
    if flavour:
        for key, value in flavour.items():
            entry[key] = value if isinstance(value, str) else [*entry.get(key, []), *value]
    return entry


def _macros_of_arguments(configure: Iterable[str]) -> list[str]:
    found = []
    for argument in configure:
        match = re.fullmatch(r"--enable-([a-z0-9-]+)", argument)
        if match:
            found.append("CONFIG_" + match[1].replace("-", "_").upper())
    return found


def _parts(entry: Mapping[str, Any], name: str, version: str, where: str) -> list[Part]:
    found = []
    for kind, names in entry.get("parts", {}).items():
        if kind not in PART_KINDS:
            raise DescriptionError(
                f"{where}: parts of unknown kind {kind!r}; known: {', '.join(PART_KINDS)}"
            )
        for text in names:
            part, _, since = text.partition("@")
            if not re.fullmatch(r"[a-z0-9_]+", part):
                raise DescriptionError(f"{where}: {text!r} is no name of a part; no globs")
            if not since or version_key(version) >= version_key(since):
                found.append(Part(kind, part, name))
    return found


def _take_headers(series: str, unpack: dict[str, str], conda: list[str]) -> None:
    """Put another series of NVIDIA's headers into what is unpacked and into the recipe's host."""
    known = {
        row["headers"]: row["version"] for row in releases()["nvenc_floor"] if "version" in row
    }
    if series not in known:
        raise DescriptionError(
            f"headers (--headers): must be one of {', '.join(known)}, got {series!r}"
        )
    if NVIDIA_HEADERS not in unpack:
        raise DescriptionError(
            "headers (--headers): this plan has no NVIDIA part, which would need them"
        )
    unpack[NVIDIA_HEADERS] = known[series]
    for index, package in enumerate(conda):
        if package.startswith("ffnvcodec-headers "):
            conda[index] = f"ffnvcodec-headers {series}.*"


def resolve(
    profile: str | Path = "small",
    *,
    version: str | None = None,
    cuda: str | None = None,
    headers: str | None = None,
    add: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> Plan:
    """Join a profile with the catalogue into a plan.

    `version`, `cuda` ("llvm", "nvcc") override the profile's; `headers` ("11.1", "12.1") is the
    series of NVIDIA's headers, which sets NVENC's driver floor; `add` and `drop` are component
    names.
    Raises DescriptionError for an unknown name, a retired component or a malformed file.
    """
    name, table = load_profile(profile)
    where = f"{name}.toml"
    version = version or table.get("version") or next(iter(releases()["release"]))
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", version):
        raise DescriptionError(f"version: want a release such as 9.0.2, got {version!r}")
    cuda = cuda or table.get("cuda", "llvm")
    if cuda not in ("llvm", "nvcc"):
        raise DescriptionError(f'{where}: cuda must be "llvm" or "nvcc", got {cuda!r}')
    add, dropped = list(add), set(drop)
    for component in dropped - {*table["components"], *add}:
        raise DescriptionError(
            f"drop (--without): {component!r} is not in {where}, which has "
            f"{', '.join(table['components'])}"
        )
    wanted = [c for c in _unique([*table["components"], *add]) if c not in dropped]
    merged: dict[str, list[str]] = {key: [] for key in ("configure", "needs", "tools")}
    merged |= {key: [] for key in ("conda_build", "conda_host", "conda_run")}
    packages: dict[str, dict[str, tuple[str, ...]]] = {"apt": {}, "rpm": {}, "pacman": {}}
    unpack: dict[str, str] = {}
    parts: list[Part] = []
    macros: dict[str, str] = {}
    licence = "lgpl"
    for component in wanted:
        given = where if component in table["components"] else "add (--with)"
        entry = _entry(component, cuda, given)
        for key in merged:
            merged[key] += entry.get(key, [])
        for manager in packages:
            if entry.get(manager):
                packages[manager][component] = tuple(entry[manager])
        for package, lowest in entry.get("unpack", {}).items():
            unpack[package] = max(unpack.get(package, "0"), lowest, key=version_key)
        parts += _parts(entry, component, version, where)
        for macro in [*_macros_of_arguments(entry.get("configure", [])), *entry.get("asserts", [])]:
            macros.setdefault(macro, component)
        licence = max(licence, entry["licence"], key=LICENCES.index)
    if headers is not None:
        _take_headers(headers, unpack, merged["conda_host"])
    parts += _parts(table, "profile", version, where)
    for given in ("gpl", "nonfree"):
        if f"--enable-{given}" in table.get("configure", []):
            licence = max(licence, given, key=LICENCES.index)
    merged["configure"] += table.get("configure", [])
    for macro in _macros_of_arguments(table.get("configure", [])):
        macros.setdefault(macro, "profile")
    return Plan(
        profile=name,
        summary=table.get("summary", ""),
        version=version,
        everything=bool(table.get("everything", False)),
        cuda=cuda,
        licence=licence,
        components=tuple(wanted),
        component_summaries={c: components()[c]["summary"] for c in wanted},
        parts=tuple(dict.fromkeys(parts)),
        **packages,
        unpack=unpack,
        macros=macros,
        **{key: _unique(value) for key, value in merged.items()},
    )


def nvenc_floor(headers: str, system: str = "linux") -> str | None:
    """The driver that NVENC asks for when built against these headers, or None if not known."""
    for row in releases()["nvenc_floor"]:
        if version_key(headers)[:2] >= version_key(row["headers"]):
            return row[system] if version_key(headers)[:2] <= (13, 1) else None
    return None
