# SPDX-License-Identifier: Apache-2.0
"""Which server to talk to: the host itself, Sentinel's master, or the owner of the volume's slot in a cluster.

A volume on a cluster lives in one slot (its prefix is a hash tag), so one connection to that slot's owner is all it
takes; a moved slot is found again like a failed-over master.
Source: format §4.1, §4.2; Redis cluster specification (CRC16/XMODEM of the tag modulo 16384); Redis guidelines for
Sentinel clients (ask one after the other, then verify the role).
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from hiredis import ReplyError

from core.errors import MetaError
from core.meta.stores.redis.mapping import pairs
from core.meta.stores.redis.replies import code_of, typed_error
from core.meta.stores.redis.url import RedisURL
from core.meta.stores.redis.wire import Wire, WireLost, pack_command

#: How long one of several cluster nodes may take to say who serves what.
SEED_TIMEOUT_S: Final = 1.0

Address = tuple[str, int]
Dial = Callable[[Address], Awaitable[Wire]]


def slot_of(db: int) -> int:
    """Slot of every key that carries the prefix `{db}`."""
    return binascii.crc_hqx(b"%d" % db, 0) % 16384


async def find_master(url: RedisURL, dial: Dial) -> Address:
    """Ask the Sentinels, one after the other. Raises MetaError with what each said if none knows a living master."""
    answers: list[str] = []
    unknown = 0
    for sentinel in url.hosts:
        where = f"{sentinel[0]}:{sentinel[1]}"
        try:
            reply = await _ask(sentinel, dial, ("SENTINEL", "MASTER", url.master), alone=len(url.hosts) == 1)
        except (OSError, WireLost) as e:  # MetaError is an OSError
            answers.append(f"{where}: {e if str(e) else 'no answer in time'}")
            continue
        if isinstance(reply, ReplyError):
            unknown += "No such master" in str(reply)
            hint = "; set SENTINEL_PASSWORD" if code_of(str(reply)) in ("NOAUTH", "WRONGPASS", "NOPERM") else ""
            answers.append(f"{where} says {reply}{hint}")
            continue
        state = dict(pairs(reply))
        if state[b"flags"].split(b",")[0] != b"master" or b"_down" in state[b"flags"]:
            answers.append(f"{where} says that the master is down")
            continue
        return state[b"ip"].decode(), int(state[b"port"])
    raise MetaError(
        f"no Sentinel of {url.where} knows a living master {url.master!r} ({'; '.join(answers)});"
        + (" check its name" if unknown else " check the Sentinels"),
        retryable=unknown < len(url.hosts),
    )


async def _ask(node: Address, dial: Dial, command: tuple[str, ...], *, alone: bool) -> Any:
    """The reply of one node. One that hangs must not use up the time for the others."""
    async with asyncio.timeout(None if alone else SEED_TIMEOUT_S):
        wire = await dial(node)
        try:
            return await wire.send(pack_command(command))
        finally:
            wire.close()


async def find_owner(url: RedisURL, nodes: Sequence[Address], dial: Dial) -> tuple[Address, list[Address]]:
    """Ask a cluster who serves the volume's slot; also all its nodes, who can be asked next time.

    nodes: known from last time, asked before those of the URL. `dial` gives an authenticated connection.
    """
    slot = slot_of(url.db)
    cause: Exception | None = None
    seeds = list(dict.fromkeys([*nodes, *url.hosts]))
    for seed in seeds:
        try:
            ranges = await _ask(seed, dial, ("CLUSTER", "SLOTS"), alone=len(seeds) == 1)
        except (OSError, WireLost, MetaError) as e:
            cause = e
            continue
        if isinstance(ranges, ReplyError):
            raise typed_error(str(ranges), url.where)
        found = [_address(node, seed[0]) for _, _, *serving in ranges for node in serving]
        for first, last, owner, *_ in ranges:
            if first <= slot <= last:
                return _address(owner, seed[0]), list(dict.fromkeys(found))
        cause = MetaError(f"no node serves slot {slot}")
    raise MetaError(
        f"cluster {url.where}: nobody serves slot {slot} of this volume ({cause}); check the nodes", retryable=True
    ) from cause


def _address(node: Any, asked: str) -> Address:
    """Of a node in CLUSTER SLOTS; one that doesn't know its own name is where it was asked."""
    host = node[0].decode() if node[0] else ""
    return (host if host and host != "?" else asked), int(node[1])
