"""The site builds without a warning, every exported name stands in it, and its code runs."""

import html
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import results
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


def all_results() -> list[Path]:
    return [p for package in PACKAGES for p in package.folder.glob("benchmarks/results/*.json")]


def test_figures_older_than_the_code_they_measure_are_marked(site):
    marked, old, later = set(), set(), set()
    for path in all_results():
        page = (site / path.parents[2].name / "benchmarks.html").read_text()
        section = re.search(rf'<h2 id="{path.stem}">(.*?)(?=<h2|$)', page, re.S)[1]
        marked |= {path} if "Older than the last change" in section else set()
        if results.newer(path):
            later |= {path}
            assert "Kept for comparison" in section
            assert ("has changed since" in section) == bool(results.changed_since(path))
        elif results.changed_since(path):
            old |= {path}
    print("to be measured again:", *sorted(path.stem for path in old), sep="\n")
    assert marked == old
    assert not marked & later


def test_every_result_says_what_it_measures():
    for path in all_results():
        assert all(part.exists() for part in results.measured(path)), path.name


def test_a_result_is_old_once_what_it_measures_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    package = tmp_path / "packages" / "one"
    commits = {}
    for day, name in (("02", "cpu/a.cpp"), ("03", "cuda/a.cpp"), ("04", "core/a.cu"), ("05", "b")):
        file = package / "csrc" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2020-01-{day}T12:00:00")
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", "a"], check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        commits[day] = head.stdout.strip()
    folder = package / "benchmarks" / "results"
    folder.mkdir(parents=True)
    paths = {"a": ["csrc/cpu", "csrc/cuda", "csrc/core"], "a-of-others": []}
    (folder.parent / "measures.json").write_text(json.dumps(paths))

    def changed(name: str, **facts: str) -> str:
        (folder / name).write_text(json.dumps(facts))
        return results.changed_since(folder / name)

    assert changed("a-1.json", date="2020-01-01") == "2020-01-02"
    assert changed("a-1.json", date="2020-01-02") == ""
    assert changed("a-1.json", date="2020-01-01", commit=commits["02"]) == ""
    assert changed("a-1.json", date="2020-01-01", commit="0123abcd") == "2020-01-02"
    assert changed("a-of-others-1.json", date="2019-01-01") == ""
    with monkeypatch.context() as nowhere:
        nowhere.setenv("PATH", "")
        assert changed("a-1.json", date="2020-01-01", commit=commits["02"]) == ""
    (folder / "a-avx2-2.json").write_text(json.dumps({"date": "2020-01-03"}))
    assert results.newer(folder / "a-1.json") == folder / "a-avx2-2.json"
    assert results.newer(folder / "a-avx2-2.json") is None
    assert results.newer(folder / "a-of-others-1.json") is None
    with pytest.raises(KeyError, match=r"b-1.json: measures.json .* names no benchmark"):
        results.benchmark_of(folder / "b-1.json")


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
import contextlib, io, json, os, runpy, sys, traceback
import matplotlib
matplotlib.use("Agg")
outcomes = {}
for script in sys.argv[2:]:
    os.chdir(os.path.dirname(script))
    failure, said = "", io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(script, run_name="__main__")
    except BaseException:
        failure = traceback.format_exc()
    outcomes[script] = [failure, said.getvalue()]
with open(sys.argv[1], "w") as file:
    json.dump(outcomes, file)
"""


@pytest.fixture(scope="session")
def outcome(tmp_path_factory):
    """(failure or "", what it printed) of a page's script; one process runs a package's all."""
    folder = tmp_path_factory.mktemp("pages")
    outcomes: dict[Path, dict[str, tuple[str, str]]] = {}

    def script(page: Path) -> Path:
        return folder / page.with_suffix("") / "page.py"

    def run_all(of: Path) -> dict[str, tuple[str, str]]:
        scripts = []
        for page in (page for page in RUN if package_of(page) == of and not processes(page)):
            script(page).parent.mkdir(parents=True)
            script(page).write_text(program(page))
            scripts.append(script(page))
        answer = folder / "outcomes.json"
        python(["-c", RUN_ALL, answer, *scripts], folder)
        return json.loads(answer.read_text())

    def one(page: Path) -> tuple[str, str]:
        of = package_of(page)
        if of not in outcomes:
            outcomes[of] = run_all(of)
        return outcomes[of][str(script(page))]

    return one


def package_of(page: Path) -> Path:
    return Path(*page.parts[:2])


def program(page: Path) -> str:
    return "\n".join(code for code, why in blocks(page) if not why)


def processes(page: Path) -> str:
    """How many processes of torchrun a page is run under; "" for none."""
    found = PROCESSES.search((ROOT / page).read_text())
    return found[1] if found else ""


def not_printed(code: str, said: str) -> list[str]:
    """What the comments `# -> ...` behind its prints promise and its output lacks, in their order.

    A promise that ends with `...` is the beginning of a line.
    """
    lines, missing = iter(said.splitlines()), []
    for promise in re.findall(r"(?m)print\(.*#.*->\s(.+?)\s*$", code):
        begins = promise.removesuffix("...")
        if not any(
            line.startswith(begins) if begins != promise else line == promise for line in lines
        ):
            missing.append(promise)
    return missing


def python(words: list, folder: Path) -> str:
    command = [sys.executable, *map(str, words)]
    environment = workspace.tool_environment()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


RUN = [page for page in PAGES if program(page)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=str)
def test_the_python_of_a_page_runs(page, outcome, tmp_path):
    if page not in RUN:
        pytest.skip("not run: " + "; ".join(why for _, why in blocks(page)))
    if many := processes(page):
        script = tmp_path / "page.py"
        script.write_text(program(page))
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={many}"]
        said = python([*launcher, script], tmp_path)
    else:
        failure, said = outcome(page)
        assert failure == ""
    assert not not_printed(program(page), said)


def test_a_promise_of_a_page_is_held_to_what_is_printed():
    code = "print(a)  # -> 3\nprint(b)  # -> 0.27...\nx = 1  # (N, C) -> (N,)\n"
    assert not_printed(code, "3\nother\n0.2712\n") == []
    assert not_printed(code, "0.2712\n3\n") == ["0.27..."]
    assert not_printed(code, "31\n0.28\n") == ["3", "0.27..."]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_first_example_of_a_readme_shows_what_it_prints(package):
    before, first = (package.folder / "README.md").read_text().split("```python\n")[:2]
    own_test = re.search(r"<!-- not run: .*(tests/\w+\.py) runs it .*-->\n$", before)
    assert (
        "-> " in first.split("```")[0] or "printed ==" in (package.folder / own_test[1]).read_text()
    )


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_says_how_it_works_in_a_picture_and_how_to_come_from_its_peer(package):
    pages = {path.name: path.read_text() for path in (package.folder / "docs").glob("*.md")}
    assert [name for name in pages if name.startswith("from-")]
    how = "".join(text for name, text in pages.items() if name.startswith("how-it-"))
    pictures = re.findall(r"!\[[^\]]+\]\(([\w.-]+)\)", how)
    assert pictures
    assert all((package.folder / "docs" / name).exists() for name in pictures)
