# SPDX-License-Identifier: Apache-2.0
"""The health of one cache directory: normal, unstable, down.

Counts and clocks only, no IO; any thread. Who does IO on the directory asks `begin` and says how it went with `end`; a
disk that hangs is noticed by `watch`, which somebody calls every now and then. Source: data-path §5.8 (states,
transitions, environment variables), §12.5.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec

from core.config import parse_duration
from core.errors import ConfigError

State = Literal["normal", "unstable", "down"]

_ERRORS_TO_UNSTABLE: Final = 3
_PERIOD_S: Final = 60.0
_OPERATIONS_TO_NORMAL: Final = 60
#: How often an unstable disk is probed, so that an idle one has enough operations to become normal again.
PROBE_EVERY_S: Final = 0.5


class HealthLimits(msgspec.Struct, frozen=True):
    """max_io_s: an operation that runs longer counts as an error. error_percentage: of the operations of a minute, up
    to which an unstable disk is normal again. to_down_s: so long unstable means down. concurrency: operations at once
    while unstable."""

    max_io_s: float = 30
    error_percentage: int = 0
    to_down_s: float = 1800
    concurrency: int = 10


def limits_from(environment: Mapping[str, str] = os.environ) -> HealthLimits:
    """The variables that the reference client has for them. ConfigError names the one that makes no sense."""

    def number(name: str, default: int) -> int:
        text = environment.get(name) or str(default)
        if not text.isdecimal():
            raise ConfigError(f"{name}: {text!r} is no whole number; unset it or write one such as {default}")
        return int(text)

    default = HealthLimits()
    return HealthLimits(
        parse_duration(environment.get("JFS_MAX_IO_DURATION") or default.max_io_s, option="JFS_MAX_IO_DURATION"),
        number("JFS_MAX_IO_ERR_PERCENTAGE", default.error_percentage),
        parse_duration(
            environment.get("JFS_MAX_DURATION_TO_DOWN") or default.to_down_s, option="JFS_MAX_DURATION_TO_DOWN"
        ),
        number("JFS_MAX_CONCURRENCY_FOR_UNSTABLE", default.concurrency),
    )


class Health:
    """judges: False where a directory holds the only copy of something (writeback): then nothing is ever refused and
    the state stays normal."""

    def __init__(
        self, limits: HealthLimits | None = None, *, judges: bool = True, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.state: State = "normal"
        self.limits = limits or limits_from()
        self.judges = judges
        self._now = now
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._running: dict[int, float] = {}
        self._late: set[int] = set()  # of those: counted as errors already
        self._operations = self._errors = 0  # of this period
        self._period = self._since = now()

    def begin(self) -> int:
        """A ticket for `end`; 0: don't, the disk has enough to do or is given up."""
        if self.state != "normal" and (self.state == "down" or len(self._running) >= self.limits.concurrency):
            return 0
        ticket = next(self._numbers)
        self._running[ticket] = self._now()
        return ticket

    def end(self, ticket: int, *, failed: bool = False) -> None:
        started = self._running.pop(ticket, None)
        self._operations += 1
        late = started is not None and self._now() - started > self.limits.max_io_s
        if ticket in self._late:
            self._late.discard(ticket)
            late = False
        if failed or late:
            self._fault()

    def watch(self) -> State:
        """Look at what runs too long and at the time that has passed; the state from now on."""
        now = self._now()
        for ticket, started in list(self._running.items()):
            if now - started > self.limits.max_io_s and ticket not in self._late:
                self._late.add(ticket)
                self._fault()
        with self._lock:
            if now - self._period >= _PERIOD_S:
                calm = (
                    self._operations >= _OPERATIONS_TO_NORMAL
                    and self._errors * 100 <= self.limits.error_percentage * self._operations
                )
                if self.state == "unstable" and calm:
                    self.state = "normal"
                self._period, self._operations, self._errors = now, 0, 0
            if self.state == "unstable" and now - self._since >= self.limits.to_down_s:
                self.state = "down"
        return self.state

    def _fault(self) -> None:
        with self._lock:
            self._errors += 1
            if self.judges and self.state == "normal" and self._errors >= _ERRORS_TO_UNSTABLE:
                self.state = "unstable"
                self._since = self._period = self._now()
                self._operations = self._errors = 0
