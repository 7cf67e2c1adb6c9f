# SPDX-License-Identifier: Apache-2.0
"""What a failure of the TiKV client means: a lost race, a server that can't be reached, or an unknown outcome.

The client library raises plain `Exception`s whose text is a Rust error; this is the one place that reads such text.
Source: observed with tikv-client 0.0.4 (client-rust of November 2023); format §6.5 and semantics §1.6 for what is
tried again: "write conflict" and "TxnLockNotFound".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from core.errors import MetaError

#: Certainly not committed, and worth another try at once: another transaction wrote or holds a key of ours, or has
#: rolled us back because we were slow.
_RACE: Final = re.compile(
    r"conflict: Some|WriteConflict|TxnLockNotFound|txn_not_found: Some|commit_ts_expired: Some|locked: Some|"
    r'deadlock: Some|retryable: "[^"]|[Ff]ailed to resolve lock'
)
#: Certainly not committed: no timestamp for the commit could be got. PD restarted; a new connection helps.
_NO_TIMESTAMP: Final = "TimestampRequest channel is closed"

_TOO_LARGE: Final = re.compile(r"[Ee]ntry ?[Tt]oo ?[Ll]arge|TxnTooLarge|message length too large")
_NOISE: Final = re.compile(r"\[/[^\]]*\.rs:\d+\]: |, details: \[\], metadata: MetadataMap \{.*?\} ?\}")


class Unreachable(Exception):
    """A call failed or took too long, and not for a race; it may work later. Becomes a MetaError in the driver."""


def is_race(error: BaseException) -> bool:
    text = str(error)
    return "ndetermined" not in text and _RACE.search(text) is not None


def is_worth_another_try(error: BaseException) -> bool:
    """Of an error that `commit` raised: certainly not committed, and the next transaction may be."""
    return is_race(error) or _NO_TIMESTAMP in str(error)


def surely_not_committed(error: BaseException) -> bool:
    """Of an error that `commit` raised."""
    return is_worth_another_try(error) or is_too_large(error)


def is_long_answer(error: BaseException) -> bool:
    """Of a read: asked for fewer records, it will work."""
    return "message length too large" in str(error)


def is_too_large(error: BaseException) -> bool:
    return _TOO_LARGE.search(str(error)) is not None


def plain(error: BaseException) -> str:
    """The text without paths of source files and empty details, cut to a length that a person reads."""
    text = _NOISE.sub("", str(error)) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "…"


def unreachable(where: str, endpoints: Sequence[str], cause: BaseException) -> MetaError:
    """For reads, and for writes that were not sent."""
    return MetaError(
        f"{where}: TiKV can't be reached: {plain(cause)}; check that PD answers at {', '.join(endpoints)} and that "
        "its stores are up (`pd-ctl store`), then try again",
        retryable=True,
    )


def uncertain(where: str, endpoints: Sequence[str], cause: BaseException) -> MetaError:
    """For a commit whose answer was lost."""
    return MetaError(
        f"{where}: the connection to TiKV was lost during a commit, which may or may not have been applied: "
        f"{plain(cause)}; check that PD answers at {', '.join(endpoints)}, look at the result, then try again",
        retryable=True,
        uncertain=True,
    )
