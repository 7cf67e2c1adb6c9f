# SPDX-License-Identifier: Apache-2.0
"""The record-store suite: prove a metadata engine with a few lines.

    class TestMyEngine(RecordStoreSuite):
        @pytest.fixture
        async def store(self, tmp_path):
            store = MyStore(...)
            await store.open()
            await store.prepare()
            yield store
            await store.close()

        @pytest.fixture
        async def peer(self, store):      # optional: a second client of the same, shared database
            ...

`store` is opened, prepared and empty: no setting, no counters. Set the class attributes below where an engine's
columns can't do better. The contract is `core/meta/store.py`; each part of the suite names the format sections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

import pytest

from core.meta.store import RecordStore

from .navigation import NavigationCases
from .records import RecordCases
from .transactions import TransactionCases


class RecordStoreSuite(RecordCases, TransactionCases, NavigationCases):
    case_sensitive_xattrs: ClassVar[bool] = True  # MySQL's default collations fold case (format §13, 48)
    binary_xattr_names: ClassVar[bool] = True  # text columns of servers refuse what isn't UTF-8

    @pytest.fixture
    async def store(self) -> AsyncIterator[RecordStore]:
        raise NotImplementedError("give your suite a `store` fixture")
        yield

    @pytest.fixture
    async def peer(self, store: RecordStore) -> AsyncIterator[RecordStore]:
        """Another client of the same database; engines of one process give the store itself."""
        yield store
