# SPDX-License-Identifier: Apache-2.0
"""A directory as a page for browsers: pages of 1000 entries, links, sizes, dates, and a place to upload to.

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
:root{color-scheme:light dark;--line:#8883;--dim:#777;--accent:#1a66c2;font:15px/1.5 system-ui,sans-serif}
@media(prefers-color-scheme:dark){:root{--dim:#999;--accent:#7ab3f5}}
body{max-width:60rem;margin:2rem auto 4rem;padding:0 1rem}
h1{font-size:1.3rem;font-weight:600;margin:0 0 1rem;overflow-wrap:anywhere}
h1 i{font-style:normal;font-weight:400;color:var(--dim);padding:0 .35em}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.4rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-size:.85rem;white-space:nowrap}th a{color:var(--dim)}th[aria-sort] a{color:inherit}
tbody tr:hover{background:#8881}
td:first-child{width:100%;overflow-wrap:anywhere;padding-left:2.2em;text-indent:-1.6em}
td a{unicode-bidi:isolate;white-space:pre-wrap}
td:nth-child(2),th:nth-child(2){text-align:right}
td:nth-child(n+2){white-space:nowrap;color:var(--dim);font-variant-numeric:tabular-nums}
svg{width:1.1em;height:1.1em;margin-right:.5em;vertical-align:-.2em;fill:none;stroke:var(--dim);stroke-width:1.4}
form{display:flex;flex-wrap:wrap;gap:.75rem;align-items:center;margin:0 0 1.25rem;padding:.75rem 1rem;
border:1px dashed #8888;border-radius:.5rem}
form[hidden]{display:none}form.over{border-color:var(--accent);background:#8881}
input{max-width:100%}button{font:inherit;padding:.2rem .9rem}progress{flex:1 1 8rem}
output{flex-basis:100%;white-space:pre-line;overflow-wrap:anywhere}output:empty{display:none}
p{color:var(--dim)}
@media(max-width:34rem){td:nth-child(3),th:nth-child(3){display:none}}
"""

#: Shapes for files and directories, drawn here: the page may load nothing.
_SHAPES: Final = (
    '<svg hidden><symbol id="d" viewBox="0 0 16 16"><path d="M1.7 12.8V3.2h4.4l1.6 1.9h6.6v7.7z"/></symbol>'
    '<symbol id="f" viewBox="0 0 16 16"><path d="M3.2 14.3V1.7h6l3.6 3.6v9zM9 1.9v3.6h3.6"/></symbol></svg>'
)

_SCRIPT: Final = """
const form=document.getElementById("upload"),state=form.querySelector("output"),bar=form.querySelector("progress");
const names=new Set([...document.querySelectorAll("tbody a")].map(a=>decodeURIComponent(a.pathname.split("/").pop())));
form.hidden=false;
function put(file,replace){
  return new Promise(done=>{
    const request=new XMLHttpRequest();
    request.open("PUT",encodeURIComponent(file.name));
    request.setRequestHeader("X-OC-Mtime",String(file.lastModified/1000));
    if(!replace)request.setRequestHeader("If-None-Match","*");
    request.upload.onprogress=event=>{if(event.lengthComputable){bar.max=event.total||1;bar.value=event.loaded;}};
    request.onload=()=>done(request.status<300?"":request.status===412?"it exists already"
      :(request.responseText.trim()||"refused")+" ("+request.status+")");
    request.onerror=()=>done("the connection broke, or the server is gone");
    request.send(file);
  });
}
async function send(files){
  const problems=[];
  let sent=0;
  form.querySelector("button").disabled=true;
  bar.hidden=false;
  for(const file of files){
    const replace=names.has(file.name);
    if(replace&&!confirm("Replace “"+file.name+"”?"))continue;
    state.textContent="Uploading "+file.name+" …";
    bar.removeAttribute("value");
    const problem=await put(file,replace);
    if(problem)problems.push(file.name+": "+problem);else sent++;
  }
  bar.hidden=true;
  form.querySelector("button").disabled=false;
  state.textContent=problems.join("\\n");
  if(sent&&!problems.length)location.reload();
}
form.addEventListener("submit",event=>{event.preventDefault();send(form.elements.files.files);});
document.addEventListener("dragover",event=>{event.preventDefault();form.classList.add("over");});
document.addEventListener("dragleave",()=>form.classList.remove("over"));
document.addEventListener("drop",event=>{
  event.preventDefault();form.classList.remove("over");send([...event.dataTransfer.files]);});
"""

