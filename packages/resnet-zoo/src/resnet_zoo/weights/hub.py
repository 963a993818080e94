"""The Hugging Face hub: names, tokens, the cache that its own tools leave, and what to fetch.

A repo is written `owner/name`, `owner/name@revision` or `hf:owner/name/sub/folder@revision`. What
huggingface_hub has downloaded before is used where it lies ($HF_HUB_CACHE, $HF_HOME/hub).
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from .cache import Remote, sha256_of

HUB = "https://huggingface.co"
# Weight files of a repo, the best first.
FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
_PART = r"[A-Za-z0-9][\w.-]*"
_NAME = re.compile(
    rf"(?P<hub>hf:|hf-hub:)?(?P<repo>{_PART}/{_PART})(?P<folder>(?:/{_PART})*)"
    r"(?:@(?P<revision>[\w./-]+))?\Z"
)


@dataclass(frozen=True)
class Repo:
    """A repo, a revision and a folder in it."""

    name: str
    revision: str = "main"
    folder: str = ""

    @staticmethod
    def parse(text: str) -> Repo | None:
        """The repo that `text` names, or None; folders only after "hf:"."""
        match = _NAME.match(text)
        if match is None or (match["folder"] and not match["hub"]):
            return None
        return Repo(match["repo"], match["revision"] or "main", match["folder"].strip("/"))

    def __str__(self) -> str:
        folder = f"/{self.folder}" if self.folder else ""
        return f"hf:{self.name}{folder}" + ("" if self.revision == "main" else f"@{self.revision}")

    def remote(self, file: str) -> Remote:
        """Where one of its files is, and its name in our cache."""
        inside = f"{self.folder}/{file}" if self.folder else file
        parts = [self.name, *([self.revision] if self.revision != "main" else []), inside]
        name = "--".join(re.sub(r"[^\w.+-]", "--", part) for part in parts)
        url = f"{endpoint()}/{self.name}/resolve/{self.revision}/{inside}"
        return Remote(url, name, token=token())

    def cached(self, file: str) -> Path | None:
        """The file as huggingface_hub keeps it, if it is there and whole."""
        root = hub_cache() / f"models--{self.name.replace('/', '--')}"
        reference = root / "refs" / self.revision
        commit = self.revision
        if reference.is_file():
            commit = reference.read_text(encoding="ascii", errors="replace").strip()
        path = root / "snapshots" / commit / self.folder / file
        if not path.is_file():
            return None
        digest = path.resolve().name  # large files lie under their SHA-256
        if re.fullmatch(r"[0-9a-f]{64}", digest) and sha256_of(path) != digest:
            print(f"resnet-zoo: {path} is damaged and not used", file=sys.stderr)
            return None
        return path


def endpoint() -> str:
    """Base address of the hub: HF_ENDPOINT, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def home() -> Path:
    """HF_HOME, or where huggingface_hub has it."""
    if told := os.environ.get("HF_HOME"):
        return Path(told).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface"


def hub_cache() -> Path:
    """Where huggingface_hub keeps repos."""
    told = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(told).expanduser() if told else home() / "hub"


def token() -> str:
    """The user's access token: HF_TOKEN, or what `hf auth login` stored; "" without one."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in ("1", "true", "yes", "on"):
        return ""
    told = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if told:
        return told.strip()
    path = Path(os.environ.get("HF_TOKEN_PATH") or home() / "token").expanduser()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
