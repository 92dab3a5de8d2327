"""Downloads, from a real HTTP server that misbehaves."""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql.dataset_config import WikiSQLDataset
from t2s_assets.text2sql.datasets import read_source
from t2s_assets.text2sql.datasets.download import download
from t2s_assets.text2sql.datasets.wikisql import read_wikisql
from t2s_assets.text2sql.errors import DataError
from t2s_assets_tests.projects import SHOP, write_wikisql
from t2s_assets_tests.text2sql.datasets.test_wikisql import pack

# The package has a function of the same name.
module = importlib.import_module("t2s_assets.text2sql.datasets.download")

CONTENT = random.Random(1).randbytes(600_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the next of the server's `answers`; the last one stays."""

    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(dict(self.headers))
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    answers: list[Answer]
    requests: list[dict[str, str]]
    stopped: threading.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/some/data.tar.bz2?download=1"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.answers, running.requests, running.stopped = [], [], threading.Event()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.stopped.set()
        running.shutdown()
        thread.join()


def file(
    content: bytes = CONTENT,
    *,
    etag: str | None = '"v1"',
    ranges: bool = True,
    if_range: bool = True,
    until: int | None = None,
    stall: bool = False,
    length: bool = True,
) -> Answer:
    """Serve a file; after `until` bytes the connection closes, or with `stall` goes silent."""

    def answer(handler: Handler) -> None:
        start = 0
        wanted = handler.headers.get("Range")
        if wanted and ranges and (not if_range or handler.headers.get("If-Range") == etag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if etag:
            handler.send_header("ETag", etag)
        if length:
            handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start : len(content) if until is None else max(start, until)])
        handler.wfile.flush()
        if stall:
            handler.server.stopped.wait(20)

    return answer


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


def garbage(handler: Handler) -> None:
    handler.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")


def silence(handler: Handler) -> None:
    handler.server.stopped.wait(20)


def get(server: Server, folder: Path, **settings: Any) -> Path:
    return download(server.url, folder / "data.tar.bz2", **({"wait": 0.01, "timeout": 5.0} | settings))


def only(folder: Path, *names: str) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    server.answers = [file()]
    said: list[str] = []
    path = get(server, tmp_path / "new" / "folder", sha256=SHA256, log=said.append)
    assert path.read_bytes() == CONTENT
    only(path.parent, "data.tar.bz2")
    assert said == ["0.6 MB downloaded"]


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.answers = [file()]
    for sha256 in (SHA256, SHA256, None):
        get(server, tmp_path, sha256=sha256)
    assert len(server.requests) == 1


