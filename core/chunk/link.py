# SPDX-License-Identifier: Apache-2.0
"""What the way to the object store can carry: its rate and how long one request takes, as downloads show them.

Pure arithmetic over observed transfers; read-ahead asks it how many bytes have to be under way so that the link never
waits for the reader. Idea: BBR (draft-ietf-ccwg-bbr §4.1): the largest rate and the shortest time seen lately are
what the path has to offer; everything else is our own queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: A rate is measured over at least so much time in which something was under way, and over several requests' time:
#: those that end together would else look like a faster link.
SLOT_S: Final = 0.1
SLOT_REQUESTS: Final = 4
#: A few bytes say nothing of a fast link: most of their time was latency. On a slow one, this time is enough.
SLOT_BYTES: Final = 16 << 20
SLOT_MOST_S: Final = 1.0
#: See `LinkMeter.window`. Measured at 50 ms and 400 MiB/s: with 2 a stream gets half of the link, with 3 nearly all.
GAIN: Final = 3
#: How long the best rate is believed if it isn't reached again.
KEEP_S: Final = 10.0
#: The shortest time may only grow so fast: under steady load no request ever sees an empty link.
DRIFT_PER_S: Final = 0.01
#: Smaller transfers say more about the latency than about a block's time.
LEAST: Final = 64 << 10


class LinkMeter:
    """`begin` when a download starts; `end(n, seconds)` when it is over (n = 0: it failed)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._active = 0
        self._busy_since = 0.0
        self._busy_s = 0.0  # of the current slot, before `_busy_since`
        self._bytes = 0
        self._rate = 0.0
        self._rate_at = 0.0
        self._base_s = 0.0
        self._base_at = 0.0

    def begin(self) -> None:
        if not self._active:
            self._busy_since = self._clock()
        self._active += 1

    def end(self, n: int, seconds: float) -> None:
        now = self._clock()
        self._active -= 1
        self._bytes += n
        busy_s = self._busy_s + now - self._busy_since
        enough = self._bytes >= SLOT_BYTES and busy_s >= max(SLOT_S, SLOT_REQUESTS * self._base_s)
        if enough or busy_s >= SLOT_MOST_S:
            self._learn_rate(self._bytes / busy_s, now)
            self._bytes, self._busy_s, self._busy_since = 0, 0.0, now
        elif not self._active:
            self._busy_s = busy_s
        if n >= LEAST:
            self._learn_time(seconds, now)

    @property
    def rate(self) -> float:
        """Bytes per second, at the best lately; 0 if nothing is known."""
        return self._rate

    @property
    def base_s(self) -> float:
        """How long a request takes on an empty link; 0 if nothing is known."""
        return self._base_s

    def window(self) -> int:
        """Bytes ahead of a reader that keep the link busy; 0 if nothing is known.

        Once what the link carries in the time of one request would do if requests ended one by one. They share the
        link, so that those that began together end together, and then nothing is under way for a round trip: hence the
        same again for those that go on meanwhile, and once more for the reader's own pace, and so that a rate held
        back by too small a window can show itself.
        """
        return int(GAIN * self._rate * self._base_s)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _learn_rate(self, rate: float, now: float) -> None:
        if rate >= self._rate or now - self._rate_at > KEEP_S:
            self._rate, self._rate_at = rate, now

    def _learn_time(self, seconds: float, now: float) -> None:
        old = self._base_s * (1 + DRIFT_PER_S * (now - self._base_at))
        self._base_s = min(seconds, old) if self._base_s else seconds
        self._base_at = now
