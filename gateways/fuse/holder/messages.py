# SPDX-License-Identifier: Apache-2.0
"""JSON messages over unix sockets that keep their boundaries (SOCK_SEQPACKET). Standard library only.

holder to worker               {"do": "go", "crashed": bool}, {"do": "hand-over" | "stop" | "ping"}
worker to holder               {"is": "prepared" | "serving" | "pong" | "unmounted"}, {"is": "failed", "text": …}
a new `sluice mount` to holder {"do": "status"}, {"do": "replace", "program": …}
and back                       {"is": "status", …}, {"is": "serving", "pid": …}, {"is": "failed", "text": …}
"""

from __future__ import annotations

import json
import socket
from typing import Any

#: An environment may be large; a message of this size needs no more than the default socket buffer.
MAX_BYTES = 192 << 10
#: Exit codes of a worker. 11 also means to others that a restart won't help (cli §1.3).
ENDED, HOPELESS, HANDED_OVER = 0, 11, 12

Message = dict[str, Any]


def send(sock: socket.socket, message: Message) -> bool:
    """False if the other side has gone or its queue is full."""
    try:
        sock.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def receive(sock: socket.socket) -> Message | None:
    """The next message, None at the end. BlockingIOError if there is none yet and the socket doesn't block."""
    try:
        raw = sock.recv(MAX_BYTES)
    except ConnectionResetError:
        return None
    if not raw:
        return None
    try:
        message = json.loads(raw)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
