"""Which build a user gets, by driver and Python: solved from rendered metadata alone.

The channel is an index without packages: our rendered builds, and the few packages of conda-forge
that decide (Python, its ABI markers, pytorch for CPU and CUDA, cuda-version, cuDNN).
"""

import json
import re

import pytest
import workspace
from packaging.version import Version
from predicted import metadata
from shipping import recipes
from shipping.rattler_child import call
from shipping.subdirs import SUBDIR
from solving import VIRTUAL, solve

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
DRIVERS = {
    None: "cpu",
    "11.8": "cpu",  # older than any of our CUDA builds can use
    "12.2": "cuda129",
    "12.9": "cuda129",
    "13.0": "cuda130",
    "13.2": "cuda130",
}
ALL = {name: recipes.render(name) for name in recipes.names() if name in workspace.SIX}
NATIVE = [name for name, builds in ALL.items() if not builds[0].noarch]
PURE = [name for name in ALL if name not in NATIVE]
KINDS = {name: {b.kind for b in builds if b.name == name} for name, builds in ALL.items()}
WITH_CUDA = [name for name in NATIVE if KINDS[name] > {"cpu"}]
WITH_TORCH = [
    name for name in NATIVE if any("pytorch" in str(r) for r in ALL[name][0].requirements("run"))
]


def record(name: str, version: str, build: str = "0", number: int = 0, **more) -> dict:
    basis = {"name": name, "version": version, "build": build, "build_number": number}
    return basis | {"subdir": SUBDIR, "depends": [], "constrains": []} | more


def conda_forge() -> list[dict]:
    """What decides, with the dependencies and build strings of the feedstocks (August 2026)."""
    found = [record("_python_abi3_support", "1.0", depends=["cpython"])]
    for cuda in ("12.2", "12.9", "13.0"):
        floor = f"__cuda >={cuda.split('.')[0]}"
        found.append(record("cuda-version", cuda, constrains=[floor]))
    for cudnn in ("8.9.7", "9.13.0"):
        found.append(record("libcudnn", cudnn, depends=["cuda-version >=12"]))
    for name, version in (("libgcc", "15.2.0"), ("libstdcxx", "15.2.0")):
        found.append(record(name, version))
    for cuda in ("12.9", "13.0"):
        only = [f"cuda-version {cuda}.*"]
        found += [record(n, cuda, depends=only) for n in ("cuda-cudart", "cuda-cudart-dev")]
    for python in ("3.9", *PYTHONS):  # the channel has more than we support
        tag = python.replace(".", "")
        only = [
            f"python >={python},<3.{int(python[2:]) + 1}.0a0",
            f"python_abi {python}.* *_cp{tag}",
        ]
        found += [
            record("python", f"{python}.9", f"h0_0_cp{tag}", depends=[f"python_abi {python}.*"]),
            record("python_abi", python, f"8_cp{tag}", 8, constrains=[f"python {python}.*"]),
            record("cpython", f"{python}.9", f"py{tag}_0", depends=[f"python {python}.9.*"]),
            record("pytorch", "2.13.0", f"cpu_generic_py{tag}_h1_0", 0, depends=only),
        ]
        for cuda, bound in (("129", ">=12.9,<13"), ("130", ">=13.0,<14")):
            depends = [*only, "__cuda", f"cuda-version {bound}"]
            build = f"cuda{cuda}_generic_py{tag}_h1_200"
            found.append(record("pytorch", "2.13.0", build, 200, depends=depends))
    return found


