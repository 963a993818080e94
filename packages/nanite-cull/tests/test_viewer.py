"""The viewer: who may ask it, what it answers, and the page in a browser."""

import base64
import http.client
import io
import json
import os
import re
import resource
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nanite_cull as nc
from nanite_cull import _C, meshes, reference
from nanite_cull.pictures import KINDS
from nanite_cull.viewer import LONGEST_BODY, Viewer

pytestmark = pytest.mark.native

WISH = {
    "size": [160, 90], "eye": [0, 0, 3], "target": [0, 0, 0], "frozen": None, "kind": "shaded",
    "threshold": 1, "budget": 1 << 24, "sun": [40, 50], "occlusion": False,
}  # fmt: skip


@pytest.fixture
def viewer(planet_asset, tmp_path):
    path = tmp_path / "a.ncl"
    path.write_bytes(_C.encode_ncl(planet_asset._core, 0, 6000))
    with Viewer(nc.Scene(nc.open(path)), "a planet") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(viewer, path, wish=None, **headers):
    """Status, headers and body of a request; `path` follows the token."""
    connection = http.client.HTTPConnection("127.0.0.1", viewer.server_port, timeout=60)
    body = None if wish is None else wish if isinstance(wish, bytes) else json.dumps(wish).encode()
    own = {} if body is None else {"Content-Type": "application/json"}
    headers = own | {name.replace("_", "-"): value for name, value in headers.items()}
    whole = path if path.startswith("/") else f"/{viewer.token}/{path}"
    connection.request("GET" if body is None else "POST", whole, body, headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, answer.headers, data


def picture(data):
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def test_it_draws_what_the_library_draws(viewer, planet_asset):
    camera = nc.Camera.look_at((0, 0, 3), (0, 0, 0), fov_y=50, near=1e-3)
    deadline = time.time() + 30
    while True:
        status, headers, data = ask(viewer, "frame", WISH)
        assert status == 200
        stats = json.loads(headers["X-Stats"])
        if stats["missing pages"] == 0 and stats["wanted pages"] > 1:
            break
        assert time.time() < deadline
    frame = nc.Renderer(160, 90).render(nc.Scene(planet_asset), camera)
    a, e = np.radians([40, 50])
    light = (np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e))
    assert np.abs(picture(data) - frame.picture(light=light)).mean() < 3
    assert stats["triangles"] == frame.stats["triangles"]
    assert {"visited", "culled by frustum", "overflow", "resident pages", "cull ms"} <= set(stats)


@pytest.mark.once
def test_every_option_of_the_page_has_its_effect(viewer):
    def drawn(**changes):
        for _ in range(6):
            status, headers, data = ask(viewer, "frame", WISH | changes)
            assert status == 200
            time.sleep(0.02)
        return picture(data), json.loads(headers["X-Stats"])

    plain, stats = drawn()
    for kind in KINDS:
        assert drawn(kind=kind)[0].shape == (90, 160, 3)
    assert np.abs(drawn(kind="cluster")[0] - plain).mean() > 3
    assert drawn(threshold=30)[1]["triangles"] < stats["triangles"]
    assert np.abs(drawn(sun=[220, 10])[0] - plain).mean() > 3
    assert drawn(budget=200_000)[1]["resident bytes"] <= 200_000
    assert drawn(occlusion=True)[1]["triangles"] <= stats["triangles"]
    assert np.abs(drawn(eye=[2, 1, 2])[0] - plain).mean() > 1
    frozen = {"eye": [0, 0, 1.3], "target": [0, 1, 0]}
    assert drawn(frozen=frozen)[1]["triangles"] == drawn(**frozen)[1]["triangles"]
    assert drawn(size=[100_000, 1])[0].shape == (1, 1920, 3)


