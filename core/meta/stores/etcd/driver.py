# SPDX-License-Identifier: Apache-2.0
"""etcd as a key-value driver: every read and every commit is one `Txn`.

- Reads of many tasks that wait at the same time leave as one Txn, which is one snapshot.
- A commit compares everything it depends on inside the Txn, writes if all of it holds, and else brings back what is
  there now. Values are compared as such if they are small, by modification revision if they are large and were read.
- A range is compared as a whole: "nothing in it was created" (an empty directory stays empty: no other client can
  slip an entry into it), or "nothing in it was modified since revision R, and what was there still is".
- etcd takes 128 operations per Txn, but counts a nested Txn as one operation and gives it what is left of the 128: up
  to 64 x 64 puts or gets in one atomic request (measured on 3.4). Compares can't be spread like that.
Source: etcd API reference v3 (KV service), --max-txn-ops, --max-request-bytes; format §6.5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from core.meta.stores.etcd import messages as m
from core.meta.stores.etcd.channel import RpcError
from core.meta.stores.etcd.connection import Connection
from core.meta.stores.etcd.failures import Verdict, judge
from core.meta.stores.etcd.url import EtcdURL
from core.meta.stores.kv.driver import (
    KVDriver,
    Limits,
    Pair,
    Range,
    Reading,
    SnapshotGone,
    TooLarge,
    Transaction,
)  # fmt: skip
from core.meta.stores.kv.lane import Lane

#: etcd's default for --max-txn-ops.
TXN_OPS: Final = 128
#: Operations of a Txn of Txns: 64 of them with 64 operations each.
NESTED_OPS: Final = (TXN_OPS // 2) ** 2
#: Below this many bytes a value itself is compared: that works for guesses, too, and costs little.
_COMPARE_BYTES: Final = 256
#: --max-request-bytes is 1.5 MiB by default; compares and framing need room, too.
_GROUP_BYTES: Final = 1 << 20
#: An unbounded range delete of a whole volume takes its time.
_CLEAR_TIMEOUT_S: Final = 120.0

_Seen = tuple[dict[bytes, bytes | None], dict[Range, list[Pair]], dict[bytes, int], int]


def put(key: bytes, value: bytes) -> Any:
    return m.RequestOp(request_put=m.PutRequest(key=key, value=value))


def delete(key: bytes, end: bytes = b"") -> Any:
    return m.RequestOp(request_delete_range=m.DeleteRangeRequest(key=key, range_end=end))


def get(key: bytes, revision: int = 0) -> Any:
    return m.RequestOp(request_range=m.RangeRequest(key=key, revision=revision))


def get_range(where: Range, revision: int = 0) -> Any:
    return m.RequestOp(
        request_range=m.RangeRequest(
            key=where.start, range_end=where.end, limit=where.limit, keys_only=where.keys_only, revision=revision
        )
    )


def nested(operations: Sequence[Any], beside: int = 1) -> Sequence[Any]:
    """The same operations in a form that etcd takes, next to `beside` compares. TooLarge if there is none."""
    if max(len(operations), beside) <= TXN_OPS:
        return operations
    for count in range(1, TXN_OPS):
        each = TXN_OPS - max(beside, count)
        if each * count >= len(operations):
            return [
                m.RequestOp(request_txn=m.TxnRequest(success=operations[at : at + each]))
                for at in range(0, len(operations), each)
            ]
    raise TooLarge(f"{len(operations)} writes next to {beside} conditions; etcd takes {TXN_OPS} operations at once")


def unnested(responses: Sequence[Any]) -> list[Any]:
    """Range responses in the order of their operations."""
    flat = []
    for response in responses:
        if response.HasField("response_txn"):
            flat += response.response_txn.responses
        else:
            flat.append(response)
    return [response.response_range for response in flat]


class EtcdTransaction(Transaction):
    """mods, revision: modification revisions of what was read, and when; empty for hints."""

    def __init__(self, driver: EtcdDriver, seen: _Seen, *, fresh: bool) -> None:
        self._driver = driver
        self.values, self.ranges, self._mods, self.when = seen
        self.fresh = fresh

    async def refresh(self, more: Sequence[bytes] = ()) -> None:
        keys = dict.fromkeys((*self.values, *more))
        self.values, self.ranges, self._mods, self.when = await self._driver.look(list(keys), list(self.ranges))
        self.fresh = True

    async def commit(
        self, writes: Mapping[bytes, bytes | None], wipes: Sequence[tuple[bytes, bytes]] = ()
    ) -> Transaction | None:
        compares = self._compares()
        keys, ranges = list(self.values), list(self.ranges)
        if len(compares) > TXN_OPS - 1:
            raise TooLarge(f"{len(compares)} conditions; etcd takes {TXN_OPS} at once")
        operations = [delete(key) if value is None else put(key, value) for key, value in writes.items()]
        operations += [delete(*wipe) for wipe in wipes]
        looks = [get(key) for key in keys] + [get_range(where) for where in ranges]
        request = m.TxnRequest(
            compare=compares, success=nested(operations, max(len(compares), len(looks))), failure=looks
        )
        answer = await self._driver.txn(request, writing=True)
        if answer.succeeded:
            self.when = answer.header.revision
            return None
        seen = _seen(keys, ranges, unnested(answer.responses), answer.header.revision)
        return EtcdTransaction(self._driver, seen, fresh=True)

    def _compares(self) -> list[Any]:
        conditions = []
        for key, value in self.values.items():
            if value is None:
                conditions.append(m.Compare(target=m.CREATE, key=key, create_revision=0))
            elif len(value) > _COMPARE_BYTES and key in self._mods:
                conditions.append(m.Compare(target=m.MOD, key=key, mod_revision=self._mods[key]))
            else:
                conditions.append(m.Compare(target=m.VALUE, key=key, value=value))
        for where, pairs in self.ranges.items():
            conditions += self._range_compares(where, pairs)
        return conditions

    def _range_compares(self, where: Range, pairs: Sequence[Pair]) -> list[Any]:
        if not pairs:
            return [_nothing_in(where.start, where.end)]
        if where.limit and len(pairs) == where.limit:
            # Used for "is there anything": what lies behind doesn't matter.
            return [_exists(key) for key, _ in pairs]
        if self.fresh:
            unchanged = m.Compare(
                result=m.LESS, target=m.MOD, key=where.start, range_end=where.end, mod_revision=self.when + 1
            )
            return [unchanged, *(_exists(key) for key, _ in pairs)]
        conditions, at = [], where.start
        for key, value in pairs:
            if at < key:
                conditions.append(_nothing_in(at, key))
            conditions.append(m.Compare(target=m.VALUE, key=key, value=value))
            at = key + b"\0"
        return [*conditions, _nothing_in(at, where.end)] if at < where.end else conditions


def _nothing_in(start: bytes, end: bytes) -> Any:
    # Every key that exists was created at a revision above 0.
    return m.Compare(target=m.CREATE, key=start, range_end=end, create_revision=0)


def _exists(key: bytes) -> Any:
    return m.Compare(result=m.GREATER, target=m.CREATE, key=key, create_revision=0)


def _seen(keys: Sequence[bytes], ranges: Sequence[Range], found: Sequence[Any], revision: int) -> _Seen:
    """From the answers of the gets of `keys`, then `ranges`."""
    values: dict[bytes, bytes | None] = {}
    mods: dict[bytes, int] = {}
    for key, response in zip(keys, found, strict=False):
        kvs = response.kvs
        if kvs:
            values[key], mods[key] = kvs[0].value, kvs[0].mod_revision
        else:
            values[key] = None
    pairs = {
        where: [(kv.key, kv.value) for kv in response.kvs]
        for where, response in zip(ranges, found[len(keys) :], strict=True)
    }
    return values, pairs, mods, revision


#: What one caller wants to see: keys, ranges, and at which revision (0: now).
_Look = tuple[Sequence[bytes], Sequence[Range], int]


class EtcdDriver(KVDriver):
    name = "etcd"
    cancellable = True
    # 110 conditions leave 18 operations to each of 110 nested Txns: nearly 2000 writes.
    limits = Limits(depends=100, writes=1500, bytes=_GROUP_BYTES, page=500, blind_wipe=True)

    def __init__(self, url: EtcdURL) -> None:
        super().__init__()
        self._connection = Connection(url)
        self._probe = url.prefix + b"setting"  # users may be allowed nothing outside the prefix
        self._reads: Lane[_Look, _Seen] = Lane(
            self._look_together, most=1000, in_flight=2, weight=lambda item: len(item[0]) + len(item[1])
        )

    async def open(self) -> None:
        await self._connection.open()
        await self.get((self._probe,))

    async def close(self) -> None:
        await self._reads.drain()
        await self._connection.close()

    async def txn(self, request: Any, *, writing: bool = False) -> Any:
        self.trips += 1
        try:
            raw = await self._connection.call(m.TXN, request.SerializeToString(), writing=writing)
        except RpcError as e:
            if judge(e) is Verdict.GONE:
                raise SnapshotGone from e
            raise TooLarge(e.details) from e
        return m.TxnResponse.FromString(raw)

    # -- reading -------------------------------------------------------------------------------------------------

    async def get(self, keys: Sequence[bytes], ranges: Sequence[Range] = (), at: Any = None) -> Reading:
        values, pairs, _, revision = await self._reads.submit((keys, ranges, at or 0))
        return Reading([values[key] for key in keys], [pairs[where] for where in ranges], revision, revision)

    async def look(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> _Seen:
        return await self._reads.submit((keys, ranges, 0))

    async def _look_together(self, looks: Sequence[_Look]) -> Sequence[_Seen | SnapshotGone]:
        """One Txn for all who ask now; each sees one revision."""
        things: list[tuple[bytes | Range, int]] = [(key, at) for keys, _, at in looks for key in keys]
        things += [(where, at) for _, ranges, at in looks for where in ranges]
        asked = list(dict.fromkeys(things))
        try:
            answers, now = await self._ask(asked)
        except SnapshotGone as gone:
            # One asks for a revision that was compacted; the others go on.
            present = [look for look in looks if not look[2]]
            others = iter(await self._look_together(present) if present else ())
            return [gone if look[2] else next(others) for look in looks]
        found = dict(zip(asked, answers, strict=True))
        return [
            _seen(
                keys,
                ranges,
                [*(found[key, at] for key in keys), *(found[where, at] for where in ranges)],
                at or now,
            )
            for keys, ranges, at in looks
        ]

    async def _ask(self, asked: Sequence[tuple[bytes | Range, int]], now: int = 0) -> tuple[list[Any], int]:
        """Range responses, and the present revision. What is beyond 4096 operations follows in a second trip, at the
        same revision."""
        operations = [get(what, at or now) if isinstance(what, bytes) else get_range(what, at or now)
                      for what, at in asked[:NESTED_OPS]]  # fmt: skip
        answer = await self.txn(m.TxnRequest(success=nested(operations)))
        found, now = unnested(answer.responses), now or answer.header.revision
        rest = [self._ask(asked[at : at + NESTED_OPS], now) for at in range(NESTED_OPS, len(asked), NESTED_OPS)]
        for more, _ in await asyncio.gather(*rest):
            found += more
        return found, now

    async def scan(self, start: bytes, end: bytes, limit: int, *, keys_only: bool = False) -> list[Pair]:
        self.trips += 1
        request = m.RangeRequest(key=start, range_end=end, limit=limit, keys_only=keys_only)
        answer = m.RangeResponse.FromString(await self._connection.call(m.RANGE, request.SerializeToString()))
        return [(kv.key, kv.value) for kv in answer.kvs]

    # -- writing -------------------------------------------------------------------------------------------------

    async def begin(
        self,
        keys: Sequence[bytes],
        ranges: Sequence[Range],
        hints: Mapping[bytes, bytes | None],
        range_hints: Mapping[Range, list[Pair]],
    ) -> Transaction:
        if all(key in hints for key in keys) and all(where in range_hints for where in ranges):
            guessed = {key: hints[key] for key in keys}
            return EtcdTransaction(
                self, (guessed, {where: range_hints[where] for where in ranges}, {}, 0), fresh=not keys and not ranges
            )
        return EtcdTransaction(self, await self.look(keys, ranges), fresh=True)

    async def clear(self, start: bytes, end: bytes) -> None:
        self.trips += 1
        request = m.DeleteRangeRequest(key=start, range_end=end)
        await self._connection.call(
            m.DELETE_RANGE, request.SerializeToString(), writing=True, timeout_s=_CLEAR_TIMEOUT_S
        )
