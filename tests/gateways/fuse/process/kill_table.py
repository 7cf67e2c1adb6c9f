# SPDX-License-Identifier: Apache-2.0
"""Kill a writer of the shared table again and again, and look at what the next one finds: `ROUNDS SEED`.

Each child notes in shared memory what it is about to do and what came out. After SIGKILL the table must hold what the
completed steps say; the step under way either happened or it didn't.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import time

from gateways.fuse.holder.handles import HandleSlots
from gateways.fuse.holder.writelog import WriteLog

LOG_BYTES = 128 << 10
SLOTS = 64
#: Journal: word 0 is the number of completed steps, then (kind, argument, argument, outcome) each.
WRITE, RECORD, OPEN, CLOSE = 1, 2, 3, 4
STEPS = 100_000


def content(number: int, length: int) -> bytes:
    return (number.to_bytes(8, "little") * (length // 8 + 1))[:length]


class Table:
    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 4096 + SLOTS * 32 + LOG_BYTES)
        self.map()

    def map(self) -> None:
        view = memoryview(self.memory)
        words = view[:4096].cast("Q")
        self.slots = HandleSlots(view[4096 : 4096 + SLOTS * 32], words[0:1])
        self.log = WriteLog(view[4096 + SLOTS * 32 :], words[1:3])


def work(table: Table, journal: memoryview, seed: int, tokens: list[int], handles: list[int], first: int) -> None:
    rng = random.Random(seed)
    for step in range(STEPS):
        at = 1 + step * 4
        kind = rng.choice((WRITE, WRITE, RECORD, OPEN, CLOSE))
        if kind == WRITE:
            number, length = first + step, rng.choice((0, 1, 60, 500, 5000))
            journal[at], journal[at + 1], journal[at + 2] = kind, number, length
            token = table.log.wrote(number, length, memoryview(content(number, length)), number)
            journal[at + 3] = token
            if token:
                tokens.append(token)
        elif kind == RECORD and tokens:
            token = tokens.pop(rng.randrange(len(tokens)))
            journal[at], journal[at + 1] = kind, token
            table.log.recorded(token)
        elif kind == OPEN and len(handles) < SLOTS:
            journal[at], journal[at + 1] = kind, first + step
            fh = table.slots.opened(first + step, step & 0xFFFF, bool(step & 1))
            journal[at + 3] = fh
            handles.append(fh)
        elif kind == CLOSE and handles:
            fh = handles.pop(rng.randrange(len(handles)))
            journal[at], journal[at + 1] = kind, fh
            table.slots.closed(fh)
        else:
            journal[at] = 0
        journal[0] = step + 1


def main(rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    table = Table()
    journal = memoryview(mmap.mmap(-1, 8 * (8 + 4 * STEPS))).cast("Q")
    writes: dict[int, tuple[int, int]] = {}  # token -> number, length
    handles: dict[int, int] = {}  # fh -> ino
    total = first = 0
    for number in range(rounds):
        journal[0] = 0
        child = os.fork()
        if child == 0:
            try:
                table.map()
                for ino, length in writes.values():  # as a worker that takes over
                    assert table.log.wrote(ino, length, memoryview(content(ino, length)), ino) in writes
                assert table.log.replayed() == 0
                work(table, journal, seed + number, list(writes), list(handles), first)
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0, 0.004))
        while journal[0] < 1 and rng.random() < 0.9:
            time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"round {number}: the writer failed"
        done = journal[0]
        for step in range(done):
            kind, one, two, out = journal[1 + step * 4 : 5 + step * 4]
            if kind == WRITE and out:
                writes[out] = one, two
            elif kind == RECORD:
                del writes[one]
            elif kind == OPEN:
                handles[out] = one
            elif kind == CLOSE:
                del handles[one]
        total += done
        table.map()
        found = {}
        for (token, *_), kept in zip(table.log._kept, table.log.writes(), strict=True):
            assert bytes(kept.data) == content(kept.ino, kept.offset), f"round {number}: torn bytes"
            found[token] = (kept.ino, kept.offset)
        opened = {h.fh: h.ino for h in table.slots.handles()}
        kind, one, two, _ = journal[1 + done * 4 : 5 + done * 4]
        if found != writes:
            extra, lost = found.keys() - writes.keys(), writes.keys() - found.keys()
            under_way = (kind == WRITE and [found[t] for t in extra] == [(one, two)] and not lost) or (
                kind == RECORD and lost == {one} and not extra
            )
            assert under_way, f"seed {seed}, round {number}: {done} steps, then {kind}; {extra=} {lost=}"
        if opened != handles:
            extra, lost = opened.keys() - handles.keys(), handles.keys() - opened.keys()
            under_way = (kind == OPEN and [opened[f] for f in extra] == [one] and not lost) or (
                kind == CLOSE and lost == {one} and not extra
            )
            assert under_way, f"seed {seed}, round {number}: {done} steps, then {kind}; {extra=} {lost=}"
        writes, handles = found, opened
        first += done + 1
    print(f"{rounds} kills, {total} steps, {len(writes)} writes and {len(handles)} handles at the end")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