@pytest.fixture(scope="module")
def channel(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("index")
    ours = [metadata(build) for builds in ALL.values() for build in builds]
    records = ours + conda_forge()
    known = {entry["name"] for entry in records}
    floors: dict[str, set[Version]] = {}
    for line in (line for entry in ours for line in entry["depends"]):
        name, *rest = line.split()
        if name not in known and not name.startswith("__"):
            found = re.search(r"\d[\d.]*", " ".join(rest))
            floors.setdefault(name, set()).add(Version(found.group() if found else "0"))
    records += [record(name, str(max(versions))) for name, versions in floors.items()]
    for subdir in (SUBDIR, "noarch"):
        here = [entry for entry in records if entry["subdir"] == subdir]
        files = {f"{e['name']}-{e['version']}-{e['build']}.conda": e for e in here}
        assert len(files) == len(here), "two builds with one file name"
        index = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": files}
        (folder / subdir).mkdir()
        (folder / subdir / "repodata.json").write_text(json.dumps(index))
    return str(folder)


def machine(driver: str | None) -> dict[str, str]:
    return VIRTUAL | ({"__cuda": driver} if driver else {})


def problem(*specs: str, driver: str | None = None, **more: str) -> dict:
    return {"specs": list(specs), "virtual": machine(driver) | more}


@pytest.fixture(scope="module")
def matrix(channel) -> dict[tuple, dict]:
    """Answers by package, driver, Python and asked build string, all from one child process."""
    asked = {
        (name, driver, python, string): problem(
            f"{name} * {string}" if string else name, f"python {python}.*", driver=driver
        )
        for name in ALL
        for driver in DRIVERS
        for python in PYTHONS
        for string in (None, "cpu*")
        if string is None or name in NATIVE
    }
    answers = call(solve, channels=[channel], problems=list(asked.values()))
    return dict(zip(asked, answers, strict=True))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", NATIVE)
def test_the_build_follows_driver_and_python(name, driver, matrix):
    for python in PYTHONS:
        records = matrix[name, driver, python, None]["records"]
        abi = "abi3" if python in ("3.12", "3.13") else f"py{python.replace('.', '')}"
        kind = DRIVERS[driver] if name in WITH_CUDA else "cpu"
        assert re.match(f"{kind}_{abi}h", records[name]["build"]), (driver, python)
        if name in WITH_CUDA:
            assert ("cuda-version" in records) == (kind != "cpu")
            if "pytorch" in records:  # goes with the one of its kind
                assert records["pytorch"]["build"].startswith(kind)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", NATIVE)
def test_the_cpu_build_can_be_pinned_on_any_machine(name, driver, matrix):
    for python in PYTHONS:
        build = matrix[name, driver, python, "cpu*"]["records"][name]["build"]
        assert build.startswith("cpu_")
        assert build.endswith("_0")


@pytest.mark.parametrize("name", PURE)
def test_a_pure_package_solves_on_every_python_and_driver(name, matrix):
    builds = {
        matrix[name, driver, python, None]["records"][name]["build"]
        for driver in DRIVERS
        for python in PYTHONS
    }
    assert len(builds) == 1


IMPOSSIBLE = {
    "a CUDA build without a driver": (("{} * cuda*",), None, {}, ["__cuda"]),
    "CUDA 13 with a driver for 12.9": (("{} * cuda130*",), "12.9", {}, ["__cuda", "13"]),
    "Python 3.9": (("{}", "python 3.9.*"), None, {}, ["python 3.9"]),
    "a CUDA build with cuDNN 8": (("{} * cuda*", "libcudnn 8.*"), "13.0", {}, ["libcudnn"]),
    "the CUDA 13 build on an old glibc": (
        ("{} * cuda130*",),
        "13.0",
        {"__glibc": "2.17"},
        ["__glibc"],
    ),
    "a CUDA build beside the CPU build of torch": (
        ("{} * cuda*", "pytorch * cpu*"),
        "13.0",
        {},
        ["pytorch"],
    ),
}
OF_TORCH = {"a CUDA build with cuDNN 8", "a CUDA build beside the CPU build of torch"}
REFUSED = [(name, what) for name in WITH_CUDA for what in IMPOSSIBLE]
REFUSED = [(name, what) for name, what in REFUSED if name in WITH_TORCH or what not in OF_TORCH]


@pytest.fixture(scope="module")
def refused(channel) -> dict[tuple[str, str], dict]:
    asked = {
        (name, what): problem(*(spec.format(name) for spec in specs), driver=driver, **virtual)
        for name, what in REFUSED
        for specs, driver, virtual, _ in [IMPOSSIBLE[what]]
    }
    asked |= {
        (name, "Python 3.9"): problem(name, "python 3.9.*") for name in ALL if name not in WITH_CUDA
    }
    answers = call(solve, channels=[channel], problems=list(asked.values()))
    return dict(zip(asked, answers, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_a_python_that_is_too_old_is_refused_though_the_channel_has_it(name, channel, refused):
    (alone,) = call(solve, channels=[channel], problems=[problem("python 3.9.*")])
    assert alone["records"]["python"]["version"] == "3.9.9"
    said = refused[name, "Python 3.9"]["error"]
    assert re.search(rf"{name} [\s\S]* python (>=3\.10|3\.9)", said), said


@pytest.mark.parametrize(("name", "what"), REFUSED)
def test_what_cannot_work_is_refused_with_a_reason_that_names_it(name, what, refused):
    answer = refused[name, what]
    assert "error" in answer, answer
    *_, words = IMPOSSIBLE[what]
    for word in words:
        assert word in answer["error"], answer["error"]


def test_all_packages_solve_together_on_cpu_and_gpu(channel):
    asked = [problem(*ALL, "python 3.12.*", driver=driver) for driver in DRIVERS]
    for answer in call(solve, channels=[channel], problems=asked):
        assert set(ALL) <= set(answer["records"])
