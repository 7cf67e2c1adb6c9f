# SPDX-License-Identifier: Apache-2.0
"""What a Redis error reply means: whose fault, whether trying again helps, what the user can do.

Pure. Source: semantics §1.5, §1.6 (OOM is ENOSPC; server-busy, loading and cluster classes are retried);
the texts are those of Redis 4 to 7, where an error inside a script may be wrapped in "ERR Error running script".
"""

from __future__ import annotations

import errno
import re
from typing import Final

from core.errors import MetaError

#: The server refused before doing anything, and may accept later: safe to send again, commits included.
TRANSIENT: Final = frozenset(
    ["LOADING", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "BUSY", "NOREPLICAS", "MOVED", "ASK"]
)
#: … and another server may be the right one now.
ELSEWHERE: Final = frozenset(["READONLY", "MOVED", "CLUSTERDOWN", "MASTERDOWN"])

_ADVICE: Final = {
    "OOM": "the server's memory limit is reached; raise maxmemory or delete files",
    "LOADING": "the server is still loading its data; try again in a moment",
    "READONLY": "this is a replica; use the master's address or a Sentinel URL",
    "CLUSTERDOWN": "the cluster is not complete; check its nodes",
    "MASTERDOWN": "the replica lost its master; check the replication",
    "MOVED": "the cluster moved the volume's slot; try again",
    "ASK": "the cluster is moving the volume's slot to another node; all goes on when that is done",
    "TRYAGAIN": "the cluster is moving the volume's slot to another node; all goes on when that is done",
    "BUSY": "a script blocks the server; wait for it or end it with SCRIPT KILL",
    "NOREPLICAS": "too few replicas are connected (min-replicas-to-write); check them",
    "NOAUTH": "the server wants a password; put it into the URL, REDIS_PASSWORD or META_PASSWORD",
    "WRONGPASS": "user name or password is wrong; check the URL, REDIS_PASSWORD or META_PASSWORD",
    "NOPERM": "the ACL of this Redis user is too narrow; docs/metadata-redis.md lists what it needs",
    "MISCONF": "the server can't save its data and refuses writes; look at its log and its disk",
    "WRONGTYPE": "a key has another type; does some other application use this database?",
    "CORRUPT": "a record is damaged; run `sluice fsck`",
}
_WRAPPED: Final = re.compile(r"-?\b(OOM|READONLY|LOADING|MISCONF|NOREPLICAS|NOPERM|WRONGTYPE|CORRUPT|BUSY)\b")
_AUTH_OLD: Final = re.compile(r"invalid password|without any password|AUTH <password> called", re.IGNORECASE)


def code_of(text: str) -> str:
    """The class of an error: its first word, or the one inside a script error of an older server."""
    word = text.partition(" ")[0].removeprefix("-")
    if word == "ERR" and "script" in text and (found := _WRAPPED.search(text)):
        return found[1]
    if word == "ERR" and _AUTH_OLD.search(text):
        return "WRONGPASS"
    if word == "ERR" and "user executing the script" in text:
        return "NOPERM"
    # In a script: of a slot that is on its way to another node, this key isn't here, or not any more.
    return "TRYAGAIN" if word == "ERR" and "non local key" in text else word


def moved_to(text: str) -> tuple[str, int] | None:
    """Host (empty: the same as before) and port of `MOVED slot host:port`."""
    words = text.removeprefix("-").split()
    if len(words) < 3 or words[0] != "MOVED":
        return None
    host, _, port = words[2].rpartition(":")
    return (host.strip("[]"), int(port)) if port.isdecimal() else None


def typed_error(text: str, where: str) -> MetaError:
    """The exception for an error reply of the server at `where` (an address without password)."""
    code = code_of(text)
    # Script errors end with the script's hash and line; nobody needs them.
    text = re.sub(r"[ ,]*script: [0-9a-f]{40}.*$", "", text, flags=re.DOTALL)[:300]
    advice = _ADVICE.get(code, "see the server's log")
    number = errno.ENOSPC if code == "OOM" else errno.EIO
    return MetaError(f"Redis at {where} answered: {text} ({advice})", retryable=code in TRANSIENT, errno=number)
