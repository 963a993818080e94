"""A viewer in the browser: a small server that draws, and one page that asks it for pictures.

The server listens on this machine alone. Its address holds a random token, without which it
answers nothing; a request of another site (Origin) or under another name (Host) is refused too, so
that no page that is open beside it can reach it.
"""

import io
import json
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import numpy as np

from nanite_cull.camera import Camera
from nanite_cull.pictures import KINDS
from nanite_cull.render import Renderer
from nanite_cull.scene import Scene

LONGEST_BODY = 1 << 16  # bytes of a request
LARGEST = 1920, 1200  # pixels of a picture
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data: blob:; script-src 'nonce-{0}'; "
    "style-src 'nonce-{0}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def _sphere(scene: Scene) -> tuple[np.ndarray, float]:
    """Centre and radius of a sphere around the scene's instances."""
    if not len(scene):
        raise ValueError("view: the scene has no instances; add one")
    transforms = scene.transforms
    lo, hi = np.array([asset.box for asset in scene.assets])[scene.asset_of].transpose(1, 0, 2)
    centre = np.einsum("nij,nj->ni", transforms[..., :3], (lo + hi) / 2) + transforms[..., 3]
    half = np.einsum("nij,nj->ni", np.abs(transforms[..., :3]), (hi - lo) / 2)
    lo, hi = (centre - half).min(0), (centre + half).max(0)
    return (lo + hi) / 2, float(np.linalg.norm(hi - lo) / 2) or 1.0


