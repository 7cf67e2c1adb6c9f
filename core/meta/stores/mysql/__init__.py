# SPDX-License-Identifier: Apache-2.0
"""The record store in MySQL, MariaDB or TiDB. What SQL engines share lives in `core/meta/stores/sql`."""

from core.meta.stores.mysql.store import MySQLStore

__all__ = ["MySQLStore"]
