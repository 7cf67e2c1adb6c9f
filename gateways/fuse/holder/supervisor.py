# SPDX-License-Identifier: Apache-2.0
"""The holder's loop: start a worker, watch it, replace it, and end with the mount. Standard library only.

A worker that dies is replaced at once; one that dies again and again before it serves, or soon after, is given up: then
the connection is aborted, so that nobody waits for answers that never come. Signals: TERM and INT end the mount (a
second one at once), HUP starts a fresh worker of the same program, as an upgrade does.
Source: cli §4.5, §4.6.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from gateways.fuse.holder import messages, runtime, spec as specs, unmounting
from gateways.fuse.holder.children import Child
from gateways.fuse.holder.spec import Program, Spec

#: A worker that served this long before it died is replaced at once; the one that follows a shorter life waits.
STABLE_S = 10.0
#: Pauses before the second, third … attempt after failures in a row.
PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)
#: Failures in a row of workers that never served, and short lives in a row of workers that did.
MOST_FAILED_STARTS = 5
MOST_SHORT_LIVES = 20
#: After so many short lives, before the next one begins.
PAUSE_S = 1.0
#: A worker's loop is asked this often whether it runs.
PING_S = 5.0
#: After the stacks were dumped twice, this long until SIGABRT, and then until SIGKILL.
LAST_CHANCE_S = 10.0
#: While something still uses the mount after a lazy unmount.
LINGER_S = 1.0


class Supervisor:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._program = spec.program
        # libfuse begins with INIT, which the kernel sends once: the first worker is the last one.
        self._only_one = spec.identity.get("fuse_backend") == "pyfuse3"
        self._before: Program | None = None  # to go back to if the new one never serves
        self._worker: Child | None = None
        self._next: Child | None = None  # prepared or preparing, while `_worker` serves
        self._leaving: list[Child] = []  # killed or failed, not reaped yet
        self._asking: socket.socket | None = None  # who asked for the replacement
        self._start_at: float | None = time.monotonic()
        self._served = False  # has anybody ever served this mount?
        self._failed_starts = 0
        self._short_lives = 0
        self._crashed = False  # the next worker follows one that couldn't finish
        self._stopping_s = 0.0
        self._signals = 0
        self._status: int | None = None
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Until the mount is over; the exit status."""
        wake, theirs = socket.socketpair()
        wake.setblocking(False)
        theirs.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wake-up socket carries the numbers into the loop
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._watch(wake, lambda: self._signalled(wake))
        try:
            self._listener = runtime.listen(self._spec.device)
            self._watch(self._listener, self._accept)
        except OSError as e:
            self.say("WARNING", f"{self._spec.mount_point}: no socket for upgrades, they need an unmount: {e}")
        while self._status is None:
            self._due()
            self._dispatch(self._timeout())
        self._close()
        return self._status

    def _close(self) -> None:
        for child in (self._worker, self._next):
            if child is not None:
                child.kill()
        if self._listener is not None:
            self._listener.close()
            try:
                os.unlink(runtime.socket_path(self._spec.device))
            except OSError:
                pass

    def say(self, level: str, text: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1e6):06d}"
        line = f"{stamp} sluice[{os.getpid()}] <{level}>: {text} [holder]\n".encode(errors="backslashreplace")
        fd = self._log_fd()
        try:
            os.write(2 if fd < 0 else fd, line)
        except OSError:
            pass
        if fd >= 0:
            os.close(fd)

    def _log_fd(self) -> int:
        """Opened anew each time: the file may have been rotated away. -1: standard error."""
        if not self._spec.log_path:
            return -1
        try:
            return os.open(self._spec.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError:
            return -1

    # -- what is due ------------------------------------------------------------------------------------------------

    def _timeout(self) -> float:
        now = time.monotonic()
        times = [now + min(PING_S, self._spec.hang_s / 2)]
        if self._start_at is not None:
            times.append(self._start_at)
        for child in (self._worker, self._next):
            if child is not None and child.deadline_s:
                times.append(child.deadline_s)
        if self._stopping_s:
            times.append(now + 0.2)
        return max(0.0, min(times) - now)

    def _due(self) -> None:
        now = time.monotonic()
        if self._start_at is not None and self._start_at <= now and self._worker is None:
            self._start_at = None
            self._worker = self._spawn(self._program)
        for child in (self._worker, self._next):
            if child is None:
                continue
            if child.deadline_s and child.deadline_s <= now:
                self.say("ERROR", f"worker {child.pid} did not end in time; it is killed")
                child.deadline_s = 0.0
                child.kill()
            elif child.state == "serving":
                self._ping(child, now)
        worker = self._worker
        if self._stopping_s and now - self._stopping_s > LINGER_S and worker is not None and worker.state == "serving":
            # Out of sight already. Users that still have files open had a moment, now the flush begins.
            self._end_worker(worker)

    def _ping(self, child: Child, now: float) -> None:
        if not child.asked_s:
            if child.ping_at_s <= now and child.tell("ping"):
                child.asked_s = now
                child.ping_at_s = now + min(PING_S, self._spec.hang_s)
            return
        silent = now - child.asked_s
        if silent > self._spec.hang_s * (child.dumps + 1):
            child.dumps += 1
            if child.dumps <= 2:
                self.say("ERROR", f"worker {child.pid} is stuck for {silent:.0f} s; it writes its stacks to the log")
                self._kernel_stack(child)
                child.signal(signal.SIGUSR2)
        if child.dumps >= 2 and silent > self._spec.hang_s * 2 + min(LAST_CHANCE_S, self._spec.hang_s):
            self.say("ERROR", f"worker {child.pid} is stuck for {silent:.0f} s; it is killed, another one takes over")
            child.asked_s = now
            child.signal(signal.SIGABRT)
            child.deadline_s = now + min(LAST_CHANCE_S, self._spec.hang_s)

    def _kernel_stack(self, child: Child) -> None:
        try:
            for task in os.listdir(f"/proc/{child.pid}/task"):
                with open(f"/proc/{child.pid}/task/{task}/stack") as file:
                    self.say("ERROR", f"kernel stack of thread {task}: {' < '.join(file.read().split(chr(10))[:8])}")
        except OSError:
            pass  # needs root, and a kernel that tells

    # -- workers ----------------------------------------------------------------------------------------------------

    def _spawn(self, program: Program) -> Child | None:
        fd = self._log_fd()
        try:
            child = Child(program, self._spec.fuse_fd, self._spec.table_fd, fd)
        except OSError as e:
            self.say("ERROR", f"{program.argv[0]} can't be started: {e}")
            self._failed(f"{program.argv[0]} can't be started: {e}")
            return None
        finally:
            if fd >= 0:
                os.close(fd)
        self._watch(child.sock, lambda: self._hear(child))
        return child

    def _hear(self, child: Child) -> None:
        while True:
            try:
                message = messages.receive(child.sock)
            except BlockingIOError:
                return
            if message is None:
                self._unwatch(child.sock)
                return
            what = message.get("is")
            if what == "prepared":
                child.state = "prepared"
                self._prepared(child)
            elif what == "serving":
                self._serving(child)
            elif what == "pong":
                child.asked_s = 0.0
                child.dumps = 0
            elif what == "failed":
                child.error = str(message.get("text", ""))
            elif what == "unmounted":
                child.unmounted = True
                child.state = "leaving"

    def _prepared(self, child: Child) -> None:
        if child is self._worker:
            messages.send(child.sock, {"do": "go", "crashed": self._crashed})
        elif self._worker is not None and self._worker.state == "serving":
            self._hand_over(self._worker)

    def _hand_over(self, child: Child) -> None:
        child.state = "leaving"
        child.handing_over = True
        child.deadline_s = time.monotonic() + self._spec.hand_over_s
        child.tell("hand-over")

    def _serving(self, child: Child) -> None:
        child.state = "serving"
        child.serving_s = time.monotonic()
        if not self._served:
            self.say("INFO", f"{self._spec.mount_point} is ready (worker {child.pid})")
        self._served = True
        self._failed_starts = 0
        self._crashed = False
        self._before = None
        self._tell_starter({"ready": True})
        self._answer({"is": "serving", "pid": child.pid})

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            for child in (self._worker, self._next):
                if child is not None and child.pid == pid:
                    self._hear(child) if child.sock.fileno() >= 0 else None
                    self._ended(child, code)

    def _ended(self, child: Child, code: int) -> None:
        self._unwatch(child.sock)
        child.close()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        if child is self._next:
            self._next = None
            text = child.error or f"the new worker {how}"
            self.say("ERROR", f"the new worker {child.pid} could not take over, the old one goes on: {text}")
            self._answer({"is": "failed", "text": text})
            return
        self._worker = None
        if child.unmounted or self._stopping_s:
            self._finish(0 if code == messages.ENDED else 1)
            return
        if self._next is not None:  # its successor stands ready, however it ended
            if code != messages.HANDED_OVER:
                self.say("ERROR", f"worker {child.pid} {how} instead of handing over; the new one takes over")
                self._crashed = True
            self._worker, self._next = self._next, None
            self._before, self._program = self._program, self._worker.program
            if self._worker.state == "prepared":
                self._prepared(self._worker)
            return
        if code == messages.HOPELESS:
            self._give_up(child.error or f"worker {child.pid} ended for good")
            return
        self._crashed = True
        if child.serving_s:
            self._died(child, code, how)
        else:
            text = child.error or f"worker {child.pid} {how} before it served"
            self._failed(text, killed=code == -signal.SIGKILL)

    def _died(self, child: Child, code: int, how: str) -> None:
        """A worker that served. One that somebody kills is no bad worker, however often that happens."""
        lived = time.monotonic() - child.serving_s
        if self._only_one:
            self._give_up(f"worker {child.pid} {how} after {lived:.1f} s, and no other can follow pyfuse3")
            return
        self.say("ERROR", f"worker {child.pid} {how} after {lived:.1f} s; another one takes over")
        self._short_lives = self._short_lives + 1 if lived < STABLE_S else 0
        if self._short_lives > MOST_SHORT_LIVES and code != -signal.SIGKILL:
            self._give_up(f"{self._short_lives} workers in a row died within {STABLE_S:.0f} s")
            return
        self._start_at = time.monotonic() + (PAUSE_S if self._short_lives > MOST_SHORT_LIVES else 0.0)

    def _failed(self, text: str, *, killed: bool = False) -> None:
        """A worker could not begin to serve. If somebody killed it, that says nothing about the next one."""
        if self._before is not None:
            self.say("ERROR", f"the new program can't serve ({text}); back to the one before")
            self._answer({"is": "failed", "text": text})
            self._program, self._before = self._before, None
            self._start_at = time.monotonic()
            return
        self._failed_starts += 1
        if not self._served or (self._failed_starts >= MOST_FAILED_STARTS and not killed):
            self._give_up(text)  # nobody has used the mount yet, or nobody will any more
            return
        pause = PAUSES_S[min(self._failed_starts, len(PAUSES_S) - 1)]
        self.say("ERROR", f"{text}; next attempt in {pause:.1f} s")
        self._start_at = time.monotonic() + pause

    # -- the end ----------------------------------------------------------------------------------------------------

    def _end_worker(self, child: Child) -> None:
        child.state = "leaving"
        child.deadline_s = time.monotonic() + self._spec.stop_s
        child.tell("stop")

    def _stop(self, why: str) -> None:
        self._signals += 1
        if self._stopping_s and time.monotonic() - self._stopping_s < 0.5:
            return  # timeout(1) signals its child and then the whole group: one wish, said twice
        if self._stopping_s:
            self.say("WARNING", f"{why} again: what isn't flushed is lost")
            self._finish(messages.HOPELESS)
            return
        self._stopping_s = time.monotonic()
        point = self._spec.mount_point
        self.say("INFO", f"{why}: unmounting {point}")
        self._start_at = None
        if not unmounting.detach(point, self._spec.device):
            self.say(
                "WARNING", f"{point} can't be unmounted; it stays there without a server: sluice umount -f {point}"
            )
        if self._worker is None or self._worker.state in ("starting", "prepared"):
            self._finish(0)

    def _give_up(self, text: str) -> None:
        point = self._spec.mount_point
        if not self._served:
            unmounting.detach(point, self._spec.device)
            self._tell_starter({"error": text})
            self._finish(1)  # the worker has said why, in the log or on the terminal
            return
        # Our descriptor was the last one: when we end, the kernel ends the connection.
        self.say(
            "FATAL", f"{text}; giving up. {point} answers nobody any more (ENOTCONN): look at the lines above, then"
            f" `sluice umount -f {point}` and mount again",
        )  # fmt: skip
        self._finish(messages.HOPELESS)

    def _finish(self, status: int) -> None:
        if self._status is None:
            self._status = status

    # -- who asks ---------------------------------------------------------------------------------------------------

    def _tell_starter(self, message: dict[str, Any]) -> None:
        fd = self._spec.ready_fd
        if fd < 0:
            return
        try:
            os.write(fd, json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # it has gone
        os.close(fd)
        self._spec = self._spec._replace(ready_fd=-1)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if not runtime.trusted(sock):
            sock.close()
            return
        sock.setblocking(False)
        self._watch(sock, lambda: self._asked(sock))

    def _asked(self, sock: socket.socket) -> None:
        try:
            message = messages.receive(sock)
        except BlockingIOError:
            return
        if message is None:
            self._unwatch(sock)
            if sock is self._asking:
                self._asking = None
            sock.close()
        elif message.get("do") == "status":
            messages.send(sock, self._describe())
        elif message.get("do") == "replace":
            self._replace(specs.program(message["program"]), sock)

    def _describe(self) -> dict[str, Any]:
        worker = self._worker
        return {
            "is": "status", "holder": os.getpid(), "worker": worker.pid if worker is not None else 0,
            "state": worker.state if worker is not None else "none", "mount_point": self._spec.mount_point,
            "identity": self._spec.identity, "version": self._program.version,
        }  # fmt: skip

    def _replace(self, program: Program, sock: socket.socket | None) -> None:
        if refused := self._why_not():
            if sock is not None:
                messages.send(sock, {"is": "failed", "text": refused})
            else:
                self.say("WARNING", refused)
            return
        self._asking = sock
        self._next = self._spawn(program)
        if self._next is None:
            self._answer({"is": "failed", "text": f"{program.argv[0]} can't be started"})

    def _why_not(self) -> str:
        if self._only_one:
            return f"{self._spec.mount_point} is served by pyfuse3, which no other process can follow; unmount it first"
        if self._next is not None or self._stopping_s or self._worker is None or self._worker.state != "serving":
            return "another replacement, a restart or the end of the mount is under way; try again"
        return ""

    def _answer(self, message: dict[str, Any]) -> None:
        sock, self._asking = self._asking, None
        if sock is not None:
            messages.send(sock, message)

    # -- events -----------------------------------------------------------------------------------------------------

    def _signalled(self, wake: socket.socket) -> None:
        try:
            numbers = set(wake.recv(4096))
        except BlockingIOError:
            return
        if signal.SIGCHLD in numbers:
            self._reap()
        for number in (signal.SIGTERM, signal.SIGINT):
            if number in numbers:
                self._stop(signal.Signals(number).name)
        if signal.SIGHUP in numbers:
            self._replace(self._program, None)

    def _dispatch(self, timeout_s: float) -> None:
        """What was taken off the list by an event of the same moment is closed, and has nothing to say any more."""
        for key, _ in self._selector.select(timeout_s):
            if self._selector.get_map().get(key.fd) is key:
                key.data()

    def _watch(self, sock: socket.socket, call: Callable[[], None]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, call)

    def _unwatch(self, sock: socket.socket) -> None:
        try:
            self._selector.unregister(sock)
        except (KeyError, ValueError):
            pass
