from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock
from urllib.parse import unquote

import fsspec
import pytest

from mvp_deploy.base.errors import ExitCode, MvpError
from mvp_deploy.pipeline.places import content, data_content, fetch, local


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """An empty remote file system, with a cache of its own here."""
    monkeypatch.setenv("MVP_DEPLOY_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_a_remote_folder_is_copied_here_whole_but_for_unfinished_work(remote) -> None:
    remote.pipe({"/bank/bank.json": b"{}", "/bank/tasks/a.safetensors": b"a", "/bank/.work/lock": b""})
    path = fetch("memory://bank")
    assert sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()) == [
        "bank.json",
        "tasks/a.safetensors",
    ]


def test_only_what_has_changed_is_fetched_again(remote, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.pipe({"/bank/bank.json": b"{}", "/bank/tasks/a": b"a"})
    fetched: list[str] = []
    get = type(remote).get_file
    monkeypatch.setattr(
        type(remote),
        "get_file",
        lambda self, remote, *rest, **named: (fetched.append(remote), get(self, remote, *rest)),
    )
    first = fetch("memory://bank")
    assert len(fetched) == 2
    assert fetch("memory://bank") == first
    assert len(fetched) == 2
    remote.pipe("/bank/tasks/a", b"b")
    second = fetch("memory://bank")
    assert fetched[2:] == ["/bank/tasks/a"]
    assert (second / "tasks/a").read_bytes() == b"b"
    assert (first / "tasks/a").read_bytes() == b"a"


def test_a_remote_file_keeps_its_name_and_a_task_its_classes(remote, tmp_path: Path) -> None:
    remote.pipe("/data/birds.npz", b"npz")
    place, _, classes = local("memory://data/birds.npz#owl,wren", tmp_path).partition("#")
    assert Path(place).name == "birds.npz"
    assert Path(place).read_bytes() == b"npz"
    assert classes == "owl,wren"


@pytest.mark.parametrize("url", ["memory://nothing", "nosuchprotocol://x"])
def test_what_cannot_be_fetched_is_one_sentence(remote, url: str) -> None:
    with pytest.raises(MvpError, match=url) as error:
        fetch(url)
    assert error.value.code == ExitCode.ENVIRONMENT


def test_paths_are_relative_to_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local("data/dogs#a", Path("project")) == f"project{os.sep}data/dogs#a"
    assert local("digits#1,2", Path("project")) == "digits#1,2"


def test_what_narrows_a_source_stays_and_its_map_is_beside_the_config(remote, tmp_path: Path) -> None:
    place = unquote(local("birds?limit=5&class-map=map.csv#a", Path("project")))
    assert place == f"project{os.sep}birds?limit=5&class-map=project{os.sep}map.csv#a"
    remote.pipe("/data/birds.tar", b"tar")
    place = local("memory://data/birds.tar?limit=5#owl", tmp_path)
    assert place.endswith("birds.tar?limit=5#owl")
    assert Path(place.partition("?")[0]).read_bytes() == b"tar"


def test_another_class_map_under_the_same_name_is_other_data(tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    (tmp_path / "map.csv").write_text("wren,bird")
    place = f"{tmp_path}/birds?class-map={tmp_path}/map.csv"
    before = data_content(place)
    assert data_content(place) == before
    (tmp_path / "map.csv").write_text("wren,")
    assert data_content(place) != before


def test_content_changes_with_names_and_bytes_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = content(str(tmp_path))
    os.utime(tmp_path / "a", (1, 1))
    (tmp_path / ".hidden").write_text("x")
    assert content(str(tmp_path)) == before
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = content(str(tmp_path))
    (tmp_path / "b").write_text("2")
    assert len({before, renamed, content(str(tmp_path))}) == 3


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one file with these headers."""

    content, headers_sent, fetched = b"", {}, []  # type: ignore[var-annotated]

    def do_HEAD(self) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(self.content)), **self.headers_sent}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)
        self.fetched.append(self.path)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Server]]]:
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("MVP_DEPLOY_CACHE", str(tmp_path / "cache"))
    handler = type("Handler", (Server,), {"fetched": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/birds.npz", handler
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_changed_data_on_a_web_server_are_fetched_again(server: tuple[str, type[Server]], header: str) -> None:
    url, handler = server
    handler.content, handler.headers_sent = b"one", {header: '"1"'}
    assert fetch(url).read_bytes() == b"one"
    first = len(handler.fetched)
    assert fetch(url).read_bytes() == b"one"
    assert len(handler.fetched) - first < first  # fsspec looks for links in it, but it is not fetched again
    handler.content, handler.headers_sent = b"two", {header: '"2"'}
    assert fetch(url).read_bytes() == b"two"
    assert fetch(url).name == "birds.npz"


def test_a_web_server_that_tells_nothing_is_asked_each_time_and_that_is_said(server: tuple[str, type[Server]]) -> None:
    url, handler = server
    reporter = Mock()
    handler.content = b"one"
    first = fetch(url, reporter)
    assert fetch(url) == first  # the same content, the same place
    handler.content = b"two"
    assert fetch(url, reporter).read_bytes() == b"two"
    assert first.read_bytes() == b"one"
    assert "neither ETag nor Last-Modified" in reporter.warn.call_args.args[0]


def test_linked_folders_count_too(tmp_path: Path) -> None:
    (tmp_path / "store" / "ant").mkdir(parents=True)
    (tmp_path / "store" / "ant" / "0.png").write_text("1")
    (tmp_path / "store" / "ant" / "round").symlink_to(tmp_path / "store")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ant").symlink_to(tmp_path / "store" / "ant")
    before = content(str(tmp_path / "data"))
    (tmp_path / "store" / "ant" / "0.png").write_text("2")
    assert content(str(tmp_path / "data")) != before


def test_a_hash_in_a_path_is_not_the_start_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("project/c#1").mkdir(parents=True)
    Path("project/c#1/a").write_text("1")
    assert local("c#1#x,y", Path("project")) == f"project{os.sep}c#1#x,y"
    assert content("project/c#1#x,y") == content("project/c#1")


def test_a_remote_bank_and_remote_data_give_what_local_ones_give(remote, run) -> None:
    for file in Path("bank").rglob("*"):
        if file.is_file():
            remote.pipe(f"/team/bank/{file.relative_to('bank').as_posix()}", file.read_bytes())
    done = run("--dry-run", "--json", "--set", "bank=memory://team/bank")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("unchanged") == 6  # the same bank by content, wherever it lies
