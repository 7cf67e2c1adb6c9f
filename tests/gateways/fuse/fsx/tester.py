# SPDX-License-Identifier: Apache-2.0
"""Random operations on one file, compared with a model after each: in the manner of the well-known fsx.

With one path everything happens through one descriptor at a time. With several (mounts of the same volume) the tester
takes turns: a turn opens the file at the next mount, has to find exactly what the turn before left when it closed, and
closes it again. All randomness comes from the seed, and the operations are kept, so a failure says what to run:

    python -m tests.gateways.fuse.fsx --seed 7 --operations 100000 /mnt/a/file /mnt/b/file
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.gateways.fuse.fsx.model import Model
from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.calls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE

PAGE: Final = mmap.PAGESIZE
#: Operation -> how often, relative to the others.
WEIGHTS: Final = {
    "read": 14, "write": 14, "append": 4, "map_read": 8, "map_write": 8, "truncate": 6, "cut": 4, "punch": 6,
    "zero_range": 4, "zero_keep": 2, "allocate": 4, "allocate_keep": 2, "copy": 6, "reopen": 5, "fsync": 4, "drop": 5,
    "recreate": 1, "direct_read": 4, "direct_write": 4, "holes": 4, "size": 4,
}  # fmt: skip


class Difference(AssertionError):
    """The file isn't what the model says."""


