# SPDX-License-Identifier: Apache-2.0
"""How answers leave: lengths, lists, iterators, files by sendfile, TLS, bounded memory. Source: spec s3 §2.4, §18."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from core.chunk.api import FileRange
from core.object.api import Buffer
from gateways.http.body import HIGH_WATER, StreamBody
from gateways.http.messages import Request, Response, ResponseBody
from gateways.http.tls import ReloadingContext
from tests.gateways.http.kit import LOOPS, Client, Paths, Running, digest, running
from tests.servers.process import missing, wait_for


class Fixed(Paths):
    """Answers with `response`, whatever is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.response = lambda: Response(200)

    async def __call__(self, request: Request) -> Response:
        return self.response()


@pytest.fixture(params=[*LOOPS, "tls"])
def server(request: pytest.FixtureRequest, tls_files: tuple[Path, Path]) -> Iterator[Running]:
    if request.param == "tls":
        with running(Fixed(), tls=ReloadingContext(*map(str, tls_files))) as run:
            run.context = trust(tls_files[0])  # type: ignore[attr-defined]
            yield run
    else:
        with running(Fixed(), loop=request.param) as run:
            run.context = None  # type: ignore[attr-defined]
            yield run


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "first")


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if not openssl:
        missing("openssl", "install the package openssl")
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [str(openssl), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key),
         "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def trust(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    return context


def connect(run: Running) -> Client:
    return run.connect(run.context)  # type: ignore[attr-defined]


def serve(run: Running, body: ResponseBody, status: int = 200, length: int | None = None) -> None:
    run.server.application.response = lambda: Response(status, [("ETag", '"e"')], body, length=length)  # type: ignore[attr-defined]


