# SPDX-License-Identifier: Apache-2.0
"""A program that knows what every byte must be: `FOLDER NUMBER SEED`, until a file FOLDER/stop appears.

It makes, writes, appends, maps, locks, renames and removes, compares everything with a model in memory, and ends with
status 1 at the first answer that a local disk would not have given. Several of them share a log (appended records, each
of which must be there once) and two counters (under fcntl and flock locks). The last line on stdout sums up.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
import random
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

RECORD = struct.Struct("<IIQ16s")
MOST = 24


class Actor:
    def __init__(self, folder: str, number: int, seed: int) -> None:
        self.folder = folder
        self.number = number
        self.rng = random.Random(seed * 1000 + number)
        self.home = f"{folder}/actor{number}"
        os.mkdir(self.home)
        self.files: dict[str, bytearray] = {}
        self.open: dict[str, int] = {}
        self.reading: dict[str, int] = {}  # descriptors that only read, kept open
        self.folders: dict[str, set[str]] = {}
        self.log = os.open(f"{folder}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.appended = 0
        self.counted = {"fcntl": 0, "flock": 0}
        self.steps = 0
        self.serial = 0
        self.slowest = 0.0
        self.history: dict[str, list[str]] = {}  # what was done to a file, for the report

    # -- steps --------------------------------------------------------------------------------------------------

    def data(self, n: int) -> bytes:
        return self.rng.randbytes(n)

    def pick(self) -> str | None:
        return self.rng.choice(list(self.files)) if self.files else None

    def fd(self, name: str) -> int:
        if name not in self.open:
            self.open[name] = os.open(f"{self.home}/{name}", os.O_RDWR)
        return self.open[name]

    def create(self) -> None:
        if len(self.files) >= MOST:
            return
        self.serial += 1
        name = f"f{self.serial}"
        fd = os.open(f"{self.home}/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        data = self.data(self.rng.choice((0, 10, 4096, 50_000, 300_000)))
        self.write_all(fd, data, 0)
        self.files[name] = bytearray(data)
        if self.rng.random() < 0.5:
            self.open[name] = fd
        else:
            os.close(fd)

    def write_all(self, fd: int, data: bytes, at: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], at + done)

    def overwrite(self) -> None:
        name = self.pick()
        if name is None:
            return
        content = self.files[name]
        at = self.rng.randrange(len(content) + 1 + self.rng.choice((0, 0, 5000)))
        data = self.data(self.rng.choice((1, 100, 4096, 70_000)))
        self.note(name, f"overwrite {at}+{len(data)}")
        self.write_all(self.fd(name), data, at)
        if at > len(content):
            content.extend(bytes(at - len(content)))
        content[at : at + len(data)] = data
        if self.rng.random() < 0.2:
            os.fsync(self.fd(name))

    def append(self) -> None:
        name = self.pick()
        if name is None:
            return
        data = self.data(self.rng.choice((1, 500, 9000)))
        self.note(name, f"append {len(self.files[name])}+{len(data)}")
        fd = os.open(f"{self.home}/{name}", os.O_WRONLY | os.O_APPEND)
        written = os.write(fd, data)
        assert written == len(data), f"short append: {written} of {len(data)}"
        os.close(fd)
        self.files[name] += data

    def truncate(self) -> None:
        name = self.pick()
        if name is None:
            return
        length = self.rng.randrange(len(self.files[name]) + 2000)
        self.note(name, f"truncate {length}")
        os.ftruncate(self.fd(name), length)
        content = self.files[name]
        if length < len(content):
            del content[length:]
        else:
            content.extend(bytes(length - len(content)))

    def hold(self) -> None:
        """Nobody else has it open for a moment: from then on a kernel that passes through reads it by itself."""
        name = self.pick()
        if name is None:
            return
        self.close(name)
        self.reading[name] = os.open(f"{self.home}/{name}", os.O_RDONLY)

    def check(self) -> None:
        name = self.pick()
        if name is None:
            return
        wanted = self.files[name]
        own = self.rng.random() < 0.5
        fd = self.reading.get(name, -1)
        if fd < 0 or own:
            fd = os.open(f"{self.home}/{name}", os.O_RDONLY) if own else self.fd(name)
        assert os.fstat(fd).st_size == len(wanted), f"{name} is {os.fstat(fd).st_size} long instead of {len(wanted)}"
        found = bytearray()
        while chunk := os.pread(fd, 1 << 17, len(found)):
            found += chunk
        self.compare(name, found)
        if fd not in (self.open.get(name), self.reading.get(name)):
            os.close(fd)

    def note(self, name: str, what: str) -> None:
        self.history.setdefault(name, []).append(f"{time.strftime('%H:%M:%S')}.{time.time() % 1 * 1000:03.0f} {what}")
        del self.history[name][:-12]

    def compare(self, name: str, found: bytes | bytearray) -> None:
        wanted = self.files[name]
        if found == wanted:
            return
        differ = [i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b]
        time.sleep(0.5)
        again = Path(self.home, name).read_bytes()
        os.posix_fadvise(self.fd(name), 0, 0, os.POSIX_FADV_DONTNEED)
        uncached = Path(self.home, name).read_bytes()
        raise AssertionError(
            f"{name}: {len(found)} bytes instead of {len(wanted)}; {len(differ)} differ, from"
            f" {differ[0] if differ else None} to {differ[-1] if differ else None}; read again it is"
            f" {'right' if again == wanted else 'wrong'}, past the page cache"
            f" {'right' if uncached == wanted else 'wrong'}; {'; '.join(self.history.get(name, []))}"
        )

    def map_read(self) -> None:
        name = self.pick()
        if name is None or not self.files[name]:
            return
        with mmap.mmap(self.fd(name), 0, prot=mmap.PROT_READ) as memory:
            self.compare(name, memory[:])

    def map_write(self) -> None:
        name = self.pick()
        if name is None or not self.files[name]:
            return
        content = self.files[name]
        with mmap.mmap(self.fd(name), 0) as memory:
            at = self.rng.randrange(len(content))
            data = self.data(self.rng.randrange(1, 3000))[: len(content) - at]
            self.note(name, f"map {at}+{len(data)}")
            memory[at : at + len(data)] = data
            memory.flush()
        content[at : at + len(data)] = data

    def rename(self) -> None:
        name = self.pick()
        if name is None:
            return
        self.serial += 1
        target = self.rng.choice([f"f{self.serial}", self.pick() or name])
        if target == name:
            return
        os.rename(f"{self.home}/{name}", f"{self.home}/{target}")
        self.close(target)
        self.files[target] = self.files.pop(name)
        self.history[target] = self.history.pop(name, [])
        self.note(target, f"renamed from {name}")
        for kept in (self.open, self.reading):
            if name in kept:
                kept[target] = kept.pop(name)

    def close(self, name: str) -> None:
        for kept in (self.open, self.reading):
            if name in kept:
                os.close(kept.pop(name))

    def unlink(self) -> None:
        name = self.pick()
        if name is None or len(self.files) < 4:
            return
        keep = name in self.open and self.rng.random() < 0.5
        os.unlink(f"{self.home}/{name}")
        if keep:  # still readable and writable without a name
            found = os.pread(self.open[name], 1 << 22, 0)
            self.compare(name, found)
        self.close(name)
        del self.files[name]

    def listing(self) -> None:
        found = set(os.listdir(self.home))
        wanted = set(self.files) | set(self.folders)
        assert found == wanted, f"listing: too much {found - wanted}, missing {wanted - found}"

    def folder_step(self) -> None:
        if not self.folders or (len(self.folders) < 5 and self.rng.random() < 0.3):
            self.serial += 1
            os.mkdir(f"{self.home}/d{self.serial}")
            self.folders[f"d{self.serial}"] = set()
            return
        name = self.rng.choice(list(self.folders))
        content = self.folders[name]
        if content and self.rng.random() < 0.5:
            entry = self.rng.choice(sorted(content))
            os.unlink(f"{self.home}/{name}/{entry}")
            content.discard(entry)
        elif not content and self.rng.random() < 0.3:
            os.rmdir(f"{self.home}/{name}")
            del self.folders[name]
            return
        else:
            self.serial += 1
            entry = f"l{self.serial}"
            source = self.pick()
            if source is not None and self.rng.random() < 0.5:
                os.link(f"{self.home}/{source}", f"{self.home}/{name}/{entry}")
                os.unlink(f"{self.home}/{name}/{entry}")
            os.symlink(f"../{entry}", f"{self.home}/{name}/{entry}")
            content.add(entry)
        for entry in content:
            assert os.readlink(f"{self.home}/{name}/{entry}") == f"../{entry}"
        assert set(os.listdir(f"{self.home}/{name}")) == content

    def log_step(self) -> None:
        head = (self.number, self.appended)
        body = self.rng.getrandbits(63)
        digest = hashlib.md5(struct.pack("<IIQ", *head, body)).digest()
        written = os.write(self.log, RECORD.pack(*head, body, digest))
        assert written == RECORD.size
        self.appended += 1

    def count_step(self) -> None:
        kind = self.rng.choice(("fcntl", "flock"))
        fd = os.open(f"{self.folder}/{kind}", os.O_RDWR | os.O_CREAT, 0o644)
        lock: Callable[[int, int], object] = fcntl.lockf if kind == "fcntl" else fcntl.flock
        lock(fd, fcntl.LOCK_EX)
        number = int(os.pread(fd, 20, 0) or b"0")
        os.pwrite(fd, b"%d" % (number + 1), 0)
        if self.rng.random() < 0.5:
            lock(fd, fcntl.LOCK_UN)
        os.close(fd)
        self.counted[kind] += 1

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        steps: list[tuple[int, Callable[[], None]]] = [
            (6, self.create), (8, self.overwrite), (6, self.append), (3, self.truncate), (8, self.check),
            (3, self.map_read), (3, self.map_write), (4, self.rename), (3, self.unlink), (2, self.listing),
            (3, self.hold), (5, self.folder_step), (6, self.log_step), (3, self.count_step),
        ]  # fmt: skip
        weights, calls = [w for w, _ in steps], [c for _, c in steps]
        while not os.path.exists(f"{self.folder}/../stop"):
            call = self.rng.choices(calls, weights)[0]
            start = time.monotonic()
            try:
                call()
            except Exception as e:
                raise AssertionError(f"actor {self.number}, step {self.steps} ({call.__name__}): {e!r}") from e
            self.slowest = max(self.slowest, time.monotonic() - start)
            self.steps += 1
        for name in list(self.files):
            self.close(name)
            self.compare(name, Path(self.home, name).read_bytes())
        self.listing()


def check_shared(folder: str, reports: list[dict[str, int]]) -> None:
    """After all have ended: every record of the log once, and no count lost."""
    raw = Path(folder, "log").read_bytes()
    assert len(raw) % RECORD.size == 0, f"the log is {len(raw)} bytes long"
    seen: dict[int, list[int]] = {}
    for actor, number, body, digest in RECORD.iter_unpack(raw):
        assert digest == hashlib.md5(struct.pack("<IIQ", actor, number, body)).digest(), f"torn record of {actor}"
        seen.setdefault(actor, []).append(number)
    for report in reports:
        found = seen.get(report["number"], [])
        lost = sorted(set(range(report["appended"])) - set(found))
        assert found == list(range(report["appended"])), (
            f"actor {report['number']} appended {report['appended']} records, the log has {len(found)}"
            f" ({len(found) - len(set(found))} twice, not there: {lost[:5]})"
        )
    for kind in ("fcntl", "flock"):
        total = sum(r[kind] for r in reports)
        path = Path(folder, kind)
        count = int(path.read_bytes() or b"0") if path.exists() else 0
        assert count == total, f"{total} counted under {kind} locks, the file says {count}"


def main() -> int:
    folder, number, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    actor = Actor(folder, number, seed)
    try:
        actor.run()
    except BaseException as e:
        traceback.print_exc()
        if isinstance(e.__cause__, OSError):
            print(errno.errorcode.get(e.__cause__.errno or 0), file=sys.stderr)
        return 1
    print(json.dumps({"number": number, "steps": actor.steps, "appended": actor.appended, **actor.counted,
                      "slowest_ms": int(actor.slowest * 1000)}))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
