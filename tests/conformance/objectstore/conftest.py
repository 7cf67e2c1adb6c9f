# SPDX-License-Identifier: Apache-2.0
"""Event loops for these tests: asyncio's, and uvloop's too for classes that say `loops = "both"`.

Transports differ there: buffered reads, pauses, write queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    owner = getattr(item, "cls", None) or getattr(item, "module", None)
    if getattr(owner, "loops", "") == "both":
        try:
            import uvloop
        except ImportError:
            print("uvloop is missing: pip install uvloop; only asyncio's loop is tested")
        else:
            factories["uvloop"] = uvloop.new_event_loop
    return factories
