# SPDX-License-Identifier: Apache-2.0
"""A lean HTTP/1.1 client for whole objects: bodies are received straight into their final buffer.

`codec` is sans-IO, `connection` one exchange at a time over asyncio, `client` keeps and renews connections. It knows
nothing of S3. Why our own: measured against four libraries, see bench/object.py.
"""

from core.object.http.client import Client
from core.object.http.codec import Response
from core.object.http.connection import ExchangeFailed

__all__ = ["Client", "ExchangeFailed", "Response"]
