# SPDX-License-Identifier: Apache-2.0
"""WsgiDAV's lock manager and lock storage over our lock service.

WsgiDAV speaks of locks as dicts; `as_dict` and the methods here translate. Whether a lock may be taken is decided in
the service, under the volume's mutex, so that two servers never grant what excludes each other.
Source: spec webdav §12, §23.1.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from defusedxml.ElementTree import fromstring

from gateways.webdav.config import MAX_OWNER_BYTES
from gateways.webdav.layer.context import Context
from gateways.webdav.layer.library import DAVError, DAVErrorCondition, LockManager
from gateways.webdav.locks.service import LockConflict
from gateways.webdav.locks.table import Lock, LockTable, unsatisfied
from gateways.webdav.names import Path, from_layer, starts_with, to_layer
from gateways.webdav.xmltext import inner_xml

_NS: Final = 1_000_000_000

#: The request that a thread is at work on: the lock interfaces of WsgiDAV don't pass it.
_here = threading.local()


@contextmanager
def serving(context: Context) -> Iterator[None]:
    _here.context = context
    try:
        yield
    finally:
        del _here.context


def _context() -> Context:
    context: Context = _here.context
    return context


def _table() -> LockTable:
    locks = _context().locks
    assert locks is not None
    return locks.table


def as_dict(lock: Lock) -> dict[str, Any]:
    return {
        "root": to_layer(lock.path),
        "type": "write",
        "scope": "exclusive" if lock.exclusive else "shared",
        "depth": "infinity" if lock.infinite else "0",
        "owner": lock.owner.encode(),
        "timeout": lock.timeout,
        "expire": lock.expires / _NS,
        "principal": lock.principal,
        "token": lock.urn,
    }


def _hrefs(locks: Any) -> list[str]:
    """Lock roots as the client knows them; one above its export is shown as the export's top."""
    context = _context()
    root = context.export.root
    return [
        context.href(lock.path[len(root) :] if starts_with(lock.path, root) else (), collection=False) for lock in locks
    ]


def _locked(locks: Any, condition: str) -> DAVError:
    what = DAVErrorCondition("{DAV:}" + condition)
    what.hrefs = list(dict.fromkeys(_hrefs(locks)))
    return DAVError(423, err_condition=what)


class VolumeLockStorage:
    """The storage interface of WsgiDAV. Nothing is kept here."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    def cleanup(self) -> None: ...

    def clear(self) -> None:
        raise DAVError(501)

    def get(self, token: str) -> dict[str, Any] | None:
        lock = _table().get(token)
        return None if lock is None else as_dict(lock)

    def create(self, path: str, lock: dict[str, Any]) -> dict[str, Any]:
        context = _context()
        assert context.locks is not None
        made = _wait_for_lock(
            context, from_layer(path), lock["depth"] == "infinity", lock["scope"] == "exclusive",
            _owner_text(lock["owner"]), lock["principal"],
        )  # fmt: skip
        context.granted, context.new_lock = made, True
        lock.update(as_dict(made))
        return lock

    def refresh(self, token: str, *, timeout: int) -> dict[str, Any]:
        context = _context()
        assert context.locks is not None
        held = context.locks.table.get(token)
        if held is not None and held.principal != context.principal:
            raise DAVError(403, "This lock belongs to somebody else.")
        lock = context.wait(context.locks.refresh(token, context.lock_timeout_s))
        if lock is None:
            raise DAVError(412, err_condition="{DAV:}lock-token-matches-request-uri")
        context.granted = lock
        return as_dict(lock)

    def delete(self, token: str) -> bool:
        context = _context()
        assert context.locks is not None
        context.wait(context.locks.release([token]))
        return True

    def get_lock_list(self, path: str, *, include_root: bool, include_children: bool, token_only: bool) -> list[Any]:
        table, where = _table(), from_layer(path)
        found = [lock for lock in table.covering(where) if lock.path == where] if include_root else []
        if include_children:
            found += table.below(where)
        return [lock.urn if token_only else as_dict(lock) for lock in found]


class VolumeLockManager(LockManager):  # type: ignore[misc]
    """The rules, where ours are stricter or cheaper than WsgiDAV's walk over parents."""

    def acquire(
        self, *, url: str, lock_type: str, lock_scope: str, lock_depth: str, lock_owner: bytes, timeout: Any,
        principal: str, token_list: Any,
    ) -> dict[str, Any]:  # fmt: skip
        lock = {
            "root": url, "type": lock_type, "scope": lock_scope, "depth": lock_depth, "owner": lock_owner,
            "timeout": timeout, "principal": principal,
        }  # fmt: skip
        return self.storage.create(url, lock)  # type: ignore[no-any-return]

    def is_url_locked_by_token(self, url: str, lock_token: str) -> bool:
        lock, path = _table().get(lock_token), from_layer(url)
        return lock is not None and (lock.path == path or (lock.infinite and starts_with(path, lock.path)))

    def get_indirect_url_lock_list(self, url: str, *, principal: str | None = None) -> list[dict[str, Any]]:
        found = _table().covering(from_layer(url))
        return [as_dict(lock) for lock in found if principal is None or principal == lock.principal]

    def check_write_permission(self, *, url: str, depth: str, token_list: Any, principal: str) -> None:
        table, path = _table(), from_layer(url)
        touched = table.covering(path)
        if depth == "infinity":
            touched = touched + table.below(path)
        submitted = {token.removeprefix("urn:uuid:") for token in token_list}
        missing = unsatisfied(touched, submitted, principal)
        if missing:
            raise _locked(missing, "lock-token-submitted")

    @contextmanager
    def write_transaction(self, *, url: str, token_list: Any, principal: str, depth: str = "0") -> Iterator[None]:
        """Bodies are complete before WsgiDAV starts, so nothing can come between check and change for long."""
        self.check_write_permission(url=url, depth=depth, token_list=token_list, principal=principal)
        yield


def _wait_for_lock(context: Context, path: Path, infinite: bool, exclusive: bool, owner: str, principal: str) -> Lock:
    assert context.locks is not None
    service = context.locks

    async def take() -> Lock | LockConflict:
        try:
            return await service.acquire(
                path, infinite=infinite, exclusive=exclusive, owner=owner, principal=principal,
                timeout_s=context.lock_timeout_s,
            )  # fmt: skip
        except LockConflict as conflict:
            return conflict

    found = context.wait(take())
    if isinstance(found, LockConflict):
        raise _locked(found.locks, "no-conflicting-lock")
    return found


def _owner_text(document: bytes | str) -> str:
    """The inner XML of the owner element, standing by itself."""
    if not document:
        return ""
    text = inner_xml(fromstring(document))
    if len(text.encode()) > MAX_OWNER_BYTES:
        raise DAVError(400, "The owner of a lock may take 4 KiB.")
    return text
