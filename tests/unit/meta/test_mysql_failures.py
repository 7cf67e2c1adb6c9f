# SPDX-License-Identifier: Apache-2.0
"""Which errors of MySQL may be tried again, and by whom; what is certain after a lost connection."""

from __future__ import annotations

import errno

import pytest
from asyncmy import errors

from core.errors import MetaError
from core.meta.stores.mysql.failures import is_lost, is_race, not_sent, translate

LOST = errors.OperationalError(2013, "Lost connection to MySQL server during query")
GONE = errors.OperationalError(2006, "MySQL server has gone away")
CLOSED = errors.InterfaceError(0, "Not connected")
GARBLED = errors.InternalError("Packet sequence number wrong - got 4 expected 1")
SHUTDOWN = errors.OperationalError(1053, "Server shutdown in progress")
DEADLOCK = errors.OperationalError(1213, "Deadlock found when trying to get lock")
DUPLICATE = errors.IntegrityError(1062, "Duplicate entry '1-61' for key 'edge'")


@pytest.mark.parametrize(
    "error", [LOST, GONE, CLOSED, GARBLED, SHUTDOWN, OSError(104, "reset"), TimeoutError()], ids=str
)
def test_lost_connections_are_known(error: Exception) -> None:
    assert is_lost(error) and not is_race(error)
    # Only these were surely not executed; a garbled answer is an answer to something.
    assert not_sent(error) == (error in (GONE, CLOSED))
    found = translate(error, "mysql://(h)/d", "reading")
    assert found.retryable and found.__cause__ is error


@pytest.mark.parametrize("error", [DEADLOCK, DUPLICATE], ids=str)
def test_lost_races_are_no_lost_connections(error: Exception) -> None:
    assert is_race(error) and not is_lost(error) and not not_sent(error)


@pytest.mark.parametrize(
    ("code", "number", "retryable"),
    [
        (1045, errno.EACCES, False), (1049, errno.EIO, False), (1114, errno.ENOSPC, True), (1290, errno.EROFS, True),
        (1406, errno.EFBIG, False), (1264, errno.EOVERFLOW, False), (1205, errno.EIO, True), (4242, errno.EIO, False),
    ],
)  # fmt: skip
def test_answers_of_the_server_get_an_errno_and_a_way_out(code: int, number: int, retryable: bool) -> None:
    found = translate(errors.OperationalError(code, "what it said"), "mysql://(h)/d", "committing")
    assert (found.errno, found.retryable) == (number, retryable)
    assert f"error {code}" in str(found) and "what it said" in str(found) and "mysql://(h)/d" in str(found)


def test_our_own_errors_stay_as_they_are() -> None:
    own = MetaError("said already")
    assert translate(own, "", "") is own
    assert not is_lost(own)
