# SPDX-License-Identifier: Apache-2.0
"""Metadata in one SQLite file: no server, several processes, group commit."""

from core.meta.stores.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
