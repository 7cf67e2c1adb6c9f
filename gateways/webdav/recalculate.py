# SPDX-License-Identifier: Apache-2.0
"""PATCH with `X-Recalculate-Hash: ALGORITHM`: the checksum of a file, computed from what is stored.

Nextcloud has it since version 24, and rclone's vendor `nextcloud` asks for it after every upload whose checksum it
can't read back; without it each upload counts as failed. Nothing is changed, and the answer holds for the file as it
was during the whole calculation. Source: Nextcloud pull request 27378; rclone 1.75 as recorded in our tests.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from gateways.http.messages import Response
from gateways.webdav.digests import OC_ALGORITHMS
from gateways.webdav.errors import DavError
from gateways.webdav.export import Node
from gateways.webdav.gate import Call, etag_of

HEADER: Final = "x-recalculate-hash"
_PIECE: Final = 4 << 20  # one block


async def recalculate(call: Call, node: Node) -> Response:
    """204 with OC-Checksum. 400 for an algorithm that we don't know, 409 if the file changes meanwhile."""
    name = re.sub(r"[^A-Z0-9]", "", call.headers[HEADER].upper())
    make = OC_ALGORITHMS.get(name)
    if make is None:
        raise DavError(400, f"X-Recalculate-Hash must be one of {', '.join(sorted(OC_ALGORITHMS))}.")
    found, fs = node.found, call.export.fs
    if call.export.caller.uid:
        await fs.meta.require_access(call.export.caller, node.ino, found.attr, 4)
    hasher, loop = make(), asyncio.get_running_loop()
    for start in range(0, found.attr.length, _PIECE):
        data = await fs.read(found, start, min(_PIECE, found.attr.length - start))
        await loop.run_in_executor(None, hasher.update, data)
    again = await call.export.find(node.path)
    if again is None or etag_of(again) != etag_of(node):
        raise DavError(409, "The file was changed while its checksum was calculated; ask again.")
    return Response(204, [("OC-Checksum", f"{name}:{hasher.digest().hex()}"), ("ETag", f'"{etag_of(node)}"')])
