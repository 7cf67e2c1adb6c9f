# SPDX-License-Identifier: Apache-2.0
"""WsgiDAV behind the event loop: one application, called in a bounded pool of threads.

The environ holds only what the gate has judged: conditions are evaluated, tokens are listed, bodies are complete.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, Final

from gateways.http.messages import Response
from gateways.webdav.layer.context import KEY, Context
from gateways.webdav.layer.library import ErrorPrinter, RequestResolver, WsgiDAVApp
from gateways.webdav.layer.locking import VolumeLockManager, VolumeLockStorage, serving
from gateways.webdav.layer.properties import VolumePropertyManager
from gateways.webdav.layer.provider import VolumeProvider

#: Headers that the HTTP server sets itself.
_SERVER_HEADERS: Final = frozenset({"date", "content-length", "connection", "server"})


class Bridge:
    """WsgiDAV with our provider; `call` runs one request."""

    def __init__(self, *, threads: int, locking: bool) -> None:
        # It logs failures with whole tracebacks and paths; what matters is logged by the door.
        logging.getLogger("wsgidav").setLevel(logging.CRITICAL)
        self._app = WsgiDAVApp(
            {
                "provider_mapping": {"/": VolumeProvider()},
                "http_authenticator": {"domain_controller": None},
                "middleware_stack": [ErrorPrinter, RequestResolver],
                "lock_storage": None,
                "property_manager": VolumePropertyManager(),
                "hotfixes": {"re_encode_path_info": False, "unquote_path_info": False},
                "logging": {"enable": False},
                "suppress_version_info": True,
                "verbose": 0,
            }
        )
        if locking:
            manager = VolumeLockManager(VolumeLockStorage())
            self._app.lock_manager = manager
            for provider in self._app.provider_map.values():
                provider.set_lock_manager(manager)
        # More threads than this only wait for the one loop.
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="wsgidav")

    async def call(
        self, context: Context, method: str, path: str, *, headers: dict[str, str], body: bytes, secure: bool,
        submitted: list[str],
    ) -> Response:  # fmt: skip
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "0",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https" if secure else "http",
            "wsgi.input": BytesIO(body),
            "wsgi.errors": None,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgidav.auth.user_name": context.principal,
            "wsgidav.conditions.if": {},
            "wsgidav.ifLockTokenList": submitted,
            KEY: context,
        }
        for name, value in headers.items():
            environ["HTTP_" + name.upper().replace("-", "_")] = value
        work = asyncio.get_running_loop().run_in_executor(self._pool, self._run, context, environ)
        # A client that leaves doesn't stop a change half-way: the thread finishes it.
        status, found, data = await asyncio.shield(work)
        kept = [(name, value) for name, value in found if name.lower() not in _SERVER_HEADERS]
        return Response(status, kept, data)

    def _run(self, context: Context, environ: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            started.append((status, headers))

        with serving(context):
            parts = self._app(environ, start_response)
            try:
                data = b"".join(parts)
            finally:
                if hasattr(parts, "close"):
                    parts.close()
        status, headers = started[-1]
        return int(status.split(" ", 1)[0]), headers, data

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
