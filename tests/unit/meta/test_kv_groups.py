# SPDX-License-Identifier: Apache-2.0
"""Grouped commits of the key-value layer: who is refused, what is computed again, what fits together.

Over the dictionary driver, with another client that acts at the worst moment. Contract: `core/meta/store.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from core.errors import Conflict, MetaError
from core.meta import keys as k
from core.meta.records import DIRECTORY, FILE, Attr, DirStat, Entry, NodePatch
from core.meta.store import ADD, APPEND, DELETE, EXACT, IDENTITY, LOG, PATCH, PUT, Write
from core.meta.stores.kv.dictionary import Data, DictionaryDriver, DictionaryStore, DictionaryTransaction
from core.meta.stores.kv.driver import Limits, TooLarge, Transaction
from core.meta.stores.kv.guesses import Guesses

NODE = Attr(DIRECTORY, 0o755, 0, 0, 1, 2, 3, 2, 4096, 0, 1)


@pytest.fixture(params=[True, False], ids=["hints", "reads first"])
def data(request: pytest.FixtureRequest) -> Data:
    data = Data()
    data.hinting = request.param  # type: ignore[attr-defined]
    return data


def client(data: Data) -> DictionaryStore:
    return DictionaryStore(data, hinting=data.hinting)  # type: ignore[attr-defined]


def before_commits(
    store: DictionaryStore, monkeypatch: pytest.MonkeyPatch, act: Callable[[int], Awaitable[Any]]
) -> list[int]:
    """Let `act(number)` happen between the decision and the commit of each transaction of this store."""
    commit = DictionaryTransaction.commit
    seen: list[int] = []

    async def interrupted(
        tx: DictionaryTransaction, writes: Mapping[bytes, bytes | None], wipes: Sequence[tuple[bytes, bytes]] = ()
    ) -> Transaction | None:
        if tx._driver is store.driver:
            seen.append(len(writes))
            await act(len(seen))
        return await commit(tx, writes, wipes)

    monkeypatch.setattr(DictionaryTransaction, "commit", interrupted)
    return seen


async def test_one_transaction_serves_all_and_the_refused_are_told_alone(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client(data)
    await store.commit([], [(PUT, k.node(1), NODE), (PUT, k.entry(1, b"taken"), Entry(FILE, 7))])

    async def create(name: bytes, ino: int) -> None:
        writes: list[Write] = [(PUT, k.entry(1, name), Entry(FILE, ino)), (PATCH, k.node(1), NodePatch(1, ino, ino))]
        await store.commit([(IDENTITY, k.node(1), NODE), (EXACT, k.entry(1, name), None)], writes)

    async def nothing(number: int) -> None: ...

    sizes = before_commits(store, monkeypatch, nothing)
    names = [b"a", b"taken", b"b", b"a", b"c"]
    done = await asyncio.gather(*(create(n, 10 + i) for i, n in enumerate(names)), return_exceptions=True)
    assert [type(d) for d in done] == [type(None), Conflict, type(None), Conflict, type(None)]
    assert sizes == [4]  # three entries and the directory, in one transaction
    taken, twice = done[1], done[3]
    assert isinstance(taken, Conflict) and isinstance(twice, Conflict)
    assert (taken.key, taken.found) == (k.entry(1, b"taken"), (Entry(FILE, 7), None))
    assert twice.found == (Entry(FILE, 10), None)  # what an earlier member of the same group made
    (node,) = await store.read(k.node(1))
    assert (node.nlink, node.mtime_ns) == (5, 14)


async def test_relative_changes_are_computed_again_when_another_client_was_faster(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = client(data), client(data)
    start: list[Write] = [
        (PUT, k.node(1), NODE),
        (PUT, k.dirstat(1), DirStat(0, 0, 0)),
        (PUT, k.chunk(5, 0), bytes(24)),
    ]
    await store.commit([], start)

    def change(mark: bytes) -> list[Write]:
        return [
            (PATCH, k.node(1), NodePatch(1)), (ADD, k.dirstat(1), DirStat(1, 2, 3)), (APPEND, k.chunk(5, 0), mark * 24),
            (ADD, k.counter("usedSpace"), 10), (ADD, k.sliceref(8, 9), 1),
        ]  # fmt: skip

    async def faster(number: int) -> None:
        if number <= 3:
            await other.commit([], change(b"o"))

    tries = before_commits(store, monkeypatch, faster)
    await store.commit([(IDENTITY, k.node(1), NODE)], change(b"m"))
    assert len(tries) == 4
    found = await store.read(k.node(1), k.dirstat(1), k.chunk(5, 0), k.counter("usedSpace"), k.sliceref(8, 9))
    assert (found[0].nlink, *found[1:]) == (6, DirStat(4, 8, 12), bytes(24) + b"o" * 72 + b"m" * 24, 40, 5)


async def test_a_check_that_no_longer_holds_is_a_conflict_with_what_is_there(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = client(data), client(data)
    await store.commit([], [(PUT, k.node(1), NODE)])

    async def faster(number: int) -> None:
        await other.commit([], [(PUT, k.entry(1, b"f"), Entry(FILE, 9)), (PUT, k.node(9), NODE)])

    before_commits(store, monkeypatch, faster)
    with pytest.raises(Conflict) as lost:
        await store.commit([(EXACT, k.entry(1, b"f"), None)], [(PUT, k.entry(1, b"f"), Entry(FILE, 8))])
    assert (lost.value.key, lost.value.found) == (k.entry(1, b"f"), (Entry(FILE, 9), NODE))


async def test_an_entry_that_slips_into_a_directory_saves_it(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """rmdir: looks, and somebody creates a file before it commits. The other one may know nothing of our checks."""
    store = client(data)
    await store.commit([], [(PUT, k.node(5), NODE)])
    (empty,) = await store.read(k.occupied(5))
    assert empty is False

    async def foreign_create(number: int) -> None:
        data.put(store.codec.encode(k.entry(5, b"f")), b"\1" + (77).to_bytes(8, "big"))

    before_commits(store, monkeypatch, foreign_create)
    with pytest.raises(Conflict):
        await store.commit([(EXACT, k.occupied(5), False)], [(DELETE, k.node(5), None)])
    assert await store.read(k.node(5)) == [NODE]


async def test_emptiness_is_judged_over_the_effects_of_the_group(data: Data) -> None:
    store = client(data)
    await store.commit([], [(PUT, k.node(5), NODE), *[(PUT, k.entry(5, b"%d" % i), Entry(FILE, i)) for i in range(3)]])
    rmdir = ([(EXACT, k.occupied(5), False)], [(DELETE, k.node(5), None)])
    removals = [store.commit([], [(DELETE, k.entry(5, b"%d" % i), None)]) for i in range(3)]
    done = await asyncio.gather(*removals, store.commit(*rmdir), return_exceptions=True)
    assert done[-1] != Conflict and not isinstance(done[-1], BaseException)
    assert await store.read(k.node(5), k.occupied(5)) == [None, False]


async def test_dropping_all_xattrs_and_setting_one_together(data: Data) -> None:
    store = client(data)
    await store.commit([], [(PUT, k.xattr(5, b"user.%d" % i), b"1") for i in range(3)])
    drop: Write = (DELETE, k.xattrs(5), None)
    await store.commit([], [drop, (PUT, k.xattr(5, b"user.new"), b"2")])
    assert await store.read(k.xattrs(5)) == [{b"user.new": b"2"}]
    await asyncio.gather(
        store.commit([], [(PUT, k.xattr(5, b"user.lost"), b"3")]),
        store.commit([], [drop]),
        store.commit([], [(PUT, k.xattr(5, b"user.kept"), b"4")]),
    )
    assert await store.read(k.xattrs(5)) == [{b"user.kept": b"4"}]


async def test_hundreds_of_commits_are_cut_into_transactions_that_fit(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client(data)
    store.driver.limits = Limits(depends=10, writes=25, bytes=600, blind_wipe=True)

    async def nothing(number: int) -> None: ...

    sizes = before_commits(store, monkeypatch, nothing)
    await asyncio.gather(*(store.commit([], [(ADD, k.counter(f"c{i}"), 1), (PUT, k.symlink(i), bytes(20))])
                           for i in range(1, 201)))  # fmt: skip
    assert max(sizes) <= 25 and sum(sizes) == 400
    assert await store.read(*(k.counter(f"c{i}") for i in range(1, 201))) == [1] * 200


async def test_a_change_that_fits_into_no_transaction_is_refused_alone(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client(data)
    commit = DictionaryTransaction.commit

    async def limited(tx: DictionaryTransaction, writes: Any, wipes: Any = ()) -> Any:
        if len(writes) > 20:
            raise TooLarge(f"{len(writes)} writes, 20 are possible")
        return await commit(tx, writes, wipes)

    monkeypatch.setattr(DictionaryTransaction, "commit", limited)
    big: list[Write] = [(PUT, k.symlink(i), b"x") for i in range(100, 121)]
    small = [store.commit([], [(PUT, k.symlink(i), b"y")]) for i in range(1, 15)]
    refused, *done = await asyncio.gather(store.commit([], big), *small, return_exceptions=True)
    assert isinstance(refused, MetaError) and not refused.retryable
    assert "21 writes, 20 are possible" in str(refused) and "nothing was" in str(refused)
    assert not any(isinstance(d, BaseException) for d in done)
    assert await store.read(k.symlink(100), k.symlink(14)) == [None, b"y"]


async def test_a_lost_answer_reaches_everybody_in_the_transaction_and_nothing_is_sent_twice(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client(data)
    sent = 0

    async def lost(tx: DictionaryTransaction, writes: Any, wipes: Any = ()) -> Any:
        nonlocal sent
        sent += 1
        raise MetaError("the answer was lost", retryable=True, uncertain=True)

    monkeypatch.setattr(DictionaryTransaction, "commit", lost)
    done = await asyncio.gather(
        *(store.commit([], [(PUT, k.symlink(i), b"x")]) for i in range(5)), return_exceptions=True
    )
    assert all(isinstance(d, MetaError) and d.uncertain for d in done)
    assert sent == 1


async def test_a_group_that_always_loses_ends_with_a_retryable_error(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = client(data)

    async def faster(number: int) -> None:
        data.put(store.codec.encode(k.counter("usedSpace")), number.to_bytes(8, "little"))

    tries = before_commits(store, monkeypatch, faster)
    monkeypatch.setattr("core.meta.stores.kv.groups.random.randrange", lambda _: 0)
    monkeypatch.setattr("core.meta.stores.kv.groups._PATIENCE_S", 0)
    with pytest.raises(MetaError, match="against other clients") as caught:
        await store.commit([], [(ADD, k.counter("usedSpace"), 1)])
    assert caught.value.retryable and not caught.value.uncertain
    assert len(tries) == 50


async def test_every_line_of_the_change_log_gets_a_version_of_its_own(data: Data) -> None:
    store = client(data)
    writes = [[(LOG, (k.CHANGELOG,), b"%02d" % i), (PUT, k.symlink(i), b"x")] for i in range(23)]
    await asyncio.gather(*(store.commit([], w) for w in writes))  # type: ignore[arg-type]
    lines = [(key[1], line) async for key, line in store.scan(k.CHANGELOG)]
    assert [line for _, line in lines] == [b"%02d" % i for i in range(23)]
    assert len({version for version, _ in lines}) == 23


async def test_sessions_of_very_old_clients_are_found_and_removed(data: Data) -> None:
    store = client(data)
    old = store.codec.legacy_session(k.session(7))
    data.put(old, (1_700_000_000).to_bytes(8, "big"))
    assert [r async for r in store.scan(k.SESSION)] == [(k.session(7), 1_700_000_300)]
    await store.commit([], [(DELETE, k.session(7), None)])
    assert old not in data.values


async def test_a_damaged_record_fails_who_needs_it_and_nobody_else(data: Data) -> None:
    store = client(data)
    data.put(store.codec.encode(k.counter("bad")), b"123")
    bad, good = await asyncio.gather(
        store.commit([], [(ADD, k.counter("bad"), 1)]), store.commit([], [(ADD, k.counter("good"), 1)]),
        return_exceptions=True,
    )  # fmt: skip
    assert isinstance(bad, MetaError) and "sluice fsck" in str(bad)
    assert not isinstance(good, BaseException)
    assert await store.read(k.counter("good")) == [1]


async def test_a_driver_begins_with_what_it_is_asked_for() -> None:
    driver = DictionaryDriver(hinting=True)
    tx = await driver.begin([b"a"], [], {b"a": b"1"}, {})
    assert (tx.fresh, driver.trips) == (False, 0)
    after = await tx.commit({b"a": b"2"})
    assert after is not None and after.fresh and after.values == {b"a": None}
    assert await after.commit({b"a": b"2"}) is None
    assert driver.data.values == {b"a": b"2"}


def test_guesses_stay_within_their_memory_and_prefer_news() -> None:
    guesses = Guesses(2000)
    guesses.learn({b"k": b"new"}, 5)
    guesses.learn({b"k": b"old"}, 4)
    assert guesses.get(b"k") == b"new"
    guesses.learn({b"k": b"unknown time"})
    assert guesses.get(b"k") == b"unknown time"
    guesses.learn({b"%d" % i: bytes(100) for i in range(50)})
    assert b"49" in guesses and b"k" not in guesses
    assert len(guesses.about(b"%d" % i for i in range(50))) == 7
    guesses.learn({b"49": bytes(1 << 20)})  # too large to keep, and what was known is wrong now
    assert b"49" not in guesses