def test_one_thread_draws_for_all_connections(viewer, monkeypatch):
    """What a thread keeps for drawing, it keeps once: each had some 20 MiB of its own."""
    drew, render = set(), nc.Renderer.render

    def noted(self, *args, **options):
        drew.add(threading.get_ident())
        return render(self, *args, **options)

    monkeypatch.setattr(nc.Renderer, "render", noted)
    clients = [threading.Thread(target=ask, args=(viewer, "frame", WISH)) for _ in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(drew) == 1


def test_another_light_is_the_definitions_too(planet_asset):
    frame = nc.Renderer(80, 60).render(nc.Scene(planet_asset), nc.Camera.around(planet_asset))
    for light in ((0, -2, 0.5), (1e-3, 0, 0)):
        off = np.abs(
            frame.picture(light=light).astype(int) - reference.picture(frame, "shaded", light)
        )
        assert off.max() <= 1
    for light in ((0, 0, 0), (1, 2), (np.nan, 0, 1)):
        with pytest.raises(ValueError, match=r"light must be a direction \(x, y, z\), got"):
            frame.picture(light=light)


def test_without_its_token_it_answers_nothing(viewer):
    for path in (
        "/",
        "/info",
        "/frame",
        "//",
        f"/{viewer.token[:-1]}/",
        f"/{viewer.token}x/info",
        "/%E9/",
    ):
        for wish in (None, WISH):
            status, _, data = ask(viewer, path, wish)
            assert status == 403
            assert b"token" in data
            assert viewer.token.encode() not in data
    assert len(viewer.token) >= 32
    with Viewer(viewer.studio.scene, "other") as other:
        assert other.token != viewer.token


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://example.org"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Host": "example.org"},
        {"Host": "example.org:80", "Origin": "http://example.org:80"},
        {"Host": "127.0.0.1"},
    ],
)
def test_other_sites_and_other_names_are_refused(viewer, headers):
    for path, wish in (("", None), ("info", None), ("frame", WISH)):
        status, answer, _ = ask(viewer, path, wish, **headers)
        assert status == 403
        assert "Access-Control-Allow-Origin" not in answer


def test_its_own_page_may_ask_under_both_names(viewer):
    for host in ("127.0.0.1", "localhost"):
        host = f"{host}:{viewer.server_port}"
        assert ask(viewer, "info", Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"", 400),
        (WISH | {"eye": [0, 0]}, 400),
        (WISH | {"eye": [float("nan"), 0, 0]}, 400),
        (WISH | {"eye": [0, 0, 0]}, 400),
        (WISH | {"kind": "wrong"}, 400),
        (WISH | {"size": "x"}, 400),
        (WISH | {"threshold": 1e999}, 200),
        (b" " * (LONGEST_BODY + 1), 413),
    ],
)
def test_a_wrong_request_is_refused_with_the_reason(viewer, wish, status):
    found, _, data = ask(viewer, "frame", wish)
    assert found == status
    assert status == 200 or 3 < len(data) < 400
    assert ask(viewer, "frame", WISH)[0] == 200  # and it goes on


