# SPDX-License-Identifier: Apache-2.0
"""Logging: one line per event on stderr, as text for people or JSON for machines; secrets never get through.

Call `setup` once in a process that owns its log (a command, a worker); everybody else takes
`logging.getLogger("sluice.<area>")` or its module's name. Structured fields go into `extra={"fields": {...}}`.
Source: cli §1.5 (form of the line), §1.1 (levels).
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from typing import Any, Final, TextIO

TRACE: Final = 5
LEVELS: Final = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
_NAMES: Final = {
    TRACE: "TRACE",
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARNING",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "FATAL",
}
_COLOURS: Final = {"DEBUG": "36", "INFO": "34", "WARNING": "33", "ERROR": "31", "FATAL": "31;1", "TRACE": "90"}

# Shapes that are secrets wherever they stand: a password in a URL, `secret_key=…`, a signature, a PEM block.
_URL_PASSWORD = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://[^\s:@/?#]*):[^\s@/]+(?=@)")
_NAMED = re.compile(
    r"(?i)(\b(?:[a-z0-9_]*(?:password|passwd|passphrase|secret[_-]?(?:access[_-]?)?key|session[_-]?token|secret)"
    r"|x-amz-security-token|x-amz-signature|signature)[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&}\"']+)"
)
_PEM = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL)

_secrets: set[str] = set()


def hide(*values: str | None) -> None:
    """Never let these texts into a log of this process (keys that were read from options or the environment)."""
    # Very short values would blank out ordinary words; the places that read secrets demand more than that.
    _secrets.update(value for value in values if value and len(value) >= 6)


def mask(text: str) -> str:
    """`text` without secrets: known values, and anything that looks like one."""
    for value in _secrets:
        if value in text:
            text = text.replace(value, "****")
    if "://" in text:
        text = _URL_PASSWORD.sub(r"\1:****", text)
    if "PRIVATE KEY" in text:
        text = _PEM.sub(r"-----BEGIN \1----- ****", text)
    return _NAMED.sub(r"\1****", text)


class TextFormatter(logging.Formatter):
    """`[id ]YYYY/MM/DD HH:MM:SS.micro sluice[pid] <LEVEL>: text [func@file:line]`"""

    def __init__(self, *, log_id: str = "", colour: bool = False) -> None:
        super().__init__()
        self._id = f"[{log_id}] " if log_id else ""
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created).strftime("%Y/%m/%d %H:%M:%S.%f")
        level = _NAMES.get(record.levelno, record.levelname)
        if self._colour:
            level = f"\033[{_COLOURS.get(level, '0')}m{level}\033[0m"
        text = record.getMessage()
        fields = getattr(record, "fields", None)
        if fields:
            text += " " + " ".join(f"{name}={value}" for name, value in fields.items())
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        where = f"[{record.funcName}@{record.filename}:{record.lineno}]"
        return f"{self._id}{when} sluice[{record.process}] <{level}>: {mask(text)} {where}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger, message, where, pid, fields, error."""

    def __init__(self, *, log_id: str = "") -> None:
        super().__init__()
        self._id = log_id

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)  # noqa: UP017
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": _NAMES.get(record.levelno, record.levelname).lower(),
            "logger": record.name,
            "message": mask(record.getMessage()),
            "where": f"{record.funcName}@{record.filename}:{record.lineno}",
            "pid": record.process,
        }
        if self._id:
            line["id"] = self._id
        fields = getattr(record, "fields", None)
        if fields:
            line["fields"] = {name: mask(v) if isinstance(v, str) else v for name, v in fields.items()}
        if record.exc_info:
            line["error"] = mask(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def setup(
    level: str | int = "info",
    *,
    form: str = "text",
    log_id: str = "",
    stream: TextIO | None = None,
    path: str | None = None,
    colour: bool | None = None,
    loggers: Iterable[str] = ("sluice", "sluicefs", "core", "gateways"),
) -> logging.Handler:
    """Send our loggers to stderr or to a file; replaces what an earlier call set up. Returns the handler."""
    number = LEVELS[level.lower()] if isinstance(level, str) else level
    logging.addLevelName(TRACE, "TRACE")
    stream = stream or sys.stderr
    # A log file can be moved away (logrotate) while we write: WatchedFileHandler reopens it.
    handler: logging.Handler
    if path:
        from logging.handlers import WatchedFileHandler

        handler = WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace")
        colour = False
    else:
        handler = logging.StreamHandler(stream)
    if colour is None:
        colour = stream.isatty() and "NO_COLOR" not in os.environ
    handler.setFormatter(
        JsonFormatter(log_id=log_id) if form == "json" else TextFormatter(log_id=log_id, colour=colour)
    )
    for name in loggers:
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(number)
        logger.propagate = False
    return handler