_HASH: Final = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_UPLOAD: Final = (
    '<form id="upload" hidden><input type="file" name="files" aria-label="Files to upload" multiple required>'
    "<button>Upload</button><span>or drop files anywhere here</span><progress hidden></progress><output></output>"
    "</form>"
)
_COLUMNS: Final = (
    ("name", "Name", "ascending"),
    ("size", "Size", "descending"),
    ("date", "Changed (UTC)", "descending"),
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
    if order not in ("size", "date"):
        order = "name"
    headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", _POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-cache"),
    ]
    if call.method == "HEAD":
        return Response(200, headers)
    return Response(200, headers, _parts(call, node, after, order, writable))


async def _parts(call: Call, node: Node, after: bytes, order: str, writable: bool) -> AsyncIterator[bytes]:
    url = call.href(call.path, collection=True)
    title = escape("/".join(map(display_text, call.path)) or _root_name(call))
    heads = "".join(
        f'<th{f" aria-sort={direction}" if key == order else ""}><a href="?sort={key}">{text}</a>'
        f"{_ARROWS[direction] if key == order else ''}</th>"
        for key, text, direction in _COLUMNS
    )
    yield (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body>{_SHAPES}<h1>{_way(call)}</h1>{_UPLOAD if writable else ''}"
        f"<table><thead><tr>{heads}</tr></thead><tbody>"
    ).encode("utf-8", "replace")
    rows, more = await _entries(call, node, after, order)
    yield "".join([_row(url, r) for r in rows]).encode("utf-8", "replace")
    yield b"</tbody></table>"
    if not rows:
        yield b"<p>Nothing here.</p>"
    if more:
        last = quote(rows[-1].name.decode("utf-8", "surrogateescape"), safe="", errors="surrogateescape")
        yield f'<p><a rel="next" href="?after={last}">Next {PAGE}</a></p>'.encode()
    if writable:
        yield f"<script>{_SCRIPT}</script>".encode()
    yield b"</body></html>"


_ARROWS: Final = {"ascending": " ↑", "descending": " ↓"}


def _root_name(call: Call) -> str:
    return call.config.volume_name or "/"


def _way(call: Call) -> str:
    """Each directory from the root as a link, the last one as text."""
    steps = [escape(_root_name(call)), *(f"<bdi>{escape(display_text(name))}</bdi>" for name in call.path)]
    above = [
        f'<a href="{escape(call.href(call.path[:depth], collection=True))}">{text}</a>'
        for depth, text in enumerate(steps[:-1])
    ]
    return "<i>/</i>".join([*above, steps[-1]])


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
    elif len(page) < limit and not after:
        rows.sort(key=lambda r: not r.attr.is_dir)  # all of it is here: directories first
    return rows[:PAGE], order == "name" and len(page) == limit and bool(rows)


def _row(url: str, r: Resource) -> str:
    slash = "/" if r.attr.is_dir else ""
    link = escape(url + quote_name(r.name) + slash)
    size = "" if r.attr.is_dir else size_text(r.attr.length)
    when = iso_date(r.attr.mtime_ns // _NS).replace("T", " ")[:16]
    kind = "d" if r.attr.is_dir else "f"
    return (
        f'<tr><td><svg><use href="#{kind}"/></svg><a href="{link}">{escape(display_text(r.name))}{slash}</a></td>'
        f"<td>{size}</td><td>{when}</td></tr>"
    )
