# SPDX-License-Identifier: Apache-2.0
"""`--upload-hours`: the hours of the day in which staged blocks may leave.

Pure apart from the time zone of this machine. Source: data-path §6: `start,end` or `start-end`, 0 to 23, local time,
end exclusive, may wrap around midnight; equal hours mean always.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from core.errors import ConfigError

_FORM = re.compile(r"\s*(\d{1,2})\s*[,-]\s*(\d{1,2})\s*", re.ASCII)


class UploadHours(NamedTuple):
    start: int
    end: int

    def is_open(self, now: float) -> bool:
        hour = time.localtime(now).tm_hour
        if self.start <= self.end:
            return self.start == self.end or self.start <= hour < self.end
        return hour >= self.start or hour < self.end

    def seconds_to_open(self, now: float) -> float:
        """0 if it is open. Right to the second, except in the night when clocks are changed."""
        if self.is_open(now):
            return 0
        at = time.localtime(now)
        passed = at.tm_hour * 3600 + at.tm_min * 60 + at.tm_sec
        return float((self.start * 3600 - passed) % 86400)


def parse_upload_hours(text: str | None) -> UploadHours | None:
    """None: always. ConfigError for what is no pair of hours."""
    if not text or not text.strip():
        return None
    match = _FORM.fullmatch(text)
    hours = UploadHours(int(match[1]), int(match[2])) if match else None
    if hours is None or max(hours) > 23:
        raise ConfigError(f"--upload-hours: {text!r} is no pair of hours; write two of 0 to 23, such as 22,6 or 1-5")
    return None if hours.start == hours.end else hours