class Studio:
    """Draws what the page asks for, one picture after the other."""

    def __init__(self, scene: Scene, name: str, threads: int = 0) -> None:
        self.scene, self.threads = scene, threads
        self.centre, self.radius = _sphere(scene)
        figures = [asset.statistics() for asset in scene.assets]
        instanced = sum(figures[i]["source_triangles"] for i in scene.asset_of.tolist())
        self.info = {
            "name": name,
            "about": f"{instanced:,} triangles, instances: {len(scene):,}",
            "centre": self.centre.tolist(),
            "radius": self.radius,
            "kinds": KINDS,
            "streamed": any(asset.streamed for asset in scene.assets),
        }
        self._renderer: Renderer | None = None
        # One thread draws for all: what a thread keeps (scratch, a pool of OpenMP) is kept once.
        self._hand = ThreadPoolExecutor(1, "drawing")

    def _renderer_for(self, width: int, height: int, options: dict[str, Any]) -> Renderer:
        """The last picture's renderer, or another where what cannot be changed differs."""
        last = self._renderer
        wanted = {"threads": self.threads, "on_overflow": "warn", **options}
        if last is None or any(last._options[k] != v for k, v in wanted.items()):
            last = Renderer(width, height, **wanted)
        last.width, last.height = width, height
        self._renderer = last
        return last

    def _camera(self, place: dict[str, Any]) -> Camera:
        eye, target = (np.array(place[k], float).reshape(3) for k in ("eye", "target"))
        if not (np.isfinite(eye).all() and np.isfinite(target).all()):
            raise ValueError("eye and target must be finite")
        reach = float(np.linalg.norm(eye - self.centre))
        near = max(1e-5 * self.radius, 1e-3 * min(self.radius, abs(reach - self.radius)))
        return Camera.look_at(eye, target, fov_y=50, near=near)

    def draw(self, wish: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """A JPEG and its figures. Raises ValueError, TypeError, KeyError for what is no wish."""
        width, height = (
            min(max(1, int(n)), most) for n, most in zip(wish["size"], LARGEST, strict=True)
        )
        camera, kind = self._camera(wish), str(wish["kind"])
        frozen = self._camera(wish["frozen"]) if wish["frozen"] else None
        azimuth, elevation = np.radians(np.array(wish["sun"], float).reshape(2))
        light = [np.sin(azimuth) * np.cos(elevation), np.sin(elevation),
                 np.cos(azimuth) * np.cos(elevation)]  # fmt: skip
        options = {
            "budget": min(max(1, int(wish["budget"])), 1 << 40),
            "occlusion": bool(wish["occlusion"]),
            "overdraw": kind == "overdraw",
        }
        threshold = min(max(0.0, float(wish["threshold"])), 1e6)

        def picture() -> tuple[np.ndarray, dict[str, Any]]:
            renderer = self._renderer_for(width, height, options)
            renderer.threshold = threshold
            frame = renderer.render(self.scene, camera, cull_camera=frozen)
            return frame.picture(kind, light=light), renderer.stats

        image, stats = self._hand.submit(picture).result()
        from PIL import Image

        data = io.BytesIO()
        Image.fromarray(image).save(data, "JPEG", quality=88)
        return data.getvalue(), _figures(stats)


def _figures(stats: dict[str, Any]) -> dict[str, Any]:
    """What a frame took, flat and in words."""
    out: dict[str, Any] = {k: stats[k] for k in ("triangles", "visible", "candidates", "visited")}
    out |= {f"culled by {k}": v for k, v in stats["culled"].items()}
    out["overflow"] = sum(stats["overflow"].values())
    for key, value in stats.items():
        if key.endswith(("_pages", "_bytes")) or key == "threshold":
            out[key.replace("_", " ")] = value
    return out | {f"{stage} ms": value for stage, value in stats["ms"].items()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: "Viewer"

    def do_GET(self) -> None:
        name = self._asked()
        if name == "":
            nonce = secrets.token_urlsafe(16)
            page = files("nanite_cull").joinpath("viewer.html").read_text("utf-8")
            policy = {"Content-Security-Policy": POLICY.format(nonce)}
            self._answer(
                page.replace("@NONCE@", nonce).encode(), "text/html; charset=utf-8", policy
            )
        elif name == "info":
            self._answer(json.dumps(self.server.studio.info).encode(), "application/json", {})
        elif name is not None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        name = self._asked()
        if name is None:
            return
        length = self.headers.get("Content-Length", "")
        if name != "frame" or not (length.isascii() and length.isdigit()):
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing to post here")
        elif len(length) > len(str(LONGEST_BODY)) or int(length) > LONGEST_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too long")
        elif self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
        else:
            self._draw(self.rfile.read(int(length)))

    def _draw(self, body: bytes) -> None:
        try:
            data, stats = self.server.studio.draw(json.loads(body))
        except (KeyError, TypeError, OverflowError, ValueError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"{type(error).__name__}: {error}")
        except RuntimeError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        else:
            self._answer(data, "image/jpeg", {"X-Stats": json.dumps(stats)})

    def _asked(self) -> str | None:
        """What is asked for behind the token; None where the request was refused."""
        _, token, *rest = [*self.path.partition("?")[0].split("/", 2), ""]
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN, "this server has another name")
        elif origin is not None and origin != f"http://{self.headers['Host']}":
            self._refuse(HTTPStatus.FORBIDDEN, "requests of other sites are refused")
        elif not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "the address lacks its token")
        else:
            return rest[0]
        return None

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # its body was not read
        self._answer((why + "\n").encode(), "text/plain; charset=utf-8", {}, status)

    def _answer(
        self, data: bytes, kind: str, headers: dict[str, str], status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        self.send_response(status)
        more = {"Connection": "close"} if self.close_connection else {}
        length = {"Content-Type": kind, "Content-Length": str(len(data))}
        for name, value in (HEADERS | length | more | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the page says what goes wrong."""


class Viewer(ThreadingHTTPServer):
    """Serves one scene on this machine until `shutdown`; `address` is for the browser.

    port: 0 takes a free one. Raises OSError where the port is taken.
    """

    daemon_threads = True

    def __init__(self, scene: Scene, name: str, *, port: int = 0, threads: int = 0) -> None:
        self.studio, self.token = Studio(scene, name, threads), secrets.token_urlsafe(24)
        super().__init__(("127.0.0.1", port), _Handler)
        self.hosts = {f"{host}:{self.server_port}" for host in ("127.0.0.1", "localhost")}
        self.address = f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error; others are told as ever."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)
