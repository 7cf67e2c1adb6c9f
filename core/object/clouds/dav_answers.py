# SPDX-License-Identifier: Apache-2.0
"""What a WebDAV server answers: the members of a folder, and which refusals may pass by themselves.

Pure functions over bytes. Source: RFC 4918 §9.1 (PROPFIND), §13 (Multi-Status), §14.7 (href), §15 (properties).
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from defusedxml.ElementTree import fromstring

from core.object.api import Buffer
from core.object.s3.answers import http_time

#: The three properties we use; naming them spares the server the others, such as a checksum that it has to compute.
PROPFIND_BODY = (
    b'<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop>'
    b"<D:resourcetype/><D:getcontentlength/><D:getlastmodified/></D:prop></D:propfind>"
)

ADVICE = {
    401: "check the user (--access-key) and the password (--secret-key)",
    403: "check what this user may do there",
    405: "is this address a WebDAV folder?",
    507: "free space on the server",
}


class Member(NamedTuple):
    path: str  # decoded, without the scheme and host; a folder may lack its slash
    folder: bool
    size: int
    mtime: float


def parse_members(body: Buffer) -> list[Member]:
    """The resources of a Multi-Status answer, the asked one among them. Raises ValueError if it is none."""
    try:
        root: Any = fromstring(bytes(body))
    except Exception as error:  # defusedxml and expat have no common base
        raise ValueError(f"not an XML document ({type(error).__name__})") from error
    if root.tag != "{DAV:}multistatus":
        raise ValueError(f"a document <{root.tag}>")
    found = []
    for response in root.iterfind("{DAV:}response"):
        path = unquote(urlsplit((response.findtext("{DAV:}href") or "").strip()).path)
        if not path:
            raise ValueError("a member without an address")
        folder, size, mtime = False, 0, 0.0
        for part in response.iterfind("{DAV:}propstat"):
            if " 200" not in (part.findtext("{DAV:}status") or " 200"):
                continue
            folder = folder or part.find("{DAV:}prop/{DAV:}resourcetype/{DAV:}collection") is not None
            length = (part.findtext("{DAV:}prop/{DAV:}getcontentlength") or "").strip()
            size = int(length) if length.isdigit() else size
            mtime = http_time(part.findtext("{DAV:}prop/{DAV:}getlastmodified") or "") or mtime
        found.append(Member(path, folder, size, mtime))
    return found


def is_passing(status: int) -> bool:
    """Whether the same request may succeed later: busy, locked by another writer, broken behind a proxy."""
    return status in (408, 423, 425, 429) or (status >= 500 and status not in (501, 505, 507))