@pytest.mark.parametrize("length", ["\xb2", "9" * 5000, "-1", "1e3", "0x10"])
def test_a_length_that_is_none_is_refused(viewer, capfd, length):
    with socket.create_connection(("127.0.0.1", viewer.server_port), timeout=20) as line:
        head = (
            f"POST /{viewer.token}/frame HTTP/1.1\r\nHost: 127.0.0.1:{viewer.server_port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
        line.sendall(head.encode("latin-1"))
        answer = line.makefile("rb").read()
    assert re.match(rb"HTTP/1.1 4(04|13) ", answer)
    assert capfd.readouterr().err == ""
    assert ask(viewer, "frame", WISH)[0] == 200


def test_a_scene_of_nothing_is_refused():
    with pytest.raises(ValueError, match="view: the scene has no instances"):
        Viewer(nc.Scene(), "nothing")


def test_the_page_is_one_file_that_asks_nobody_else(viewer):
    status, headers, data = ask(viewer, "")
    page = data.decode()
    assert status == 200
    assert not re.search(r"(?:https?:)?//[a-z0-9]", page)
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert "prefers-color-scheme: dark" in page
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', page))
    assert f"'nonce-{nonce}'" in policy
    assert nonce not in ask(viewer, "")[2].decode()
    assert ask(viewer, "other")[0] == 404
    assert ask(viewer, "info", b"{}")[0] == 404


def test_a_sphere_holds_instances_of_all_assets(planet_asset, torus_asset):
    scene, random = nc.Scene(), np.random.default_rng(5)
    for asset in (torus_asset, planet_asset):
        scene.add(asset, random.normal(size=(20, 3, 4)) * [1, 1, 1, 30])
    corners = [
        transform[:, :3] @ np.choose(choice, scene.assets[number].box) + transform[:, 3]
        for transform, number in zip(scene.transforms, scene.asset_of, strict=True)
        for choice in np.ndindex(2, 2, 2)
    ]
    lo, hi = np.min(corners, 0), np.max(corners, 0)
    with Viewer(scene, "many") as viewer:
        assert np.allclose(viewer.studio.centre, (lo + hi) / 2)
        assert np.isclose(viewer.studio.radius, np.linalg.norm(hi - lo) / 2)


def test_scenes_of_instances_are_seen_whole(planet_asset):
    scene = nc.Scene()
    transforms = np.tile(np.eye(4), (2, 1, 1))
    transforms[1, 0, 3] = 100
    scene.add(planet_asset, transforms)
    with Viewer(scene, "two") as viewer:
        assert np.allclose(viewer.studio.centre, [50, 0, 0], atol=0.1)
        assert 50 < viewer.studio.radius < 60


def test_the_command_serves_a_mesh_until_it_is_interrupted(planet_asset, tmp_path):
    stored = planet_asset.save(tmp_path / "planet.ncl")
    command = [sys.executable, "-m", "nanite_cull", "view", str(stored), "--json"]
    usual = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": usual}
    with subprocess.Popen(command, **pipes) as process:
        address = json.loads(process.stdout.readline())["address"]
        host, token = re.fullmatch(r"http://([^/]+)/([^/]+)/", address).groups()
        connection = http.client.HTTPConnection(host)
        connection.request("GET", f"/{token}/info")
        assert json.loads(connection.getresponse().read())["name"] == "planet.ncl"
        connection.close()
        process.send_signal(2)
        assert process.wait(30) == 130
        assert b"Traceback" not in process.stderr.read()


WITH_PIPES = """
import fcntl, os, sys
reading, writing = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(reading, 3)
os.dup2(writing, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """Headless Chromium over its debugging pipe: JSON messages that end with a zero byte."""

    def __init__(self, program, folder):
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={folder}",
            "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", WITH_PIPES, str(theirs), str(ours), program, *options],
            pass_fds=(theirs, ours), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        self._rest, self._numbers, self._session, self.events = b"", count(1), None, []

    def open(self, address, width=1000, height=620, dark=False):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=address)

    def call(self, method, **params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self):
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], 60)[0], "the browser does not answer"
            self._rest += os.read(self._from, 1 << 20)
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def value(self, script):
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script, seconds=60):
        deadline = time.time() + seconds
        while not (found := self.value(script)):
            assert time.time() < deadline, f"{script} is not true; {self.value(ERROR)}"
            time.sleep(0.05)
        return found

    def settled(self):
        """Waits until no page is missing and nothing is being drawn."""
        self.until("document.body?.dataset.frames > 0 && !changed && more === 0")
        before = None
        while (now := self.value("document.body.dataset.frames")) != before:
            before = now
            time.sleep(0.4)

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, x, y, dx, dy):
        self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
        for step in range(1, 6):
            self.mouse("mouseMoved", x + dx * step / 5, y + dy * step / 5, button="left", buttons=1)
        self.mouse("mouseReleased", x + dx, y + dy, button="left", clickCount=1)

    def screenshot(self):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)

    def close(self):
        self._session = None
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._to)
        os.close(self._from)


ERROR = "document.getElementById('error').textContent"
SLIDE = """(() => {{ const s = document.getElementById("{0}"); s.value = {1};
  s.dispatchEvent(new Event("input", {{ bubbles: true }})); }})()"""


@pytest.fixture
def browser(tmp_path):
    program = next(
        (p for p in ("chromium", "chromium-browser", "google-chrome") if shutil.which(p)), None
    )
    if program is None:
        pytest.skip("needs chromium")
    started = Browser(program, tmp_path / "profile")
    yield started
    started.close()


def triangles(browser):
    rows = "[...document.querySelectorAll('#stats tr')]"
    text = f"{rows}.find(r => r.cells[0].textContent === 'triangles').cells[1].textContent"
    return int(browser.value(text).replace(",", ""))


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_in_a_browser(dark, viewer, browser, tmp_path):
    browser.open(viewer.address, dark=dark)
    browser.settled()
    first = browser.screenshot()
    shots = os.environ.get("NANITE_CULL_SHOTS")
    if shots:
        Image.fromarray(first.astype(np.uint8)).save(Path(shots) / f"viewer_{dark}.png")
    stage, panel = first[:, :700], first[:, 740:]
    assert stage.std() > 20  # a lit planet before a background
    assert (panel.mean() < 100) == dark
    assert browser.value("document.querySelectorAll('#stats tr').length") > 10

    before = triangles(browser)
    browser.value(SLIDE.format("threshold", 5))
    browser.settled()
    assert triangles(browser) < before / 2
    browser.value(SLIDE.format("threshold", 0))
    browser.value(SLIDE.format("azimuth", 220))
    browser.settled()
    moonlit = browser.screenshot()
    assert np.abs(moonlit[:, :700] - stage).mean() > 1
    browser.value(SLIDE.format("budget", 0))
    browser.value(SLIDE.format("kind", "'cluster'"))
    browser.settled()
    coloured = browser.screenshot()
    assert np.abs(coloured[:, :700] - moonlit[:, :700]).mean() > 1
    browser.drag(350, 300, 160, 40)
    browser.settled()
    turned = browser.screenshot()
    assert np.abs(turned[:, :700] - coloured[:, :700]).mean() > 1
    far = browser.value("distance")
    browser.mouse("mouseWheel", 350, 300, deltaX=0, deltaY=-600)
    browser.settled()
    assert browser.value("distance") < 0.7 * far
    eye = browser.value("eye")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="w", code="KeyW", text="w")
        time.sleep(0.5)
    browser.settled()
    assert np.linalg.norm(np.subtract(browser.value("eye"), eye)) > 0.01
    held = triangles(browser)
    browser.value("document.getElementById('freeze').click()")
    browser.drag(350, 300, -300, 0)
    browser.settled()
    assert triangles(browser) == held
    assert browser.value(ERROR) == ""
    browser.value(SLIDE.format("kind", "'shaded'") + "; reset()")
    browser.settled()
    asked = {e["params"]["request"]["url"] for e in browser.events
             if e.get("method") == "Network.requestWillBeSent"}  # fmt: skip
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {
        viewer.address, viewer.address + "info", viewer.address + "frame",
    }  # fmt: skip
    faults = [
        e
        for e in browser.events
        if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")
    ]
    assert faults == []


@pytest.mark.slow
def test_a_foreign_page_in_the_same_browser_gets_nothing(viewer, browser, tmp_path):
    page = tmp_path / "foreign.html"
    page.write_text("<!doctype html><title>foreign</title>")
    browser.open(page.as_uri())
    browser.until("document.title === 'foreign'")
    for address, options in (
        (viewer.address + "info", "{}"),
        (viewer.address + "info", "{mode: 'no-cors'}"),
        (viewer.address + "frame", "{method: 'POST', mode: 'no-cors', body: '{}'}"),
    ):
        got = f"fetch('{address}', {options}).then(a => a.text()).then(t => t.length, e => 0)"
        assert browser.value(got) == 0
    framed = f"""new Promise(done => {{
        const frame = document.body.appendChild(document.createElement("iframe"));
        frame.onload = () => done(frame.contentDocument === null);
        frame.src = "{viewer.address}"; }})"""
    assert browser.value(framed) is True


@pytest.mark.slow
def test_a_minute_of_load_takes_no_more_memory(tmp_path):
    """Two pages' requests from views that fly about, under a small budget: a minute of them,
    and 300 at least, for a slow machine still fills its caches then."""
    asset = nc.build(*meshes.planet(7))
    scene = nc.Scene(nc.open(asset.save(tmp_path / "a.ncl")))
    with Viewer(scene, "load") as viewer:
        threading.Thread(target=viewer.serve_forever, daemon=True).start()
        used, end, failed = [], time.time() + 60, []

        def look(seed):
            random = np.random.default_rng(seed)
            while time.time() < end or len(used) < 300:
                eye = random.normal(size=3)
                eye *= random.uniform(1.2, 4) / np.linalg.norm(eye)
                wish = WISH | {"size": [640, 360], "eye": eye.tolist(), "budget": 1 << 21}
                wish["kind"] = str(random.choice(KINDS[:6]))
                status, _, _ = ask(viewer, "frame", wish)
                failed.extend([status] if status != 200 else [])
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                used.append(pages * resource.getpagesize() / 2**20)

        threads = [threading.Thread(target=look, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        viewer.shutdown()
    assert failed == []
    sixth = len(used) // 6
    assert max(used[-2 * sixth :]) < max(used[sixth : 2 * sixth]) + 30, used[::sixth]  # MiB
