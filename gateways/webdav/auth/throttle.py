# SPDX-License-Identifier: Apache-2.0
"""A brake on guessing passwords: after some failures within a minute, answers to more of them wait.

Per address and per user name, in this process. Bounded memory; no IO. Source: spec webdav §16.1.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 60.0
FREE: Final = 10
MAX_DELAY_S: Final = 2.0
_MAX_KEYS: Final = 10_000


class Throttle:
    """`delay` says how long the next wrong answer has to wait; `failed` counts one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def failed(self, *keys: str) -> float:
        """Count a failure of these (address, user); returns the seconds to wait before the answer."""
        now = self._clock()
        worst = 0
        for key in keys:
            times = self._failures.pop(key, None) or deque(maxlen=FREE * 4)
            while times and now - times[0] > WINDOW_S:
                times.popleft()
            times.append(now)
            self._failures[key] = times
            worst = max(worst, len(times))
        while len(self._failures) > _MAX_KEYS:
            self._failures.popitem(last=False)
        return 0.0 if worst <= FREE else min(MAX_DELAY_S, 0.25 * (worst - FREE))