def pattern(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def iterate(*parts: Buffer | FileRange) -> AsyncIterator[Buffer | FileRange]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 5_000_000])
@pytest.mark.parametrize("kind", ["bytes", "list", "views", "iterator"])
def test_bodies_of_every_kind_arrive_whole(server: Running, size: int, kind: str) -> None:
    data = pattern(size)
    view = memoryview(data)
    parts = [view[at : at + 700_001] for at in range(0, size, 700_001)]
    with connect(server) as client:
        for length in (size, None) if kind == "iterator" else (None,):
            body: ResponseBody
            if kind == "bytes":
                body = data
            elif kind == "list":
                body = [data[: size // 3], bytearray(data[size // 3 :])]
            elif kind == "views":
                body = list(parts)
            else:
                body = iterate(*parts)
            serve(server, body, length=length)
            client.request("GET", "/")
            answer = client.answer()
            assert answer.body == data
            assert ("transfer-encoding" in answer.headers) is (kind == "iterator" and length is None)


def test_head_and_bodyless_statuses_send_no_body(server: Running) -> None:
    with connect(server) as client:
        for body, length, expected in (
            (b"abc", None, "3"),
            (b"", 7, "7"),
            ([b"ab", b"cd"], None, "4"),
            (iterate(b"never"), 5, "5"),
            ([FileRange("/nowhere", 0, 10**15)], None, str(10**15)),
        ):
            serve(server, body, length=length)  # type: ignore[arg-type]
            client.request("HEAD", "/")
            assert client.answer(head_only=True).headers["content-length"] == expected
        for status in (204, 304):
            serve(server, b"", status)
            client.request("GET", "/")
            answer = client.answer()
            assert answer.status == status
            assert "content-length" not in answer.headers
            assert answer.headers["etag"] == '"e"'
        serve(server, b"still in step")
        client.request("GET", "/")
        assert client.answer().body == b"still in step"


def test_an_iterator_may_reuse_its_buffer(server: Running) -> None:
    async def reusing() -> AsyncIterator[Buffer]:
        buffer = bytearray(3_000_000)
        for fill in range(8):
            buffer[:] = bytes([fill]) * len(buffer)
            yield memoryview(buffer)
            small = memoryview(buffer)[:10]
            yield small
            small[:] = b"?" * 10

    serve(server, reusing(), length=8 * 3_000_010)
    with connect(server) as client:
        client.request("GET", "/")
        body = client.answer().body
        assert body == b"".join(bytes([fill]) * 3_000_010 for fill in range(8))


@pytest.mark.parametrize("parts", [[b"abc"], [b"abc", b"defgh"], [b"x" * 200_000]])
def test_a_body_of_another_length_than_announced_breaks_the_connection(server: Running, parts: list[bytes]) -> None:
    serve(server, iterate(*parts), length=5)
    with connect(server) as client:
        client.request("GET", "/")
        with pytest.raises((AssertionError, OSError)):
            client.answer()


def test_an_iterator_that_fails_at_once_becomes_500_and_later_a_broken_connection(server: Running) -> None:
    async def failing(after: int) -> AsyncIterator[Buffer]:
        for _ in range(after):
            yield b"x" * 100_000
        raise OSError(5, "disk")

    serve(server, failing(0), length=200_000)
    with connect(server) as client:
        client.request("GET", "/")
        assert client.answer().status == 500
    serve(server, failing(1), length=200_000)
    with connect(server) as client:
        client.request("GET", "/")
        with pytest.raises((AssertionError, OSError)):
            client.answer()


@pytest.fixture(scope="session")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """300 MB whose every MiB differs."""
    path = tmp_path_factory.mktemp("files") / "big"
    block = pattern(1 << 20)
    with path.open("wb") as file:
        for number in range(300):
            file.write(number.to_bytes(8, "big") + block[8:])
    yield path
    path.unlink()


def test_a_file_of_300_mb_arrives_unchanged(server: Running, big_file: Path) -> None:
    size = big_file.stat().st_size
    serve(server, [b"first", FileRange(str(big_file), 1000, size - 1000), b"last"])
    expected = hashlib.sha256(b"first")
    with big_file.open("rb") as file:
        file.seek(1000)
        while data := file.read(1 << 20):
            expected.update(data)
    expected.update(b"last")
    with connect(server) as client:
        client.request("GET", "/")
        client.request("GET", "/")  # pipelined: the next answer must not get in between
        for _ in range(2):
            left = size - 1000 + 9
            while client.file.readline() != b"\r\n":
                pass
            got = hashlib.sha256()
            while left:
                data = client.file.read(min(left, 1 << 20))
                assert data
                got.update(data)
                left -= len(data)
            assert got.digest() == expected.digest()


@pytest.mark.parametrize("length", [10, 65_536, 262_143, 262_144, 3_000_001])
def test_ranges_of_files_and_buffers_can_be_mixed(server: Running, big_file: Path, length: int) -> None:
    with big_file.open("rb") as file:
        file.seek((1 << 20) + 3)
        content = file.read(length)
    part = FileRange(str(big_file), (1 << 20) + 3, length)
    with connect(server) as client:
        for chunked in (False, True):
            parts: list[Buffer | FileRange] = [b"a", part, memoryview(b"b"), part, part, b"c" * 100_000]
            serve(server, iterate(*parts) if chunked else parts)
            client.request("GET", "/")
            assert client.answer().body == b"a" + content + b"b" + content * 2 + b"c" * 100_000


@pytest.mark.parametrize("size", [1000, 5_000_000])
def test_a_file_shorter_than_announced_breaks_the_connection(server: Running, tmp_path: Path, size: int) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"x" * (size - 1))
    serve(server, [FileRange(str(path), 0, size)])
    with connect(server) as client:
        client.request("GET", "/")
        with pytest.raises((AssertionError, OSError)):
            client.answer()


def test_a_missing_file_becomes_500(server: Running, tmp_path: Path) -> None:
    serve(server, [FileRange(str(tmp_path / "gone"), 0, 1_000_000)])
    with connect(server) as client:
        client.request("GET", "/")
        assert client.answer().status == 500


def test_a_peer_that_leaves_during_sendfile_frees_everything(server: Running, big_file: Path) -> None:
    serve(server, [FileRange(str(big_file), 0, big_file.stat().st_size)])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        client = connect(server)
        client.request("GET", "/")
        assert client.file.read(100_000)
        client.close()
    wait_for(lambda: server.server.connections == 0, what="no connection left")
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before, what="descriptors closed")


