# SPDX-License-Identifier: Apache-2.0
"""The record-store contract: what a database must offer so that all POSIX semantics can be written once above it.

A store keeps typed records (`keys`, `records`). Reading any number of them is one round trip, and so is a commit:
a list of checks and a list of writes that is applied completely, or not at all if a check fails (`Conflict`).
That is all the concurrency control there is: read, decide, commit if what was decided upon still holds, else again.

`Add`, `Patch`, `Append` are blind: relative changes that need no check and never conflict with each other.

Implementations live in `core/meta/stores`; `tests/conformance/recordstore` proves one in a few lines.
Other clients (JuiceFS) change the same database at the same time, so an implementation verifies checks against the
database at commit, under its own locking, and writes the very records that those clients watch or lock
(format §4.8, §5.5, §6.5).
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar

from core.errors import Conflict, FsError, MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.recent import RecentRecords
from core.meta.records import DIRECTORY, Attr, Entry, NodePatch
from core.meta.turns import PATIENCE, Turns

T = TypeVar("T")

# Write operations.
PUT: Final = 0  # create or replace
DELETE: Final = 1  # missing is fine
ADD: Final = 2  # relative: int, DirStat, or (space, inodes) for quotas; see `Tx.add`
APPEND: Final = 3  # bytes at the end of a chunk value, creating it
PATCH: Final = 4  # NodePatch on an existing inode; a missing inode fails the commit with Conflict
PUT_NEW: Final = 5  # create unless present (present is fine, nothing changes)
LOG: Final = 6  # one more line of the change log, in the same transaction; key (CHANGELOG,), value bytes (format §9)

Write = tuple[int, Key, Any]

# How a check compares: the whole value, or only what makes an inode what it is (type, mode, owner, flags, parent,
# ACLs, tier), so that parallel changes of link count, size and times don't conflict.
EXACT: Final = 0
IDENTITY: Final = 1

Check = tuple[int, Key, Any]

MAX_TRIES: Final = 50
MAX_PAUSE_MS: Final = 250


#: Kinds whose value tells who wrote it.
_PROVES: Final = frozenset((k.NODE, k.ENTRY, k.CHUNK, k.SYMLINK, k.DELSLICES))


def _holds(chunk: bytes, records: bytes) -> bool:
    """Are these slice records in a chunk, whole and together?"""
    at = chunk.find(records)
    while at > 0 and at % 24:
        at = chunk.find(records, at + 1)
    return at >= 0


class DirEntry(NamedTuple):
    """One entry of a listing. `attr` is None if attributes weren't asked for or the inode record is missing."""

    name: bytes
    type: int
    ino: int
    attr: Attr | None


class Step(NamedTuple):
    """One component of a resolved path."""

    entry: Entry
    attr: Attr | None


class Resolved(NamedTuple):
    """Answer of `resolve`: as many steps as could be walked.

    base: attributes of the starting directory (None: missing). steps: one per name found; the walk ends early at a
    missing name, and after a component that is no directory. xattrs, chunk: of the last node, if asked for and
    if every name was found (chunk: index 0 of a regular file, b"" if it has none).
    """

    base: Attr | None
    steps: list[Step]
    xattrs: dict[bytes, bytes] | None
    chunk: bytes | None


class Capabilities(NamedTuple):
    """What a store can't or need not do."""

    sorted_listing: bool = True  # list_entries costs one range scan per page, whatever the directory's size
    empty_xattr: bool = True
    max_id: int = 0xFFFFFFFF  # largest uid or gid
    shared: bool = True  # several processes may open it
    enumerate_chunks: bool = True  # chunks(ino, n) finds what exists; else it asks for every index below n
    text_xattr_names: bool = False  # names of extended attributes must be UTF-8
    max_xattr: int = 65536  # bytes in the value of an extended attribute
    max_writes: int = 0  # most records one commit may touch (writes and checks); 0: as many as memory holds
    change_log: bool = True
    local: bool = False  # reading costs no round trip, so nothing is gained by guessing


class Outcome(NamedTuple):
    """What a commit found out while applying blind writes."""

    freed: list[tuple[int, int]]  # (slice id, size) whose reference count says nobody uses it any more
    no_dirstat: list[int]  # directories without a statistics record; recount them


NOTHING: Final = Outcome([], [])


class Trips:
    """Counter of round trips; `with store.round_trips() as n: …; assert n.count <= 2`."""

    def __init__(self) -> None:
        self.count = 0


