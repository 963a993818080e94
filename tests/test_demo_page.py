"""The page of the demos: one file that asks nobody for anything, readable in light and in dark."""

import html.parser
import importlib.util
import json
import re
import shutil
import subprocess
from itertools import pairwise, product

import pytest
import workspace
from PIL import Image, ImageDraw

ROOT = workspace.ROOT
CSS = (ROOT / "tools" / "demo.css").read_text()
TEXT, SHAPE = 4.5, 3.0  # WCAG 2.2 AA: 1.4.3 for text, 1.4.11 for what is no text
CONTRASTS = [
    *((ink, ground, TEXT) for ink, ground in product(("ink", "pale"), ("page", "card", "soft"))),
    ("accent", "page", TEXT),
    ("accent", "card", TEXT),
    ("bad", "card", TEXT),
    ("ours", "card", SHAPE),
    ("peer", "card", SHAPE),
]


class Page(html.parser.HTMLParser):
    """Every start tag with its attributes, and the text of `<style>`."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def drawn(seed: int, size: tuple[int, int] = (2400, 600)) -> Image.Image:
    image = Image.new("RGB", size, (40 * seed, 90, 160))
    ImageDraw.Draw(image).ellipse((9 + seed, 9, 300, 300), fill=(250, 200, seed))
    return image


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of cards with each kind of picture; their folders are gone."""
    out = tmp_path_factory.mktemp("demo")
    beside = {"result": "encoder-2026-11-30.json", "case": "inference, lidar 120k, 1 threads"}
    kinds = ["wide.png", "turn.gif", "plan.svg", "drive.mp4"]
    card = {"title": "spconv-lite", "summary": "a < b", "code": "x = 1 < 2", "seconds": 3.2}
    card |= {"folder": "spconv-lite", "together": False, "beside": beside}
    card["figures"] = [{"label": "voxels", "value": "1,234"}]
    card["pictures"] = [{"file": name, "caption": f'of "{name}"'} for name in kinds]
    (out / "spconv-lite").mkdir()
    drawn(1).save(out / "spconv-lite" / "wide.png")
    moments = [drawn(seed, (300, 300)) for seed in range(3)]
    moments[0].save(
        out / "spconv-lite" / "turn.gif", save_all=True, append_images=moments[1:], duration=80
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="30" height="20"><path d="M0 0H9V9"/></svg>'
    )
    (out / "spconv-lite" / "plan.svg").write_text(svg)
    (out / "spconv-lite" / "drive.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(range(256)))
    failed = {"title": "town", "summary": "it ended", "failed": True, "seconds": 0.4}
    cards = [card, failed | {"folder": "streets", "together": True}]
    (out / "cards.json").write_text(json.dumps(cards))
    spec = importlib.util.spec_from_file_location("demo_page", ROOT / "tools" / "demo_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    index = module.write(out)
    shutil.rmtree(out / "spconv-lite")
    return index


def test_the_page_is_one_file_and_asks_nobody(made):
    page = Page(source := made.read_text())
    for tag, attributes in page.tags:
        for name in ("src", "srcset", "href", "poster", "data", "action"):
            if name in attributes:
                assert re.match(r"data:|#", attributes[name]), f"<{tag} {name}={attributes[name]}>"
    assert not re.findall(r"url\(|@import", CSS)
    assert "fetch(" not in source
    policy = page.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'; img-src data:; media-src data:;")
    assert not set(re.findall(r"\b(?:https?|file)://[^\s\"']+", source))


def test_every_picture_and_video_stands_in_the_page_with_its_words(made):
    page = Page(made.read_text())
    shown = page.all("img", "video")
    heads = [re.match(r"data:[a-z/+0-9]+", attributes["src"])[0] for attributes in shown]
    assert heads == ["data:image/webp", "data:image/webp", "data:image/svg+xml", "data:video/mp4"]
    words = [attributes.get("alt") or attributes.get("aria-label") for attributes in shown]
    assert words == [f'of "{name}"' for name in ("wide.png", "turn.gif", "plan.svg", "drive.mp4")]
    assert shown[0]["width"] == "1600"  # of 2400: what is embedded is as large as it is shown
    (still,) = page.all("source")
    assert still["media"] == "(prefers-reduced-motion: reduce)"


def test_a_card_tells_its_figure_beside_the_peers_its_code_and_its_time(made):
    source = made.read_text()
    for words in ("3.4 times as fast", "338 ms", "1,140 ms", "spconv 2.3.8 CPU", "It took 3 s."):
        assert words in source
    assert "x = 1 &lt; 2</pre>" in source
    assert source.index("Each for itself") < source.index("Several together")
    assert source.count("<section id=") == 2
    assert source.count('class="failed"') == 1


def test_the_page_is_walked_by_keyboard(made):
    page = Page(made.read_text())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = {a["href"][1:] for a in page.all("a")} | {
        a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a
    }
    assert targets <= set(ids)
    first = next(a for tag, a in page.tags if tag in ("a", "button", "video", "pre"))
    assert first == {"class": "skip", "href": "#cards"}
    assert all(a["tabindex"] == "0" for a in page.all("pre"))  # it scrolls sideways
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert ":focus-visible" in CSS
    assert not re.search(r"(?<!main:focus \{ )outline: (none|0)", CSS)


def colours(dark: bool) -> dict[str, str]:
    """The colours of a theme; each is a property, so that none is left out of the count below."""
    light, _, rest = CSS.partition("@media (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--([a-z]+): (#\w{6});", light))
    return found | (dict(re.findall(r"--([a-z]+): (#\w{6});", rest)) if dark else {})


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_contrasts_are_those_that_aa_asks_for(dark):
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.01)
    shown = colours(dark)
    assert set(re.findall(r"color: var\(--(\w+)\)", CSS)) <= {ink for ink, _, _ in CONTRASTS}
    assert not re.search(r"opacity", CSS)  # a colour that is thinned is another one
    ratios = {(ink, on): contrast(shown[ink], shown[on]) for ink, on, _ in CONTRASTS}
    assert not {(i, on): ratios[i, on] for i, on, least in CONTRASTS if ratios[i, on] < least}


