"""A stand-in for Hugging Face's HTTP API on this machine: what `HfApi.create_repo` and `upload_folder` ask of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """What was uploaded, by name, and the requests' paths; files that end in .onnx take the way of large files."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.address = ""

    def answer(self, method: str, path: str, body: bytes) -> object:
        if path.endswith("/api/repos/create"):
            self.created.append(json.loads(body))
            return {"url": f"{self.address}/me/{json.loads(body)['name']}"}
        if path.endswith("/api/validate-yaml"):
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [each["path"] for each in json.loads(body)["files"]]
            modes = [(name, "lfs" if name.endswith(".onnx") else "regular") for name in files]
            return {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False, "oid": None} for n, m in modes]}
        if path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            return {
                "transfer": "basic",
                "objects": [
                    {**each, "actions": {"upload": {"href": f"{self.address}/blob/{each['oid']}"}}} for each in wanted
                ],
            }
        if path.startswith("/blob/"):
            self.blobs[path.removeprefix("/blob/")] = body
            return {}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "deletedFile":
                    del self.files[line["value"]["path"]]
                if line["key"] == "lfsFile":
                    self.files[line["value"]["path"]] = self.blobs[line["value"]["oid"]]
            return {
                "commitUrl": f"{self.address}/me/dogs/commit/{0:040}",
                "commitOid": "0" * 40,
                "pullRequestUrl": None,
            }
        if "/tree/" in path:
            return [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.files]
        siblings = [{"rfilename": name} for name in self.files]
        return {"id": "me/dogs", "sha": "0" * 40, "siblings": siblings}


@contextmanager
def hub() -> Iterator[Hub]:
    """A running one, on the loopback."""
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            if not self.path.startswith(("/blob/", "/api/agent-harnesses")):  # which no token is for
                found.tokens.add(self.headers.get("Authorization"))
            answer = json.dumps(found.answer(self.command, self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_HEAD = handle_one

        def log_message(self, *rest: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
