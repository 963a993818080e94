"""A channel of stand-ins: this machine's Python, wheels and compilers in the shape of conda-forge.

With it every recipe is built, solved, installed and tested without a network, unchanged. A stand-in
holds links to the machine's files, so the whole channel is small and packed in seconds. It claims
versions of compilers and a glibc that are not true: what is built with it proves the recipe and is
never published (`artifacts.built_with_standins` finds the mark in every such build).
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import workspace
from predicted import run_exports
from shipping.artifacts import MARK
from shipping.rattler_child import call, index
from shipping.recipes import Build
from shipping.subdirs import SUBDIR

CONDA_NAMES = {"torch": "pytorch", "opencv-python-headless": "opencv"}
COMPILER_CACHE = workspace.ROOT / "build" / "ccache"
COMPILERS = ("14.3", "15.2")
GLIBCS = ("2.17", "2.28")

# Asks an interpreter where it is and what is installed beside it.
PROBE = r"""
import importlib.metadata as m, json, re, sys, sysconfig
site = sysconfig.get_path("purelib")
canonical = lambda name: re.sub(r"[-_.]+", "-", name).lower()
dists = {}
for d in m.distributions(path=[site]):
    direct = d.read_text("direct_url.json") or ""
    if '"editable"' in direct:
        continue
    tops = {f.parts[0] for f in d.files or [] if f.parts[0] not in ("..", "__pycache__")}
    needs = [r for r in d.requires or [] if "extra ==" not in r]
    needs = [canonical(re.match(r"[A-Za-z0-9._-]+", r).group()) for r in needs]
    name = canonical(d.metadata["Name"])
    dists[name] = {"version": d.version, "tops": sorted(tops), "needs": needs}
print(json.dumps({
    "version": ".".join(map(str, sys.version_info[:3])),
    "base": sys.base_prefix, "stdlib": sysconfig.get_path("stdlib"), "site": site,
    "include": sysconfig.get_path("include", vars={"installed_base": sys.base_prefix}),
    "library": sysconfig.get_config_var("LDLIBRARY"),
    "libdir": sysconfig.get_config_var("LIBDIR"),
    "dists": dists}))
"""


class UnsuitablePython(RuntimeError):
    """The interpreter cannot stand in for conda-forge's."""


@dataclass
class StandIn:
    """A package to be: links and small texts by path in the prefix."""

    name: str
    version: str
    build: str = f"{MARK}_0"
    number: int = 0
    depends: list[str] = field(default_factory=list)
    constrains: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    copies: dict[str, Path] = field(default_factory=dict)
    exports: dict[str, list[str]] = field(default_factory=dict)
    more: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Pack as `.tar.bz2` into the platform's folder of a channel."""
        contents = {path: text.encode() for path, text in self.texts.items()}
        contents |= {path: source.read_bytes() for path, source in self.copies.items()}
        paths = [
            {
                "_path": path,
                "path_type": "hardlink",
                "sha256": hashlib.sha256(data).hexdigest(),
                "size_in_bytes": len(data),
            }
            for path, data in contents.items()
        ]
        paths += [{"_path": path, "path_type": "softlink"} for path in self.links]
        index = {
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "build_number": self.number,
            "depends": self.depends,
            "constrains": self.constrains,
            "arch": "x86_64",
            "platform": "linux",
            "subdir": SUBDIR,
            "license": "a stand-in, not for publication",
        }
        info = {
            "index.json": index | self.more,
            "paths.json": {"paths": paths, "paths_version": 1},
            "run_exports.json": self.exports,
            "about.json": {"summary": "stand-in made from one machine's files; never publish"},
        }
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, data in info.items():
                _add(archive, f"info/{name}", json.dumps(data).encode())
            _add(archive, "info/files", "\n".join([*contents, *self.links, ""]).encode())
            for path, data in contents.items():
                _add(archive, path, data)
            for path, target in self.links.items():
                link = tarfile.TarInfo(path)
                link.type, link.linkname = tarfile.SYMTYPE, target
                archive.addfile(link)
        file = folder / f"{self.name}-{self.version}-{self.build}.tar.bz2"
        file.write_bytes(bz2.compress(buffer.getvalue(), 1))


def cannot_build(build: Build, pythons: dict[str, Path]) -> str | None:
    """Why stand-ins of this machine cannot build `build`; None if they can.

    `pythons` are the interpreters of environments with the wheels, by version (`3.11`).
    """
    if build.kind == "other":
        return "its source is downloaded"
    if build.python and build.python not in pythons:
        return f"no environment with Python {build.python} was given"
    if build.kind.startswith("cuda"):
        wanted, present = build.variant["cuda_compiler_version"], cuda_version()
        if present != wanted:
            return f"it needs nvcc {wanted}, " + (
                f"this is {present}" if present else "there is none"
            )
    return None


