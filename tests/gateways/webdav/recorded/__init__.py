# SPDX-License-Identifier: Apache-2.0
"""Requests of real clients, as they sent them to our door; `test_clients_recorded.py` sends them again.

Each JSON file: {"client": …, "requests": [[METHOD, TARGET, {header: value}, BODY, STATUS], …]}. BODY is text, or the
number of bytes of a file. Left out: credentials, Host, and what differs with each run; in their place stand `{token}`
for the lock token of the last LOCK and `{etag TARGET}` for the ETag that an answer on that target had last.
"""
