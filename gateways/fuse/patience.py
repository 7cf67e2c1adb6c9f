# SPDX-License-Identifier: Apache-2.0
"""Requests whose metadata server goes away wait for it and are done once, as a program on a disk expects.

`core.meta.patience` waits below us, where it is known what surely did not happen. What is left for us are changes that
may have happened while the connection was lost, and leave no proof in the records: such a request is carried out once
more, marked as one that may have been served before (`Call.resent`), and the handlers judge by what is there.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, Final

from core.errors import MetaError
from gateways.fuse.api import Answer, Call, Reply
from gateways.fuse.operations import Operations

log = logging.getLogger("sluice.fuse")

#: Before the second try: a commit that was on its way when the connection broke is carried out or dropped by then.
_SETTLE_S: Final = 1.0
_TRIES: Final = 5
#: They answer without the metadata, change nothing there, or nobody waits for their answer.
_PLAIN: Final = frozenset(
    (
        "forget", "batch_forget", "destroy", "poll", "lookup", "getattr", "readlink", "access", "statfs", "getxattr",
        "listxattr", "readdir", "readdirplus",
    )
)  # fmt: skip

Method = Callable[..., Answer]


class PatientOperations(Operations):
    """Before other operations. Costs one frame of each request that waits."""

    def __init__(self, inner: Operations) -> None:
        self.inner = inner
        for name in vars(Operations):
            if not name.startswith("_"):
                method = getattr(inner, name)
                setattr(self, name, method if name in _PLAIN else _patient(method, name))


def _patient(method: Method, name: str) -> Method:
    def request(call: Call, *args: Any) -> Answer:
        answer = method(call, *args)
        return _first_try(answer, method, name, call, args) if type(answer) is CoroutineType else answer

    return request


async def _first_try(
    answer: CoroutineType[Any, Any, Reply], method: Method, name: str, call: Call, args: tuple[Any, ...]
) -> Reply:
    try:
        return await answer
    except MetaError as e:
        if not e.uncertain:
            _tell(name, call, e)
            raise
        error = e
    except OSError as e:
        _tell(name, call, e)
        raise
    again = call._replace(resent=True)
    for _ in range(_TRIES):
        log.info("%s of inode %d may or may not have happened (%s); it is repeated", name, call.nodeid, error.strerror)
        await asyncio.sleep(_SETTLE_S)
        try:
            second: Any = method(again, *args)
            reply: Reply = await second if isinstance(second, Awaitable) else second
            return reply
        except MetaError as e:
            if not e.uncertain:
                raise
            error = e
    _tell(name, call, error)
    raise error


def _tell(name: str, call: Call, error: OSError) -> None:
    """A program hears "input/output error" and no more; the log says why."""
    if error.errno == errno.EIO:
        log.error("%s of inode %d answers EIO: %s", name, call.nodeid, error.strerror or error)
