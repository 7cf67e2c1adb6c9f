# SPDX-License-Identifier: Apache-2.0
"""The shared table: handles, the log of unrecorded writes and the document, against plain dictionaries."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings, strategies as st

from gateways.fuse.holder import table as tables
from gateways.fuse.holder.table import SharedTable, TableError
from gateways.fuse.holder.writelog import HEADER, WriteLog


@pytest.fixture
def fd() -> Iterator[int]:
    made = tables.create(handles=1024, log_bytes=8 << 20)
    yield made
    os.close(made)


def kept(table: SharedTable | WriteLog) -> list[tuple[int, int, bytes, int]]:
    return [(w.ino, w.offset, bytes(w.data), w.request) for w in table.writes()]


def test_a_new_table_is_empty(fd: int) -> None:
    table = SharedTable(fd)
    assert (list(table.handles()), kept(table), table.load(), table.worker) == ([], [], {}, 1)


def test_the_next_process_finds_open_handles_and_not_the_closed_ones(fd: int) -> None:
    first = SharedTable(fd)
    opened = [first.opened(100 + n, os.O_RDWR, n % 2 == 1) for n in range(5)]
    assert len(set(opened)) == 5
    assert 0 not in opened
    first.closed(opened[2])
    first.closed(opened[2])  # the same release again changes nothing
    first.close()

    second = SharedTable(fd)
    assert second.worker == 2
    found = {h.fh: h for h in second.handles()}
    assert set(found) == {opened[n] for n in (0, 1, 3, 4)}
    assert [(found[opened[n]].ino, found[opened[n]].directory) for n in (0, 1)] == [(100, False), (101, True)]
    assert found[opened[0]].flags == os.O_RDWR


def test_the_number_of_a_closed_handle_does_not_come_back_with_its_slot(fd: int) -> None:
    table = SharedTable(fd)
    first = table.opened(1, 0, False)
    table.closed(first)
    second = table.opened(2, 0, False)
    assert second & 0xFFFFFFFF == first & 0xFFFFFFFF
    assert second != first
    table.closed(first)  # late
    table.close()
    assert [h.fh for h in SharedTable(fd).handles()] == [second]


def test_too_many_handles_are_refused_and_closing_one_helps(fd: int) -> None:
    table = SharedTable(fd)
    opened = [table.opened(n, 0, False) for n in range(1024)]
    with pytest.raises(OSError) as e:
        table.opened(5, 0, False)
    assert e.value.errno == errno.EMFILE
    table.closed(opened[7])
    assert table.opened(5, 0, False)


def test_writes_come_back_in_order_until_they_are_recorded(fd: int) -> None:
    first = SharedTable(fd)
    tokens = [first.wrote(7, n * 3, memoryview(b"abc"), 1000 + n) for n in range(6)]
    first.recorded(tokens[1])
    first.recorded(tokens[4])
    first.recorded(tokens[4])
    first.close()
    second = SharedTable(fd)
    assert kept(second) == [(7, n * 3, b"abc", 1000 + n) for n in (0, 2, 3, 5)]
    assert second.has_write(1000)
    assert not second.has_write(999)


def test_a_kept_write_that_is_written_again_keeps_its_place(fd: int) -> None:
    first = SharedTable(fd)
    first.wrote(7, 0, memoryview(b"old"), 1)
    first.wrote(7, 0, memoryview(b"new"), 2)
    first.close()
    second = SharedTable(fd)
    before = second.unrecorded_bytes
    again = [second.wrote(*w) for w in second.writes()][:1]
    assert second.unrecorded_bytes == before  # nothing was copied
    second.close()  # dies in the middle of it
    third = SharedTable(fd)
    assert [data for _, _, data, _ in kept(third)] == [b"old", b"new"]
    third.wrote(7, 0, memoryview(b"old"), 1)
    assert third.replayed() == 1  # the second was given up
    third.recorded(again[0])
    third.close()
    assert kept(SharedTable(fd)) == []


def test_a_write_that_was_given_back_at_once_was_never_taken(fd: int) -> None:
    first = SharedTable(fd)
    kept_write = first.wrote(7, 0, memoryview(b"a"), 1)
    recorded = first.wrote(7, 0, memoryview(b"b"), 2)
    first.wrote(7, 0, memoryview(b"c"), 3)
    first.recorded(recorded)
    withdrawn = first.wrote(7, 0, memoryview(b"d"), 4)
    first.recorded(withdrawn)
    first.close()
    second = SharedTable(fd)
    assert [second.has_write(n) for n in (1, 2, 3, 4)] == [True, True, True, False]
    second.recorded(kept_write)


def test_a_request_is_remembered_over_a_process_that_records_it_and_dies(fd: int) -> None:
    first = SharedTable(fd)
    first.wrote(7, 0, memoryview(b"append"), 5)
    first.close()
    second = SharedTable(fd)
    second.recorded(second.wrote(7, 0, memoryview(b"append"), 5))  # and dies before it is asked again
    second.replayed()
    second.close()
    third = SharedTable(fd)
    assert kept(third) == []
    assert third.has_write(5)
    third.settled()
    third.close()
    assert not SharedTable(fd).has_write(5)


def test_a_full_log_says_so_and_has_room_again(fd: int) -> None:
    table = SharedTable(fd)
    big = memoryview(bytes(1 << 20))
    tokens = []
    while token := table.wrote(1, 0, big, 0):
        tokens.append(token)
    assert len(tokens) == 7
    table.recorded(tokens[0])
    table.recorded(tokens[1])  # entries lie in one piece: the end of the ring may be too short for one
    assert table.wrote(1, 0, big, 0)
    assert not table.wrote(1, 0, big, 0)


def test_one_old_write_does_not_hold_up_the_others(fd: int) -> None:
    table = SharedTable(fd)
    table.wrote(1, 0, memoryview(b"old and small"), 1)
    for n in range(1000):
        token = table.wrote(2, 0, memoryview(bytes(100_000)), n)
        assert token, n
        table.recorded(token)
    table.close()
    assert kept(SharedTable(fd)) == [(1, 0, b"old and small", 1)]


def test_small_loads_stay_in_little_memory(fd: int) -> None:
    table = SharedTable(fd)
    for _ in range(2000):
        table.recorded(table.wrote(1, 0, memoryview(bytes(4096)), 0))
    assert os.fstat(fd).st_blocks * 512 < 2 << 20


def test_documents_replace_each_other_whole(fd: int) -> None:
    table = SharedTable(fd)
    for n in range(3):
        table.save({"sid": n, "text": "x" * (n * 100)})
        assert table.load()["sid"] == n
    with pytest.raises(TableError):
        table.save({"text": "x" * 2000})
    table.close()
    assert SharedTable(fd).load()["sid"] == 2


def test_what_is_no_table_is_refused() -> None:
    fd = os.memfd_create("other")
    try:
        with pytest.raises(TableError):
            SharedTable(fd)
        os.ftruncate(fd, 1 << 20)
        with pytest.raises(TableError):
            SharedTable(fd)
        with pytest.raises(TableError):
            tables.create(log_bytes=4096)
    finally:
        os.close(fd)


#: What happens to a log: a write of so many bytes, the n-th live one recorded, a new process.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3000)),
        st.tuples(st.just("record"), st.integers(0, 200)),
        st.tuples(st.just("again"), st.just(0)),
    ),
    max_size=200,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_a_log_does_what_a_dictionary_does(steps: list[tuple[str, int]]) -> None:
    memory, positions = memoryview(bytearray(16384)), memoryview(bytearray(16)).cast("Q")
    log = WriteLog(memory, positions)
    model: dict[int, tuple[int, int, bytes, int]] = {}
    for number, (what, n) in enumerate(steps):
        if what == "write":
            data = bytes([number & 0xFF]) * n
            token = log.wrote(number, n, memoryview(data), number)
            if token:
                assert token not in model
                model[token] = (number, n, data, number)
            else:  # only when it is really short of room
                assert log.live_bytes + n + HEADER > 16384 * 0.6 - 2 * 3200
        elif what == "record" and model:
            token = list(model)[n % len(model)]
            log.recorded(token)
            del model[token]
        elif what == "again":
            log = WriteLog(memory, positions)
            assert kept(log) == list(model.values())
            for entry in model.values():  # written again, as a new process does
                assert log.wrote(entry[0], entry[1], memoryview(entry[2]), entry[3]) in model
            assert log.replayed() == 0
    assert len(log) == len(model)
    assert kept(WriteLog(memory, positions)) == list(model.values())


def killed(rounds: int) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    command = [sys.executable, "-m", "tests.gateways.fuse.process.kill_table", str(rounds), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
    assert f"{rounds} kills" in done.stdout


def test_a_writer_killed_at_any_instruction_leaves_a_sound_table() -> None:
    killed(300)


@pytest.mark.heavy
def test_thousands_of_killed_writers_leave_a_sound_table() -> None:
    killed(5000)
