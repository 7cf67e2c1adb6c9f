# SPDX-License-Identifier: Apache-2.0
"""Many clients at once on two server processes behind one port: nothing is lost, nothing happens twice.

Each actor keeps a book of what it was told; at the end the volume must agree with all books. The quick form runs every
actor for some seconds without outside programs, the heavy one for a minute with rclone and davfs2.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateways.webdav.door import Door, make_volume, token_of
from tests.gateways.webdav.programs import make_tree, require_same, run, tree
from tests.gateways.webdav.test_clients_rclone import Rclone
from tests.gateways.webdav.test_davfs import mounted
from tests.servers.engines import engine

PLAIN = ("plain", "with space", "umlaut ä")


@pytest.fixture(params=["sqlite", "redis"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
    with (
        engine(request.param) as running,
        Door(make_volume(tmp_path, running.fresh_url()), workers=2) as door,
    ):
        yield door
        assert "Traceback" not in door.log_text(), door.log_text()


class Crowd:
    """Actors in threads, each called again and again until the time is over; the first failure ends all."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._failed: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def add(self, act: Callable[[int], None], copies: int = 1) -> None:
        for number in range(copies):
            thread = threading.Thread(target=self._repeat, args=(act, number))
            self._threads.append(thread)

    def _repeat(self, act: Callable[[int], None], number: int) -> None:
        try:
            while time.monotonic() < self._until and not self._failed:
                act(number)
        except BaseException as error:
            self._failed.append(error)

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        if self._failed:
            raise self._failed[0]


class Books:
    """What the actors were told; `check` compares it with what is there."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self._lock = threading.Lock()
        self.counts = {"etag": 0, "lock": 0}
        self.lines: list[str] = []
        self.created: list[str] = []
        self.placed: list[str] = []
        for name in self.counts:
            door.put(f"/count-{name}", "0")
        door.put("/lines", "")
        door.ask("MKCOL", "/race/")

    def _note(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1

    def count_by_etag(self, number: int) -> None:
        """Read, add one, write if nobody wrote meanwhile."""
        seen = self.door.ask("GET", "/count-etag")
        answer = self.door.put("/count-etag", str(int(seen.body) + 1), **{"If-Match": seen.etag})
        assert answer.status in (204, 412), answer
        if answer.status == 204:
            self._note("etag")

    def count_by_lock(self, number: int) -> None:
        """Read, add one, write under an exclusive lock."""
        locked = self.door.lock("/count-lock", depth="0")
        if locked.status == 423:
            return
        assert locked.status == 200, locked
        token = token_of(locked)
        value = int(self.door.ask("GET", "/count-lock").body) + 1
        assert self.door.put("/count-lock", str(value), If=f"(<{token}>)").status == 204
        self._note("lock")
        assert self.door.ask("UNLOCK", "/count-lock", {"Lock-Token": f"<{token}>"}).status == 204

    def append(self, number: int) -> None:
        """A line at the end by partial update; every acknowledged one is there once."""
        with self._lock:
            line = f"{number}-{len(self.lines)}-{time.monotonic_ns()}"
        headers = {"Content-Type": "application/x-sabredav-partialupdate", "X-Update-Range": "append"}
        answer = self.door.ask("PATCH", "/lines", headers, f"{line}\n")
        assert answer.status in (204, 503), answer
        if answer.status == 204:
            with self._lock:
                self.lines.append(line)

    def create_once(self, number: int) -> None:
        """Everybody tries to make the same file; one succeeds."""
        with self._lock:
            name = f"/race/{len(self.created)}"
        answer = self.door.put(name, str(number), **{"If-None-Match": "*"})
        assert answer.status in (201, 412), answer
        if answer.status == 201:
            with self._lock:
                self.created.append(name)

    def make_parents(self, number: int) -> None:
        """As rclone's transfers do: all make the directory, each puts its file into it at once."""
        with self._lock:
            folder = f"/made-{len(self.placed) // 3}"
        made = self.door.ask("MKCOL", folder + "/")
        assert made.status in (201, 405), made
        name = f"{folder}/{number}-{time.monotonic_ns()}"
        assert self.door.put(name).status == 201, "whoever hears that it exists can use it"
        with self._lock:
            self.placed.append(name)

    def check(self) -> None:
        for name, expected in self.counts.items():
            assert int(self.door.ask("GET", f"/count-{name}").body) == expected > 0
        found = self.door.ask("GET", "/lines").body.decode().split()
        assert sorted(found) == sorted(self.lines) and self.lines
        assert len(set(self.created)) == len(self.created) > 0
        hrefs = self.door.ask("PROPFIND", "/race/", {"Depth": "1"}).texts("{DAV:}href")[1:]
        assert sorted(hrefs) == sorted(self.created)
        assert self.placed
        for folder in {name.rpartition("/")[0] for name in self.placed}:
            hrefs = self.door.ask("PROPFIND", folder, {"Depth": "1"}).texts("{DAV:}href")[1:]
            assert sorted(hrefs) == sorted(name for name in self.placed if name.startswith(folder + "/"))


