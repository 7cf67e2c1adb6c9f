# SPDX-License-Identifier: Apache-2.0
"""What happens between `sluice mount` and a mount that answers: the mount point, the holder, and waiting for it.

In the foreground this process becomes the holder; with -d it starts one and waits. A mount of ours that is there
already gets a new worker instead, if both agree about what the kernel was told.
Source: cli §4.2 (start sequence), §4.6 (replacement).
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from core.errors import ConfigError, SluiceError
from gateways.fuse import mount as mounting
from gateways.fuse.holder import messages, runtime, spec as specs, table
from gateways.fuse.holder.spec import Program, Spec
from sluicefs.fuse_door import Wish

#: How long a mount may take to answer before its user is told (cli §4.2); JFS_MOUNT_TIMEOUT changes it.
READY_S: Final = 30.0
#: A mount that doesn't answer a stat for so long is broken.
BROKEN_S: Final = 3.0
#: A worker whose loop doesn't run for so long is stuck; SLUICE_HANG_TIMEOUT changes it.
HANG_S: Final = 30.0
#: A replacement: the old worker may flush for a minute.
REPLACE_S: Final = 120.0


class MountError(SluiceError):
    """A mount that didn't come about."""


def prepare_mount_point(path: str, *, force: bool) -> mounting.Mount | None:
    """Make it, and clear away a mount there whose server is gone. Returns a mount that lives there."""
    if path == "/":
        raise ConfigError("the root can't be a mount point; choose a folder")
    found = mounting.find_mount(path)
    if found is not None and mounting.is_fuse(found.type) and _is_broken(path):
        try:
            mounting.unmount(path, lazy=True)
        except OSError as e:
            raise ConfigError(f"{path} is a mount whose server is gone, and {e.strerror}") from e
        found = mounting.find_mount(path)
    if found is None:
        try:
            os.makedirs(path, exist_ok=True)
        except FileExistsError:
            raise ConfigError(f"{path} is no folder; choose another mount point") from None
        except OSError as e:
            raise ConfigError(f"{path} can't be made a mount point: {e.strerror}") from e
        if os.geteuid() != 0 and not os.access(path, os.W_OK):
            raise ConfigError(f"{path} isn't yours to mount on: you need write permission to that folder")
    if found is not None and not mounting.is_fuse(found.type) and not force:
        raise ConfigError(
            f"{path} is a mount of {found.source} ({found.type}); unmount it, or mount over it by --force"
        )
    return found


def _is_broken(path: str) -> bool:
    """Does a stat fail as it does without a server, or not come back? Asked in a thread, which may stay behind."""
    answer: list[int] = []

    def ask() -> None:
        try:
            os.stat(path)
            answer.append(0)
        except OSError as e:
            answer.append(e.errno or errno.EIO)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(BROKEN_S)
    return not answer or answer[0] in (errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV)


# -- replacing a running worker --------------------------------------------------------------------------------------


