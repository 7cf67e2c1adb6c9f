# SPDX-License-Identifier: Apache-2.0
"""Where a mount in the background logs to: a file that is rotated by size, and the system log.

Several processes write to the file (a worker, its successor, the holder), each line in one write to an appending
descriptor. Who finds it too long renames it under a lock; the others notice that it moved away. logrotate may do the
same at any time. Source: cli §1.5 (paths, syslog).
"""

from __future__ import annotations

import fcntl
import logging
import os
from logging.handlers import SysLogHandler, WatchedFileHandler
from typing import Final

from core import log
from core.errors import ConfigError

_LOGGERS: Final = ("sluice", "sluicefs", "core", "gateways")
_SYSLOG: Final = ("/dev/log", "/var/run/syslog")


def default_path() -> str:
    if os.geteuid() == 0:
        return "/var/log/sluicefs.log"
    return os.path.expanduser("~/.sluicefs/sluicefs.log")


def require_writable(path: str) -> str:
    """The absolute path, its folder made. ConfigError if nothing can be written there."""
    path = os.path.abspath(path)
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640))
    except OSError as e:
        raise ConfigError(f"--log: {path} can't be written: {e.strerror}; choose another file") from e
    return path


class RotatedFile(WatchedFileHandler):
    """keep: older files, PATH.1 (the latest) up to PATH.keep."""

    def __init__(self, path: str, most_bytes: int, keep: int) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._most_bytes = most_bytes
        self._keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self._most_bytes and self.stream is not None and os.fstat(self.stream.fileno()).st_size > self._most_bytes:
            try:
                self._rotate()
            except OSError:
                pass  # the disk is full or read-only: go on in the same file

    def _rotate(self) -> None:
        if self.stream is None:
            return
        fd = self.stream.fileno()
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            mine, there = os.fstat(fd), os.stat(self.baseFilename)
            if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
                return  # somebody else was faster
            for number in range(self._keep - 1, 0, -1):
                if os.path.exists(f"{self.baseFilename}.{number}"):
                    os.replace(f"{self.baseFilename}.{number}", f"{self.baseFilename}.{number + 1}")
            if self._keep:
                os.replace(self.baseFilename, f"{self.baseFilename}.1")
            else:
                os.truncate(fd, 0)
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
        self.reopenIfNeeded()


def set_up(
    path: str | None, level: str, *, form: str, log_id: str, most_bytes: int = 0, keep: int = 0, syslog: bool = False
) -> None:
    """Replace the log of this process. path None: standard error as before."""
    if path:
        plain = log.setup(level, form=form, log_id=log_id, path=path)
        rotated = RotatedFile(path, most_bytes, keep)
        rotated.setFormatter(plain.formatter)
        plain.close()
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.removeHandler(plain)
            logger.addHandler(rotated)
    if syslog:
        _add_syslog(log_id)


def _add_syslog(log_id: str) -> None:
    address = next((path for path in _SYSLOG if os.path.exists(path)), None)
    if address is None:
        return  # a container without one; the file has everything
    try:
        handler = SysLogHandler(address, facility=SysLogHandler.LOG_USER)
    except OSError as e:
        logging.getLogger("sluice.fuse").warning("no system log at %s: %s", address, e.strerror)
        return
    handler.ident = f"sluice[{os.getpid()}]: "
    handler.setFormatter(log.TextFormatter(log_id=log_id))
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(handler)