@pytest.mark.parametrize("seconds", [4])
def test_every_acknowledged_change_happened_once(shared: Door, seconds: float) -> None:
    books, crowd = Books(shared), Crowd(seconds)
    for act in (books.count_by_etag, books.count_by_lock, books.append, books.create_once):
        crowd.add(act, 2)
    crowd.add(books.make_parents, 3)
    crowd.run()
    books.check()


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_programs_work_beside_each_other_for_a_minute(shared: Door, tmp_path: Path, rng: random.Random) -> None:
    source = make_tree(tmp_path / "source", 150, rng, names=PLAIN)
    small = make_tree(tmp_path / "small", 25, rng, names=PLAIN)
    rclone = Rclone("current", shared.url, "owncloud")
    rounds = {"rclone": 0, "davfs": 0}
    books, crowd = Books(shared), Crowd(60)

    def synchronize(number: int) -> None:
        """Up, changed, up again, down: 8 transfers at once."""
        name = f"r:rclone-{rounds['rclone'] % 2}"
        rclone("sync", "--create-empty-src-dirs", source, name, "--transfers", "8", "--checkers", "8")
        rclone("check", "--download", source, name, "--transfers", "8")
        (source / f"changed {rounds['rclone']}.bin").write_bytes(rng.randbytes(50_000))
        rounds["rclone"] += 1

    with mounted(shared) as there:

        def carry(number: int) -> None:
            folder = there / f"davfs {rounds['davfs']}"
            shutil.copytree(small, folder)
            require_same(tree(folder), tree(small))
            if rounds["davfs"]:
                shutil.rmtree(there / f"davfs {rounds['davfs'] - 1}")
            rounds["davfs"] += 1

        crowd.add(synchronize)
        crowd.add(carry)
        for act in (books.count_by_etag, books.count_by_lock, books.append, books.create_once):
            crowd.add(act)
        crowd.add(books.make_parents, 3)
        crowd.run()
    books.check()
    assert all(rounds.values()), rounds
    rclone("sync", "--create-empty-src-dirs", source, "r:last", "--transfers", "8")
    rclone("sync", "--create-empty-src-dirs", "r:last", tmp_path / "back", "--transfers", "8")
    require_same(tree(tmp_path / "back"), tree(source))
    with mounted(shared) as again:
        require_same(tree(again / f"davfs {rounds['davfs'] - 1}"), tree(small))
        kept = {name for name in run(["ls", "-1", str(again)]).splitlines() if name.startswith("davfs")}
        assert kept == {f"davfs {rounds['davfs'] - 1}"}
    print(f"\n{rounds}, {books.counts}, {len(books.lines)} lines, {len(books.created)} files created once")
