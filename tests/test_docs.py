"""The site builds without a warning, every exported name stands in it, and its code runs."""

import html
import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import workspace

ROOT = workspace.ROOT
PACKAGES = workspace.packages()
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("README.md", "packages/*/README.md", "packages/*/docs/*.md", "docs/*.md")
    for path in ROOT.glob(pattern)
)
# The blocks of a page are run as one program, with those in `<!--python ... -->`, which readers do
# not see. A block that cannot be run says why in the line above it.
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^(?:```|<!--)python\n(?P<code>.*?)^(?:```|-->)$",
    re.M | re.S,
)
PROCESSES = re.compile(r"^<!-- run under torchrun: (\d+) processes -->$", re.M)


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_exported_name_is_documented(package, site):
    module = importlib.import_module(package.import_name)
    page = (site / package.name / "api.html").read_text()
    names = {name for name in module.__all__ if not name.startswith("__")}
    shown = set(re.findall(rf'id="{package.import_name}\.(?:[\w.]*\.)?(\w+)"', page))
    assert not names - shown
    things = {name: getattr(module, name) for name in names}
    assert not [n for n, thing in things.items() if callable(thing) and not inspect.getdoc(thing)]


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("pages_of_the_site", ROOT / "docs" / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_older_than_the_code_they_measure_are_marked(site, hook):
    marked, old = set(), set()
    for package in PACKAGES:
        page = (site / package.name / "benchmarks.html").read_text()
        sections = dict(re.findall(r'<h2 id="([^"]+)">(.*?)(?=<h2|$)', page, re.S))
        for path in (package.folder / "benchmarks" / "results").glob("*.json"):
            old |= {path} if hook.stale(path) else set()
            marked |= {path} if "Older than the last change" in sections[path.stem] else set()
    print("to be measured again:", *sorted(path.stem for path in old), sep="\n")
    assert marked == old


def test_kernels_for_cuda_do_not_make_figures_of_a_cpu_old(tmp_path, monkeypatch, hook):
    monkeypatch.setattr(hook, "ROOT", tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    for day, name in (("02", "cpu/a.cpp"), ("03", "cuda/a.cpp"), ("04", "core/a.cu")):
        file = tmp_path / "packages" / "one" / "csrc" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2020-01-{day}T12:00:00")
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", "a"], check=True)
    assert hook.last_change("one") == "2020-01-02"
    results = tmp_path / "packages" / "one" / "benchmarks" / "results"
    results.mkdir(parents=True)
    for date, old in (("2020-01-01", True), ("2020-01-02", False)):
        (results / "a.json").write_text(json.dumps({"date": date}))
        assert hook.stale(results / "a.json") is old


def test_links_between_pages_lead_somewhere(site):
    pages = {path: path.read_text() for path in site.rglob("*.html") if path.name != "404.html"}
    for path, text in pages.items():
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            target, _, anchor = html.unescape(target).partition("#")
            if re.match(r"[a-z]+:|//", target):
                continue
            file = (path.parent / target).resolve() if target else path
            assert file.exists(), f"{path.relative_to(site)} points to {target}"
            if anchor and file.suffix == ".html" and not anchor.startswith("__"):
                found = f'id="{anchor}"' in html.unescape(pages[file])
                assert found, f"{path.relative_to(site)} points to {target}#{anchor}"


def test_the_site_asks_no_other_host_for_anything(site):
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"', path.read_text()
        )
        assert not [address for address in loaded if "canonical" not in address], path


def blocks(page: Path) -> list[tuple[str, str]]:
    """(code, why it is not run or "") of the Python blocks of a page."""
    found = BLOCK.finditer((ROOT / page).read_text())
    return [(match["code"], match["why"] or "") for match in found]


# Runs the scripts that it is given, each in a folder of its own; writes what failed.
RUN_ALL = """
import json, os, runpy, sys, traceback
import matplotlib
matplotlib.use("Agg")
failed = {}
for script in sys.argv[2:]:
    os.chdir(os.path.dirname(script))
    try:
        runpy.run_path(script, run_name="__main__")
    except BaseException:
        failed[script] = traceback.format_exc()
with open(sys.argv[1], "w") as file:
    json.dump(failed, file)
"""


@pytest.fixture(scope="session")
def outcome(tmp_path_factory):
    """What the scripts of a package's pages ended with; one process runs them all."""
    folder = tmp_path_factory.mktemp("pages")
    failed: dict[str, dict[str, str]] = {}

    def script(page: Path) -> Path:
        return folder / page.with_suffix("") / "page.py"

    def run_all(of: Path) -> dict[str, str]:
        scripts = []
        for page in (page for page in RUN if package_of(page) == of and not processes(page)):
            script(page).parent.mkdir(parents=True)
            script(page).write_text(program(page))
            scripts.append(script(page))
        answer = folder / "failed.json"
        python(["-c", RUN_ALL, answer, *scripts], folder)
        return json.loads(answer.read_text())

    def one(page: Path) -> str:
        of = package_of(page)
        if of not in failed:
            failed[of] = run_all(of)
        return failed[of].get(str(script(page)), "")

    return one


def package_of(page: Path) -> Path:
    return Path(*page.parts[:2])


def program(page: Path) -> str:
    return "\n".join(code for code, why in blocks(page) if not why)


def processes(page: Path) -> str:
    """How many processes of torchrun a page is run under; "" for none."""
    found = PROCESSES.search((ROOT / page).read_text())
    return found[1] if found else ""


def python(words: list, folder: Path) -> None:
    command = [sys.executable, *map(str, words)]
    environment = workspace.tool_environment()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


RUN = [page for page in PAGES if program(page)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=str)
def test_the_python_of_a_page_runs(page, outcome, tmp_path):
    if page not in RUN:
        pytest.skip("not run: " + "; ".join(why for _, why in blocks(page)))
    if many := processes(page):
        script = tmp_path / "page.py"
        script.write_text(program(page))
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={many}"]
        python([*launcher, script], tmp_path)
    else:
        assert outcome(page) == ""


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_says_how_it_works_in_a_picture_and_how_to_come_from_its_peer(package):
    pages = {path.name: path.read_text() for path in (package.folder / "docs").glob("*.md")}
    assert [name for name in pages if name.startswith("from-")]
    how = "".join(text for name, text in pages.items() if name.startswith("how-it-"))
    pictures = re.findall(r"!\[[^\]]+\]\(([\w.-]+)\)", how)
    assert pictures
    assert all((package.folder / "docs" / name).exists() for name in pictures)