class Tester:
    """max_size: of the file, without `origin`. origin: where in the file everything happens (a border of chunks, say).
    without: operations that the file system can't do. turn: most operations before the next path has its turn."""

    __test__ = False  # for pytest

    def __init__(
        self,
        paths: Sequence[str],
        seed: int,
        *,
        max_size: int = 1 << 18,
        max_step: int = 1 << 16,
        origin: int = 0,
        turn: int = 12,
        without: Sequence[str] = (),
    ) -> None:
        self.paths, self.seed = list(map(str, paths)), seed
        self.max_size, self.max_step, self.origin, self.turn = max_size, max_step, origin, turn
        self.rng = random.Random(seed)
        self.model = Model()
        self.log: list[tuple[int, str, tuple[Any, ...]]] = []
        self.fd = -1
        self._path = self.paths[0]
        self._names = [n for n in WEIGHTS if n not in without]
        self._weights = [WEIGHTS[n] for n in self._names]
        self._left = 0
        self._buffer = mmap.mmap(-1, max_step + 2 * PAGE)

    # -- running ---------------------------------------------------------------------------------------------------

    def run(self, operations: int) -> None:
        try:
            self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            self._left = self.rng.randint(1, self.turn)
            for _ in range(operations):
                if len(self.paths) > 1 and self._left == 0:
                    self._next_turn()
                self._left -= 1
                self.step()
            self._check_all("the end")
        except Exception as e:
            raise Difference(f"{e!r}\n{self.explain()}") from e
        finally:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1

    def step(self) -> None:
        name = self.rng.choices(self._names, self._weights)[0]
        getattr(self, f"do_{name}")()

    def _next_turn(self) -> None:
        os.close(self.fd)
        self.fd = -1
        others = [p for p in self.paths if p != self._path]
        self._path = self.rng.choice(others)
        self._note("turn", self.paths.index(self._path))
        self.fd = os.open(self._path, os.O_RDWR)
        self._check_all("what the other mount left")
        self._left = self.rng.randint(1, self.turn)

    def _note(self, name: str, *args: Any) -> bytes:
        """Keep the operation; returns bytes that tell later who wrote them."""
        number = len(self.log) + 1
        self.log.append((number, name, args))
        return number.to_bytes(4, "big")

    # -- ranges ----------------------------------------------------------------------------------------------------

    def _range(self, limit: int) -> tuple[int, int]:
        """Offset and size that end at `limit` at most; often at borders of pages."""
        size = self.rng.randint(1, min(self.max_step, limit))
        offset = self.rng.randint(0, limit - size)
        if self.rng.random() < 0.3:
            offset -= offset % PAGE
        if self.rng.random() < 0.3:
            size = max(size - size % PAGE, 1)
        return offset, size

    def _inside(self) -> tuple[int, int] | None:
        return self._range(len(self.model)) if len(self.model) else None

    # -- operations ------------------------------------------------------------------------------------------------

    def do_read(self) -> None:
        offset, size = self._range(self.max_size)
        self._note("read", offset, size)
        self._same(offset, size, os.pread(self.fd, size, self.origin + offset))

    def do_write(self) -> None:
        offset, size = self._range(self.max_size)
        data = self._data(self._note("write", offset, size), size)
        self._all(os.pwrite(self.fd, data, self.origin + offset), size)
        self.model.write(offset, data)

    def do_append(self) -> None:
        size = self.rng.randint(1, 5000)
        if len(self.model) + size > self.max_size or (self.origin and not len(self.model)):
            return
        offset = len(self.model)
        data = self._data(self._note("append", offset, size), size)
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            self._all(os.write(fd, data), size)
        finally:
            os.close(fd)
        self.model.write(offset, data)

    def do_map_read(self) -> None:
        found = self._inside()
        if found:
            offset, size = found
            self._note("map_read", offset, size)
            self._mapped(offset, size, lambda memory, at: self._same(offset, size, memory[at : at + size]))

    def do_map_write(self) -> None:
        offset, size = self._range(self.max_size)
        data = self._data(self._note("map_write", offset, size), size)
        if offset + size > len(self.model):
            os.ftruncate(self.fd, self.origin + offset + size)

        def write(memory: mmap.mmap, at: int) -> None:
            memory[at : at + size] = data
            if self.rng.random() < 0.5:
                memory.flush()

        self._mapped(offset, size, write, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.model.write(offset, data)

    def do_truncate(self) -> None:
        size = self.rng.randint(0, self.max_size)
        self._note("truncate", size)
        if self.rng.random() < 0.5:
            os.ftruncate(self.fd, self.origin + size)
        else:
            os.truncate(self._path, self.origin + size)
        self.model.resize(size)

    def do_cut(self) -> None:
        size = self.rng.randint(0, len(self.model))
        self._note("cut", size)
        os.ftruncate(self.fd, self.origin + size)
        self.model.resize(size)

    def do_punch(self) -> None:
        offset, size = self._range(self.max_size)
        self._note("punch", offset, size)
        calls.fallocate(self.fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, self.origin + offset, size)
        self.model.zero(offset, size, grow=False)

    def do_zero_range(self) -> None:
        offset, size = self._range(self.max_size)
        self._note("zero_range", offset, size)
        calls.fallocate(self.fd, FALLOC_ZERO_RANGE, self.origin + offset, size)
        self.model.zero(offset, size, grow=True)

    def do_zero_keep(self) -> None:
        offset, size = self._range(self.max_size)
        self._note("zero_keep", offset, size)
        calls.fallocate(self.fd, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, self.origin + offset, size)
        self.model.zero(offset, size, grow=False)

    def do_allocate(self) -> None:
        offset, size = self._range(self.max_size)
        self._note("allocate", offset, size)
        calls.fallocate(self.fd, 0, self.origin + offset, size)
        self.model.resize(max(len(self.model), offset + size))

    def do_allocate_keep(self) -> None:
        offset, size = self._range(self.max_size)
        self._note("allocate_keep", offset, size)
        calls.fallocate(self.fd, FALLOC_KEEP_SIZE, self.origin + offset, size)

    def do_copy(self) -> None:
        found = self._inside()
        if not found:
            return
        source, size = found
        target = self.rng.randint(0, self.max_size - size)
        if source < target + size and target < source + size:
            return
        self._note("copy", source, target, size)
        done = 0
        while done < size:
            part = calls.copy_file_range(
                self.fd, self.origin + source + done, self.fd, self.origin + target + done, size - done
            )
            if part == 0:
                raise Difference(f"copy_file_range ended after {done} of {size} bytes")
            done += part
        self.model.copy(source, target, size)

    def do_reopen(self) -> None:
        self._note("reopen")
        os.close(self.fd)
        self.fd = -1
        self.fd = os.open(self._path, os.O_RDWR)

    def do_fsync(self) -> None:
        self._note("fsync")
        os.fsync(self.fd) if self.rng.random() < 0.5 else os.fdatasync(self.fd)

    def do_drop(self) -> None:
        self._note("drop")
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def do_recreate(self) -> None:
        self._note("recreate")
        os.unlink(self._path)
        if os.fstat(self.fd).st_nlink:
            raise Difference("an unlinked file still counts a link")
        self._same(0, len(self.model) + 1, os.pread(self.fd, len(self.model) + 1, self.origin))
        os.close(self.fd)
        self.fd = -1
        self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self.model.resize(0)

    def do_direct_read(self) -> None:
        offset, size = self._pages()
        self._note("direct_read", offset, size)
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECT)
        try:
            got = os.preadv(fd, [memoryview(self._buffer)[:size]], self.origin + offset)
        finally:
            os.close(fd)
        self._same(offset, size, self._buffer[:got])

    def do_direct_write(self) -> None:
        offset, size = self._pages()
        data = self._data(self._note("direct_write", offset, size), size)
        self._buffer[:size] = data
        fd = os.open(self._path, os.O_WRONLY | os.O_DIRECT)
        try:
            self._all(os.pwritev(fd, [memoryview(self._buffer)[:size]], self.origin + offset), size)
        finally:
            os.close(fd)
        self.model.write(offset, data)

    def do_holes(self) -> None:
        """What is said to be a hole reads as zeros, and data follows data."""
        self._note("holes")
        at, end = self.origin, self.origin + len(self.model)
        while at < end:
            try:
                data = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError as e:
                if e.errno != 6:  # ENXIO: no data up to the end
                    raise
                data = end
            hole = self.model.read(at - self.origin, data - at)
            if hole.strip(b"\0"):
                place = at + len(hole) - len(hole.lstrip(b"\0"))
                raise Difference(f"SEEK_DATA calls {at}…{data} a hole, but {place} has data\n{self.who(place)}")
            if data >= end:
                break
            at = os.lseek(self.fd, data, os.SEEK_HOLE)
            if at <= data:
                raise Difference(f"SEEK_HOLE from {data} went to {at}")

    def do_size(self) -> None:
        self._note("size")
        self._check_size()

    # -- comparing -------------------------------------------------------------------------------------------------

    def _pages(self) -> tuple[int, int]:
        offset, size = self._range(self.max_size - PAGE)
        return offset - offset % PAGE, max(size - size % PAGE, PAGE)

    def _data(self, stamp: bytes, size: int) -> bytes:
        return (stamp * (size // 4 + 1))[:size]

    def _mapped(
        self, offset: int, size: int, use: Callable[[mmap.mmap, int], None], prot: int = mmap.PROT_READ
    ) -> None:
        start = self.origin + offset
        base = start - start % PAGE
        with mmap.mmap(self.fd, start + size - base, mmap.MAP_SHARED, prot, offset=base) as memory:
            use(memory, start - base)

    def _all(self, done: int, size: int) -> None:
        if done != size:
            raise Difference(f"wrote {done} of {size} bytes")

    def _check_size(self) -> None:
        wanted = self.origin + len(self.model) if len(self.model) else None
        for got in (os.fstat(self.fd).st_size, os.stat(self._path).st_size):
            if wanted is None and got <= self.origin:
                continue
            if got != wanted:
                raise Difference(f"the size is {got}, not {wanted}")

    def _check_all(self, when: str) -> None:
        self._check_size()
        try:
            self._same(0, len(self.model) + 1, os.pread(self.fd, len(self.model) + 1, self.origin))
        except Difference as e:
            raise Difference(f"{when}: {e}") from e

    def _same(self, offset: int, size: int, got: bytes) -> None:
        wanted = self.model.read(offset, size)
        if got == wanted:
            return
        if len(got) != len(wanted):
            raise Difference(f"{len(got)} bytes at {offset} instead of {len(wanted)}; size {len(self.model)}")
        at = next(i for i in range(len(got)) if got[i] != wanted[i])
        last = next(i for i in reversed(range(len(got))) if got[i] != wanted[i])
        raise Difference(
            f"bytes {offset + at}…{offset + last} differ: {got[at : at + 8].hex()}… instead of "
            f"{wanted[at : at + 8].hex()}…\n{self.who(self.origin + offset + at)}"
        )

    def who(self, place: int) -> str:
        """Operations that concerned this byte, newest first."""
        at = place - self.origin
        found = []
        for number, name, args in reversed(self.log):
            concerned = name in ("turn", "recreate", "drop", "reopen")
            if name in ("truncate", "cut"):
                concerned = True
            elif name == "copy":
                concerned = args[1] <= at < args[1] + args[2] or args[0] <= at < args[0] + args[2]
            elif len(args) == 2:
                concerned = args[0] <= at < args[0] + args[1]
            if concerned:
                found.append(f"  #{number} {name} {args}")
            if len(found) == 25:
                break
        return f"what concerned byte {at}, newest first:\n" + "\n".join(found)

    def explain(self) -> str:
        with tempfile.NamedTemporaryFile("w", prefix="fsx-", suffix=".jsonl", delete=False) as f:
            f.writelines(json.dumps([n, name, *args]) + "\n" for n, name, args in self.log)
        last = "\n".join(f"  #{n} {name} {args}" for n, name, args in self.log[-15:])
        return (
            f"seed {self.seed}, operation {len(self.log)}, mount {self.paths.index(self._path)} of {len(self.paths)}, "
            f"origin {self.origin}; all operations: {f.name}\nthe last ones:\n{last}"
        )


def main(argv: Sequence[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(description="Random operations on a file, compared with a model.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--origin", type=int, default=0)
    parser.add_argument("--without", default="", help="operations to leave out, with commas")
    parser.add_argument("paths", nargs="+")
    given = parser.parse_args(argv)
    print(f"seed {given.seed}", flush=True)
    without = [w for w in given.without.split(",") if w]
    try:
        Tester(given.paths, given.seed, origin=given.origin, without=without).run(given.operations)
    except Difference as e:
        print(e, file=sys.stderr)
        return 1
    return 0