def cuda_version() -> str | None:
    """`13.0`, the version of the nvcc on PATH, or None."""
    nvcc = shutil.which("nvcc")
    if not nvcc:
        return None
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release (\d+\.\d+)", said).group(1)


def has_torch(python: Path) -> bool:
    code = "import importlib.util as u; raise SystemExit(u.find_spec('torch') is None)"
    return subprocess.run([python, "-c", code]).returncode == 0


def interpreter(version: str) -> str | None:
    """A Python of that version (`3.12`) that starts: on PATH, or installed by pyenv or uv."""
    name, home = f"python{version}", Path.home()
    folders = [
        Path(os.environ.get("PYENV_ROOT", home / ".pyenv"), "versions"),
        home / ".local/share/uv/python",
    ]
    found = [shutil.which(name)]
    for folder in folders:
        found += sorted(map(str, folder.glob(f"*{version}*/bin/{name}")))
    for path in filter(None, found):  # a version manager's command may be there and not start
        if _starts(path):
            return path
    return None


def _starts(program: Path | str) -> bool:
    try:
        return subprocess.run([program, "-c", ""], capture_output=True).returncode == 0
    except OSError:
        return False


def environment(version: str, wanted: set[str]) -> Path:
    """The Python of an environment of that version with the wheels that `wanted` names, by pip.

    All but torch, whose wheel with what it needs is several GB: builds for this Python are made and
    loaded, not tested (`has_torch`). The environment lies below build/; a second call with the same
    wheels finds it made. Raises RuntimeError when there is no such interpreter or pip fails.
    """
    program = interpreter(version)
    if program is None:
        raise RuntimeError(f"no python{version} on this machine")
    folder = workspace.ROOT / "build" / "standins" / f"python{version}"
    pypi = {conda: dist for dist, conda in CONDA_NAMES.items()}
    system = re.compile(
        r"python|pytorch|python-abi3|(gxx|gcc|sysroot|cuda).*|lib(gcc|stdcxx|cudnn)"
    )
    wheels = sorted(pypi.get(name, name) for name in wanted if not system.fullmatch(name))
    python = folder / "bin" / "python"
    stamp = folder / "wheels.json"
    present = json.loads(stamp.read_text()) if stamp.exists() else []
    if set(wheels) <= set(present) and _starts(python):
        return python
    wheels = sorted({*wheels, *present})
    for command in (
        [program, "-m", "venv", "--clear", folder],
        [python, "-m", "pip", "install", "--quiet", "-c", workspace.CONSTRAINTS, *wheels],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()[-1:]
            raise RuntimeError(f"no environment with {program}: {' '.join(said)}")
    stamp.write_text(json.dumps(wheels))
    return python


def make_channel(
    folder: Path, pythons: list[Path], wanted: set[str], compiler_cache: Path | None
) -> list[StandIn]:
    """Write and index a channel with everything that `wanted`, conda package names, leads to.

    `pythons` are interpreters of environments that hold the wheels; one for each Python version.
    Where ccache is installed, builds keep their objects in `compiler_cache`; None: every object is
    compiled anew. Raises RuntimeError where a wanted package is on this machine in no form.
    """
    packages = [*_compilers(compiler_cache), *_abi_markers()]
    for python in pythons:
        packages += _environment(python, wanted)
    missing = wanted - {package.name for package in packages}
    if missing:
        raise RuntimeError(
            f"no stand-in can be made for {', '.join(sorted(missing))}: install the wheel into the "
            f"environment of {pythons[0]}, or teach tests/standins.py"
        )
    subdir = folder / SUBDIR
    subdir.mkdir(parents=True)
    (folder / "noarch").mkdir()
    for package in packages:
        package.write(subdir)
    call(index, folder=str(folder))
    return packages


def _environment(python: Path, wanted: set[str]) -> list[StandIn]:
    """Python itself and the wheels beside it, as far as wanted."""
    answer = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout)
    minor = ".".join(found["version"].split(".")[:2])
    program = Path(found["base"], "bin", f"python{minor}")
    ask = [program, "-c", "import sysconfig; print(sysconfig.get_default_scheme())"]
    scheme = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    if scheme != "posix_prefix":
        raise UnsuitablePython(
            f"{program} installs by a scheme of its distribution ({scheme}), which a conda prefix "
            "cannot have: make the environment with a Python built from python.org's sources"
        )
    spelled = {_canonical(name): name for name in wanted}
    by_dist = {dist: CONDA_NAMES.get(dist, spelled.get(dist, dist)) for dist in found["dists"]}
    waiting = [dist for dist, name in by_dist.items() if name in wanted]
    packed: dict[str, list[StandIn]] = {}
    while waiting:
        dist = waiting.pop()
        if dist not in packed:
            packed[dist] = _wheel(dist, by_dist, found, minor)
            waiting += [need for need in found["dists"][dist]["needs"] if need in by_dist]
    itself = _python(found, minor)
    if "torch" not in found["dists"]:  # the solver takes such a Python only where no other will do
        itself.more["track_features"] = f"{MARK}_without_torch"
    if "pytorch" in wanted and "torch" not in found["dists"]:
        tag = f"py{minor.replace('.', '')}"
        build = f"cpu_{MARK}_empty_{tag}_0"  # lets the solver go on; nothing can import it
        packed["torch"] = [StandIn("pytorch", "2.13.0", build, depends=[f"python {minor}.*"])]
    return [itself, *(one for each in packed.values() for one in each)]


