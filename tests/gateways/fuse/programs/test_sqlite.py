# SPDX-License-Identifier: Apache-2.0
"""SQLite on a mount, with its rollback journal and with WAL: several processes write, one is killed now and then.

Every writer moves money between accounts and numbers its transactions. Whatever is killed, the sum stays, the numbers
of a writer have no gap, and no transaction that was answered is lost.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.gateways.fuse.programs.place import Place, first, sizes

ACCOUNTS = 200
_WRITER = """
import random, sqlite3, sys
path, who, count, accounts, mode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
rng = random.Random(who)
db = sqlite3.connect(path, timeout=120, isolation_level=None)
db.execute("PRAGMA synchronous=FULL")
# WAL belongs to the file; the kinds of rollback journal to a connection.
assert db.execute("PRAGMA journal_mode=" + mode).fetchone()[0] == mode, "another journal mode"
(first,) = db.execute("SELECT coalesce(max(number), -1) + 1 FROM moves WHERE who = ?", (who,)).fetchone()
for number in range(first, first + count):
    a, b = rng.sample(range(accounts), 2)
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE accounts SET balance = balance - 5 WHERE id = ?", (a,))
    db.execute("UPDATE accounts SET balance = balance + 5 WHERE id = ?", (b,))
    db.execute("INSERT INTO moves VALUES (?, ?, ?, ?, randomblob(?))", (who, number, a, b, rng.randrange(6000)))
    if number % 17 == 0:
        db.execute("DELETE FROM moves WHERE who = ? AND number < ? AND number % 3 = 1", (who, number - 50))
    db.execute("COMMIT")
    print(number, flush=True)
db.close()
"""


def start(database: Path, who: int, count: int, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, str(database), str(who), str(count), str(ACCOUNTS), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check(database: Path, answered: dict[int, int]) -> None:
    db = sqlite3.connect(database, timeout=60)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("SELECT sum(balance), count(*) FROM accounts").fetchone() == (ACCOUNTS * 1000, ACCOUNTS)
    for who, number in answered.items():
        (last,) = db.execute("SELECT max(number) FROM moves WHERE who = ?", (who,)).fetchone()
        # The last COMMIT of a killed writer may have happened without an answer.
        assert number <= last <= number + 1, f"writer {who} heard of {number}, the database knows {last}"
    db.close()


@pytest.mark.parametrize("mode", first(["delete", "truncate", "persist", "wal"], "delete", "wal"))
@sizes(fast=60, heavy=1500)
def test_two_processes_write_one_database(place: Place, size: int, mode: str, rng: random.Random) -> None:
    database = place.folder / "bank.db"
    db = sqlite3.connect(database)
    assert db.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
    db.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER)")
    db.execute("CREATE TABLE moves (who, number, a, b, filler, PRIMARY KEY (who, number))")
    db.executemany("INSERT INTO accounts VALUES (?, 1000)", [(n,) for n in range(ACCOUNTS)])
    db.commit()
    db.close()

    for who, writer in enumerate(writers := [start(database, who, size, mode) for who in range(2)]):
        _out, err = writer.communicate(timeout=900)
        assert writer.returncode == 0, f"writer {who}: {err}"
    check(database, dict.fromkeys(range(len(writers)), size - 1))
    place.remount()
    check(database, dict.fromkeys(range(len(writers)), size - 1))


@pytest.mark.parametrize("mode", ["delete", "wal"])
@sizes(fast=3, heavy=30)
def test_a_writer_that_is_killed_loses_nothing_it_was_told(
    place: Place, size: int, mode: str, rng: random.Random
) -> None:
    database = place.folder / "bank.db"
    db = sqlite3.connect(database)
    db.execute(f"PRAGMA journal_mode={mode}")
    db.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER)")
    db.execute("CREATE TABLE moves (who, number, a, b, filler, PRIMARY KEY (who, number))")
    db.executemany("INSERT INTO accounts VALUES (?, 1000)", [(n,) for n in range(ACCOUNTS)])
    db.commit()
    db.close()
    for _round in range(size):
        other = start(database, 1, 20, mode)
        victim = start(database, 0, 1_000_000, mode)
        assert victim.stdout
        heard = -1
        for _ in range(rng.randrange(1, 40)):
            heard = int(victim.stdout.readline())
        time.sleep(rng.random() * 0.01)  # somewhere inside a transaction; nothing depends on where
        victim.send_signal(signal.SIGKILL)
        rest = victim.stdout.read().split("\n")  # communicate() would pass over what readline() has read ahead
        victim.communicate()
        heard = max([heard, *(int(line) for line in rest[:-1])])
        out, err = other.communicate(timeout=300)
        assert other.returncode == 0, err
        check(database, {0: heard, 1: int(out.split()[-1])})
    place.remount()
    check(database, {0: heard, 1: size * 20 - 1})
