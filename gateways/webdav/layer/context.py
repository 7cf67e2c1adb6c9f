# SPDX-License-Identifier: Apache-2.0
"""What code in a WsgiDAV thread knows of its request, and how it reaches the event loop."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from typing import Any, TypeVar

from gateways.webdav.config import WebDavConfig
from gateways.webdav.errors import DavError, from_exception
from gateways.webdav.export import Export, Node
from gateways.webdav.layer.library import DAVError, DAVErrorCondition
from gateways.webdav.locks.service import LockService
from gateways.webdav.locks.table import Lock
from gateways.webdav.names import Path, href, to_layer

T = TypeVar("T")

KEY = "sluice.context"


class Context:
    """One request on its way through WsgiDAV."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, config: WebDavConfig, export: Export, locks: LockService | None,
        principal: str, lock_timeout_s: int,
    ) -> None:  # fmt: skip
        self.loop = loop
        self.config = config
        self.export = export
        self.locks = locks
        self.principal = principal
        self.lock_timeout_s = lock_timeout_s
        self.mtime_ns: int | None = None  # X-OC-Mtime
        self.nodes: dict[Path, Node | None] = {}  # what the gate has looked up already
        self.created: Node | None = None  # the empty file that a LOCK made
        self.granted: Lock | None = None  # by this LOCK, or kept alive by it
        self.new_lock = False

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the event loop; failures come back as `DAVError`."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop).result()
        except Exception as error:
            raise translated(error) from error

    def node(self, path: Path) -> Node | None:
        if path not in self.nodes:
            self.nodes[path] = self.wait(self.export.find(path))
        return self.nodes[path]

    def forget(self, path: Path) -> None:
        self.nodes.pop(path, None)

    def href(self, path: Path, *, collection: bool = False) -> str:
        return href(self.config.prefix + path, collection=collection)

    def ref_url(self, path: Path) -> str:
        """The key of locks: the volume path."""
        return to_layer(self.export.place(path))


def translated(error: BaseException) -> DAVError:
    """Any failure as WsgiDAV's error class."""
    if isinstance(error, DAVError):
        return error
    if isinstance(error, OSError) and error.errno == errno.ENOENT:
        return DAVError(404, src_exception=error)
    known = from_exception(error, changing=True)
    if known is None:
        return DAVError(500, src_exception=error)
    return as_layer_error(known)


def as_layer_error(error: DavError) -> DAVError:
    condition = None
    if error.condition:
        condition = DAVErrorCondition("{DAV:}" + error.condition)
        condition.hrefs = list(error.hrefs)
    return DAVError(error.status, error.text or None, err_condition=condition, add_headers=list(error.headers) or None)
