# SPDX-License-Identifier: Apache-2.0
"""Commands on a mounted volume: find the mount above a path, and talk to it through its control file.

Works on mounts of SluiceFS and of JuiceFS. A mount's root has inode 1; its control file is found from every directory
(before JuiceFS 1.0 from the root only), so a command also works where only a part of the mount is visible.
Source: cli §10.1, §10.3; metadata-semantics §12.2.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from core.errors import ConfigError, FsError
from core.meta.records import INTERNAL_BASE, ROOT, TRASH
from core.vfs.internal import protocol
from sluicefs.output import report_error

_CONTROL_NAMES: Final = (".control", ".jfs.control")
#: A mount that says nothing for so long doesn't work on it; one that works tells its progress every 300 ms.
SILENCE_S: Final = 300.0
_PAUSES_S: Final = (0.005, 0.02, 0.05, 0.1)
#: host, host:port, [v6]:port, user:password@host, each with or without /database: a Redis address without a scheme.
_ADDRESS = re.compile(r"(?:[^/@\s]*@)?(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(?::\d+)?(?:/\d+)?")

OnProgress = Callable[[int, int], None]


def is_meta_url(text: str) -> bool:
    """Is an argument that could be a path or a metadata address the latter? What exists as a path is a path."""
    if "://" in text:
        return True
    if text.startswith(("/", ".", "~")) or os.path.lexists(text):
        return False
    address = _ADDRESS.fullmatch(text)
    host, slash, _ = text.partition("/")
    # `d/5` is rather a path that doesn't exist than a database on a host of one letter.
    return address is not None and (":" in text or host == "localhost" or bool(slash and "." in host))


def split_arguments(arguments: Sequence[str], what: str = "PATH") -> tuple[str | None, list[str]]:
    """(metadata address or None, the others). ConfigError if nothing else is left."""
    rest = list(arguments)
    meta_url = rest.pop(0) if rest and is_meta_url(rest[0]) else None
    if not rest:
        raise ConfigError(f"{what} is missing: give a path below a mount, or META-URL and a path inside the volume")
    return meta_url, rest


class Place(NamedTuple):
    """Something on a mount. control: path of its control file. root: of the mount, "" if it isn't visible."""

    path: str
    ino: int
    parent: int
    name: bytes
    control: str
    root: str

    @property
    def inner(self) -> bytes:
        """Path from the mount's root, for messages that take one; by number where the root isn't visible."""
        if not self.root:
            return b"inode:%d" % self.ino
        inside = os.path.relpath(self.path, self.root)
        return b"/" if inside == "." else b"/" + os.fsencode(inside)


def find_place(path: str, *, follow: bool = False, missing: bool = False) -> Place:
    """Where on which mount a path is. follow: what a symbolic link at its end leads to. missing: it need not exist
    (ino is 0 then). ConfigError if there is no mount above it, OSError if it can't be looked at."""
    if follow:
        path = os.path.realpath(path)
    folder, name = os.path.split(os.path.abspath(path.rstrip("/") or "/"))
    whole = os.path.realpath(folder)
    full = os.path.join(whole, name) if name else whole
    try:
        status: os.stat_result | None = os.lstat(full)
    except FileNotFoundError:
        if not missing:
            raise
        status = None
    here = full if status is not None and stat.S_ISDIR(status.st_mode) else whole
    control, root = _find_control(here, path)
    is_root = status is not None and status.st_ino == ROOT and full == root
    parent = ROOT if is_root else os.stat(whole).st_ino
    return Place(full, status.st_ino if status is not None else 0, parent, os.fsencode(name), control, root)


def _find_control(folder: str, shown: str) -> tuple[str, str]:
    """(control file, root of the mount or "") of a directory."""
    at, control = folder, ""
    while True:
        found = _control_in(at)
        control = control or found
        is_top = os.path.dirname(at) == at
        if found and os.stat(at).st_ino == ROOT:
            return found, at
        if is_top or (control and not found):
            break
        at = os.path.dirname(at)
    if not control:
        raise ConfigError(
            f"{shown} is not below a mount of SluiceFS or JuiceFS; mount the volume, or give META-URL and a path inside"
            " the volume"
        )
    return control, ""


def _control_in(folder: str) -> str:
    """Path of the control file as seen from a directory; somebody's own file of that name is none."""
    for name in _CONTROL_NAMES:
        path = os.path.join(folder, name)
        try:
            status = os.lstat(path)
            top = os.stat(folder).st_ino == ROOT
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and (top or INTERNAL_BASE < status.st_ino < TRASH):
            return path
    return ""


def require_root(path: str) -> str:
    """The root of a mount, given as such. ConfigError names what it is instead."""
    place = find_place(path)
    if place.ino != ROOT or place.path != place.root:
        where = f"; its mount is at {place.root}" if place.root else ""
        raise ConfigError(f"{path} is not the root of a mount{where}")
    return place.root


def internal_file(root: str, name: str) -> str:
    """Path of `.stats` and so on in a mount's root, with either prefix."""
    for candidate in (f".{name}", f".jfs.{name}"):
        path = os.path.join(root, candidate)
        if os.path.lexists(path):
            return path
    raise ConfigError(f"{root} shows no .{name}; its client may be too old")


class TooOld(ConfigError):
    """The client behind the mount doesn't know this request."""


class Control:
    """An opened control file. `with` closes it, which cancels what still runs."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as e:
            raise ConfigError(f"{path} can't be opened: {e.strerror}; is the mount still served?") from e

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    def ask(self, request: protocol.Request, progress: OnProgress | None = None, *, legacy: bool = False) -> bytes:
        """The data of the reply, b"" if it is only an errno of 0. FsError for another errno, TooOld if the client on
        the other side doesn't know the request."""
        message = memoryview(protocol.encode(request, legacy=legacy))
        while message:
            message = message[os.write(self._fd, message) :]
        parser = protocol.ReplyParser(legacy=legacy and isinstance(request, protocol.Info))
        last, tries = time.monotonic(), 0
        while True:
            data = os.read(self._fd, 1 << 16)
            if not data:
                # Nothing yet. Our own mounts wait a while before they say so, JuiceFS's don't.
                if time.monotonic() - last > SILENCE_S:
                    raise ConfigError(f"{self.path}: the mount doesn't answer since {SILENCE_S:.0f} s; see its log")
                time.sleep(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])
                tries += 1
                continue
            last, tries = time.monotonic(), 0
            for event in parser.receive(data):
                if isinstance(event, protocol.Progress):
                    if progress is not None:
                        progress(event.first, event.second)
                elif isinstance(event, protocol.Data):
                    return event.data
                elif event.errno == errno.EINVAL:
                    raise TooOld(
                        f"{os.path.dirname(self.path)}: the client behind this mount doesn't know this request; use a"
                        " newer one, or give META-URL and a path inside the volume"
                    )
                elif event.errno:
                    raise FsError(event.errno, os.strerror(event.errno))
                else:
                    return b""


def report_failure(path: str, error: Exception) -> int:
    """One line about one of several paths; 1, to be added up."""
    if isinstance(error, BrokenPipeError):
        raise error  # our own output: the reader has gone
    if not isinstance(error, OSError):
        return report_error(str(error), error)
    return report_error(f"{path}: {os.strerror(error.errno) if error.errno else error}", error)
