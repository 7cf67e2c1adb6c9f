# SPDX-License-Identifier: Apache-2.0
"""The holder's loop by itself, where real processes can't be made to do things at the same moment."""

from __future__ import annotations

import socket

from gateways.fuse.holder.spec import Program, Spec
from gateways.fuse.holder.supervisor import Supervisor


def holder() -> Supervisor:
    return Supervisor(Spec("/nowhere", "0:0", -1, -1, Program(["/bin/true"], {}), {}))


def test_an_event_of_a_socket_that_another_event_closed_is_not_heard() -> None:
    """A worker's last words and the signal that ends it, in one answer of select."""
    supervisor = holder()
    first, of_first = socket.socketpair()
    second, of_second = socket.socketpair()
    heard: list[bytes] = []

    def hear(mine: socket.socket, other: socket.socket) -> None:
        heard.append(mine.recv(10))
        supervisor._unwatch(other)
        other.close()

    supervisor._watch(first, lambda: hear(first, second))
    supervisor._watch(second, lambda: hear(second, first))
    of_first.send(b"word")
    of_second.send(b"word")
    supervisor._dispatch(5)
    assert heard == [b"word"]
    for sock in (first, second, of_first, of_second):
        sock.close()


def test_a_number_that_was_taken_again_at_once_is_somebody_else() -> None:
    supervisor = holder()
    pairs = [socket.socketpair(), socket.socketpair()]
    fresh: list[socket.socket] = []
    heard: list[str] = []

    def replace(mine: int, other: int) -> None:
        heard.append("old")
        supervisor._unwatch(pairs[other][0])
        number = pairs[other][0].fileno()
        pairs[other][0].close()
        new, peer = socket.socketpair()
        fresh.extend((new, peer))
        assert number in (new.fileno(), peer.fileno())
        supervisor._watch(new if new.fileno() == number else peer, lambda: heard.append("new"))

    supervisor._watch(pairs[0][0], lambda: replace(0, 1))
    supervisor._watch(pairs[1][0], lambda: replace(1, 0))
    for _, peer in pairs:
        peer.send(b"word")
    supervisor._dispatch(5)
    assert heard == ["old"]
    for sock in (*pairs[0], *pairs[1], *fresh):
        sock.close()
