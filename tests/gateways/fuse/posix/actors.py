# SPDX-License-Identifier: Apache-2.0
"""Somebody who makes system calls: this process, or a child that became another user.

    alice = people.user(60001, 60001)
    with fails(errno.EACCES):
        alice.unlink(path)               # any function of `calls` or `os`

A child lives as long as the session and is asked over a pipe, so a test pays no fork. Descriptors that it opens stay
in the child; what it returns is their number there. A call that blocks is started with `begin` and fetched later.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import subprocess
import sys
from typing import Any, NoReturn

from tests.gateways.fuse.posix import calls

_LENGTH = struct.Struct("=I")


class Actor:
    """The calls of this process: root, as the tests run."""

    uid = 0
    gid = 0

    def __getattr__(self, name: str) -> Any:
        return calls.find(name)


class Begun:
    """A call that is under way in a child."""

    def __init__(self, user: User) -> None:
        self._user = user

    def done(self, timeout_s: float) -> bool:
        """Whether it returned within that time; 0 asks without waiting."""
        return bool(select.select([self._user.output], [], [], timeout_s)[0])

    def result(self, timeout_s: float = 30) -> Any:
        if not self.done(timeout_s):
            raise TimeoutError(f"the call of user {self._user.uid} did not return in {timeout_s} s")
        return self._user.answer()

    def interrupt(self) -> None:
        """A signal with a handler: the call ends with EINTR."""
        self._user.process.send_signal(signal.SIGUSR1)


class User(Actor):
    """A child process under another user."""

    def __init__(self, uid: int, gid: int, groups: tuple[int, ...]) -> None:
        self.uid, self.gid, self.groups = uid, gid, groups
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()", str(uid), str(gid), *map(str, groups)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=os.path.dirname(os.path.abspath(__file__)) + "/../../../..",
        )
        assert self.process.stdin and self.process.stdout
        self.output = self.process.stdout.fileno()

    @property
    def pid(self) -> int:
        return self.process.pid

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.begin(name, *args, **kwargs)
            return self.answer()

        return call

    def begin(self, name: str, *args: Any, **kwargs: Any) -> Begun:
        message = pickle.dumps((name, args, kwargs))
        assert self.process.stdin
        self.process.stdin.write(_LENGTH.pack(len(message)) + message)
        self.process.stdin.flush()
        return Begun(self)

    def answer(self) -> Any:
        worked, value = pickle.loads(_receive(self.output))
        if not worked:
            raise value
        return value

    def leave(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


class People:
    """A pool of users, one process for each combination of user and groups."""

    def __init__(self) -> None:
        self._users: dict[tuple[int, ...], User] = {}
        self._others: list[User] = []

    def user(self, uid: int, gid: int, *groups: int) -> User:
        key = (uid, gid, *groups)
        found = self._users.get(key)
        if found is None or found.process.poll() is not None:
            found = self._users[key] = User(uid, gid, groups)
        return found

    def another(self, uid: int = 0, gid: int = 0) -> User:
        """A process of its own, for tests of what processes do to each other; ends with `leave`."""
        made = User(uid, gid, ())
        self._others.append(made)
        return made

    def leave(self) -> None:
        """The others end."""
        while self._others:
            self._others.pop().leave()

    def close(self) -> None:
        self.leave()
        for user in self._users.values():
            user.leave()
        self._users.clear()


def _receive(fd: int) -> bytes:
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = os.read(fd, size - len(data))
            if not part:
                raise EOFError("the other process ended")
            data += part
        return data

    return exactly(_LENGTH.unpack(exactly(_LENGTH.size))[0])


def _interrupted(*_: object) -> NoReturn:
    raise InterruptedError(4, "a signal came")


def serve() -> None:
    """The child: becomes the user, then answers one call after the other."""
    uid, gid, *groups = map(int, sys.argv[1:])
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    # The library of strings must be loaded before the rights to read it are gone.
    "x".encode("idna")
    signal.signal(signal.SIGUSR1, _interrupted)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.chdir("/")
    os.umask(0)
    if uid or gid or groups:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    while True:
        try:
            name, args, kwargs = pickle.loads(_receive(requests))
        except EOFError:
            os._exit(0)
        try:
            result: tuple[bool, Any] = True, calls.find(name)(*args, **kwargs)
        except Exception as e:
            # Subclasses of OSError keep errno when pickled with two arguments.
            result = False, OSError(e.errno, e.strerror) if isinstance(e, OSError) else RuntimeError(repr(e))
        message = pickle.dumps(result)
        os.write(answers, _LENGTH.pack(len(message)) + message)


__all__ = ["Actor", "Begun", "People", "User", "serve"]