def _wheel(dist: str, by_dist: dict[str, str], found: dict, minor: str) -> list[StandIn]:
    """One installed wheel, by links; pytorch twice, as a CPU and as a CUDA build."""
    about, site = found["dists"][dist], Path(found["site"])
    tag = f"py{minor.replace('.', '')}"
    needs = [by_dist[need] for need in about["needs"] if need in by_dist]
    depends = [f"python {minor}.*", *needs]
    links = {f"lib/python{minor}/site-packages/{top}": str(site / top) for top in about["tops"]}
    version = about["version"].split("+")[0]
    if dist in ("cmake", "ninja"):  # programs: conda-forge's packages need no Python
        return [StandIn(dist, version, links={f"bin/{dist}": _program(site, dist)})]
    if dist == "meshoptimizer":  # conda-forge's is the C library; the wheel's module holds its code
        (module,) = (site / dist).glob("_meshoptimizer*.so")
        return [StandIn(dist, "1.0", links={"lib/libmeshoptimizer.so": str(module)})]
    if dist != "torch":
        build = f"{MARK}_{tag}_0"
        return [StandIn(by_dist[dist], version, build, depends=depends, links=links)]
    cpu = StandIn("pytorch", version, f"cpu_{MARK}_{tag}_0", depends=depends, links=links)
    cuda = StandIn("pytorch", version, f"cuda130_{MARK}_{tag}_200", 200, links=links)
    cuda.depends = [*depends, "__cuda", "cuda-version >=13.0,<14"]
    return [cpu, cuda]


def _program(site: Path, dist: str) -> str:
    inside = site / dist / "data" / "bin" / dist
    return str(inside if inside.exists() else site.parents[2] / "bin" / dist)


def _python(found: dict, minor: str) -> StandIn:
    """Python: the program copied, the standard library, headers and libpython linked."""
    package = StandIn("python", found["version"], f"{MARK}_0_cpython")
    home = f"lib/python{minor}"
    program = Path(found["base"], "bin", f"python{minor}")
    package.copies[f"bin/python{minor}"] = program
    package.links = {"bin/python3": f"python{minor}", "bin/python": f"python{minor}"}
    for path in sorted(Path(found["stdlib"]).iterdir()):
        if path.name not in ("site-packages", "dist-packages", "test", "__pycache__"):
            package.links[f"{home}/{path.name}"] = str(path)
    package.links[f"include/python{minor}"] = found["include"]
    for path in sorted(Path(found["libdir"]).glob("libpython3*.so*")):
        package.links[f"lib/{path.name}"] = str(path)
    package.texts[f"{home}/site-packages/README.txt"] = "This directory exists so that it exists.\n"
    package.exports = run_exports("python", minor)
    package.more["python_site_packages_path"] = f"{home}/site-packages"
    return package


def _abi_markers() -> list[StandIn]:
    packages = [StandIn("_python_abi3_support", "1.0", depends=["cpython"])]
    for minor in ("3.10", "3.11", "3.12", "3.13"):
        tag = minor.replace(".", "")
        only = f"python {minor}.*"
        exports = run_exports("python-abi3", minor)
        packages += [
            StandIn("python_abi", minor, f"{MARK}_cp{tag}", constrains=[f"{only} *_cpython"]),
            StandIn("cpython", f"{minor}.0", f"{MARK}_py{tag}_0", depends=[only]),
            StandIn("python-abi3", minor, f"{MARK}_0", depends=[only], exports=exports),
        ]
    return packages