def test_a_file_with_another_checksum_is_fetched_again(server: Server, tmp_path: Path) -> None:
    server.answers = [file()]
    (tmp_path / "data.tar.bz2").write_bytes(b"old")
    assert get(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_progress_says_how_much_of_how_much(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHOW_EVERY", 0.0)
    said: list[str] = []
    server.answers = [file()]
    get(server, tmp_path, log=said.append)
    assert re.fullmatch(r"0\.\d MB of 0\.6 MB", said[0])
    assert said[-1] == "0.6 MB downloaded"
    said.clear()
    server.answers = [file(length=False)]
    get(server, tmp_path / "unsized", log=said.append)
    assert re.fullmatch(r"0\.\d MB", said[0])


@pytest.mark.parametrize("stall", [False, True])
def test_a_broken_connection_goes_on_where_it_stopped(server: Server, tmp_path: Path, stall: bool) -> None:
    server.answers = [file(until=200_000, stall=stall), file(until=400_000, stall=stall), file()]
    said: list[str] = []
    path = get(server, tmp_path, timeout=0.5, log=said.append)
    assert path.read_bytes() == CONTENT
    assert [r.get("Range") for r in server.requests] == [None, *(r["Range"] for r in server.requests[1:])]
    starts = [int(r["Range"].removeprefix("bytes=").rstrip("-")) for r in server.requests[1:]]
    assert 0 < starts[0] < starts[1] <= 400_000
    assert [r["If-Range"] for r in server.requests[1:]] == ['"v1"', '"v1"']
    assert sum("trying again in" in s for s in said) == 2
    only(tmp_path, "data.tar.bz2")


@pytest.mark.parametrize("settings", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"'}])
def test_where_going_on_is_not_safe_it_starts_again(server: Server, tmp_path: Path, settings: dict[str, Any]) -> None:
    server.answers = [file(until=200_000, **settings), file(**settings)]
    assert get(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("if_range", [True, False])
def test_two_versions_are_never_joined(server: Server, tmp_path: Path, if_range: bool) -> None:
    changed = CONTENT[::-1]
    server.answers = [file(until=200_000), file(changed, etag='"v2"', if_range=if_range)]
    assert get(server, tmp_path).read_bytes() == changed


def test_a_file_that_became_shorter(server: Server, tmp_path: Path) -> None:
    shorter = CONTENT[:100_000]
    server.answers = [file(until=200_000), status(416), file(shorter, etag='"v2"')]
    assert get(server, tmp_path).read_bytes() == shorter


@pytest.mark.parametrize("broken", [silence, garbage, status(500), status(503), status(429), file(until=0)])
def test_passing_trouble_is_tried_again(server: Server, tmp_path: Path, broken: Answer) -> None:
    server.answers = [broken, broken, file()]
    assert get(server, tmp_path, timeout=0.3).read_bytes() == CONTENT
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "broken", [silence, garbage, status(500), file(until=200_000), file(until=300_000, stall=True)]
)
def test_lasting_trouble_ends_with_the_way_out_and_no_half_file(server: Server, tmp_path: Path, broken: Answer) -> None:
    server.answers = [broken]
    with pytest.raises(DataError) as caught:
        get(server, tmp_path, timeout=0.3, tries=3)
    message = str(caught.value)
    assert "not downloaded after 3 tries" in message
    assert f"put it at {tmp_path / 'data.tar.bz2'}" in message
    assert "kind: local" in message
    assert len(server.requests) == 3
    only(tmp_path)


def test_a_machine_without_a_network(tmp_path: Path, server: Server) -> None:
    server.server_close()
    with pytest.raises(DataError, match=r"not downloaded after 2 tries.*Connection refused"):
        get(server, tmp_path, tries=2)
    only(tmp_path)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_not_tried_again(server: Server, tmp_path: Path, code: int) -> None:
    server.answers = [status(code)]
    with pytest.raises(DataError, match=f"the server answers {code} .*check the address"):
        get(server, tmp_path)
    assert len(server.requests) == 1
    only(tmp_path)


def test_a_wrong_checksum_leaves_nothing_and_keeps_what_was(server: Server, tmp_path: Path) -> None:
    server.answers = [file(CONTENT[::-1])]
    with pytest.raises(DataError, match=f"sha256 is .*{SHA256} is wanted"):
        get(server, tmp_path, sha256=SHA256)
    only(tmp_path)
    (tmp_path / "data.tar.bz2").write_bytes(b"old")
    with pytest.raises(DataError, match="sha256"):
        get(server, tmp_path, sha256=SHA256)
    assert (tmp_path / "data.tar.bz2").read_bytes() == b"old"


def test_an_interrupt_leaves_no_half_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_SHOW_EVERY", 0.0)
    server.answers = [file()]
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path, log=interrupt)
    only(tmp_path)


def test_what_a_killed_run_left_is_not_built_on(server: Server, tmp_path: Path) -> None:
    left = tmp_path / ".data.tar.bz2.0123abcd.new"
    left.write_bytes(b"junk")
    os.utime(left, (0, 0))
    server.answers = [file()]
    assert get(server, tmp_path).read_bytes() == CONTENT
    only(tmp_path, "data.tar.bz2")


def test_two_at_once_both_get_it_whole(server: Server, tmp_path: Path) -> None:
    """As two runs of Dagster that make the same tables. The second has a part of it when the first is done."""
    sent, ends = ([threading.Event(), threading.Event()] for _ in range(2))

    def in_two_pieces(which: int) -> Answer:
        def answer(handler: Handler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(CONTENT)))
            handler.end_headers()
            handler.wfile.write(CONTENT[:300_000])
            handler.wfile.flush()
            sent[which].set()
            ends[which].wait(20)
            handler.wfile.write(CONTENT[300_000:])

        return answer

    server.answers = [in_two_pieces(0), in_two_pieces(1)]
    with ThreadPoolExecutor(2) as at_once:
        first = at_once.submit(get, server, tmp_path)
        assert sent[0].wait(20)
        second = at_once.submit(get, server, tmp_path)
        assert sent[1].wait(20)
        ends[0].set()
        try:
            assert first.result(20).read_bytes() == CONTENT
        finally:
            ends[1].set()
        assert second.result(20).read_bytes() == CONTENT
    only(tmp_path, "data.tar.bz2")


# ----------------------------------------------------------------------------------------------- as a source


def config(url: str, sha256: str | None = None) -> WikiSQLDataset:
    source = {"kind": "url", "url": url, "sha256": sha256}
    return WikiSQLDataset.model_validate({"description": "d", "source": source})


def test_a_dataset_from_a_url_is_the_one_in_the_archive(server: Server, tmp_path: Path) -> None:
    folder = write_wikisql(tmp_path / "wikisql")
    content = pack(folder, tmp_path / "data.tar.bz2").read_bytes()
    server.answers = [file(content, until=len(content) // 2), file(content)]
    wanted = config(server.url, hashlib.sha256(content).hexdigest())
    assert read_source(wanted, folder=tmp_path, downloads=tmp_path / "cache") == read_wikisql(folder)


def test_a_page_instead_of_an_archive_says_where_it_came_from(server: Server, tmp_path: Path) -> None:
    server.answers = [file(b"<html>please log in</html>")]
    with pytest.raises(DataError) as caught:
        read_source(config(server.url), folder=tmp_path, downloads=tmp_path / "cache")
    stored = next((tmp_path / "cache").rglob("data.tar.bz2"))
    assert f"It came from {server.url}; remove {stored} to download it again" in str(caught.value)


def test_archives_of_one_name_at_two_addresses_are_two_files(server: Server, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        folder = write_wikisql(tmp_path / name, {} if name == "b" else SHOP)
        contents.append(pack(folder, tmp_path / f"{name}.tar.bz2").read_bytes())
    server.answers = [file(contents[0]), file(contents[1])]
    sources = [
        read_source(config(f"{server.url}&of={name}"), folder=tmp_path, downloads=tmp_path / "cache")
        for name in ("a", "b")
    ]
    assert [len(s.tables) for s in sources] == [4, 0]
