# SPDX-License-Identifier: Apache-2.0
"""Objects as rows of a database: the storages `sqlite3`, `mysql` and `postgres`.

`table` is what the three share (names, times, ranges of keys); each database has a module of its own. Nothing here
knows of metadata tables, which may live in the same database. Source: spec data-path §4.5.
"""
