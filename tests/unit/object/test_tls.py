# SPDX-License-Identifier: Apache-2.0
"""The HTTP client over TLS: trust, client certificates, large bodies, a proxy's tunnel."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from core.errors import ObjectError
from core.object.http import Client
from core.object.s3 import S3Store

loops = "both"  # asyncio and uvloop, see conftest.py


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Paths of a certificate for 127.0.0.1, signed by itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sluice test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    folder: Path = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(folder / "cert.pem"), str(folder / "key.pem")


@asynccontextmanager
async def echoing(certificate: tuple[str, str], *, client_certificate: bool = False) -> AsyncIterator[int]:
    """A TLS server that keeps what was PUT and gives it back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if client_certificate:
        context.load_verify_locations(certificate[0])
        context.verify_mode = ssl.CERT_REQUIRED
    kept = b""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal kept
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"PUT"):
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    kept = await reader.readexactly(length)
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(kept) + kept)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def opened(port: int, query: str) -> S3Store:
    return S3Store.open("s3", f"https://127.0.0.1:{port}/b{query}", "A", "B")


async def test_an_unknown_certificate_is_refused_with_the_way_out(certificate: tuple[str, str]) -> None:
    async with echoing(certificate) as port:
        with pytest.raises(ObjectError, match=r"not trusted.*ca-certs") as caught:
            await opened(port, "").get("k")
        assert not caught.value.retryable


@pytest.mark.parametrize("size", [0, 1000, 5_000_000])
async def test_bodies_pass_in_both_directions(certificate: tuple[str, str], size: int) -> None:
    data = bytes(range(250)) * (size // 250)
    async with echoing(certificate) as port:
        store = opened(port, "?tls-insecure-skip-verify=true")
        for _ in range(3):
            await store.put("k", [data[: size // 2], data[size // 2 :]])
            assert bytes(await store.get("k")) == data
        assert store._client._open == 1
        await store.close()


async def test_own_authority_and_client_certificate(certificate: tuple[str, str]) -> None:
    async with echoing(certificate, client_certificate=True) as port:
        store = opened(port, f"?ca-certs={certificate[0]}&ssl-cert={certificate[0]}&ssl-key={certificate[1]}")
        await store.put("k", b"both know each other")
        assert bytes(await store.get("k")) == b"both know each other"
        await store.close()


async def test_a_proxy_opens_a_tunnel(certificate: tuple[str, str]) -> None:
    asked: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head)
        host, port = head.split(b" ")[1].split(b":")
        far_reader, far_writer = await asyncio.open_connection(host.decode(), int(port))
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with echoing(certificate) as port:
        context = ssl.create_default_context(cafile=certificate[0])
        url = f"http://u:p@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = Client("https", "127.0.0.1", port, tls=context, environ={"https_proxy": url})
        data = memoryview(bytes(1_000_000))
        done = await client.request("PUT", "/k", f"host: x\r\ncontent-length: {len(data)}\r\n", [data], len(data))
        assert done.status == 200
        assert b"CONNECT 127.0.0.1:%d " % port in asked[0]
        assert b"Proxy-Authorization: Basic dTpw\r\n" in asked[0]
        await client.close()
    server.close()
