# SPDX-License-Identifier: Apache-2.0
"""Faults by name: `await point("publish.before-commit")` does nothing in production and what a test says otherwise.

Armed by the environment when the process starts (workers inherit it), or by `arm` inside a test:

    SLUICE_FAILPOINTS="publish.before-commit=kill:3;pack.stored=delay(0.5);delete.objects-gone=raise"

Each part is `name=action`, with `:n` for the n-th call of that name in this process only (`:n+`: from the n-th on;
without it: every call). Actions: `kill` (SIGKILL to this process, no clean-up of any kind), `raise` (a MetaError that
names the point), `delay(seconds)`. A name that isn't in `POINTS` is an error, so that a test can't silently miss.
Design: §9 (faults by name). No IO and no clock in the unarmed case: one test of a module global.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from typing import Final, NamedTuple

from core.errors import ConfigError, MetaError

ENVIRONMENT: Final = "SLUICE_FAILPOINTS"

#: Every point there is and what has happened when it is reached. Tests run through this table.
POINTS: Final[dict[str, str]] = {
    "slice.id-taken": "a slice has an id, none of its blocks has left",
    "block.before-encode": "a block of a slice is full and plain",
    "block.before-put": "a block of a slice is full, nothing of it is stored",
    "block.put": "a block of a slice is stored, no cache knows it",
    "block.stored": "a block of a slice is stored and cached, its slice is not finished",
    "pack.id-taken": "a pack has an id, its members are plain",
    "pack.before-put": "a pack is encoded, nothing is stored",
    "pack.stored": "a pack is stored, its members don't know yet",
    "stage.before-write": "a block is about to be staged, nothing of it is on disk",
    "stage.written": "blocks have their names under rawstaging and raw, nothing was synced (in a thread)",
    "stage.synced": "a block is staged and on disk, its writer doesn't know yet",
    "stage.before-upload": "a staged block was read and proven, it isn't in the object store",
    "stage.uploaded": "a staged block is in the object store, its file still waits",
    "stage.done": "a staged block is in the object store, its file is gone",
    "content.finished": "all bytes of a body are stored and bound to no name",
    "publish.before-commit": "a publish has decided what to write and not committed it",
    "publish.committed": "a publish is committed, nobody was told",
    "write.before-commit": "slices of an existing file are stored and not committed",
    "write.committed": "slices of an existing file are committed, nobody was told",
    "copy.before-commit": "a copied range is decided upon and not committed",
    "copy.committed": "a copied range is committed, nobody was told",
    "compact.stored": "the merged slice of a chunk is stored and not committed",
    "compact.committed": "a chunk is compacted, nobody was told, the old slices are there",
    "clone.started": "the top of a cloned tree stands alone and detached",
    "clone.batch": "some more nodes of a cloned tree are committed, it is still detached",
    "clone.built": "a cloned tree is complete and still detached",
    "clone.attached": "a cloned tree has its name, nobody was told",
    "detached.claimed": "a detached tree is about to be removed, all of it is there",
    "delete.before-chunks": "a file is removed, its delfile record stands, no chunk is gone yet",
    "delete.chunk-gone": "a chunk record is gone and its slices are uncounted, their objects are there",
    "delete.objects-gone": "the objects of a slice are gone, its count record is there",
    "delete.before-record": "all data of a removed file is gone, its delfile record is there",
    "gc.listed": "a clean-up knows all objects, it has read no reference yet",
    "gc.compared": "a clean-up knows objects and references, nothing is decided",
    "gc.looked-twice": "a clean-up has read all references again, nothing is deleted",
    "gc.count-set": "a clean-up has set a count right, the objects are there",
    "gc.object-gone": "a clean-up has deleted one leaked object",
    "gc.piece-stored": "what is left of a slice is stored anew, its chunk still names the old slice",
    "gc.piece-moved": "a chunk names what was stored anew, the old slice is there",
}

_PART = re.compile(r"([a-z.-]+)=(kill|raise|delay\(([0-9.]+)\))(?::([1-9][0-9]*)(\+?))?")


class _Plan(NamedTuple):
    action: str
    delay_s: float
    first: int  # number of the call it acts on; 0: every call
    onwards: bool


_plans: dict[str, _Plan] = {}
_calls: dict[str, int] = {}
_armed = False


async def point(name: str) -> None:
    """A place where a test may stop, fail or end this process."""
    if _armed:
        await _reached(name)


def blocking_point(name: str) -> None:
    """The same in a thread that isn't the loop's."""
    if _armed:
        plan = _plan(name)
        if plan is not None and not _act(plan, name):
            time.sleep(plan.delay_s)


def arm(text: str) -> None:
    """Replace what is armed; "" disarms everything. Counts of calls start anew. Raises ConfigError."""
    global _armed
    plans: dict[str, _Plan] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = _PART.fullmatch(part)
        if match is None:
            raise ConfigError(f"{ENVIRONMENT}: {part!r} isn't of the form name=kill|raise|delay(seconds)[:n|:n+]")
        if match[1] not in POINTS:
            raise ConfigError(f"{ENVIRONMENT}: there is no failpoint {match[1]!r}; there are {', '.join(POINTS)}")
        plans[match[1]] = _Plan(
            match[2].partition("(")[0], float(match[3] or 0), int(match[4] or 0), not match[4] or bool(match[5])
        )
    _plans.clear()
    _calls.clear()
    _plans.update(plans)
    _armed = bool(plans)


def calls(name: str) -> int:
    """How often an armed process has come by a point since `arm`."""
    return _calls.get(name, 0)


async def _reached(name: str) -> None:
    plan = _plan(name)
    if plan is not None and not _act(plan, name):
        await asyncio.sleep(plan.delay_s)


def _plan(name: str) -> _Plan | None:
    """What to do at this call of a point, if anything."""
    _calls[name] = count = _calls.get(name, 0) + 1
    plan = _plans.get(name)
    if plan is None or (count < plan.first if plan.onwards else count != plan.first):
        return None
    return plan


def _act(plan: _Plan, name: str) -> bool:
    """False: it is a delay, which the caller knows how to wait for."""
    if plan.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif plan.action == "raise":
        # Nobody knows whether a commit got through: callers treat it as they treat a lost database.
        raise MetaError(f"failpoint {name}")
    return plan.action == "kill"


arm(os.environ.get(ENVIRONMENT, ""))
