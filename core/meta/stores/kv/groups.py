# SPDX-License-Identifier: Apache-2.0
"""Groups of changes as transactions of a driver: decided in turn, committed together, computed again when others win.

Each member is decided over what the ones before it write (`overlay`); a refused one is told alone. What a refusal is
based on has been read, never guessed. Members don't notice when another client was faster: the driver brings what is
there now, and the group is decided anew.
Source: semantics §1.6; contracts: `changes`, `driver`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

from core.errors import Conflict, MetaError
from core.meta import keys as k
from core.meta.stores.kv import values as v
from core.meta.stores.kv.changes import Change
from core.meta.stores.kv.driver import KVDriver, Pair, Range, TooLarge, Transaction
from core.meta.stores.kv.guesses import Guesses
from core.meta.stores.kv.keys import KeyCodec
from core.meta.stores.kv.overlay import Later, Overlay

#: How often a group is tried against clients that are faster (semantics §1.6); its members don't notice.
_TRIES: Final = 50
_LONGEST_PAUSE_MS: Final = 30
#: Nor is given up before so much time: with many clients at work, only patience decides who has won in the end.
_PATIENCE_S: Final = 20.0
#: So many tries follow at once: they hold what is there now, every round has a winner, and a pause makes it old.
_AT_ONCE: Final = 10


class Groups:
    """Runs groups of one volume; one at a time, says the caller."""

    def __init__(self, driver: KVDriver, codec: KeyCodec, guesses: Guesses) -> None:
        self._driver = driver
        self._codec = codec
        self._guesses = guesses

    async def run(self, changes: Sequence[Change]) -> list[Any]:
        """Answers of a group; it takes several transactions if its members don't fit into one."""
        answers: list[Any] = [None] * len(changes)
        left = list(range(len(changes)))
        while left:
            now = self._fitting(changes, left)
            try:
                done = await self._together([changes[i] for i in now])
            except TooLarge as e:
                if len(now) > 1:
                    done = {}
                    for at, i in enumerate(now):
                        done[at] = await self._alone(changes[i])
                else:
                    done = {0: self._refusal(str(e))}
            except MetaError as e:
                done = dict.fromkeys(range(len(now)), e)
            for at, answer in done.items():
                answers[now[at]] = answer
            settled = {now[at] for at in done}
            left = [i for i in left if i not in settled]
        return answers

    async def _alone(self, change: Change) -> Any:
        try:
            return (await self._together([change]))[0]
        except TooLarge as e:
            return self._refusal(str(e))
        except MetaError as e:
            return e

    def _refusal(self, why: str) -> MetaError:
        return MetaError(
            f"{self._driver.name}: this change touches more than the database takes in one transaction ({why});"
            " nothing was changed. Do it in smaller parts"
        )

    def _fitting(self, changes: Sequence[Change], left: list[int]) -> list[int]:
        """As many as one transaction may depend on; at least one."""
        most = self._driver.limits.depends
        if not most:
            return left
        needs: set[Any] = set()
        for count, i in enumerate(left):
            needs.update(changes[i].keys, changes[i].ranges)
            if count and len(needs) > most:
                return left[:count]
        return left

    async def _together(self, changes: Sequence[Change]) -> dict[int, Any]:
        """Answers by position; members without one come again with the next group."""
        tx = await self._begin(changes)
        try:
            until = asyncio.get_running_loop().time() + _PATIENCE_S
            attempt = -1
            while (attempt := attempt + 1) < _TRIES or asyncio.get_running_loop().time() < until:
                answers, overlay = self._decide(changes, tx)
                if not tx.fresh and (not overlay.dirty or any(isinstance(a, Exception) for a in answers.values())):
                    # Refused on the ground of a guess: see what is really there.
                    await tx.refresh(self._inodes_of(answers))
                    self._guesses.learn(tx.values, tx.when)
                    answers, overlay = self._decide(changes, tx)
                if not overlay.dirty:
                    await tx.abandon()
                    return answers
                writes = overlay.writes
                for number, line in enumerate(overlay.lines):
                    writes[self._codec.log_key(tx.log_version(number))] = line
                after = await tx.commit(writes, overlay.wipes)
                if after is None:
                    self._guesses.learn(writes, tx.when)
                    return answers
                tx = after
                self._guesses.learn(tx.values, tx.when)
                if attempt >= _AT_ONCE and not self._driver.pauses:
                    await asyncio.sleep(random.randrange(min(attempt, _LONGEST_PAUSE_MS)) / 1000)  # noqa: S311
        except BaseException:
            await tx.abandon()
            raise
        await tx.abandon()
        raise MetaError(
            f"{self._driver.name}: {attempt} tries to commit lost against other clients that change the same records;"
            " it may work later",
            retryable=True,
        )

    def _inodes_of(self, answers: dict[int, Any]) -> list[bytes]:
        """Inodes that refused names probably lead to: who is refused wants to know them (`Conflict.found`)."""
        nodes: dict[bytes, None] = {}
        for refused in answers.values():
            key = refused.key if isinstance(refused, Conflict) and refused.found is None else None
            if key is not None and key[0] == k.ENTRY:
                entry = v.decode(key, self._guesses.get(self._codec.encode(key)))
                if entry is not None:
                    nodes[self._codec.encode(k.node(entry.ino))] = None
        return list(nodes)

    async def _begin(self, changes: Sequence[Change]) -> Transaction:
        keys: dict[bytes, None] = {}
        ranges: dict[Range, None] = {}
        hints: dict[bytes, bytes | None] = {}
        range_hints: dict[Range, list[Pair]] = {}
        for change in changes:
            keys.update(change.keys)
            ranges.update(change.ranges)
            hints.update(change.hints)
            range_hints.update(change.range_hints)
        guessed = self._guesses.about(keys)
        for raw in [raw for raw, had in guessed.items() if had and len(had) == 9 and hints.get(raw, had) != had]:
            # A name that probably isn't what its commit expects; who is refused wants to know the inode, too.
            if key := self._codec.decode(k.ENTRY, raw):
                keys[self._codec.encode(k.node(v.decode(key, guessed[raw]).ino))] = None
        hints.update(guessed)
        tx = await self._driver.begin(list(keys), list(ranges), hints, range_hints)
        if tx.fresh:
            self._guesses.learn(tx.values, tx.when)
        return tx

    def _decide(self, changes: Sequence[Change], tx: Transaction) -> tuple[dict[int, Any], Overlay]:
        overlay = Overlay(tx, self._driver.limits)
        answers: dict[int, Any] = {}
        for at, change in enumerate(changes):
            mark = overlay.mark()
            try:
                answer = change.apply(overlay)
                overlay.require_room(mark)
                answers[at] = answer
            except Later:
                overlay.undo(mark)
            except (Conflict, MetaError) as refused:
                overlay.undo(mark)
                answers[at] = refused
        if not answers:
            raise TooLarge("a single change that can't be judged")
        return answers, overlay