def replace_running(found: mounting.Mount, identity: dict[str, Any], program: Program) -> int | None:
    """Let the holder of a mount start our program as its next worker; the new worker's pid. None: it isn't ours to
    replace, and may be mounted over. MountError if it is ours and differs in what the kernel was told."""
    sock = runtime.connect(found.device)
    if sock is None:
        return None
    with sock:
        messages.send(sock, {"do": "status"})
        status = messages.receive(sock)
        if not status or status.get("is") != "status":
            return None
        if status["identity"].get("fuse_backend") == "pyfuse3":
            raise MountError(
                f"{found.path} is mounted already, and served by pyfuse3, which no other process can follow;"
                f" `sluice umount {found.path}` first"
            )
        ours, theirs = _flat(identity), _flat(status["identity"])
        # What only one of both knows is an option of a newer version, at its default.
        differing = sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name])
        if differing:
            raise MountError(
                f"{found.path} is mounted already with another {', '.join(differing).replace('_', ' ')}; unmount it"
                " first, or mount over it by --force"
            )
        sock.settimeout(REPLACE_S)
        messages.send(sock, {"do": "replace", "program": program._asdict()})
        try:
            answer = messages.receive(sock)
        except TimeoutError:
            raise MountError(
                f"{found.path}: the new worker did not take over in {REPLACE_S:.0f} s; see the log"
            ) from None
    if answer is None:
        raise MountError(f"{found.path}: its holder ended; see the log, and mount again")
    if answer.get("is") != "serving":
        raise MountError(f"{found.path} goes on with the worker it has: {answer.get('text', 'the new one failed')}")
    pid: int = answer["pid"]
    return pid


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Options of the session beside the rest: the error names which one differs."""
    session = identity.get("session")
    return {**identity, **session, "session": None} if isinstance(session, dict) else identity


# -- a new mount -----------------------------------------------------------------------------------------------------


def mount_new(wish: Wish, name: str, identity: dict[str, Any], program: Program, log_path: str) -> Spec:
    """Mount, and make the specification of its holder. Nobody serves it yet."""
    path = wish.mount_point
    fd = mounting.mount(path, wish.source(name), wish.kernel.subtype, wish.mount_options())
    found = mounting.find_mount(path)
    if found is None:
        os.close(fd)
        raise MountError(f"{path} was mounted and is gone again; who unmounts it?")
    return Spec(
        mount_point=path, device=found.device, fuse_fd=fd, table_fd=table.create(log_bytes=wish.write_log),
        program=program, identity=identity, log_path=log_path,
        hang_s=float(os.environ.get("SLUICE_HANG_TIMEOUT") or HANG_S),
    )  # fmt: skip


def become_holder(spec: Spec) -> NoReturn:
    """This process goes on as the holder."""
    command = _command(spec)
    for fd in (spec.fuse_fd, spec.table_fd):
        os.set_inheritable(fd, True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, _plain_environment())  # noqa: S606


def start_holder(spec: Spec, on_wait: Callable[[], None]) -> int:
    """A holder in the background; returns its pid when the mount answers. MountError with the worker's own words."""
    ours, theirs = os.pipe()
    spec = spec._replace(ready_fd=theirs)
    for fd in (spec.fuse_fd, spec.table_fd, theirs):
        os.set_inheritable(fd, True)
    command = _command(spec)
    process = subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=_log_or_null(spec.log_path),
        env=_plain_environment(), cwd="/", close_fds=False, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    for fd in (spec.fuse_fd, spec.table_fd, int(command[-2])):
        os.close(fd)
    _wait_ready(ours, process.pid, spec.mount_point, on_wait)
    return process.pid


def _command(spec: Spec) -> list[str]:
    from gateways.fuse.holder import __file__ as package

    script = os.path.join(os.path.dirname(os.path.abspath(package)), "__main__.py")
    # The mount point stands there for people who look at `ps`.
    return [sys.executable, "-S", script, str(specs.dump(spec)), spec.mount_point]


def _plain_environment() -> dict[str, str]:
    """The holder needs nothing of it; a worker's environment is in the specification."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "XDG_RUNTIME_DIR") if name in os.environ}


def _log_or_null(path: str) -> int:
    if path:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    return subprocess.DEVNULL


def _wait_ready(fd: int, pid: int, path: str, on_wait: Callable[[], None]) -> None:
    import select

    timeout_s = float(os.environ.get("JFS_MOUNT_TIMEOUT") or READY_S)
    deadline = time.monotonic() + timeout_s
    while not select.select([fd], [], [], 0.5)[0]:
        on_wait()
        if time.monotonic() > deadline:
            os.kill(pid, 15)
            raise MountError(f"{path} does not answer after {timeout_s:.0f} s (JFS_MOUNT_TIMEOUT); the log says why")
    raw = os.read(fd, 65536)
    os.close(fd)
    if not raw:
        raise MountError(f"the process that holds {path} ended at once; the log says why")
    said = json.loads(raw)
    if "error" in said:
        raise MountError(str(said["error"]))
    if _is_broken(path):
        raise MountError(f"{path} was served and doesn't answer; the log says why")