class RecordStore(ABC):
    """One database. Every coroutine may raise `MetaError`; nothing else but `Conflict` from `commit`."""

    name: str = "?"
    caps: Capabilities = Capabilities()

    def __init__(self) -> None:
        self.trips = 0
        self.recent: RecentRecords | None = None if self.caps.local else RecentRecords()
        self._turns = Turns()

    # -- life ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_url(cls, url: str) -> RecordStore:
        """Not connected yet. ConfigError names what is wrong with the URL; passwords are never shown."""
        raise NotImplementedError

    @abstractmethod
    async def open(self) -> None:
        """Connect. Doesn't create anything."""

    @abstractmethod
    async def close(self) -> None: ...

    async def prepare(self) -> None:  # noqa: B027 - optional
        """Create whatever must exist before the first record: tables, indexes. Safe to repeat."""

    def initial_counters(self) -> list[Write]:
        """Writes that a new volume needs besides its setting and nodes (format §1.9)."""
        return []

    @abstractmethod
    async def wipe(self) -> None:
        """Remove every record of the volume."""

    # -- reading: one round trip each ---------------------------------------------------------------------------

    @abstractmethod
    async def read(self, *keys: Key) -> list[Any]:
        """Values in the order of the keys, None where nothing is stored (dict kinds: {}; `occupied`: False;
        counters: 0 or the logical start value). The values form one snapshot where the engine can give one."""

    @abstractmethod
    async def resolve(
        self, base: int, names: Sequence[bytes], *, xattrs: bool = False, chunk: bool = False
    ) -> Resolved:
        """Walk `names` down from inode `base`. No permission checks, no symlinks followed."""

    async def resolve_many(self, *walks: tuple[int, Sequence[bytes]]) -> list[Resolved]:
        """Several walks at once; they leave together, so they count as one round trip."""
        found = await asyncio.gather(*(self.resolve(base, names) for base, names in walks))
        self.trips -= len(walks) - 1
        return found

    @abstractmethod
    async def list_entries(
        self, parent: int, after: bytes = b"", limit: int = 1000, *, attrs: bool = False
    ) -> list[DirEntry]:
        """Entries with name > after in byte order, at most `limit`. Fewer than `limit` means the end."""

    @abstractmethod
    def scan(self, kind: str, start: Any = None) -> AsyncIterator[tuple[Key, Any]]:
        """Every record of a kind, page by page, in no order that could be relied upon.

        Kinds: NODE, ENTRY, CHUNK, XATTR, SYMLINK, SLICEREF, DELFILE, DELSLICES, SESSION, SUSTAINED, DETACHED,
        DIRSTAT, QUOTA, FLOCKS, PLOCKS, ACL, PARENT (link counts > 0 of inodes whose parent is 0), CHANGELOG.
        `start`: SUSTAINED takes a sid; SLICEREF takes an int t: only records with count <= t; CHANGELOG takes a
        version v: only later lines. CHANGELOG comes in ascending order.
        """

    # -- writing ------------------------------------------------------------------------------------------------

    @abstractmethod
    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        """Apply all writes, atomically, if every check holds; else raise Conflict and change nothing.

        One round trip. When it returns, the change is as durable as the database is configured to make it.
        """

    @abstractmethod
    async def allocate(self, name: str, count: int) -> int:
        """Reserve `count` ids from counter `name`; the caller owns [result, result + count)."""

    @abstractmethod
    async def gate(self, name: str, now: int, min_age_s: int) -> bool:
        """Set-if-small: False if counter `name` > now - min_age_s; else store now and return True (format §1.9)."""

    async def trim_log(self, upto: int) -> int:
        """Remove change-log lines with version <= upto; returns how many. Stores without a log have nothing to do."""
        return 0

    # -- transactions -------------------------------------------------------------------------------------------

    @contextmanager
    def round_trips(self) -> Iterator[Trips]:
        """Count the round trips of this store inside the block (all tasks)."""
        trips = Trips()
        start = self.trips
        try:
            yield trips
        finally:
            trips.count = self.trips - start

    async def transact(self, body: Callable[[Tx], Awaitable[T]]) -> T:
        """Run `body` until its commit succeeds; at most 50 times, with growing random pauses."""
        own_turn = False
        try:
            lost: Conflict | None = None
            attempt = 0
            recent = self.recent if self.recent is not None and self.recent.worth_trying() else None
            while attempt < MAX_TRIES:
                if attempt == PATIENCE and not own_turn:
                    own_turn = await self._turns.take()
                tx = Tx(self, attempt, lost, recent)
                try:
                    result = await body(tx)
                except FsError:
                    if not tx.guessed:
                        raise
                    recent = None  # a refusal needs records that were read
                    continue
                if not tx.writes:
                    if not tx.guessed:
                        return result
                    recent = None
                    continue
                try:
                    await self._commit(tx)
                except Conflict as conflict:
                    lost = conflict
                    attempt += 1
                    if self.recent is not None:
                        self.recent.refused((key for _, key, _ in tx.checks), tx.guessed)
                    recent = None  # from here on nothing is taken for granted
                    if not tx.guessed:
                        # Spec semantics §1.6: random 0 … (i+1)²-1 ms, so that losers spread out; never for seconds.
                        await asyncio.sleep(random.randrange(min(attempt**2, MAX_PAUSE_MS)) / 1000)  # noqa: S311
                    continue
                except MetaError as error:
                    if not error.uncertain or not await self._was_applied(tx, error):
                        raise
                if self.recent is not None:
                    self.recent.committed(tx.writes, tx.guessed)
                for effect in tx.after:
                    effect()
                return result
        finally:
            if own_turn:
                self._turns.give_back()
        raise MetaError(f"{self.name}: transaction lost {MAX_TRIES} races; too much contention", retryable=True)

    async def _commit(self, tx: Tx) -> None:
        if self._turns.taken:
            await self._turns.wait()
        self._turns.entered()
        try:
            tx.outcome = await self.commit(tx.checks, tx.writes)
        finally:
            self._turns.left()

    async def _was_applied(self, tx: Tx, error: MetaError) -> bool:
        """The answer to a commit was lost. True if the database holds what it wrote; else the caller gets `error`.

        It is never sent a second time: the server may still be at work on the first. Values that prove it are those
        with an inode number, a slice id or a time that only this client hands out.
        """
        wanted: dict[Key, Any] = {}
        appended: dict[Key, bytes] = {}
        for op, key, value in tx.writes:
            if op in (PUT, DELETE) and key[0] in _PROVES:
                wanted[key] = value
            elif op == APPEND:
                appended[key] = value
            elif op == PATCH:
                wanted.pop(key, None)
        proofs = [key for key, value in wanted.items() if value is not None]
        if not proofs and not appended:
            return False
        keys = [*wanted, *appended]
        try:
            found = dict(zip(keys, await self.read(*keys), strict=True))
        except MetaError:
            raise error from None
        return all(found[key] == value for key, value in wanted.items()) and all(
            _holds(found[key] or b"", value) for key, value in appended.items()
        )


