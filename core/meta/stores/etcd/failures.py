# SPDX-License-Identifier: Apache-2.0
"""What a failed call to etcd means: whether it may have been carried out, whether to try again, and what to tell. Pure.

Source: gRPC status codes, and the error texts that etcd documents for clients (`etcdserver: …`).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import grpc

from core.errors import MetaError


class Verdict(Enum):
    """LOST: no answer, nobody knows what happened. AWAY: certainly not carried out, another try may work.
    TOKEN: log in again. LARGE: too much for one transaction. GONE: that moment is no longer kept. FINAL: an error."""

    LOST = 1
    AWAY = 2
    TOKEN = 3
    LARGE = 4
    GONE = 5
    FINAL = 6


#: Text in the error -> what it means. Looked at before the status code.
_TEXTS: Final = (
    ("too many operations in txn", Verdict.LARGE),
    ("request is too large", Verdict.LARGE),
    ("larger than max", Verdict.LARGE),  # the server's gRPC limit
    ("invalid auth token", Verdict.TOKEN),
    ("revision of auth store is old", Verdict.TOKEN),
    ("revision has been compacted", Verdict.GONE),
    ("is a future revision", Verdict.GONE),  # another member, behind the one we read before
    ("too many requests", Verdict.AWAY),
    ("failed to connect", Verdict.AWAY),
    ("connection refused", Verdict.AWAY),
)
_UNKNOWN_FATE: Final = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED,
    )
)  # fmt: skip

#: Text in the error -> what to do.
_ADVICE: Final = (
    ("database space exceeded", "etcd's database has reached its quota: make room (`etcdctl compact`, `etcdctl defrag`,"
     " `etcdctl alarm disarm`), then switch on --auto-compaction-retention or raise --quota-backend-bytes"),
    ("no leader", "the etcd cluster has no leader: bring up enough members, then it goes on by itself"),
    ("user name is empty", "etcd asks for a user: write etcd://USER:PASSWORD@HOST in the metadata URL"),
    ("authentication failed", "check user and password in the metadata URL, or META_PASSWORD"),
    ("authentication is not enabled", "etcd has no users: take user and password out of the metadata URL"),
    ("permission denied", "the user needs a role with read and write permission for the volume's prefix"),
    ("certificate", "check cacert, cert, key and server-name in the metadata URL"),
    ("handshake", "check whether the server speaks TLS, and cacert, cert, key and server-name in the metadata URL"),
)  # fmt: skip


def judge(error: grpc.RpcError) -> Verdict:
    text = details(error)
    for part, verdict in _TEXTS:
        if part in text:
            return verdict
    return Verdict.LOST if error.code() in _UNKNOWN_FATE and "space exceeded" not in text else Verdict.FINAL


def details(error: grpc.RpcError) -> str:
    return str(error.details() or error.code().name).lower()


def to_meta_error(error: grpc.RpcError, endpoint: str, *, writing: bool) -> MetaError:
    """The error that callers get. writing: the call may have changed something if its fate is unknown."""
    verdict, text = judge(error), details(error)
    advice = next((what for part, what in _ADVICE if part in text), "")
    shown = text.splitlines()[0][:300]
    if verdict is Verdict.LOST and writing:
        return MetaError(
            f"etcd at {endpoint}: the answer to a commit was lost ({shown}); it may or may not have been applied"
            + (f". Next: {advice}" if advice else ""),
            retryable=True,
            uncertain=True,
        )
    if verdict in (Verdict.LOST, Verdict.AWAY):
        return MetaError(
            f"etcd at {endpoint} can't be reached or is busy ({shown}); "
            + (advice or "check that it runs and that the metadata URL names it"),
            retryable=True,
        )
    return MetaError(f"etcd at {endpoint} refuses: {shown}" + (f"; {advice}" if advice else ""))
