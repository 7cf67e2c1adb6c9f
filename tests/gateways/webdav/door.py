# SPDX-License-Identifier: Apache-2.0
"""The WebDAV door as users run it, in a process of its own over a real volume, and a plain HTTP client for it."""

from __future__ import annotations

import base64
import http.client
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, fromstring

import pytest

from tests.servers.process import Server

pytest.importorskip("wsgidav", reason="WsgiDAV is missing: pip install wsgidav")

ROOT = Path(__file__).resolve().parents[3]
USER = "dav"
PASSWORD = "dav-secret-0123"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def xml(self) -> Element:
        return fromstring(self.body)

    def texts(self, tag: str) -> list[str]:
        return [each.text or "" for each in self.xml.iter(tag)]

    @property
    def etag(self) -> str:
        return self.headers["etag"]


class Door(Server):
    """A running `sluice webdav`. `ask` sends one request; `user` None sends no credentials."""

    def __init__(
        self, meta_url: str, *options: str, workers: int = 1, certificate: tuple[Path, Path] | None = None,
        users: bool = True, env: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.meta_url = meta_url
        self.tls = certificate is not None
        more = ["--cert-file", str(certificate[0]), "--key-file", str(certificate[1])] if certificate else []

        def command(port: int, folder: Path) -> list[str]:
            return [
                sys.executable, "-m", "sluicefs", "webdav", meta_url, f"127.0.0.1:{port}", "--workers", str(workers),
                "--grace", "1s", *more, *options,
            ]  # fmt: skip

        found = {"PYTHONPATH": str(ROOT), **(env or {})}
        if users:
            found |= {"WEBDAV_USER": USER, "WEBDAV_PASSWORD": PASSWORD}
        super().__init__(command, env=found, name="webdav")

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        if not self.tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=context)

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | str | None = None, *,
        login: str | None = BASIC,
    ) -> Answer:  # fmt: skip
        """Exactly these bytes as the path; nothing is encoded on the way."""
        connection = self.connect()
        try:
            sent = dict(headers or {})
            if login is not None:
                sent.setdefault("Authorization", login)
            connection.putrequest(method, path, skip_accept_encoding=True, skip_host="Host" in sent)
            data = body.encode() if isinstance(body, str) else body
            if data is not None and "Content-Length" not in sent:
                sent["Content-Length"] = str(len(data))
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders(data)
            response = connection.getresponse()
            found: dict[str, str] = {}
            for name, value in response.getheaders():
                known = found.get(name.lower())
                found[name.lower()] = value if known is None else f"{known}, {value}"
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def put(self, path: str, body: bytes | str = b"x", **headers: str) -> Answer:
        return self.ask("PUT", path, headers, body)

    def lock(self, path: str, *, scope: str = "exclusive", depth: str = "infinity", **headers: str) -> Answer:
        body = (
            f'<lockinfo xmlns="DAV:"><lockscope><{scope}/></lockscope><locktype><write/></locktype>'
            "<owner><href>mailto:a@example.org</href></owner></lockinfo>"
        )
        return self.ask("LOCK", path, {"Depth": depth, "Timeout": "Second-600", **headers}, body)


def token_of(answer: Answer) -> str:
    return answer.headers["lock-token"].strip("<>")


def make_volume(folder: Path, meta_url: str = "") -> str:
    url = meta_url or f"sqlite3://{folder}/meta.db"
    subprocess.run(
        [sys.executable, "-m", "sluicefs", "format", url, "davtest", "--bucket", f"{folder}/objects",
         "--trash-days", "0"],
        check=True, capture_output=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return url
