# SPDX-License-Identifier: Apache-2.0
"""What the SQL engines share: tables, rows, and plans that turn many reads or commits into few set-based statements.

Nothing in here knows a dialect or a driver. A dialect renders the shapes of `reads.py` and the steps of `commits.py`
as statements of its own, runs them, and hands the rows back. Used by PostgreSQL and MySQL; SQLite shares `rows.py`.
"""
