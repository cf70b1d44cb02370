"""A small server that answers as the Hub does (status, X-Error-Code), and huggingface_hub pointed to it."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """owner/open has `files`; owner/gated lists them and refuses the files; owner/closed refuses even that.

    With `fault` it answers everything with this status.
    """

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[str]] = []
    fault: ClassVar[int | None] = None
    card: ClassVar[dict[str, Any]] = {}  # metadata of owner/open's page

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.fault is not None:
            self.answer(self.fault)
        elif "/open" in self.path and REVISION not in self.path:
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
            about = {"id": "owner/open", "sha": REVISION, "siblings": names, "cardData": self.card}
            self.answer(200, json.dumps(about).encode())
        else:
            self.answer(200, self.files[self.path.split(f"/resolve/{REVISION}/")[1]])

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes = b"", error: str = "") -> None:
        self.send_response(status)
        digest = hashlib.sha256(body).hexdigest()[:40]  # files of one ETag are one file in the client's cache
        headers = {"X-Error-Code": error, "X-Repo-Commit": REVISION, "ETag": f'"{digest}"'}
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


class WritableHub(Hub):
    """It also makes repositories and takes commits: small files in the commit, weights by LFS before it.

    owner/forbidden may not be written; a card whose licence is `none-such` is refused.
    """

    made: ClassVar[dict[str, dict[str, Any]]] = {}  # what was asked for, by repository
    held: ClassVar[dict[str, bytes]] = {}  # LFS objects by their sha256
    commits: ClassVar[list[tuple[str, dict[str, bytes]]]] = []  # summary, and content by path
    removed: ClassVar[list[str]] = []

    there: ClassVar[list[str]] = []  # files of each repository before
    head: ClassVar[str] = REVISION  # its newest commit

    def do_GET(self) -> None:
        if not self.path.startswith("/api/models/owner/new"):
            return super().do_GET()
        about = {"id": "owner/new", "sha": self.head, "siblings": [{"rfilename": name} for name in self.there]}
        return self.answer(200, json.dumps(about).encode())

    def do_POST(self) -> None:
        self.requests.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        place, _, _ = self.path.partition("?")
        if place == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo == "owner/forbidden":
                return self.reply({"error": "You don't have the rights"}, 403)
            self.made[repo] = asked
            return self.reply({"url": f"{self.host()}/{repo}"})
        if place == "/api/validate-yaml":
            wrong = "license: none-such" in json.loads(body)["content"]
            return self.reply(
                {"errors": [{"message": '"license" must be one of'}] if wrong else []}, 400 if wrong else 200
            )
        if "/preupload/" in place:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in files}
            rows = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            return self.reply({"files": rows})
        if place.endswith("/info/lfs/objects/batch"):
            objects = [row | {"actions": {"upload": {"href": f"{self.host()}/lfs/{row['oid']}"}}}
                       for row in json.loads(body)["objects"]]  # fmt: skip
            return self.reply({"transfer": "basic", "objects": objects})
        assert "/commit/" in place, place
        lines = [json.loads(line) for line in body.splitlines()]
        if lines[0]["value"].get("parentCommit", self.head) != self.head:
            return self.reply({"error": "A commit has happened since. Please refresh and try again."}, 412)
        files = {
            row["value"]["path"]: base64.b64decode(row["value"]["content"]) for row in lines if row["key"] == "file"
        }
        files |= {row["value"]["path"]: self.held[row["value"]["oid"]] for row in lines if row["key"] == "lfsFile"}
        self.removed.extend(row["value"]["path"] for row in lines if row["key"] == "deletedFile")
        self.commits.append((lines[0]["value"]["summary"], files))
        return self.reply({"commitOid": REVISION, "commitUrl": f"{self.host()}/owner/new/commit/{REVISION}"})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(content).hexdigest() == self.path.removeprefix("/lfs/")
        self.held[self.path.removeprefix("/lfs/")] = content
        self.reply({})

    def host(self) -> str:
        return f"http://{self.headers['Host']}"

    def reply(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
