# SPDX-License-Identifier: Apache-2.0
"""Small tools of the record-store suite: records to store, names to fear, strategies within an engine's limits.

Relies on nothing but the contract (`core/meta/store.py`). Limits: format §1.1, §1.5, §5.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import DIRECTORY, FILE, Attr, Entry
from core.meta.store import PUT, Capabilities, Outcome, RecordStore, Write

T0 = 1_700_000_000_123_456_789
#: u:rw- for user 1001 beside rw-/r--/mask rw-/---, binary form of format §1.12.
RULE = bytes.fromhex("0006000400060000 00000001 000003e9 0006 00000000")
RULE_PLAIN = bytes.fromhex("0007 0005 ffff 0000 00000000 00000000")

#: Every byte a name may hold, the longest, and names that collations, patterns or escapes would mistake.
HOSTILE_NAMES: list[bytes] = sorted(
    {bytes((c,)) for c in range(1, 256) if c != 0x2F}
    | {b"\xff" * 255, b"a" * 255, b"a" * 254 + b"\xff", b"\x01" * 255}
    | {b"a", b"A", b"a ", b" a", b"a\t", b"A ", b"%", b"_", b"%_", b"[a]", b"*", b"?", b"'", b"''", b'"', b"`"}
    | {b"\\", b"\\0", b".a", b"...", b"{x}", b"}", b"a\nb", b"\r\n", b"NULL", b"0", b"00", b"1e3", b"-1", b"a:b"}
    | {text.encode() for text in ("é", "e\u0301", "ß", "SS", "ﬀ", "😀", "İ", "\u200b")}
    | {b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"}
)


def attr(kind: int = FILE, **fields: Any) -> Attr:
    """An ordinary attribute record; any field can be replaced."""
    values: dict[str, Any] = {
        "type": kind, "mode": 0o755 if kind == DIRECTORY else 0o644, "uid": 1000, "gid": 100,
        "atime_ns": T0, "mtime_ns": T0 + 1, "ctime_ns": T0 + 2, "nlink": 2 if kind == DIRECTORY else 1,
        "length": 4096 if kind == DIRECTORY else 0, "parent": 1,
    }  # fmt: skip
    return Attr(**{**values, **fields})


def directory(**fields: Any) -> Attr:
    return attr(DIRECTORY, **fields)


async def one(store: RecordStore, key: Key) -> Any:
    (value,) = await store.read(key)
    return value


async def write(store: RecordStore, *writes: Write) -> Outcome:
    return await store.commit([], writes)


async def put(store: RecordStore, records: Sequence[tuple[Key, Any]]) -> None:
    await store.commit([], [(PUT, key, value) for key, value in records])


def child(parent: int, name: bytes, ino: int, record: Attr) -> list[tuple[Key, Any]]:
    """An entry and its node."""
    return [(k.entry(parent, name), Entry(record.type, ino)), (k.node(ino), record)]


def attrs(caps: Capabilities) -> st.SearchStrategy[Attr]:
    """Attribute records that this engine must keep to the last bit."""
    ids = st.integers(0, caps.max_id) | st.sampled_from([0, 65534, caps.max_id])
    # About ±290 years around 1970, plus the neighbourhood of zero, where truncation direction shows.
    times = st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-2_000_000_001, 2_000_000_001)
    acl_ids = st.sampled_from([0, 0, 1, 7, 2**31 - 1])
    return st.builds(
        Attr,
        type=st.integers(1, 7),
        mode=st.integers(0, 0o7777),
        uid=ids,
        gid=ids,
        atime_ns=times,
        mtime_ns=times,
        ctime_ns=times,
        nlink=st.integers(0, 2**31 - 1),
        length=st.integers(0, 2**57),
        rdev=st.integers(0, min(caps.max_id, 0xFFFFFFFF)),
        parent=st.integers(0, 2**63 - 1),
        flags=st.integers(0, 255),
        access_acl=acl_ids,
        default_acl=acl_ids,
        tier=st.integers(0, 3),
    )


names = st.binary(min_size=1, max_size=255).filter(lambda n: b"/" not in n and b"\0" not in n)
