"""A model hub on loopback, as much of one as huggingface_hub's client asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the hub holds, and how it misbehaves."""

    repo: str
    files: dict[str, bytes]
    large: frozenset[str] = frozenset()
    """Files that it keeps as LFS objects, with a SHA-256; the others have a git blob id."""
    lies_about: frozenset[str] = frozenset()
    """Files of which it lists another digest than that of what it sends."""
    cut_at: dict[str, int] = field(default_factory=dict)
    """Files of which it sends only so many bytes."""
    vanishes_at: int | None = None
    """Breaks the line after so many bytes of the second file."""
    comes_back: bool = False
    """Whether it answers again after that."""
    gated: bool = False
    endpoint: str = ""
    vanished: bool = False
    downloads: list[tuple[str, str | None]] = field(default_factory=list)
    """Each file that was asked for, with its Range header."""

    def listing(self) -> bytes:
        siblings: list[dict[str, object]] = []
        for name, content in self.files.items():
            told = content + b"!" if name in self.lies_about else content
            sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob_id(told)}
            if name in self.large:
                digest = hashlib.sha256(told).hexdigest()
                sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 120}
            siblings.append(sibling)
        return json.dumps({"id": self.repo, "modelId": self.repo, "sha": COMMIT, "siblings": siblings}).encode()


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def served(hub: Hub) -> Generator[Hub]:
    """Serve the hub; sets its `endpoint`."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            if hub.vanished:
                return None
            path = self.path.partition("?")[0]
            if path == f"/api/models/{hub.repo}/revision/main" and not hub.gated:
                return self.send(200, hub.listing(), body, {})
            name = path.removeprefix(f"/{hub.repo}/resolve/{COMMIT}/")
            if name not in hub.files:
                code = "GatedRepo" if hub.gated else "RepoNotFound"
                return self.send(403 if hub.gated else 404, b"", body, {"X-Error-Code": code})
            content = hub.files[name]
            headers = {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if not body:
                return self.send(200, content, body, headers)
            wanted = self.headers.get("Range")
            hub.downloads.append((name, wanted))
            start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
            end = hub.cut_at.get(name, len(content))
            return self.send(206 if wanted else 200, content[start:end], body, headers)

        def send(self, status: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body and hub.vanishes_at is not None and len(hub.downloads) == 2:
                self.wfile.write(content[: hub.vanishes_at])
                hub.vanished = not hub.comes_back
            elif body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
