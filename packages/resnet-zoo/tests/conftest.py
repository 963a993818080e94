"""Oracles: torchvision and timm beside a CPU build of torch.

Their wheels are installed without dependencies. The torchvision wheel's extension belongs to a CUDA
build: beside a torch for the CPU the two operators that its import asks for are declared first;
models, transforms and weight metadata then work.
"""

import hashlib
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

# Threads that wait should sleep: spinning ones make training tests ten times slower on a busy
# machine. OpenMP asks once, when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch


@pytest.fixture(scope="session")
def torchvision():
    if torch.version.cuda is None:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        sys.modules.setdefault("_resnet_zoo_test_oracle_library", library)  # keep it alive
    module = pytest.importorskip("torchvision", reason="the torchvision oracle is not installed")
    assert hasattr(module.models, "resnet50")
    return module


@pytest.fixture(scope="session")
def timm(torchvision):
    return pytest.importorskip("timm", reason="the timm oracle is not installed")


@pytest.fixture(autouse=True)
def _two_threads_and_a_private_cache(tmp_path_factory, monkeypatch):
    """No test touches the user's cache or the network outside loopback."""
    torch.set_num_threads(2)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch_home")))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("RESNET_ZOO_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
    for name in ("OFFLINE", "HUB_OFFLINE", "HUB_CACHE", "TOKEN", "TOKEN_PATH"):
        monkeypatch.delenv(f"HF_{name}".replace("HF_OFFLINE", "RESNET_ZOO_OFFLINE"), raising=False)


def _calibrate(model, size=40):
    """Give the norms realistic statistics, so that logits stay of order one."""
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, size, size))
    return model.eval()


@pytest.fixture(scope="session")
def calibrate():
    return _calibrate


class _Server(ThreadingHTTPServer):
    """Serves `files` by name; `faults[name]` is a list of misdeeds, one for each request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.faults, self.requests, self.etags = {}, {}, [], {}
        self.stall = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, stem, data, suffix=".safetensors"):
        """Publish bytes under upstream's naming convention; returns (name, full SHA-256)."""
        digest = hashlib.sha256(data).hexdigest()
        name = f"{stem}-{digest[:8]}{suffix}"
        self.files[name] = data
        return name, digest

    def handle_error(self, request, client_address):
        """Clients that were killed or that we dropped are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        asked = self.headers.get("Range")
        self.server.requests.append((name, asked))
        faults = self.server.faults.get(name) or []
        fault = faults.pop(0) if faults else None
        self.close_connection = True
        if fault in ("404", "500"):
            return self.send_error(int(fault))
        data = self.server.files.get(name)
        if data is None:
            return self.send_error(404)
        kind, etag = "application/octet-stream", self.server.etags.get(name, '"v1"')
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/final/{name}")
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if fault == "html":
            kind, data = "text/html; charset=utf-8", b"<!DOCTYPE html><p>please log in</p>"
        if fault == "html as octets":
            data = b"<!DOCTYPE html><p>please log in</p>"
        if fault == "flip":
            data = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
        if fault == "short file":  # a complete answer of a truncated file
            data = data[: len(data) // 2]
        start = 0
        fits = self.headers.get("If-Range") in (None, etag)
        if asked and fault != "no ranges" and fits:
            start = int(asked.split("=")[1].rstrip("-"))
            if start >= len(data):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        if fault == "drop":
            body = body[: len(body) // 2]
        if fault == "stall":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.server.stall.wait(30)
            return None
        self.wfile.write(body)
        return None


@pytest.fixture
def server():
    with _Server() as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield http
        http.stall.set()
        http.shutdown()
        thread.join()
