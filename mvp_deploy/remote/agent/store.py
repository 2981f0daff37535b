"""Files kept by content, so that none is sent twice and a transfer that broke off goes on."""

import contextlib
import hashlib
import os
import re
import shutil

from mvp_deploy.remote.agent.line import CHUNK, Refused

BLOB = re.compile(r"[0-9a-f]{64}(\.part)?")


class Store:
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def path(self, sha: str) -> str:
        return os.path.join(self.folder, sha)

    def missing(self, files: "dict[str, int]") -> "dict[str, int]":
        """Which of these contents (SHA-256 -> size) are not here whole, and how many bytes of each are."""
        found = {}
        for sha, size in files.items():
            blob = self.path(sha)
            if os.path.exists(blob) and os.path.getsize(blob) == size and digest(blob) == sha:
                os.utime(blob)
                continue
            remove(blob)
            part = blob + ".part"
            if os.path.exists(part) and os.path.getsize(part) > size:
                remove(part)
            found[sha] = os.path.getsize(part) if os.path.exists(part) else 0
        return found

    def put(self, sha: str, size: int, body: bytes) -> None:
        """Add bytes to a content that is on its way; its checksum decides whether it has arrived."""
        blob = self.path(sha)
        part = blob + ".part"
        try:
            with open(part, "ab") as file:
                file.write(body)
        except OSError:
            remove(part)  # a full disk is not filled further by what nobody can use
            raise
        if os.path.getsize(part) < size:
            return
        if digest(part) != sha:
            remove(part)
            raise Refused("a file changed on its way: run again")
        os.chmod(part, 0o444)
        os.replace(part, blob)

    def get(self, sha: str, offset: int) -> bytes:
        """Bytes of a content, from an offset on."""
        with open(self.path(sha), "rb") as file:
            file.seek(offset)
            return file.read(CHUNK)

    def add(self, path: str) -> str:
        """Keep a file that was made here; its SHA-256."""
        sha = digest(path)
        if not os.path.exists(self.path(sha)):
            link(path, self.path(sha))
        return sha

    def tidy(self, keep: int) -> None:
        """Remove the contents that were not used for longest, while all have more bytes than that."""
        blobs = [self.path(name) for name in os.listdir(self.folder) if BLOB.fullmatch(name)]
        kept = 0
        for blob in sorted(blobs, key=os.path.getmtime, reverse=True):
            kept += os.path.getsize(blob)
            if kept > keep:
                remove(blob)


def digest(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(CHUNK), b""):
            found.update(block)
    return found.hexdigest()


def link(source: str, target: str) -> None:
    """The same content under another name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
