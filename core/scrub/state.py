# SPDX-License-Identifier: Apache-2.0
"""Where a scrub is and what it has found: one JSON document in the object store, `sluice/scrub/state.json`.

It outlives restarts and moves from client to client. An older version of it that comes late costs some reading again.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from core.errors import ObjectNotFound
from core.object.api import ObjectStore

log = logging.getLogger("sluice.scrub")

KEY: Final = "sluice/scrub/state.json"
#: Faults that are remembered; more of them need `sluice fsck --read`, not a longer list.
MOST_FAULTS: Final = 1000


class Fault(msgspec.Struct):
    """A block that can't be read, or isn't what it was. Times in seconds since the epoch."""

    key: str
    cause: str
    first_seen: float
    last_seen: float


class State(msgspec.Struct, rename="camel"):
    """position: key of the last object that was looked at in this pass. A finished pass has position ""."""

    version: int = 1
    position: str = ""
    passes: int = 0
    started: float = 0
    blocks: int = 0
    bytes: int = 0
    last_started: float = 0
    last_ended: float = 0
    last_blocks: int = 0
    last_bytes: int = 0
    updated: float = 0
    faults: dict[str, Fault] = {}


async def read_state(objects: ObjectStore) -> State:
    try:
        raw = await objects.get(KEY)
    except ObjectNotFound:
        return State()
    try:
        return msgspec.json.decode(bytes(raw), type=State)
    except msgspec.DecodeError as e:
        log.warning("%s can't be read (%s): the scrub starts from the beginning", KEY, e)
        return State()


async def write_state(objects: ObjectStore, state: State) -> None:
    await objects.put(KEY, msgspec.json.encode(state))
