# SPDX-License-Identifier: Apache-2.0
"""The PostgreSQL record store (metadata-format §5), on psycopg's libpq. No semantics of its own: see core/meta."""

from core.meta.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
