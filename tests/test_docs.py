"""The site builds without a warning, every exported name stands in it, and its code runs."""

import html
import importlib
import inspect
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


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=str)
def test_the_python_of_a_page_runs(page, tmp_path):
    code = "\n".join(code for code, why in blocks(page) if not why)
    if not code:
        pytest.skip("not run: " + "; ".join(why for _, why in blocks(page)))
    script = tmp_path / "page.py"
    script.write_text(f"import matplotlib; matplotlib.use('Agg')\n{code}")
    many = PROCESSES.search((ROOT / page).read_text())
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={many[1]}"] if many else []
    done = subprocess.run(
        [sys.executable, *launcher, script],
        cwd=tmp_path,
        env=workspace.tool_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
