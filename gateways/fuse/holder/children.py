# SPDX-License-Identifier: Apache-2.0
"""One worker process as the holder sees it. Standard library only."""

from __future__ import annotations

import os
import signal
import socket
import time

from gateways.fuse.holder import messages
from gateways.fuse.holder.spec import Program

#: Numbers of the descriptors in a worker, in the variable that makes it one: line, /dev/fuse, table.
VARIABLE = "SLUICE_FUSE_WORKER"


class Child:
    """A running worker. state: starting → prepared → serving → leaving (told to end or to hand over)."""

    def __init__(self, program: Program, fuse_fd: int, table_fd: int, stderr_fd: int) -> None:
        self.program = program
        self.state = "starting"
        self.started_s = time.monotonic()
        self.serving_s = 0.0  # when it began to serve
        self.error = ""  # what it said when it failed
        self.unmounted = False
        self.handing_over = False
        self.ping_at_s = 0.0  # when it is asked again
        self.asked_s = 0.0  # the oldest ping without an answer; 0: none
        self.deadline_s = 0.0  # until then it must have ended; 0: no such
        self.dumps = 0  # how often its stacks were asked for
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        inherited = (theirs.fileno(), fuse_fd, table_fd)
        for fd in inherited:
            os.set_inheritable(fd, True)
        env = {**program.env, VARIABLE: ",".join(map(str, inherited))}
        try:
            self.pid = self._spawn(env, stderr_fd)
        finally:
            theirs.close()
            for fd in inherited[1:]:
                os.set_inheritable(fd, False)

    def _spawn(self, env: dict[str, str], stderr_fd: int) -> int:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_DUP2, null, 0)]
        if stderr_fd >= 0:
            actions += [(os.POSIX_SPAWN_DUP2, stderr_fd, 1), (os.POSIX_SPAWN_DUP2, stderr_fd, 2)]
        here = os.getcwd()
        try:
            os.chdir(self.program.cwd)
            pid = os.posix_spawn(
                self.program.argv[0], self.program.argv, env, file_actions=actions, setsigdef=range(1, 32),
                # A group of its own: Ctrl-C of the terminal is for the holder, who tells the worker.
                setpgroup=0,
            )  # fmt: skip
            _prefer(pid)
            return pid
        finally:
            os.chdir(here)
            os.close(null)

    def tell(self, what: str) -> bool:
        return messages.send(self.sock, {"do": what})

    def signal(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def close(self) -> None:
        self.sock.close()


def _prefer(pid: int) -> None:
    """Programs wait while a worker starts: on a busy machine it comes first from its first instruction on, as it will
    by its own wish (`worker.spare_resources`). Only root may do that."""
    if os.geteuid() == 0:
        try:
            os.setpriority(os.PRIO_PROCESS, pid, -19)
        except OSError:
            pass