def test_a_reader_slower_than_the_disk_gets_everything(server: Running, big_file: Path) -> None:
    # The socket stays full for longer than the sendfile thread waits, so it goes back to the loop and comes again.
    size = 30_000_000
    serve(server, [FileRange(str(big_file), 0, size)])
    with big_file.open("rb") as file:
        expected = file.read(size)
    with connect(server) as client:
        client.request("GET", "/")
        while client.file.readline() != b"\r\n":
            pass
        got = b""
        pause = threading.Event()
        while len(got) < size:
            pause.wait(0.1)
            got += client.file.read(min(8_000_000, size - len(got)))
        assert got == expected


@pytest.mark.parametrize("loop", list(LOOPS))
def test_unread_bodies_stop_the_socket_instead_of_filling_memory(loop: str) -> None:
    bodies: list[StreamBody] = []
    release: list[asyncio.Event] = []

    async def lazy(request: Request) -> Response:
        assert isinstance(request.body, StreamBody)
        bodies.append(request.body)
        release.append(asyncio.Event())
        await release[0].wait()
        total = hashlib.sha256()
        length = 0
        while part := await request.body.read():
            total.update(part)
            length += len(part)
            assert request.body.unread_bytes <= HIGH_WATER + (1 << 20)
        return Response(200, [], f"{length} {total.hexdigest()}".encode())

    data = pattern(1 << 20) * 100
    with running(Paths(lazy=lazy), loop=loop) as run, run.connect() as client:
        sender = threading.Thread(target=client.request, args=("PUT", "/lazy", data))
        sender.start()
        wait_for(lambda: bool(bodies) and bodies[0].unread_bytes >= HIGH_WATER, what="a full queue")
        sender.join(0.5)  # the rest of 100 MiB can't leave: nothing to wait for but the absence of progress
        assert sender.is_alive()
        assert bodies[0].unread_bytes <= HIGH_WATER + (1 << 20)
        run.loop.call_soon_threadsafe(release[0].set)
        assert client.answer().body == digest(data)
        sender.join()


@pytest.mark.parametrize("loop", list(LOOPS))
def test_a_renewed_certificate_serves_new_connections(loop: str, tmp_path: Path) -> None:
    first = make_certificate(tmp_path, "first")
    second = make_certificate(tmp_path, "second")
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    shutil.copy(first[0], certificate)
    shutil.copy(first[1], key)
    context = ReloadingContext(str(certificate), str(key))
    with running(tls=context, loop=loop) as run:
        with run.connect(trust(first[0])) as old:
            old.request("GET", "/hello")
            assert old.answer().body == b"hello"
            assert not context.refresh()
            # A key that doesn't fit yet changes nothing.
            shutil.copy(second[1], key)
            assert not context.refresh()
            with run.connect(trust(first[0])):
                pass
            shutil.copy(second[0], certificate)
            assert context.refresh()
            old.request("GET", "/hello")
            assert old.answer().body == b"hello"
        with run.connect(trust(second[0])) as new:
            new.request("PUT", "/echo", b"x" * 3_000_000)
            assert new.answer().body == digest(b"x" * 3_000_000)
        with pytest.raises(ssl.SSLError):
            run.connect(trust(first[0]))


def test_plain_http_on_the_tls_port_ends(tls_files: tuple[Path, Path]) -> None:
    with running(tls=ReloadingContext(*map(str, tls_files))) as run, run.connect() as client:
        client.request("GET", "/hello")
        assert client.at_end()
