"""A small server that answers as the Hub does (status, X-Error-Code), and huggingface_hub pointed to it."""

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """owner/open has `files`; owner/gated lists them and refuses the files; owner/closed refuses even that."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if "/open" in self.path and REVISION not in self.path:
            self.answer(404, error="RevisionNotFound")
        elif "/open" not in self.path and "/gated" not in self.path and "/closed" not in self.path:
            self.answer(401, error="RepoNotFound")
        elif "/closed" in self.path or ("/gated" in self.path and "/resolve/" in self.path):
            self.answer(401, error="GatedRepo")
        elif "/tree/" in self.path:
            tree = [
                {"type": "file", "path": name, "size": len(self.files[name]), "oid": "0" * 40} for name in self.files
            ]
            self.answer(200, json.dumps(tree).encode())
        elif "/api/" in self.path:
            names = [{"rfilename": name} for name in self.files]
            self.answer(200, json.dumps({"id": "owner/open", "sha": REVISION, "siblings": names}).encode())
        else:
            self.answer(200, self.files[self.path.split(f"/resolve/{REVISION}/")[1]])

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes = b"", error: str = "") -> None:
        self.send_response(status)
        headers = {"X-Error-Code": error, "X-Repo-Commit": REVISION, "ETag": '"' + body.hex()[:40] + '"'}
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def point_to(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT and HF_HOME set when huggingface_hub is imported."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