@pytest.mark.parametrize("package", workspace.packages(), ids=lambda package: package.name)
def test_the_figure_of_a_card_is_one_that_a_readme_links(package):
    demo = (package.folder / "demo.py").read_text()
    result = re.search(r'"beside": \{\s*"result": "([\w.-]+)"', demo)[1]
    case = re.search(r'"case": "([^"]+)"', demo)[1]
    path = f"benchmarks/results/{result}"
    assert case in [r["case"] for r in json.loads((package.folder / path).read_text())["rows"]]
    readmes = [ROOT / "README.md", package.folder / "README.md"]
    assert any(path in readme.read_text() for readme in readmes)


# Each picture's width once it is there, what the page said of errors, and whether one opens large.
LOOK = """<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(String(event.message)));
document.addEventListener("securitypolicyviolation", (event) => errors.push(event.blockedURI));
window.addEventListener("load", () => {
  const widths = [...document.images].map((image) => image.naturalWidth);
  document.querySelector("figure button").click();
  const large = document.querySelector("dialog[open] img");
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.title = JSON.stringify({ errors, widths, large: large?.alt, wide });
});
</script>"""


def test_in_a_browser_all_is_shown_one_opens_large_and_nothing_is_wider_than_a_phone(
    made, tmp_path
):
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no browser: apt-get install chromium")
    looked = tmp_path / "page.html"
    looked.write_text(made.read_text().replace("<style>", f"{LOOK}<style>", 1))
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,800"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", looked.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    seen = json.loads(re.search(r"<title>(\{.*?\})</title>", done.stdout)[1])
    assert seen == {
        "errors": [], "widths": [1600, 300, 30], "large": 'of "wide.png"', "wide": False,
    }  # fmt: skip
