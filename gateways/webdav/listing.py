# SPDX-License-Identifier: Apache-2.0
"""A directory as a page for browsers: pages of 1000 entries, links, sizes, dates, and an upload field.

Everything that comes from the volume is escaped; the page may load nothing, and its one script (uploading by PUT) is
allowed by its hash. Browsing needs no script. Source: spec webdav §7, §20.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from html import escape
from typing import Final
from urllib.parse import parse_qs, quote

from gateways.http.messages import Response
from gateways.webdav.dates import iso_date
from gateways.webdav.export import Node
from gateways.webdav.gate import Call
from gateways.webdav.names import HIDDEN, TRASH, quote_name
from gateways.webdav.properties.live import Resource, display_text

_NS: Final = 1_000_000_000
PAGE: Final = 1000
#: Beyond this many entries only names are sorted: other orders need the whole directory.
MAX_SORTED: Final = 10_000

_STYLE: Final = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.2rem;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .5rem;border-bottom:1px solid #8884}
td:nth-child(2),th:nth-child(2){text-align:right;white-space:nowrap}
td:nth-child(3),th:nth-child(3){white-space:nowrap}
td:first-child{overflow-wrap:anywhere}
a{text-decoration:none}a:hover{text-decoration:underline}
form{margin:1rem 0;padding:.75rem;border:1px dashed #8888;border-radius:.5rem}
output{display:block;white-space:pre-line}
"""

_SCRIPT: Final = """
const form=document.getElementById("upload"),state=document.getElementById("state");
form.hidden=false;
async function send(files){
  let failed=0;
  for(const file of files){
    state.textContent="Uploading "+file.name+" …";
    try{
      const answer=await fetch(encodeURIComponent(file.name),{method:"PUT",body:file,
        headers:{"X-OC-Mtime":String(file.lastModified/1000)}});
      if(!answer.ok){failed++;state.textContent=file.name+": "+answer.status+" "+(await answer.text());}
    }catch(error){failed++;state.textContent=file.name+": "+error;}
  }
  if(!failed)location.reload();
}
form.addEventListener("submit",event=>{event.preventDefault();send(form.elements.files.files);});
document.addEventListener("dragover",event=>event.preventDefault());
document.addEventListener("drop",event=>{event.preventDefault();send(event.dataTransfer.files);});
"""

_HASH: Final = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_UPLOAD: Final = (
    '<form id="upload" hidden><label>Upload files: <input type="file" name="files" id="files" multiple></label> '
    '<button>Upload</button><output id="state"></output></form>'
)


def size_text(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return ""


async def page(call: Call, node: Node, *, writable: bool) -> Response:
    query = parse_qs(call.request.target.partition("?")[2], max_num_fields=10)
    after = query.get("after", [""])[0].encode("utf-8", "surrogateescape")
    order = query.get("sort", ["name"])[0]
    url = call.href(call.path, collection=True)
    shown = "/" + "/".join(display_text(name) for name in call.path)
    headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", _POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-cache"),
    ]
    if call.method == "HEAD":
        return Response(200, headers)
    return Response(200, headers, _parts(call, node, url, shown, after, order, writable))


async def _parts(
    call: Call, node: Node, url: str, shown: str, after: bytes, order: str, writable: bool
) -> AsyncIterator[bytes]:
    title = escape(shown)
    sorts = "".join(
        f'<th><a href="?sort={key}">{text}</a></th>'
        for key, text in (("name", "Name"), ("size", "Size"), ("date", "Changed (UTC)"))
    )
    up = '<tr><td><a href="../">../</a></td><td></td><td></td></tr>' if call.path else ""
    yield (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><style>' + _STYLE + "</style></head><body>"
        f"<h1>{title}</h1>{_UPLOAD if writable else ''}<table><thead><tr>{sorts}</tr></thead><tbody>{up}"
    ).encode("utf-8", "replace")
    rows, more = await _entries(call, node, after, order)
    yield "".join([_row(url, r) for r in rows]).encode("utf-8", "replace")
    yield b"</tbody></table>"
    if more:
        last = quote(rows[-1].name.decode("utf-8", "surrogateescape"), safe="", errors="surrogateescape")
        yield f'<p><a rel="next" href="?after={last}">Next {PAGE}</a></p>'.encode()
    if writable:
        yield f"<script>{_SCRIPT}</script>".encode()
    yield b"</body></html>"


async def _entries(call: Call, node: Node, after: bytes, order: str) -> tuple[list[Resource], bool]:
    """One page of members, and whether there are more."""
    fs = call.export.fs
    hide = HIDDEN if not node.real else frozenset()
    limit = PAGE if order == "name" else MAX_SORTED
    page = await fs.list_dir(node.ino, after, limit, attrs=True)
    rows = []
    for entry in page:
        if entry.name in hide or entry.attr is None or entry.type > 3:
            continue
        ino, attr = entry.ino, entry.attr
        if entry.type == 3:
            target = await call.export.find((*call.path, entry.name))
            if target is None:
                continue
            ino, attr = target.ino, target.found.attr
        rows.append(Resource(entry.name, ino, attr, {}, ""))
    if not node.real and call.export.show_trash and len(page) < limit:
        trash = await call.export.find((TRASH,))
        rows += [Resource(TRASH, trash.ino, trash.found.attr, {}, "")] if trash is not None else []
    if order == "size":
        rows.sort(key=lambda r: (-r.attr.length if not r.attr.is_dir else 1, r.name))
    elif order == "date":
        rows.sort(key=lambda r: (-r.attr.mtime_ns, r.name))
    return rows[:PAGE], order == "name" and len(page) == limit and bool(rows)


def _row(url: str, r: Resource) -> str:
    slash = "/" if r.attr.is_dir else ""
    link = escape(url + quote_name(r.name) + slash)
    size = "" if r.attr.is_dir else size_text(r.attr.length)
    when = iso_date(r.attr.mtime_ns // _NS).replace("T", " ")[:16]
    return f'<tr><td><a href="{link}">{escape(display_text(r.name))}{slash}</a></td><td>{size}</td><td>{when}</td></tr>'