def learn_walk(recent: RecentRecords, base: int, names: Sequence[bytes], found: Resolved) -> None:
    """Remember what a `resolve` has seen."""
    recent.learn_directory(base, found.base)
    parent = base
    for name, step in zip(names, found.steps, strict=False):
        recent.learn_step(parent, name, step.entry, step.attr)
        parent = step.entry.ino
    if len(found.steps) < len(names):
        recent.learn(k.entry(parent, names[len(found.steps)]), None)


class Tx:
    """One attempt of a transaction. Reads go to the store at once; writes wait for the commit.

    A body must not depend on its own writes, may run several times, and decides only upon what it read or expects.
    """

    __slots__ = ("after", "attempt", "checks", "guessed", "lost", "outcome", "recent", "store", "writes")

    def __init__(
        self, store: RecordStore, attempt: int = 0, lost: Conflict | None = None, recent: RecentRecords | None = None
    ) -> None:
        self.store = store
        self.recent = recent  # what may be taken for granted in this try
        self.guessed = False
        self.lost = lost  # why the try before this one failed
        self.attempt = attempt  # 0 first; a body may expect optimistically first and read when it lost
        self.checks: list[Check] = []
        self.writes: list[Write] = []
        self.outcome = NOTHING
        self.after: list[Callable[[], None]] = []  # run once, when the commit succeeded

    async def read(self, *keys: Key) -> list[Any]:
        """Read in at most one round trip; the commit verifies that all of it still holds."""
        values = self._known(keys)
        if values is None:
            values = await self.peek(*keys)
        self.checks.extend((EXACT, key, value) for key, value in zip(keys, values, strict=True))
        return values

    async def peek(self, *keys: Key) -> list[Any]:
        """Read without verifying at commit."""
        values = await self.store.read(*keys)
        recent = self.store.recent
        if recent is not None:
            for key, value in zip(keys, values, strict=True):
                if key[0] is k.NODE or key[0] is k.ENTRY:
                    recent.learn(key, value)
        return values

    async def guess(self, *keys: Key, free: Key | None = None) -> list[Any]:
        """Inodes and entries as this client believes them, in no round trip, or else read in one. The body must
        `expect` every one of them. free: one more entry, last in the answer, that is believed absent unless known."""
        values = self._known(keys)
        if values is not None and free is not None:
            assert self.recent is not None
            if self.recent.get(free) is None:
                return [*values, None]
            values = None
        if values is not None:
            return values
        return await self.peek(*keys, *(() if free is None else (free,)))

    def _known(self, keys: Sequence[Key]) -> list[Any] | None:
        if self.recent is None:
            return None
        values = [self.recent.get(key) for key in keys]
        if any(value is None for value in values):
            return None
        self.guessed = True
        return values

    async def walk(self, *walks: tuple[int, Sequence[bytes]], last_free: bool = False) -> list[Resolved]:
        """`resolve` of each walk, from memory or in one round trip. The body must expect the last directory and the
        last entry of each; what leads there is verified here. last_free: the last walk's name may be believed absent.
        """
        if self.recent is not None:
            found = [
                self._walk_recent(base, names, last_free and at == len(walks) - 1)
                for at, (base, names) in enumerate(walks)
            ]
            if all(one is not None for one in found):
                self.guessed = True
                return [one for one in found if one is not None]
        if len(walks) == 1:
            answers = [await self.store.resolve(*walks[0])]
        else:
            answers = await self.store.resolve_many(*walks)
        if (recent := self.store.recent) is not None:
            for (base, names), answer in zip(walks, answers, strict=True):
                learn_walk(recent, base, names, answer)
        return answers

    def _walk_recent(self, base: int, names: Sequence[bytes], last_free: bool) -> Resolved | None:
        assert self.recent is not None
        get, steps, checks = self.recent.get, list[Step](), list[Check]()
        root = attr = get(k.node(base))
        at = base
        for depth, name in enumerate(names):
            if attr is None or attr.type != DIRECTORY:
                return None
            if depth:
                checks += ((EXACT, k.entry(steps[-2].entry.ino if depth > 1 else base, names[depth - 1]),
                            steps[-1].entry), (IDENTITY, k.node(at), attr))  # fmt: skip
            entry = get(k.entry(at, name))
            if entry is None:
                if last_free and depth == len(names) - 1:
                    break
                return None
            at, attr = entry.ino, get(k.node(entry.ino))
            if attr is None:
                return None
            steps.append(Step(entry, attr))
        if len(names) > 1 and root is not None:
            checks.append((IDENTITY, k.node(base), root))
        self.checks += checks
        return Resolved(root, steps, None, None)

    def expect(self, key: Key, value: Any) -> None:
        """The commit fails unless `key` holds exactly `value` (None: is missing)."""
        self.checks.append((EXACT, key, value))

    def expect_identity(self, ino: int, attr: Attr) -> None:
        """The commit fails unless the inode exists with the same type, mode, owner, flags, parent, ACLs and tier."""
        self.checks.append((IDENTITY, k.node(ino), attr))

    def put(self, key: Key, value: Any) -> None:
        self.writes.append((PUT, key, value))

    def put_new(self, key: Key, value: Any) -> None:
        self.writes.append((PUT_NEW, key, value))

    def delete(self, key: Key) -> None:
        self.writes.append((DELETE, key, None))

    def add(self, key: Key, delta: Any) -> None:
        """Relative change. counter, parent: int, created if missing. sliceref: int. dirstat: DirStat, ignored if
        there is no record (reported in Outcome.no_dirstat). quota: (space, inodes), ignored if there is no record."""
        self.writes.append((ADD, key, delta))

    def append(self, key: Key, raw: bytes) -> None:
        self.writes.append((APPEND, key, raw))

    def patch(self, ino: int, patch: NodePatch) -> None:
        self.writes.append((PATCH, k.node(ino), patch))

    def log(self, line: bytes) -> None:
        """One line of the change log; see `MetaBase.log_change`."""
        self.writes.append((LOG, (k.CHANGELOG,), line))


__all__ = [
    "ADD", "APPEND", "DELETE", "EXACT", "IDENTITY", "LOG", "PATCH", "PUT", "PUT_NEW", "Capabilities", "Check",
    "Conflict", "DirEntry", "FsError", "Outcome", "RecordStore", "Resolved", "Step", "Trips", "Tx", "Write",
]  # fmt: skip
