# SPDX-License-Identifier: Apache-2.0
"""What a failed call to etcd means: whether it may have been carried out, whether to try again, and what to tell. Pure.

Source: gRPC status codes, and the error texts that etcd documents for clients (`etcdserver: …`).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from core.errors import MetaError
from core.meta.stores.etcd.channel import Lost, RpcError


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
    ("space exceeded", Verdict.FINAL),
)
#: CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, ABORTED, INTERNAL, UNAVAILABLE: the proposal may have been on its way.
_UNKNOWN_FATE: Final = frozenset((1, 2, 4, 10, 13, 14))

_CERTIFICATE: Final = "check cacert, cert, key and server-name in the metadata URL"
#: Text in the error -> what to do.
_ADVICE: Final = (
    ("database space exceeded", "etcd's database has reached its quota: make room (`etcdctl compact`, `etcdctl defrag`,"
     " `etcdctl alarm disarm`), then switch on --auto-compaction-retention or raise --quota-backend-bytes"),
    ("no leader", "the etcd cluster has no leader: bring up enough members, then it goes on by itself"),
    ("user name is empty", "etcd asks for a user: write etcd://USER:PASSWORD@HOST in the metadata URL"),
    ("authentication failed", "check user and password in the metadata URL, or META_PASSWORD"),
    ("authentication is not enabled", "etcd has no users: take user and password out of the metadata URL"),
    ("permission denied", "the user needs a role with read and write permission for the volume's prefix"),
    ("certificate", _CERTIFICATE),
    ("handshake", "check whether the server speaks TLS, and " + _CERTIFICATE.removeprefix("check ")),
    ("no http/2", "check that this is etcd's client port, and that it wants plain text (TLS needs cacert=FILE)"),
)  # fmt: skip


def judge(error: RpcError | Lost) -> Verdict:
    if isinstance(error, Lost):
        return Verdict.LOST if error.sent else Verdict.AWAY
    if not error.processed:
        return Verdict.AWAY
    text = error.details.lower()
    for part, verdict in _TEXTS:
        if part in text:
            return verdict
    return Verdict.LOST if error.status in _UNKNOWN_FATE else Verdict.FINAL


def to_meta_error(error: RpcError | Lost, endpoint: str, *, writing: bool) -> MetaError:
    """The error that callers get. writing: the call may have changed something if its fate is unknown."""
    verdict, text = judge(error), str(error) or "no reason given"
    advice = next((what for part, what in _ADVICE if part in text.lower()), "")
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
