# SPDX-License-Identifier: Apache-2.0
"""A thousand connections that are idle, or send a head or a body byte by byte, keep nobody from being served.

Both doors as users run them, one worker each, so that all of it lands in one process. Source: spec s3 §19; webdav §20.
"""

from __future__ import annotations

import http.client
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gateways.s3.gateway_process import GatewayProcess
from tests.gateways.webdav.door import BASIC, Door, make_volume

CONNECTIONS = 1000
#: What each kind of them has sent; none is a whole request.
KINDS = {
    "idle": b"",
    "slow head": b"GET /f HTTP/1.1\r\nHost: h\r\nX-Slow: ",
    "slow body": b"PUT /slow HTTP/1.1\r\nHost: h\r\nAuthorization: " + BASIC.encode()
    + b"\r\nContent-Length: 1000000\r\n\r\nabc",
    "slow small body": b"PUT /slow HTTP/1.1\r\nHost: h\r\nAuthorization: " + BASIC.encode()
    + b"\r\nContent-Length: 100\r\n\r\nabc",
}  # fmt: skip


@pytest.fixture(scope="module")
def meta_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_volume(tmp_path_factory.mktemp("volume"))


@pytest.fixture(scope="module", params=["s3", "webdav"])
def door(request: pytest.FixtureRequest, meta_url: str) -> Iterator[Door | GatewayProcess]:
    server = Door(meta_url) if request.param == "webdav" else GatewayProcess(meta_url, workers=1)
    with server:
        yield server


def ask(door: Door | GatewayProcess, connection: http.client.HTTPConnection) -> int:
    if isinstance(door, Door):
        connection.request("GET", "/f", headers={"Authorization": BASIC})
    else:
        connection.request("GET", "/minio/health/ready")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def median_s(door: Door | GatewayProcess, *, fresh: bool) -> float:
    """Of 15 requests; fresh: each on a connection of its own."""
    times = []
    kept = http.client.HTTPConnection("127.0.0.1", door.port, timeout=20)
    for _ in range(15):
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=20) if fresh else kept
        assert ask(door, connection) == 200
        times.append(time.monotonic() - began)
        if fresh:
            connection.close()
    kept.close()
    return sorted(times)[len(times) // 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_slow_connections_keep_nobody_out(door: Door | GatewayProcess, kind: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"only {hard} files may be open here; raise `ulimit -Hn` to {needed}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed) if soft >= 0 else soft, hard))
    if isinstance(door, Door):
        assert door.put("/f").status in (201, 204)
    before = max(median_s(door, fresh=True), median_s(door, fresh=False))
    with ExitStack() as stack:
        slow = []
        for _ in range(CONNECTIONS):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", door.port), timeout=20))
            sock.sendall(KINDS[kind])
            slow.append(sock)
        for fresh in (True, False):
            # Twenty times what it took alone, or a tenth of a second on a busy machine: a server that goes through its
            # connections one after another, or has a thread for each, takes seconds.
            assert median_s(door, fresh=fresh) < max(20 * before, 0.1)
        assert door.process is not None
        assert _open_sockets(door.process.pid) >= CONNECTIONS * 0.9  # they are really there
        for sock in slow[:50]:
            if KINDS[kind]:
                sock.sendall(b"x")
        assert median_s(door, fresh=True) < max(20 * before, 0.1)


def _open_sockets(pid: int) -> int:
    return sum(1 for each in Path(f"/proc/{pid}/fd").iterdir() if _is_socket(each))


def _is_socket(path: Path) -> bool:
    try:
        return str(path.readlink()).startswith("socket:")
    except FileNotFoundError:
        return False