# The flags are those that matter to a build of the activation scripts of conda-forge's compilers.
ACTIVATE_CXX = """\
export CC={cc} CXX={cxx}
export CFLAGS="-march=nocona -mtune=haswell -ftree-vectorize -fPIC -fstack-protector-strong \
-fno-plt -O2 -ffunction-sections -pipe -isystem $PREFIX/include \
-fdebug-prefix-map=$SRC_DIR=/usr/local/src/conda/$PKG_NAME-$PKG_VERSION \
-fdebug-prefix-map=$PREFIX=/usr/local/src/conda-prefix"
export CXXFLAGS="-fvisibility-inlines-hidden -fmessage-length=0 $CFLAGS"
export LDFLAGS="-Wl,-O2 -Wl,--sort-common -Wl,--as-needed -Wl,-z,relro -Wl,-z,now \
-Wl,--disable-new-dtags -Wl,--gc-sections -Wl,-rpath,$PREFIX/lib -Wl,-rpath-link,$PREFIX/lib \
-L$PREFIX/lib"
"""
# Of use only where CMake finds ccache.
ACTIVATE_CCACHE = "export CCACHE_DIR={cache}\n"
ACTIVATE_NO_CCACHE = "export CCACHE_DISABLE=1\n"
ACTIVATE_CUDA = """\
export CUDACXX={nvcc} CUDAToolkit_ROOT={root} CUDAHOSTCXX={cxx}
export NVCC_PREPEND_FLAGS="-ccbin={cxx}"
"""


def _compilers(cache: Path | None) -> list[StandIn]:
    """The system's g++ and nvcc as the packages that `compiler()` and `stdlib()` name."""
    cc, cxx, nvcc = (shutil.which(name) for name in ("gcc", "g++", "nvcc"))
    if not cxx or not cc:
        raise RuntimeError("stand-ins need gcc and g++ on PATH (Debian: apt install g++)")
    script = "etc/conda/activate.d/{}.sh"
    caching = ACTIVATE_CCACHE.format(cache=cache) if cache else ACTIVATE_NO_CCACHE
    packages = []
    for version in COMPILERS:
        major = version.split(".")[0]
        gxx = StandIn(f"gxx_{SUBDIR}", version, exports=run_exports(f"gxx_{SUBDIR}", major))
        gxx.texts[script.format("gxx")] = ACTIVATE_CXX.format(cc=cc, cxx=cxx) + caching
        packages.append(gxx)
    for version in GLIBCS:
        exports = run_exports(f"sysroot_{SUBDIR}", version)
        packages.append(StandIn(f"sysroot_{SUBDIR}", version, exports=exports))
    packages += _runtime_libraries(cxx)
    if nvcc:
        packages += _cuda(nvcc, cxx, script)
    return packages


def _runtime_libraries(cxx: str) -> list[StandIn]:
    newest = COMPILERS[-1]
    packages = []
    for name, library, depends in (
        ("libstdcxx", "libstdc++.so.6", [f"libgcc {newest}"]),
        ("libgcc", "libgcc_s.so.1", ["libgomp"]),
        ("libgomp", "libgomp.so.1", []),
    ):
        command = [cxx, f"-print-file-name={library}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        real = str(Path(path).resolve())
        packages.append(StandIn(name, newest, depends=depends, links={f"lib/{library}": real}))
    return packages


def _cuda(nvcc: str, cxx: str, script: str) -> list[StandIn]:
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"release (\d+\.\d+)", said).group(1)
    dry = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-"], capture_output=True, text=True, input=""
    )
    top = re.search(r"TOP=(\S+)", dry.stderr)
    root = str(Path(top.group(1)).resolve()) if top else str(Path(nvcc).resolve().parent.parent)
    driver = f"__cuda >={version.split('.')[0]}"
    compiler = StandIn(f"cuda-nvcc_{SUBDIR}", version, depends=[f"cuda-version {version}.*"])
    compiler.texts[script.format("cuda")] = ACTIVATE_CUDA.format(nvcc=nvcc, root=root, cxx=cxx)
    packages = [compiler, StandIn("cuda-version", version, constrains=[driver])]
    runtime = sorted(Path(root).glob("**/libcudart.so.*"))
    links = {f"lib/{path.name}": str(path) for path in runtime}
    depends = [f"cuda-version {version}.*"]
    packages.append(StandIn("cuda-cudart", version, depends=depends, links=links))
    exports = run_exports("cuda-cudart-dev", version)
    packages.append(
        StandIn("cuda-cudart-dev", version, depends=[*depends, "cuda-cudart"], exports=exports)
    )
    return packages


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _add(archive: tarfile.TarFile, path: str, data: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(data)
    entry.mode = 0o755 if path.startswith("bin/") else 0o644
    archive.addfile(entry, io.BytesIO(data))
