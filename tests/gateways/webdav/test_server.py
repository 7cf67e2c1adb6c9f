# SPDX-License-Identifier: Apache-2.0
"""WebDAV on the wire: what the shared HTTP server and this door's rules promise each other, byte by byte.

The server itself is tested in tests/gateways/http. Source: spec webdav §2.4, §8, §15, §20; RFC 9110 §10.1.1, RFC 9112.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.gateways.http.kit import Client
from tests.gateways.webdav.door import BASIC, Door
from tests.servers.process import wait_for

LOGIN = f"Authorization: {BASIC}\r\n"


def send(client: Client, line: str, headers: str = "", body: bytes = b"", *, login: bool = True) -> None:
    client.send(f"{line} HTTP/1.1\r\nHost: dav\r\n{LOGIN if login else ''}{headers}\r\n".encode("latin-1") + body)


def test_head_of_a_collection_tells_no_length_and_keeps_the_connection(door: Door) -> None:
    with Client(door.port) as client:
        for _ in range(2):
            send(client, "HEAD /")
            answer = client.answer(head_only=True)
            assert answer.status == 200
            assert answer.headers["content-type"] == "httpd/unix-directory"
            assert "content-length" not in answer.headers


def test_a_head_of_a_file_has_the_length_of_the_get(door: Door) -> None:
    door.put("/wire.txt", b"12345")
    with Client(door.port) as client:
        send(client, "HEAD /wire.txt")
        assert client.answer(head_only=True).headers["content-length"] == "5"
        send(client, "GET /wire.txt")
        assert client.answer().body == b"12345"


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("FOO /", "", 405),
        ("COPY /a", "Destination: /b\r\nDestination: /c\r\n", 400),
        ("PROPFIND /", "Depth: 0\r\nDepth: 1\r\n", 400),
        ("PUT /a", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
        ("PUT /a", "Content-Length: -1\r\n", 400),
        ("GET /" + "x" * 20_000, "", 400),
    ],
)
def test_what_is_no_request_is_answered_in_plain_words(door: Door, line: str, headers: str, status: int) -> None:
    with Client(door.port) as client:
        send(client, line, headers)
        answer = client.answer()
        assert answer.status == status
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.headers["connection"] == "close"
        assert b"Error>" not in answer.body and answer.body.endswith(b"\n")
        assert ("allow" in answer.headers) == (status == 405)


def test_nobody_is_asked_for_a_body_that_is_refused(door: Door) -> None:
    """`100 Continue` goes out when the body is wanted, so what the gate refuses costs the client nothing."""
    door.ask("MKCOL", "/a-folder")
    big = "Content-Length: 100000000\r\nExpect: 100-continue\r\n"
    for line, login, status in (
        ("PUT /x", False, 401), ("PUT /no/parent", True, 409), ("PUT /a-folder", True, 405), ("PUT /.sys/x", True, 403),
    ):  # fmt: skip
        with Client(door.port) as client:
            send(client, line, big, login=login)
            answer = client.answer()
            assert (line, answer.status) == (line, status)
            assert client.at_end()
    with Client(door.port) as client:
        send(client, "PUT /asked", "Content-Length: 3\r\nExpect: 100-continue\r\n")
        assert client.answer().status == 100
        client.send(b"abc")
        assert client.answer().status in (201, 204)


def test_a_body_that_breaks_off_leaves_the_old_content(door: Door) -> None:
    door.put("/kept", b"old")
    for length in (100, 1_000_000):
        with Client(door.port) as client:
            send(client, "PUT /kept", f"Content-Length: {length}\r\n", b"new")
        with Client(door.port) as client:
            send(client, "PUT /kept", "Transfer-Encoding: chunked\r\n", b"3\r\nnew\r\n")
    assert door.ask("GET", "/kept").body == b"old"


def test_requests_that_are_sent_together_are_answered_in_order(door: Door) -> None:
    with Client(door.port) as client:
        for number in range(5):
            send(client, "PUT /pipe", "Content-Length: 1\r\n", b"%d" % number)
            send(client, "GET /pipe")
        for number in range(5):
            assert client.answer().status in (201, 204)
            assert client.answer().body == b"%d" % number


def test_a_listing_leaves_as_it_is_made(door: Door) -> None:
    door.ask("MKCOL", "/pages")
    for number in range(150):
        door.put(f"/pages/{number:03d}")
    with Client(door.port) as client:
        send(client, "PROPFIND /pages/", "Depth: 1\r\nContent-Length: 0\r\n")
        answer = client.answer()
        assert answer.status == 207
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.body.count(b"<D:response>") == 151


def test_a_killed_worker_is_replaced_and_the_others_go_on(meta_url: str) -> None:
    with Door(meta_url, workers=2) as door:
        assert door.process is not None
        parent = door.process.pid

        def workers() -> set[int]:
            return set(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()))

        wait_for(lambda: "is served" in door.log_text(), what="two workers")
        before = workers()
        assert len(before) == 2
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: killed not in workers(), what="the end of the killed one")
        for number in range(20):
            assert door.put(f"/after-{number}").status in (201, 204)
        wait_for(lambda: len(workers()) == 2 and workers() != before, what="another worker in place of the killed one")
